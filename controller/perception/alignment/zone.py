"""A zone axis of a crystal as a frame: how orientations and tilt vectors translate.

An orientation O (3, 3) takes crystal vectors (Cartesian) to the detector frame.  With the zone
frame Z (rows: shortest zero-order reflection, third axis, zone axis) and the tilt T(t) that takes
z to the zone axis of the tilt vector t,

    O = T(t) Rz(phi) Z.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.geometry import (
    TiltVector,
    correction_rotation,
    rotation_from_vector,
    tilt_from_zone,
)
from controller.perception.alignment.structure import CrystalStructure
from controller.perception.alignment.structure_factors import reflections

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ZoneFrame:
    """One zone axis with a reference reflection across it."""

    frame: Array
    """Z: rows are unit vectors in the crystal's Cartesian frame, (3, 3)."""
    fold: int
    """Order of the rotation axis along the zone."""
    rotations: Array
    """Of the crystal, which make orientations look the same, (n, 3, 3)."""

    def orientation(self, tilt_mrad: TiltVector, rotation_rad: float) -> Array:
        """O for a tilt vector and an in-plane rotation."""
        spin = rotation_from_vector(np.array([0.0, 0.0, rotation_rad]))
        return np.asarray(correction_rotation(tilt_mrad).T @ spin @ self.frame, dtype=float)

    def parameters(self, orientation: Array) -> tuple[TiltVector, float]:
        """Tilt vector in mrad and in-plane rotation in rad of an orientation."""
        tilt = tilt_from_zone(orientation @ self.frame[2])
        spin = correction_rotation(tilt) @ orientation @ self.frame.T
        return tilt, float(np.arctan2(spin[1, 0], spin[0, 0]))


def zone_frames(structure: CrystalStructure, uvw: tuple[int, int, int]) -> tuple[ZoneFrame, ...]:
    """One frame per sense of the zone that symmetry does not make equal: one or two."""
    axis = structure.direction(uvw)
    images = structure.rotations @ axis
    fold = int((images @ axis > 1 - 1e-6).sum())
    senses = [axis] if (images @ axis < -1 + 1e-6).any() else [axis, -axis]
    return tuple(ZoneFrame(_across(structure, u), fold, structure.rotations) for u in senses)


def nearest_member(
    structure: CrystalStructure, zone: ZoneFrame, orientation: Array
) -> tuple[Array, TiltVector, float]:
    """The family member nearest to the beam, by symmetry operations that change no intensity.

    Returns the equivalent orientation, its tilt vector (mrad) and in-plane rotation (rad).
    """
    u = zone.frame[2]
    lean = np.array([(orientation @ operation @ u)[2] for operation in structure.rotations])
    best = orientation @ structure.rotations[int(np.argmax(np.abs(lean)))]
    if lean[int(np.argmax(np.abs(lean)))] < 0:
        # the sense of the axis is free: look at it from the other end
        flipped = replace(zone, frame=zone.frame * np.array([[1.0], [-1.0], [-1.0]]))
        tilt, phi = flipped.parameters(best)
    else:
        tilt, phi = zone.parameters(best)
    return np.asarray(best, dtype=float), tilt, phi


def _across(structure: CrystalStructure, axis: Array) -> Array:
    """Frame (3, 3) with the shortest present reflection across the axis as first row."""
    edge = float(np.linalg.norm(structure.direct, axis=1).min())
    for reach in (2.6 / edge, 6.0 / edge, 1.5):
        g = reflections(structure, max(reach, 0.3)).g
        across = np.abs(g @ axis) < 1e-6
        if across.any():
            flat = g[across]
            lengths = np.round(np.linalg.norm(flat, axis=1), 6)
            shortest = flat[lengths == lengths.min()]
            # among equals the choice must not depend on rounding: the largest in index order
            x = shortest[np.lexsort(np.round(shortest, 6).T[::-1])[-1]]
            break
    else:
        x = np.cross(axis, [0.36, 0.48, 0.8])
    x = x / np.linalg.norm(x)
    return np.array([x, np.cross(axis, x), axis])
