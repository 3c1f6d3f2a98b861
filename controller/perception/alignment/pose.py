"""Where a crystal is in a pattern, and what all explanations of the pattern share."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.apertures import Plate
from controller.perception.alignment.geometry import rotation_from_vector
from controller.perception.alignment.spots import Spots
from controller.perception.alignment.zone import ZoneFrame

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """Everything geometric about one explanation of a pattern."""

    zone: ZoneFrame
    orientation: Array
    centre_px: tuple[float, float]
    inv_A_per_px: float
    thickness_A: float
    log_gain: float

    def rotated(self, rotation_vector_rad: Array) -> "Pose":
        """The same with the crystal turned in the detector frame."""
        turn = rotation_from_vector(rotation_vector_rad)
        return replace(self, orientation=np.asarray(turn @ self.orientation, dtype=float))

    def apart_rad(self, other: "Pose") -> float:
        """Angle to another orientation, the nearest of those that symmetry makes equal."""
        turn = self.orientation.T @ other.orientation
        trace = float(np.einsum("ij,nij->n", turn, self.zone.rotations).max())
        return float(np.arccos(np.clip(0.5 * (trace - 1.0), -1.0, 1.0)))


@dataclass(frozen=True)
class Scene:
    """What all explanations of one pattern share."""

    plate: Plate
    spots: Spots
    wavenumber: float
    g: Array
    """Reflections in the crystal frame, 1/A, (n, 3)."""
    length: Array
    """|g|, (n,)."""
    coupling: Array
    """1/xi^2 = (gamma |F| / (pi V K))^2 in 1/A^2, (n,)."""
    inv_A_per_px: float
    """Nominal camera constant."""
    scale_sigma: float
    """Its relative standard deviation."""
    centre_sigma_px: float
    brightest: float
    """Counts of the brightest spot besides the direct beam."""
