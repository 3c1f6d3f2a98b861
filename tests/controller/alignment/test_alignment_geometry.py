"""The double-tilt geometry is exact, and its signs are those of the specification."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.perception.alignment.geometry import (
    HolderFrame,
    correction_rotation,
    double_tilt,
    goniometer_for_zone,
    misorientation_deg,
    predicted_tilt,
    tilt_from_zone,
    zone_from_tilt,
    zone_in_holder,
)

tilts = st.tuples(st.floats(-400, 400), st.floats(-400, 400))
angles = st.floats(-40, 40)
frames = st.builds(HolderFrame, st.floats(-360, 360), st.booleans())


@given(tilt=tilts)
def test_the_zone_axis_of_a_tilt_gives_the_tilt_back(tilt: tuple[float, float]) -> None:
    np.testing.assert_allclose(tilt_from_zone(zone_from_tilt(tilt)), tilt, rtol=0, atol=1e-9)
    assert misorientation_deg(zone_from_tilt(tilt)) == pytest.approx(
        np.rad2deg(np.hypot(*tilt) * 1e-3), abs=1e-9
    )


@given(tilt=tilts)
def test_the_correction_is_a_rotation_by_plus_ty_minus_tx(tilt: tuple[float, float]) -> None:
    rotation = correction_rotation(tilt)
    np.testing.assert_allclose(rotation @ zone_from_tilt(tilt), [0, 0, 1], rtol=0, atol=1e-9)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), rtol=0, atol=1e-12)


def test_signs_by_hand() -> None:
    """Zone axis leaning to +x: right-handed rotation about -y lifts it back."""
    u = zone_from_tilt((100.0, 0.0))
    assert u[0] > 0
    np.testing.assert_allclose(
        correction_rotation((100.0, 0.0)) @ np.array([0.0, 1.0, 0.0]), [0, 1, 0], atol=1e-12
    )
    # active right-handed: +alpha takes Y to Z, +beta takes Z to X
    np.testing.assert_allclose(double_tilt(90, 0) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(double_tilt(0, 90) @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    # azimuth 90: the alpha axis lies along detector +y (row)
    np.testing.assert_allclose(
        HolderFrame(90.0).stage_from_detector() @ [0, 1, 0], [1, 0, 0], atol=1e-12
    )
    assert np.linalg.det(HolderFrame(30.0, mirrored=True).stage_from_detector()) < 0


@given(tilt=tilts, alpha=angles, beta=angles, frame=frames)
def test_going_to_the_computed_goniometer_puts_the_zone_on_the_beam(
    tilt: tuple[float, float], alpha: float, beta: float, frame: HolderFrame
) -> None:
    zone = zone_in_holder(tilt, alpha, beta, frame)
    np.testing.assert_allclose(predicted_tilt(zone, alpha, beta, frame), tilt, rtol=0, atol=1e-9)
    if zone[2] > 0:
        there = predicted_tilt(zone, *goniometer_for_zone(zone), frame)
        np.testing.assert_allclose(there, (0, 0), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("tilt_deg", "alpha", "beta", "worst_deg"),
    [(8, 0, 0, 0.021), (15, 0, 0, 0.140), (3, 20, 15, 0.19), (8, 20, 15, 0.61), (15, 30, 20, 2.7)],
)
def test_adding_the_components_to_the_goniometer_misses(
    tilt_deg: float, alpha: float, beta: float, worst_deg: float
) -> None:
    """The tempting additive rule, at its worst azimuth: why the closed form is needed."""
    frame = HolderFrame(0.0)
    worst = 0.0
    for azimuth in np.deg2rad(np.arange(0, 360, 2)):
        t = np.deg2rad(tilt_deg) * 1e3 * np.array([np.cos(azimuth), np.sin(azimuth)])
        zone = zone_in_holder((t[0], t[1]), alpha, beta, frame)
        d_alpha, d_beta = np.rad2deg(t[1] * 1e-3), -np.rad2deg(t[0] * 1e-3)
        left = predicted_tilt(zone, alpha + d_alpha, beta + d_beta, frame)
        worst = max(worst, float(np.rad2deg(np.hypot(*left) * 1e-3)))
    assert worst == pytest.approx(worst_deg, rel=0.02)


def test_a_direction_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="not all zero"):
        goniometer_for_zone(np.zeros(3))
