"""Images at low magnification: darker where thicker, and where a zone is near."""

from __future__ import annotations

import numpy as np
import pytest

from sim_microscope.scattering import (
    Bend,
    bright_field,
    carbon_grain,
    carbon_mean_free_path_nm,
    dark_field,
    direct_beam_fraction,
    inelastic_mean_free_path_nm,
    mean_free_path_nm,
)
from sim_microscope.structures import SHIPPED_STRUCTURES, load_structure, rotation_for_zone


def test_mean_free_paths_are_those_of_the_literature() -> None:
    """Amorphous carbon, 200 kV: about 160 nm inelastic (Iakoubovskii 2008); gold far shorter."""
    assert inelastic_mean_free_path_nm(1.8, 200) == pytest.approx(160, rel=0.1)
    paths = {n: mean_free_path_nm(load_structure(n), 300) for n in SHIPPED_STRUCTURES}
    assert paths["Au"] < paths["SrTiO3"] < paths["UiO-66"] < paths["NU-1000"]
    assert all(mean_free_path_nm(load_structure(n), 200) < paths[n] for n in paths)
    assert 200 < carbon_mean_free_path_nm(300) < 800


def test_nothing_is_bright_and_thickness_darkens() -> None:
    uio = load_structure("UiO-66")
    r = rotation_for_zone(uio, (0, 0, 1), tilt_mrad=(210, 90))
    thickness = np.array([[0.0, 30.0, 90.0], [150.0, 300.0, 600.0]])

    image = bright_field(uio, r, thickness, energy_keV=300)

    assert image.shape == (2, 3)
    assert image[0, 0] == pytest.approx(1)
    assert (np.diff(image.ravel()) < 0).all()
    dark = dark_field(uio, thickness, energy_keV=300, carbon_nm=5.0)
    assert (np.diff(dark.ravel()) > 0).all()
    assert dark.min() > 0


def test_a_crystal_on_its_zone_is_darker() -> None:
    """Diffraction contrast: the direct beam is weak at a zone, strong far from one."""
    zif = load_structure("ZIF-8")
    t = np.linspace(20, 120, 9)
    on, off = (
        direct_beam_fraction(
            zif, rotation_for_zone(zif, (1, 0, 0), tilt_mrad=tilt), t, energy_keV=300
        ).mean()
        for tilt in ((0, 0), (140, 61))
    )

    assert on < 0.6 < 0.9 < off


def test_bend_contours_follow_the_local_tilt() -> None:
    """Where the bend brings the zone to the beam, the image is that of the zone."""
    zif = load_structure("ZIF-8")
    tilt = np.tile(np.linspace(-20, 0, 41), (3, 1))
    leaning = rotation_for_zone(zif, (1, 0, 0), tilt_mrad=(0.0, 20.0))
    thickness = np.full(tilt.shape, 60.0)

    bent = bright_field(zif, leaning, thickness, energy_keV=300, bend=Bend(tilt, np.pi / 2))

    for column, at in ((0, (0.0, 0.0)), (40, (0.0, 20.0))):
        flat = rotation_for_zone(zif, (1, 0, 0), tilt_mrad=at)
        expected = bright_field(zif, flat, np.array([60.0]), energy_keV=300)
        assert bent[1, column] == pytest.approx(expected[0], abs=1e-3)


def test_carbon_grain_grows_with_thickness_and_defocus_and_keeps_the_mean() -> None:
    def grain(carbon_nm: float, defocus_nm: float, pixel_size_nm: float = 0.4) -> float:
        image = carbon_grain(
            (120, 87),
            pixel_size_nm=pixel_size_nm,
            carbon_nm=carbon_nm,
            energy_keV=300,
            defocus_nm=defocus_nm,
            rng=np.random.default_rng(1),
        )
        assert image.mean() == pytest.approx(1, abs=1e-6)
        return float(image.std())

    assert grain(10, 0) == pytest.approx(0, abs=1e-9)
    assert grain(20, 200) == pytest.approx(np.sqrt(2) * grain(10, 200))
    assert 0.005 < grain(10, 1000) < 0.5
    assert grain(10, 1000, pixel_size_nm=5.0) < grain(10, 1000)
