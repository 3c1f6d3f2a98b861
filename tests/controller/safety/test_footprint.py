"""What an exposure may touch is never smaller than what it does touch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.hardware.errors import LimitError
from controller.hardware.values import Calibration, Mode, OpticsState, Scan, StagePose
from controller.safety.footprint import Footprint, footprint_of, projection, total_tilt_deg
from tests.conformance.fake_adapter import OPTICS, capabilities
from tests.strategies import numbers, optics, poses, scans


def rotation(alpha_deg: float, beta_deg: float) -> np.ndarray:
    """Rx(alpha) Ry(beta), written out independently of the module under test."""
    a, b = math.radians(alpha_deg), math.radians(beta_deg)
    rx = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    ry = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    return rx @ ry


@given(numbers(-80, 80), numbers(-30, 30))
def test_the_projection_is_the_corner_of_the_goniometers_rotation(
    alpha_deg: float, beta_deg: float
) -> None:
    R = rotation(alpha_deg, beta_deg)
    np.testing.assert_allclose(projection(alpha_deg, beta_deg), R[:2, :2], atol=1e-12)
    assert total_tilt_deg(alpha_deg, beta_deg) == pytest.approx(
        math.degrees(math.acos(R[2, 2])), abs=1e-5
    )


def test_an_edge_on_specimen_has_no_area() -> None:
    with pytest.raises(LimitError, match=r"alpha = 89.*edge-on.*nothing was exposed"):
        projection(89.0, 0.0)


def test_a_disc_becomes_an_ellipse_along_y_when_alpha_tilts() -> None:
    disc = Footprint(x_um=0, y_um=0, radius_nm=100, alpha_deg=60)
    reach = np.array([99.0, 101.0, 199.0, 201.0])
    zero = np.zeros(4)
    assert disc.touches(reach, zero, 0.0).tolist() == [True, False, False, False]
    assert disc.touches(zero, reach, 0.0).tolist() == [True, True, True, False]
    assert disc.half_extent_nm() == pytest.approx((100, 200))


def test_a_disc_becomes_an_ellipse_along_x_when_beta_tilts() -> None:
    disc = Footprint(x_um=0, y_um=0, radius_nm=100, beta_deg=60)
    assert disc.half_extent_nm() == pytest.approx((200, 100))


@given(
    st.builds(
        Footprint,
        x_um=numbers(-2, 2),
        y_um=numbers(-2, 2),
        radius_nm=numbers(1, 500),
        half_width_nm=numbers(0, 800),
        half_height_nm=numbers(0, 300),
        angle_deg=numbers(-180, 180),
        alpha_deg=numbers(-70, 70),
        beta_deg=numbers(-30, 30),
    ),
    st.integers(0, 2**32 - 1),
)
def test_the_bounding_box_holds_everything_that_is_touched(footprint: Footprint, seed: int) -> None:
    rng = np.random.default_rng(seed)
    half = np.array(footprint.half_extent_nm())
    points = rng.uniform(-1.3, 1.3, (300, 2)) * half
    touched = footprint.touches(points[:, 0], points[:, 1], 0.0)
    inside = (np.abs(points) <= half * (1 + 1e-12)).all(axis=1)
    assert inside[touched].all()


def true_points_nm(
    rng: np.random.Generator,
    pose: StagePose,
    state: OpticsState,
    scan: Scan | None,
    calibration: Calibration,
) -> np.ndarray:
    """Specimen points (n, 2) that really get beam: everything is off by up to its uncertainty."""
    caps = capabilities()
    n = 200
    radius = state.beam_diameter_nm / 2
    if scan is not None:
        radius += abs(state.defocus_nm) * state.convergence_semiangle_mrad * 1e-3
    length = 1 + 3 * calibration.pixel_size_relative_sigma * rng.uniform(-1, 1)
    turn = math.radians(3 * calibration.azimuth_sigma_deg * rng.uniform(-1, 1))
    angle, r = rng.uniform(0, 2 * np.pi, n), radius * np.sqrt(rng.uniform(0, 1, n))
    column = (
        caps.beam_tail_factor * length * r[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    )
    if scan is not None:
        field = 0.1 * scan.step_A * np.array(scan.shape) * length
        offset = rng.uniform(-0.5, 0.5, (n, 2)) * field  # (row, col) in the scan frame
        theta = math.radians(calibration.scan_to_detector_rotation_deg + state.scan_rotation_deg)
        theta += turn
        rot = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
        detector = (offset @ rot.T)[:, ::-1]  # (x, y)
        phi = math.radians(calibration.tilt_axis_azimuth_deg)
        y_at = phi + (-1 if calibration.diffraction_mirrored else 1) * math.pi / 2
        axes = np.array([[math.cos(phi), math.sin(phi)], [math.cos(y_at), math.sin(y_at)]])
        column = column + detector @ axes.T
    shift = np.array(state.beam_shift_nm) * length
    shift = np.array(
        [
            math.cos(turn) * shift[0] - math.sin(turn) * shift[1],
            math.sin(turn) * shift[0] + math.cos(turn) * shift[1],
        ]
    )
    R = rotation(pose.alpha_deg, pose.beta_deg or 0.0)
    height_nm = 1000 * caps.eucentric_sigma_um * rng.uniform(-2, 2)
    wander = rng.uniform(-1, 1, 2) * caps.position_sigma_nm
    column = column + shift + wander - height_nm * R[:2, 2]
    centre = 1000 * np.array([pose.x_um, pose.y_um])
    return centre + column @ np.linalg.inv(R[:2, :2]).T


calibrations = st.builds(
    Calibration,
    tilt_axis_azimuth_deg=numbers(-180, 180),
    scan_to_detector_rotation_deg=numbers(-180, 180),
    diffraction_mirrored=st.booleans(),
    pixel_size_relative_sigma=numbers(0, 0.05),
    azimuth_sigma_deg=numbers(0, 3),
)


@given(poses(), optics(), st.none() | scans(), calibrations, st.integers(0, 2**32 - 1))
def test_every_true_footprint_within_the_uncertainty_is_covered(
    pose: StagePose,
    state: OpticsState,
    scan: Scan | None,
    calibration: Calibration,
    seed: int,
) -> None:
    """Brute force: random true beams, their points mapped to the specimen one by one."""
    rng = np.random.default_rng(seed)
    footprint = footprint_of(pose, state, scan, capabilities(), calibration)
    for _ in range(3):
        points = true_points_nm(rng, pose, state, scan, calibration)
        away = points - 1000 * np.array([footprint.x_um, footprint.y_um])
        assert footprint.touches(away[:, 0], away[:, 1], 1e-6).all()


def test_a_beam_shift_is_seen_foreshortened_and_reaches_further_on_the_specimen() -> None:
    """200 nm along the column's Y is 400 nm of a specimen that is tilted by 60 degrees."""
    caps = capabilities(position_sigma_nm=0.0, eucentric_sigma_um=0.0)
    pose = StagePose(x_um=1.0, y_um=2.0, z_um=0, alpha_deg=60.0, beta_deg=0)
    state = OPTICS.replace(beam_shift_nm=(100.0, 200.0))
    footprint = footprint_of(pose, state, None, caps, Calibration())
    assert footprint.x_um == pytest.approx(1.1)
    assert footprint.y_um == pytest.approx(2.4)


