"""Drift, astigmatism and a turned scan look alike to the parallax; the most probable is told."""

import numpy as np
import pytest

from recon.drift import explain
from recon.geometry import rotation_matrix
from recon.parallax import Shear


def seen_without_distortion(true: Shear, drift: tuple[float, float]) -> Shear:
    """What a fit that knows no drift makes of it: polar decomposition of (M^-1 S)^T."""
    matrix = rotation_matrix(true.rotation_deg) @ np.array([[1 + drift[0], 0], [drift[1], 1]])
    c10, a, b = true.C10_A, true.C12a_A, true.C12b_A
    product = np.linalg.inv(matrix) @ np.array([[c10 - a, b], [b, c10 + a]])
    u, s, vt = np.linalg.svd(product)
    turn, stretch = u @ vt, vt.T @ np.diag(s) @ vt  # product = R^-1 S
    sign = np.sign(c10)
    turn, stretch = turn * sign, stretch * sign
    angle = np.degrees(np.arctan2(turn[0, 1], turn[0, 0]))
    return Shear(
        float((stretch[0, 0] + stretch[1, 1]) / 2),
        float((stretch[1, 1] - stretch[0, 0]) / 2),
        float(stretch[0, 1]),
        float(angle),
    )


@pytest.mark.parametrize("drift", [(0.06, -0.12), (-0.05, 0.1)])
def test_most_of_a_drift_is_told_from_astigmatism(drift: tuple[float, float]) -> None:
    """The parallax alone cannot tell; what remains is for the joint refinement."""
    true = Shear(-250.0, 0.0, 0.0, 12.0)
    seen = seen_without_distortion(true, drift)

    causes = explain(seen, nominal_rotation_deg=12.0)

    found = np.array([causes.affine[0][0] - 1, causes.affine[1][0]])
    share = found @ np.array(drift) / np.dot(drift, drift)
    assert 0.4 < share < 1.1
    assert abs(causes.shear.rotation_deg - 12.0) < 0.7 * abs(seen.rotation_deg - 12.0)
    astigmatism = [np.hypot(shear.C12a_A, shear.C12b_A) for shear in (causes.shear, seen)]
    assert astigmatism[0] < 0.7 * astigmatism[1]


def test_a_clean_fit_stays_as_it_is() -> None:
    causes = explain(Shear(-150.0, 1.0, -0.5, 3.0), nominal_rotation_deg=3.2)
    np.testing.assert_allclose(causes.shear.C10_A, -150.0, rtol=0.01)
    assert causes.shear.rotation_deg == pytest.approx(3.0, abs=0.2)
    np.testing.assert_allclose(causes.affine, np.eye(2), atol=0.01)


def test_a_rotation_far_from_nominal_is_believed() -> None:
    causes = explain(Shear(-150.0, 0.0, 0.0, 30.0), nominal_rotation_deg=0.0)
    assert causes.shear.rotation_deg == pytest.approx(30.0, abs=0.1)
