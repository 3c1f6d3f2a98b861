"""The height of a crystal from three pictures, whatever the stage drifts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decision.steps.follow import height_um
from controller.hardware.values import Calibration, StagePose
from controller.perception.view import View
from controller.record.events import Located

SHAPE, PIXEL_NM = (512, 512), 6.0


def look(alpha: float, beta: float, z_um: float, drift_um: tuple[float, float]) -> Located:
    """Where a point at height z appears at a tilt, by plain vector algebra and the view."""
    a, b = np.deg2rad(alpha), np.deg2rad(beta)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    column = rx @ ry @ np.array([drift_um[0], drift_um[1], z_um])
    pose = StagePose(x_um=0, y_um=0, z_um=0, alpha_deg=alpha, beta_deg=beta)
    view = View(SHAPE, PIXEL_NM, Calibration(), pose)
    x, y = view.specimen_um(256 + column[0] * 1e3 / PIXEL_NM, 256 + column[1] * 1e3 / PIXEL_NM)
    return Located(
        target="T", frame="f", offset_um=(x, y), position_um=(x, y), correlation=1, found=True,
        recentred=False,
    )  # fmt: skip


@given(
    st.floats(-0.8, 0.8), st.floats(-10, 10), st.floats(-10, 10), st.floats(-0.05, 0.05),
    st.floats(-0.05, 0.05),
)  # fmt: skip
def test_steady_drift_does_not_matter(
    z_um: float, alpha: float, beta: float, dx: float, dy: float
) -> None:
    tilts = (alpha - 12, alpha + 12, alpha - 12)
    looks = [
        (math.tan(math.radians(a)), look(a, beta, z_um, (n * dx, n * dy)))
        for n, a in enumerate(tilts)
    ]
    z, _ = height_um(looks, math.cos(math.radians(beta)))
    assert z == pytest.approx(z_um, abs=0.004)


def test_a_jump_shows_in_the_sigma() -> None:
    tilts = (-12.0, 12.0, -12.0)
    jump = [(0.0, 0.0), (0.1, 0.1), (0.1, 0.1)]
    looks = [
        (math.tan(math.radians(a)), look(a, 0.0, 0.2, d)) for a, d in zip(tilts, jump, strict=True)
    ]
    z, sigma = height_um(looks, 1.0)
    assert abs(z - 0.2) < 2 * sigma
    assert sigma > 0.1
