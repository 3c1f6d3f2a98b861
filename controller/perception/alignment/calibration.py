"""From the curvature of a likelihood to an error that is true.

Formal errors are too small: the model is not exact.  The calibrated radius adds in squares the
formal one times a factor, a floor, a part of the tilt, two parts that grow with how strongly
dynamical the crystal is (one of them only where the fit is poor: a strong scatterer whose
intensities are not explained sits on a wrong top), and the distance of rival tops.  The constants
come from simulations by an independent route (``benchmarks/alignment_calibration.py``).
"""

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.result import Effort

Array = NDArray[np.float64]

_COEFFICIENTS: dict[Effort, tuple[float, float, float, float, float]] = {
    "full": (1.6, 0.01, 0.0006, 0.01, 1.0),
    "first": (2.0, 0.06, 0.001, 0.04, 3.0),
}
"""Factor of the formal radius, floor in mrad, part of the tilt, mrad per unit of opacity, and per
unit of opacity times the cube of what the fit leaves unexplained."""
_PER_SPREAD = 2.0


def formal_radius(covariance: Array) -> float:
    """Radius that holds 68.3 % of a 2-D normal distribution, in units of the covariance's root.

    Exact for round (1.515 sigma) and for flat distributions (1.0 sigma), within 2 % between.
    """
    small, large = np.linalg.eigvalsh(covariance)
    small = max(float(small), 0.0)
    roundness = np.sqrt(small / large) if large > 0 else 0.0
    return float(np.sqrt(small + large) * (1.0 + 0.0713 * roundness))


def calibrated_sigma_mrad(
    covariance_rad2: Array,
    *,
    theta_rad: float,
    opacity: float,
    spread_mrad: float,
    quality: float,
    effort: Effort = "full",
) -> float:
    """Radius of 68.3 % in mrad for an answer of the structure-known mode.

    Parameters
    ----------
    covariance_rad2
        Inverse Fisher information of the tilt, (2, 2).
    theta_rad
        Size of the tilt.
    opacity
        Thickness over the shortest extinction length.
    spread_mrad
        Distance of rival tops from the answer, weighted by how likely they are.
    quality
        Gain as part of the attainable one.
    effort
        First answers are less exact.
    """
    formal = 1e3 * formal_radius(covariance_rad2)
    factor, floor, per_tilt, per_opacity, per_doubt = _COEFFICIENTS[effort]
    poor = float(np.clip(1.0 - quality, 0.0, 1.0)) ** 3
    return float(
        np.sqrt(
            (factor * formal) ** 2
            + floor**2
            + (1e3 * per_tilt * theta_rad) ** 2
            + (per_opacity * opacity) ** 2
            + (per_doubt * opacity * poor) ** 2
            + (_PER_SPREAD * spread_mrad) ** 2
        )
    )
