"""Tilt coils, descan, camera ellipse and the gold standard: off as the scenario says, else not."""

from __future__ import annotations

import numpy as np
import pytest

from controller.hardware.values import Mode, OpticsChange
from sim_microscope.faults import FaultBoard
from sim_microscope.gold import GoldInBeam, gold_pattern
from sim_microscope.optics import SimulatedOptics
from sim_microscope.scattering.diffraction import DiffractionCamera
from sim_microscope.scattering.electron import wavelength_A
from sim_microscope.scattering.powder import powder_rings, powder_spots
from sim_microscope.scenario import GoldSpec, OpticsSpec, Scenario, load_scenario
from sim_microscope.structures import load_structure


def optics(seed: int = 1, **spec: float) -> SimulatedOptics:
    scenario = Scenario(optics=OpticsSpec(**spec))  # type: ignore[arg-type]
    o = SimulatedOptics(scenario, seed, FaultBoard((), seed))
    o.write(OpticsChange(mode=Mode.DIFFRACTION, beam_tilt_mrad=(6.0, -3.0)), 0.0, 1.0)
    return o


def test_by_default_the_coils_are_right_and_the_beam_stays_on_the_camera() -> None:
    o = optics()
    np.testing.assert_array_equal(o.true.beam_tilt_matrix, np.eye(2))
    np.testing.assert_array_equal(o.direct_beam_px(), o.true.direct_beam_px)
    np.testing.assert_allclose(o.camera_distortion(), np.eye(2), atol=1e-15)


def test_new_errors_do_not_change_the_old_ones() -> None:
    """Seeds keep their nights: the deflections draw from a stream of their own."""
    plain, off = optics(), optics(beam_tilt_gain_error=0.1, descan_error=0.2, ellipticity=0.02)
    assert plain.true.camera_constant_factor == off.true.camera_constant_factor
    assert plain.true.phi21_rad == off.true.phi21_rad
    np.testing.assert_array_equal(plain.true.shift_matrix, off.true.shift_matrix)


def test_turned_coils_tilt_the_beam_the_turned_way() -> None:
    o = optics(beam_tilt_rotation_deg=90.0)
    incident = np.array([3e-3, 6e-3, 1.0])  # (6, -3) mrad turned by +90 degrees
    np.testing.assert_allclose((o.beam_upright() @ incident)[:2], 0, atol=1e-12)


def test_what_the_descan_misses_shows_as_a_walk_of_the_direct_beam() -> None:
    o = optics(descan_error=0.1)
    walk_mrad = o.true.descan_matrix @ [6.0, -3.0]
    row, col = o.direct_beam_px() - o.true.direct_beam_px
    back = o.column_from_detector() @ np.array([col, row]) * o.sampling_mrad()
    np.testing.assert_allclose(back, walk_mrad, atol=1e-12)


def test_the_ellipse_is_long_along_its_azimuth_and_keeps_its_area() -> None:
    distortion = optics(ellipticity=0.03, ellipse_azimuth_deg=35.0).camera_distortion()
    turn = np.deg2rad(35.0)
    long, short = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    stretched = np.linalg.norm(distortion @ long) / np.linalg.norm(distortion @ short)
    assert stretched == pytest.approx(1.03)
    assert np.linalg.det(distortion) == pytest.approx(1.0)


def test_the_rings_of_gold_are_those_of_a_face_centred_cell() -> None:
    rings = powder_rings(load_structure("Au"), 10.0, 300.0)
    expected = np.sqrt([3, 4, 8, 11, 12, 16]) / 4.0782
    np.testing.assert_allclose(rings.g_per_A[:6], expected, atol=1e-5)
    np.testing.assert_array_equal(rings.multiplicity[:6], [8, 6, 12, 24, 8, 6])
    assert rings.direct + rings.share.sum() == pytest.approx(1.0)
    assert 0.2 < rings.direct < 0.9
    thicker = powder_rings(load_structure("Au"), 20.0, 300.0)
    assert thicker.direct == pytest.approx(rings.direct**2, rel=1e-6)


def test_every_electron_of_the_rings_lands_on_its_circle() -> None:
    rings = powder_rings(load_structure("Au"), 10.0, 300.0)
    lam = wavelength_A(300.0)
    angle, share, sigma = powder_spots(
        rings, grains=500, grain_nm=8, wavelength_A=lam, rng=np.random.default_rng(1)
    )
    assert share.sum() == pytest.approx(1.0)
    radius = np.linalg.norm(angle, axis=1) * 1e-3 / lam
    assert np.abs(radius[1:, None] - rings.g_per_A[None]).min(axis=1).max() < 1e-9
    assert float(sigma) == pytest.approx(0.9 / 80 / 2.355)


def test_the_same_place_shows_the_same_grains() -> None:
    camera = DiffractionCamera((64, 70), 0.6, (31.0, 36.0), 0.6)

    def at(x_um: float) -> np.ndarray:
        gold = GoldInBeam(GoldSpec(), 5, 1.0, (x_um, 0.0), 200.0, 10.0)
        return gold_pattern(gold, camera, 300.0)

    np.testing.assert_array_equal(at(12.0), at(12.0))
    assert not np.allclose(at(12.0), at(13.0))


def test_the_standard_scenario_has_gold_and_errors_and_the_others_do_not() -> None:
    standard = load_scenario("gold-standard")
    assert standard.specimen.gold is not None
    assert standard.optics.ellipticity > 0
    for name in ("typical", "easy", "hostile", "srtio3"):
        other = load_scenario(name)
        assert other.specimen.gold is None
        assert other.optics.ellipticity == other.optics.descan_error == 0
