"""From the curvature of a likelihood to an error that is true.

Formal errors are too small: the model is not exact.  The calibrated radius adds in squares the
formal one times a factor, a floor, a part of the tilt, two parts that grow with how strongly
dynamical the crystal is (one of them only where the fit is poor: a strong scatterer whose
intensities are not explained sits on a wrong top), and the distance of rival tops.  The constants
come from simulations by an independent route (``benchmarks/alignment_calibration.py``).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.perception.alignment.result import Effort

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SigmaConstants:
    """What the calibrated radius is made of."""

    factor: float
    """Of the formal radius."""
    floor_mrad: float
    per_tilt: float
    """Part of the tilt."""
    per_opacity_mrad: float
    """Per unit of opacity."""
    per_doubt_mrad: float
    """Per unit of opacity times the cube of what the fit leaves unexplained."""
    per_spread: float
    """Of the distance of rival tops."""


CONSTANTS: dict[Effort, SigmaConstants] = {
    "full": SigmaConstants(1.0, 0.02, 0.0, 0.02, 4.0, 1.0),
    "first": SigmaConstants(2.0, 0.06, 0.001, 0.04, 3.0, 2.0),
}


def formal_radius(covariance: Array) -> float:
    """Radius that holds 68.3 % of a 2-D normal distribution, in units of the covariance's root.

    Exact for round (1.515 sigma) and for flat distributions (1.0 sigma), within 2 % between.
    """
    small, large = np.linalg.eigvalsh(covariance)
    small = max(float(small), 0.0)
    roundness = np.sqrt(small / large) if large > 0 else 0.0
    return float(np.sqrt(small + large) * (1.0 + 0.0713 * roundness))


def calibrated_sigma_mrad(
    formal_mrad: ArrayLike,
    *,
    tilt_mrad: ArrayLike,
    opacity: ArrayLike,
    spread_mrad: ArrayLike,
    quality: ArrayLike,
    constants: SigmaConstants,
) -> Array:
    """Radius of 68.3 % in mrad for answers of the structure-known mode; all arguments broadcast.

    Parameters
    ----------
    formal_mrad
        `formal_radius` of the inverse Fisher information of the tilt.
    tilt_mrad
        Size of the tilt.
    opacity
        Thickness over the shortest extinction length.
    spread_mrad
        Distance of rival tops from the answer, weighted by how likely they are.
    quality
        Gain as part of the attainable one.
    constants
        `CONSTANTS` of the effort: first answers are less exact.
    """
    by = constants
    formal, tilt, thick, rivals = (
        np.asarray(v, dtype=float) for v in (formal_mrad, tilt_mrad, opacity, spread_mrad)
    )
    poor = np.clip(1.0 - np.asarray(quality, dtype=float), 0.0, 1.0) ** 3
    return np.asarray(
        np.sqrt(
            (by.factor * formal) ** 2
            + by.floor_mrad**2
            + (by.per_tilt * tilt) ** 2
            + (by.per_opacity_mrad * thick) ** 2
            + (by.per_doubt_mrad * thick * poor) ** 2
            + (by.per_spread * rivals) ** 2
        )
    )
