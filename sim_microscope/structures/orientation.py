"""Orientations: active right-handed rotations R with v_column = R @ v_crystal.

The misorientation vector t = (tilt_x, tilt_y) points from the direct beam to the centre of the
Laue circle; the zone axis is u = (sin|t| t/|t|, cos|t|) with u_z > 0, |t| in mrad as an angle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sim_microscope.structures.crystal import Array, Structure


def rotation_by_vector(rotation_rad: ArrayLike) -> Array:
    """Right-handed rotation about a vector by its length in radian (Rodrigues), (3, 3)."""
    v = np.asarray(rotation_rad, dtype=float)
    angle = float(np.linalg.norm(v))
    if angle == 0.0:
        return np.eye(3)
    x, y, z = v / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k))


def rotation_for_zone(
    structure: Structure,
    zone_uvw: ArrayLike,
    *,
    in_plane_deg: float = 0.0,
    tilt_mrad: tuple[float, float] = (0.0, 0.0),
) -> Array:
    """Orientation with [uvw] at ``tilt_mrad`` = (x, y) from the beam.

    At ``in_plane_deg`` = 0 the shortest of a*, b*, c* that is not along the zone points to +x as
    nearly as it can; a positive angle turns the crystal from +x towards +y.
    """
    u = structure.direction(zone_uvw)
    # b1 in the zone plane: the axis of the cell most nearly normal to u, made orthogonal to it
    axes = structure.plane_normal(np.eye(3))
    flat = axes - np.outer(axes @ u, u)
    b1 = flat[int(np.argmax(np.round(np.linalg.norm(flat, axis=1), 6)))]
    b1 /= np.linalg.norm(b1)
    upright = np.stack([b1, np.cross(u, b1), u])
    turn = rotation_by_vector([0.0, 0.0, np.deg2rad(in_plane_deg)])
    tx, ty = np.asarray(tilt_mrad, dtype=float) * 1e-3
    return np.asarray(rotation_by_vector([-ty, tx, 0.0]) @ turn @ upright)


def zone_misorientation_mrad(
    structure: Structure, orientation: Array, zone_uvw: ArrayLike
) -> tuple[float, float]:
    """Tilt t = (x, y) of the zone axis, mrad, for the sense of [uvw] that has u_z > 0."""
    u = orientation @ structure.direction(zone_uvw)
    u = u if u[2] > 0 else -u
    sine = float(np.hypot(u[0], u[1]))
    if sine == 0.0:
        return 0.0, 0.0
    angle = float(np.arctan2(sine, u[2])) * 1e3
    return float(angle * u[0] / sine), float(angle * u[1] / sine)
