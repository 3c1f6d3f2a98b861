"""The weighted Laue circle on the nodes of a two-dimensional lattice, without a structure.

Write p = tan|t| t/|t|.  A reflection of the zero-order zone has g_z = -p.g, and its excitation
error is s = p.g - h with h = K - sqrt(K^2 - g^2): exact at any tilt.  Minimising sum I s^2 gives

    p = (sum I g g^T)^-1 sum I h g,

the circle through the direct beam (with K p = c it is c = 1/2 (sum I g g^T)^-1 sum I g^2 g for
small g).  Structure factors bias it; `laue_posterior` removes them.
"""

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.geometry import TiltVector

Array = NDArray[np.float64]


def weighted_laue_circle(gx: Array, gy: Array, intensity: Array, wavenumber: float) -> TiltVector:
    """Tilt vector in mrad by the closed form; gx, gy in 1/A, intensity >= 0, (n,) each."""
    h = wavenumber - np.sqrt(wavenumber**2 - gx**2 - gy**2)
    matrix = np.array(
        [
            [(intensity * gx * gx).sum(), (intensity * gx * gy).sum()],
            [(intensity * gx * gy).sum(), (intensity * gy * gy).sum()],
        ]
    )
    right = np.array([(intensity * h * gx).sum(), (intensity * h * gy).sum()])
    return tilt_of_slope(np.asarray(np.linalg.solve(matrix, right), dtype=float))


def tilt_of_slope(p: Array) -> TiltVector:
    """Tilt vector in mrad for p = tan|t| t/|t|, (2,)."""
    slope = float(np.hypot(p[0], p[1]))
    factor = 1e3 * (np.arctan(slope) / slope if slope > 0 else 1.0)
    return float(factor * p[0]), float(factor * p[1])
