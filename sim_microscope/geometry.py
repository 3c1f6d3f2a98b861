"""Rotations of the simulated column, in its own code (nothing is shared with the controller).

*Column frame*: X along the alpha axis, Z with the electrons, right-handed.
*Holder frame*: fixed to the grid; v_column = Rx(alpha) Ry(beta) v_holder, active, right-handed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def tilt_matrix(alpha_deg: float, beta_deg: float) -> Array:
    """Rx(alpha) Ry(beta), (3, 3): holder vectors to column vectors."""
    ca, sa = np.cos(np.deg2rad(alpha_deg)), np.sin(np.deg2rad(alpha_deg))
    cb, sb = np.cos(np.deg2rad(beta_deg)), np.sin(np.deg2rad(beta_deg))
    return np.array([[cb, 0.0, sb], [sa * sb, ca, -sa * cb], [-ca * sb, sa, ca * cb]])


def about(axis: Array, angle_rad: float) -> Array:
    """Active right-handed rotation about `axis` (any length but zero), (3, 3)."""
    x, y, z = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    K = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.eye(3) + np.sin(angle_rad) * K + (1 - np.cos(angle_rad)) * (K @ K))


def plane_rotation(angle_deg: float, *, mirrored: bool = False) -> Array:
    """(2, 2) from picture (x = col, y = row) to column (X, Y): a flip of y, then a rotation."""
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    hand = -1.0 if mirrored else 1.0
    return np.array([[c, -s * hand], [s, c * hand]])


def carry_onto_z(direction: Array) -> Array:
    """A rotation that takes `direction` to +Z along the shortest way."""
    u = np.asarray(direction, dtype=float) / np.linalg.norm(direction)
    axis = np.cross(u, [0.0, 0.0, 1.0])
    sine = float(np.linalg.norm(axis))
    if sine < 1e-12:
        return np.eye(3) if u[2] > 0 else np.diag([1.0, -1.0, -1.0])
    return about(axis, float(np.arctan2(sine, u[2])))


def random_rotation(rng: np.random.Generator) -> Array:
    """Uniformly random rotation, (3, 3), from a unit quaternion."""
    w, x, y, z = rng.normal(size=4)
    n = np.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / n, x / n, y / n, z / n
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def goniometer_angles(direction_holder: Array) -> tuple[float, float]:
    """(alpha_deg, beta_deg) that lay a holder-frame axis along the beam, in either sense."""
    v = np.asarray(direction_holder, dtype=float)
    v = v / np.linalg.norm(v)
    if v[2] < 0:
        v = -v
    beta = np.arctan2(-v[0], v[2])
    alpha = np.arctan2(v[1], np.hypot(v[0], v[2]))
    return float(np.rad2deg(alpha)), float(np.rad2deg(beta))


def axis_to_beam_deg(axis_column: Array) -> float:
    """Angle between an axis (no sense of its own) and the beam."""
    transverse = float(np.hypot(axis_column[0], axis_column[1]))
    return float(np.rad2deg(np.arctan2(transverse, abs(axis_column[2]))))