def test_drift_widens_the_footprint_as_time_goes_by() -> None:
    caps = capabilities(position_sigma_nm=60.0, eucentric_sigma_um=0.0, drift_nm_per_s=0.02)
    pose = StagePose(x_um=0, y_um=0, z_um=0, alpha_deg=0, beta_deg=0)
    early, late = (
        footprint_of(pose, OPTICS, None, caps, Calibration(), drifting_s=s).radius_nm
        for s in (0.0, 4000.0)
    )
    assert late - early == pytest.approx(3 * (100.0 - 60.0))


def test_a_long_scan_lies_along_the_calibrated_direction() -> None:
    """Rows are 20 times shorter than columns; nothing else widens the field."""
    caps = capabilities(position_sigma_nm=0.0, eucentric_sigma_um=0.0)
    state = OPTICS.replace(mode=Mode.STEM, beam_diameter_nm=1.0, scan_rotation_deg=20.0)
    exact = Calibration(
        tilt_axis_azimuth_deg=-50,
        scan_to_detector_rotation_deg=10,
        pixel_size_relative_sigma=0,
        azimuth_sigma_deg=0,
    )
    scan = Scan(shape=(5, 100), step_A=100, dwell_s=1e-3)
    pose = StagePose(x_um=0, y_um=0, z_um=0, alpha_deg=0, beta_deg=0)
    for mirrored, angle_deg in ((False, 20.0), (True, -20.0)):
        footprint = footprint_of(
            pose, state, scan, caps, exact.replace(diffraction_mirrored=mirrored)
        )
        end = 490 * np.array([math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))])
        assert footprint.touches(end[:1], end[1:], 0.0).all()
        assert not footprint.touches(end[:1], -end[1:], 0.0).any()


@given(
    poses(reach_um=2.0, max_tilt_deg=40.0),
    st.floats(0, 1),
    numbers(-math.pi, math.pi),
)
def test_a_lifted_stage_is_charged_where_the_beam_meets_it_and_where_a_lifted_grid_would(
    pose: StagePose, share: float, angle: float
) -> None:
    """The specimen lies anywhere between the eucentric plane and what the stage reads."""
    footprint = footprint_of(pose, OPTICS, None, capabilities(), Calibration())
    height_um = share * pose.z_um
    R = rotation(pose.alpha_deg, pose.beta_deg or 0.0)
    in_plane = np.linalg.solve(R[:2, :2], -R[:2, 2] * height_um)
    disc = np.linalg.solve(R[:2, :2], np.array([math.cos(angle), math.sin(angle)]))
    reached = 1000 * in_plane + 0.49 * OPTICS.beam_diameter_nm * disc
    x_nm = 1000 * (pose.x_um - footprint.x_um) + reached[0]
    y_nm = 1000 * (pose.y_um - footprint.y_um) + reached[1]
    assert footprint.touches(np.array(x_nm), np.array(y_nm), 1e-6)


def test_height_widens_a_probe_by_its_cone() -> None:
    probe = OPTICS.replace(mode=Mode.STEM, beam_diameter_nm=1.0, convergence_semiangle_mrad=20.0)
    scan = Scan(shape=(3, 5), step_A=20.0, dwell_s=1e-3)
    flat, lifted = (
        footprint_of(
            StagePose(x_um=0, y_um=0, z_um=z, alpha_deg=0, beta_deg=0),
            probe,
            scan,
            capabilities(),
            Calibration(),
        ).radius_nm
        for z in (0.0, -5.0)
    )
    assert lifted - flat >= 5000 * math.tan(0.02) * capabilities().beam_tail_factor
