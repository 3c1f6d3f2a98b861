"""Tilt axes and beam tilts: recovered without assuming signs; contradictions are named."""

from __future__ import annotations

import numpy as np
import pytest

from controller.calibration.beam_tilt import (
    BeamTiltError,
    BeamTiltReading,
    column_matrix,
    direct_beam,
    fit_beam_tilt,
)
from controller.calibration.tilt_axes import TiltAxesError, TiltReading, fit_tilt_axes
from controller.perception.alignment import (
    HolderFrame,
    goniometer_for_zone,
    misorientation_deg,
    tilt_from_zone,
    zone_from_tilt,
    zone_in_holder,
)
from controller.perception.alignment.geometry import double_tilt
from sim_microscope.geometry import carry_onto_z

CROSS = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (0, 0)]


def readings(
    frame: HolderFrame,
    *,
    signs: tuple[float, float] = (1.0, 1.0),
    gains: tuple[float, float] = (1.0, 1.0),
    at: tuple[float, float] = (4.0, -6.0),
    sigma_mrad: float = 0.3,
    seed: int = 0,
) -> list[TiltReading]:
    """What a crystal shows, computed with the plain geometry of the holder."""
    rng = np.random.default_rng(seed)
    v = np.array([0.08, -0.05, 1.0])
    v /= np.linalg.norm(v)
    found = []
    for da, db in CROSS:
        a, b = at[0] + da, at[1] + db
        stage = double_tilt(signs[0] * gains[0] * a, signs[1] * gains[1] * b) @ v
        t = np.array(tilt_from_zone(frame.stage_from_detector().T @ stage))
        t += rng.normal(size=2) * sigma_mrad / 1.515
        found.append(TiltReading(a, b, (float(t[0]), float(t[1])), sigma_mrad))
    return found


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("azimuth", [-170.0, -62.0, 3.0, 118.0])
def test_azimuth_and_hand_are_recovered(azimuth: float, mirrored: bool) -> None:
    fit = fit_tilt_axes(readings(HolderFrame(azimuth, mirrored)))
    assert fit.mirrored is mirrored
    error = (fit.azimuth_deg - azimuth + 180) % 360 - 180
    assert abs(error) < 3.5 * fit.azimuth_sigma_deg < 3.0
    assert fit.other_hand_chi_squared > fit.chi_squared + 100


def test_errors_are_as_large_as_they_say() -> None:
    pulls = []
    for seed in range(16):
        fit = fit_tilt_axes(
            readings(HolderFrame(40.0), gains=(1.0, 1.04), seed=seed), reading_sigma_deg=0.001
        )
        pulls.append(
            [(fit.azimuth_deg - 40) / fit.azimuth_sigma_deg,
             (fit.beta_gain - 1.04) / fit.beta_gain_sigma]
        )  # fmt: skip
    assert np.std(np.array(pulls), axis=0).min() > 0.6
    assert np.std(np.array(pulls), axis=0).max() < 1.4


@pytest.mark.parametrize(
    ("signs", "azimuth", "mirrored"),
    [((-1, 1), 0.0, True), ((1, -1), 180.0, True), ((-1, -1), 180.0, False)],
)
def test_a_reversed_drive_shows_as_another_azimuth_and_hand(
    signs: tuple[float, float], azimuth: float, mirrored: bool
) -> None:
    """Sending the goniometer by the fitted frame then works, whichever way the drives run."""
    fit = fit_tilt_axes(readings(HolderFrame(0.0), signs=signs, at=(0.0, 0.0)))
    assert abs((fit.azimuth_deg - azimuth + 180) % 360 - 180) < 3
    assert fit.mirrored is mirrored
    data = readings(HolderFrame(0.0), signs=signs, at=(0.0, 0.0))[0]
    alpha, beta = goniometer_for_zone(zone_in_holder(data.tilt_mrad, 0.0, 0.0, fit.frame))
    v = np.array([0.08, -0.05, 1.0])
    assert misorientation_deg(double_tilt(signs[0] * alpha, signs[1] * beta) @ v) < 0.3


def test_the_jacobian_is_the_movement_of_the_laue_centre() -> None:
    fit = fit_tilt_axes(readings(HolderFrame(90.0), at=(0.0, 0.0), sigma_mrad=0.02))
    jacobian = np.array(fit.jacobian_mrad_per_deg)
    # azimuth 90: X along +row, Y along -column; alpha moves the centre along -Y, beta along +X
    np.testing.assert_allclose(jacobian, np.diag([1, 1]) * np.deg2rad(1) * 1e3, atol=0.4)


