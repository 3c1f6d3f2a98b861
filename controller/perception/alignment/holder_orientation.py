"""A crystal's orientation carried between detector and holder, also past a mirrored camera.

A mirrored camera shows the reciprocal lattice reflected.  The aligner still answers with a proper
rotation: reciprocal space is centrosymmetric, and a reflection is an inversion times a rotation.
Carried through the mirror that rotation comes out improper, so the inversion is taken back here.
What is lost is the hand of a crystal that differs from its mirror image; no diffraction pattern of
one orientation tells it.
"""

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.geometry import HolderFrame, double_tilt

Array = NDArray[np.float64]


def holder_from_crystal(
    orientation: Array, alpha_deg: float, beta_deg: float, frame: HolderFrame
) -> Array:
    """Rotation crystal to holder, (3, 3), of an orientation (crystal to detector) at a reading."""
    stage = frame.stage_from_detector() @ np.asarray(orientation, dtype=float)
    return np.asarray(_hand(frame) * double_tilt(alpha_deg, beta_deg).T @ stage, dtype=float)


def detector_from_crystal(
    in_holder: Array, alpha_deg: float, beta_deg: float, frame: HolderFrame
) -> Array:
    """Rotation crystal to detector, (3, 3), that a pattern at a reading shows; the inverse."""
    stage = double_tilt(alpha_deg, beta_deg) @ np.asarray(in_holder, dtype=float)
    return np.asarray(_hand(frame) * frame.stage_from_detector().T @ stage, dtype=float)


def _hand(frame: HolderFrame) -> float:
    return -1.0 if frame.mirrored else 1.0
