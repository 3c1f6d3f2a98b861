"""Diffraction patterns: where things are, where the electrons go, what a tilt does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sim_microscope.damage import DamageModel
from sim_microscope.scattering import (
    CrystalInBeam,
    DiffractionCamera,
    Spots,
    bragg_spots,
    diffraction_pattern,
    wavelength_A,
)
from sim_microscope.structures import load_structure, rotation_by_vector, rotation_for_zone

CAMERA = DiffractionCamera((150, 131), 0.25, (73.0, 66.5), spot_sigma_px=1.0)


def laue_centre_mrad(spots: Spots, g_max_mrad: float) -> NDArray:
    """Intensity-weighted Laue circle through the direct beam, exact for a thick flat ZOLZ."""
    near = np.hypot(*spots.angle_mrad.T) < g_max_mrad
    g, weight = spots.angle_mrad[near], spots.intensity[near]
    normal = np.einsum("n,ni,nj->ij", weight, g, g)
    return 0.5 * np.linalg.solve(normal, np.einsum("n,n,ni->i", weight, (g**2).sum(axis=1), g))


@pytest.mark.parametrize("tilt", [(14.0, 0.0), (0.0, 14.0), (-9.0, 8.0), (5.0, -16.0)])
def test_laue_circle_lies_on_the_side_the_zone_axis_leans_to(tilt: tuple[float, float]) -> None:
    """t points from the direct beam to the centre of the Laue circle (alignment convention)."""
    uio = load_structure("UiO-66")
    spots = [
        bragg_spots(
            CrystalInBeam(
                uio, rotation_for_zone(uio, (0, 0, 1), in_plane_deg=a, tilt_mrad=tilt), 60
            ),
            energy_keV=300,
            strong_beams=150,
        )
        for a in (0, 20, 40, 60)
    ]
    measured = np.mean([laue_centre_mrad(s, 2.2 * np.hypot(*tilt)) for s in spots], axis=0)

    assert np.hypot(*(measured - tilt)) < 0.35 * np.hypot(*tilt)


def test_correcting_the_tilt_gives_the_pattern_of_the_zone() -> None:
    """Rotation by (+t_y, -t_x, 0) undoes the tilt t."""
    zif = load_structure("ZIF-8")
    tilt = (31.0, -22.0)
    on_zone = rotation_for_zone(zif, (1, 1, 1), in_plane_deg=17)
    tilted = rotation_for_zone(zif, (1, 1, 1), in_plane_deg=17, tilt_mrad=tilt)
    corrected = rotation_by_vector([tilt[1] * 1e-3, -tilt[0] * 1e-3, 0]) @ tilted

    images = [
        diffraction_pattern(CrystalInBeam(zif, r, 40), CAMERA, energy_keV=200, strong_beams=120)
        for r in (on_zone, corrected, tilted)
    ]

    np.testing.assert_allclose(images[1], images[0], atol=1e-5)
    assert np.corrcoef(images[2].ravel(), images[0].ravel())[0, 1] < 0.999


def test_spots_sit_at_their_reciprocal_vectors() -> None:
    """Pixel (r, c) shows g = (c - c_x, r - c_y) s."""
    strontium = load_structure("SrTiO3")
    r = rotation_for_zone(strontium, (0, 0, 1))
    spots = bragg_spots(CrystalInBeam(strontium, r, 20), energy_keV=300)
    rows, cols = CAMERA.to_pixels(spots.angle_mrad)
    s = CAMERA.sampling_mrad * 1e-3 / wavelength_A(300)

    i = int(np.flatnonzero((spots.hkl == (1, 2, 0)).all(axis=1))[0])

    assert cols[i] - CAMERA.centre_px[1] == pytest.approx(1 / 3.905 / s)
    assert rows[i] - CAMERA.centre_px[0] == pytest.approx(2 / 3.905 / s)


@settings(max_examples=8)
@given(st.floats(-180, 180), st.booleans())
def test_turning_the_camera_equals_turning_the_crystal(angle: float, mirrored: bool) -> None:
    zif = load_structure("ZIF-8")
    r = rotation_for_zone(zif, (0, 0, 1), tilt_mrad=(3, 5))
    turned = rotation_by_vector([0, 0, np.deg2rad(angle)]) @ r
    symmetric = replace(CAMERA, shape=(121, 121), centre_px=(60.0, 60.0))

    by_camera = diffraction_pattern(
        CrystalInBeam(zif, r, 30),
        replace(symmetric, rotation_deg=angle, mirrored=mirrored),
        energy_keV=300,
        strong_beams=60,
    )
    by_crystal = diffraction_pattern(
        CrystalInBeam(zif, turned, 30), symmetric, energy_keV=300, strong_beams=60
    )

    np.testing.assert_allclose(
        by_camera, by_crystal[:, ::-1] if mirrored else by_crystal, atol=2e-5
    )


def test_a_large_camera_sees_nearly_every_electron() -> None:
    """Bragg, diffuse and lost electrons add up to one, less what scatters off the camera."""
    mfi = load_structure("MFI")
    wide = DiffractionCamera((420, 401), 0.5, (210.0, 200.0))
    for thickness in (5.0, 60.0, 200.0):
        crystal = CrystalInBeam(
            mfi, rotation_for_zone(mfi, (0, 1, 0), tilt_mrad=(4, 1)), thickness, carbon_nm=5
        )
        total = float(diffraction_pattern(crystal, wide, energy_keV=300, strong_beams=100).sum())
        assert 0.9 < total <= 1.0005


def test_thicker_crystals_and_films_raise_the_background() -> None:
    uio = load_structure("UiO-66")
    r = rotation_for_zone(uio, (0, 0, 1), tilt_mrad=(200, 120))

    def median(thickness: float, carbon: float) -> float:
        crystal = CrystalInBeam(uio, r, thickness, carbon_nm=carbon)
        return float(np.median(diffraction_pattern(crystal, CAMERA, energy_keV=300)))

    assert 0 < median(10, 0) < median(80, 0) < median(80, 10)


def test_dose_fades_high_orders_first_and_never_brightens_a_pattern() -> None:
    uio = load_structure("UiO-66")
    model = DamageModel.of(uio)
    r = rotation_for_zone(uio, (0, 0, 1), tilt_mrad=(6, 3))
    images = []
    for fluence in (0.0, 50.0, 250.0, 1000.0):
        crystal = CrystalInBeam(uio, r, 30, fade=model.fade(fluence))
        spots = bragg_spots(crystal, energy_keV=300, strong_beams=200)
        order = np.hypot(*spots.angle_mrad.T)
        far, near = (order > 12) & (order < 25), (order > 1) & (order < 8)
        images.append((spots.intensity[near].sum(), spots.intensity[far].sum()))
    near, far = np.array(images).T

    assert (np.diff(near) < 0).all()
    assert (np.diff(far) < 0).all()
    assert (far / far[0])[1] < (near / near[0])[1]


def test_mosaic_and_convergence_average_without_losing_intensity() -> None:
    uio = load_structure("UiO-66")
    r = rotation_for_zone(uio, (0, 0, 1), tilt_mrad=(8, 0))
    sharp = CrystalInBeam(uio, r, 100)
    loose = replace(sharp, mosaic_deg=0.2, thickness_spread=0.2)

    def contrast(crystal: CrystalInBeam, convergence: float) -> float:
        spots = bragg_spots(crystal, energy_keV=300, convergence_mrad=convergence, strong_beams=120)
        assert spots.intensity.sum() == pytest.approx(1, abs=1e-6)
        total: dict[tuple[int, ...], float] = {}
        for hkl, intensity in zip(spots.hkl.tolist(), spots.intensity, strict=True):
            total[tuple(hkl)] = total.get(tuple(hkl), 0.0) + intensity
        return float(np.square(list(total.values())).sum())

    assert contrast(loose, 0.5) != pytest.approx(contrast(sharp, 0.0), rel=1e-3)


def test_nonsense_is_refused_with_its_remedy() -> None:
    uio = load_structure("UiO-66")
    with pytest.raises(ValueError, match=r"not a rotation.*rotation_for_zone"):
        CrystalInBeam(uio, 2 * np.eye(3), 10)
    with pytest.raises(ValueError, match=r"thickness of nan nm.*no pattern was computed"):
        CrystalInBeam(uio, np.eye(3), float("nan"))