def test_a_misread_pattern_is_left_out_and_counted() -> None:
    data = readings(HolderFrame(-62.0))
    wrong = data[3]
    data[3] = TiltReading(wrong.alpha_deg, wrong.beta_deg, (1.0, 70.0), 0.2)
    fit = fit_tilt_axes(data)
    assert fit.readings_left_out == 1
    assert abs(fit.azimuth_deg + 62) < 3


def test_readings_that_do_not_tell_are_refused() -> None:
    data = readings(HolderFrame(10.0))
    with pytest.raises(TiltAxesError, match="4 tilts were read, 5 are needed"):
        fit_tilt_axes(data[:4])
    still = [TiltReading(4.0, r.beta_deg, r.tilt_mrad, r.sigma_mrad) for r in data]
    with pytest.raises(TiltAxesError, match=r"alpha moved by 0\.00 deg"):
        fit_tilt_axes(still)
    rng = np.random.default_rng(1)
    mess = [TiltReading(r.alpha_deg, r.beta_deg, tuple(rng.normal(size=2) * 40), 0.2) for r in data]
    with pytest.raises(TiltAxesError, match=r"contradict each other|handedness"):
        fit_tilt_axes(mess)


def beam_readings(
    true: np.ndarray, walk: np.ndarray, frame: HolderFrame, seed: int = 0
) -> list[BeamTiltReading]:
    """Tilted beams on one crystal, with the rotation of the simulator."""
    rng = np.random.default_rng(seed)
    to_detector = frame.stage_from_detector().T
    column = frame.stage_from_detector() @ zone_from_tilt((12.0, -8.0))
    found = []
    for n, m in CROSS:
        b = 10.0 * np.array([n, m])
        d = true @ b * 1e-3
        seen = to_detector @ carry_onto_z(np.array([d[0], d[1], 1.0])) @ column
        t = np.array(tilt_from_zone(seen)) + rng.normal(size=2) * 0.2 / 1.515
        c = np.array([130.0, 126.0]) + walk @ b + rng.normal(size=2) * 0.05
        found.append(BeamTiltReading(tuple(b), tuple(t), 0.2, tuple(c), 0.05))
    return found


@pytest.mark.parametrize("frame", [HolderFrame(-62.0), HolderFrame(20.0, mirrored=True)])
def test_gain_turn_and_walk_of_the_beam_are_recovered(frame: HolderFrame) -> None:
    true = np.array([[1.05, -0.12], [0.16, 0.97]])
    walk = np.array([[0.11, -0.02], [0.05, 0.2]])
    fit = fit_beam_tilt(beam_readings(true, walk, frame))
    np.testing.assert_allclose(
        column_matrix(fit.true_tilt, frame), true, atol=4 * fit.true_tilt_sigma
    )
    np.testing.assert_allclose(fit.shift_px_per_mrad, walk, atol=4 * fit.shift_sigma_px_per_mrad)
    assert fit.true_tilt_sigma < 0.01


def test_a_positive_beam_tilt_moves_the_laue_centre_along_minus_alpha_axis() -> None:
    """The sign of the conventions page."""
    fit = fit_beam_tilt(beam_readings(np.eye(2), np.zeros((2, 2)), HolderFrame(0.0)))
    t0 = np.array([12.0, -8.0])
    moved = t0 - np.array(fit.true_tilt) @ [10.0, 0.0]
    np.testing.assert_allclose(moved, [2.0, -8.0], atol=0.3)


def test_beam_tilts_along_a_line_are_refused() -> None:
    data = beam_readings(np.eye(2), np.zeros((2, 2)), HolderFrame(0.0))
    line = [r for r in data if r.beam_tilt_mrad[1] == 0]
    with pytest.raises(BeamTiltError, match="both ways are needed"):
        fit_beam_tilt(line)
    with pytest.raises(BeamTiltError, match="2 beam tilts were read"):
        fit_beam_tilt(data[:2])


def test_the_direct_beam_is_found_to_a_tenth_of_a_pixel() -> None:
    rows, cols = np.indices((90, 101))
    spot = np.exp(-((cols - 50.3) ** 2 + (rows - 44.8) ** 2) / (2 * 0.6**2))
    image = np.random.default_rng(2).poisson(800 * spot + 0.5).astype(float)
    place, sigma = direct_beam(image, (52.0, 44.0))
    assert np.hypot(place[0] - 50.3, place[1] - 44.8) < 0.1
    assert sigma < 0.1
    with pytest.raises(BeamTiltError, match="no direct beam"):
        direct_beam(np.zeros((90, 101)), (50.0, 45.0))
