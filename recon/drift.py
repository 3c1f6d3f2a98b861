"""Tell astigmatism from drift and from a turned scan, as far as what is known beforehand allows.

The parallax measures the four numbers of  M^-1 S  (scan matrix M, shear S, see ``recon.parallax``).
Behind them may stand six: defocus, astigmatism (two), rotation, and a steady drift of the specimen
(two) that stretches and slants the slow axis of the scan. Among all that give the four numbers
the most probable is taken: an instrument whose astigmatism has been corrected, whose scan
rotation is calibrated, and a stage that drifts by some per cent of the scan speed. The joint
refinement then decides by the diffraction patterns, which know astigmatism from drift.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from recon.geometry import rotation_matrix
from recon.parallax import Shear

Float = NDArray[np.float64]
C12_SIGMA_A = 10.0
DRIFT_SIGMA = 0.05
ROTATION_SIGMA_DEG = 2.0
UNRELATED_DEG = 7.0
"""A rotation further than this from nominal is not a small error of a calibrated one."""
TOLERANCE = 0.01
"""Relative accuracy of the four numbers; thick crystals do not give better ones."""


@dataclass(frozen=True)
class Explained:
    """A shear and the distortion (2, 2) of the scan that together explain the parallax."""

    shear: Shear
    affine: tuple[tuple[float, float], tuple[float, float]]


def explain(fit: Shear, nominal_rotation_deg: float) -> Explained:
    """Split a shear that was fitted without distortion into its most probable causes."""
    measured = _product(fit.vector(), np.zeros(2))
    scale = max(float(np.abs(measured).max()), 1e-9)
    off_deg = fit.rotation_deg - nominal_rotation_deg
    calibrated = abs(off_deg) <= UNRELATED_DEG

    def residuals(p: Float) -> Float:
        mismatch = (_product(p[:4], p[4:]) - measured).ravel() / (TOLERANCE * scale)
        turn = (p[3] - nominal_rotation_deg) / ROTATION_SIGMA_DEG if calibrated else 0.0
        prior = [p[1] / C12_SIGMA_A, p[2] / C12_SIGMA_A, turn, *(p[4:] / DRIFT_SIGMA)]
        return np.concatenate([mismatch, prior])

    start = np.concatenate([fit.vector(), np.zeros(2)])
    best = least_squares(residuals, start, x_scale=[10.0, 10.0, 10.0, 1.0, 0.01, 0.01]).x
    along, across = best[4:].tolist()
    return Explained(Shear(*best[:4].tolist()), ((1 + along, 0.0), (across, 1.0)))


def _product(shear: Float, drift: Float) -> Float:
    """M^-1 S up to the scan step and the wavelength, (2, 2)."""
    c10, c12a, c12b, rotation_deg = shear
    matrix = rotation_matrix(float(rotation_deg)) @ np.array([[1 + drift[0], 0.0], [drift[1], 1.0]])
    return np.linalg.inv(matrix) @ np.array([[c10 - c12a, c12b], [c12b, c10 + c12a]])
