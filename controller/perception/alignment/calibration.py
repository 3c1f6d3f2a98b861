"""From the curvature of a likelihood to an error that is true.

Formal errors are too small: the model is not exact.  The calibrated radius is
sqrt((a r)^2 + floor^2 + (b theta)^2), with r the formal radius; a, floor and b come from
simulations by an independent route (``benchmarks/alignment_calibration.py``).
"""

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.result import Effort

Array = NDArray[np.float64]

FACTOR = 1.2
FLOOR_MRAD = 0.15
PER_TILT = 0.003


def formal_radius(covariance: Array) -> float:
    """Radius that holds 68.3 % of a 2-D normal distribution, in units of the covariance's root.

    Exact for round (1.515 sigma) and for flat distributions (1.0 sigma), within 2 % between.
    """
    small, large = np.linalg.eigvalsh(covariance)
    small = max(float(small), 0.0)
    roundness = np.sqrt(small / large) if large > 0 else 0.0
    return float(np.sqrt(small + large) * (1.0 + 0.0713 * roundness))


def calibrated_sigma_mrad(
    covariance_rad2: Array, theta_rad: float, quality: float, *, effort: Effort = "full"
) -> float:
    """Radius of 68.3 % in mrad for an answer of the structure-known mode."""
    formal = 1e3 * formal_radius(covariance_rad2)
    del quality
    factor = FACTOR if effort == "full" else 2 * FACTOR
    return float(
        np.sqrt((factor * formal) ** 2 + FLOOR_MRAD**2 + (1e3 * PER_TILT * theta_rad) ** 2)
    )
