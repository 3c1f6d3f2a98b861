"""Where the crystal points: tilt vectors on the detector, and the exact double-tilt holder.

Frames
------
*Detector*: x = +column, y = +row, z = x cross y = electron travel; the incident beam is (0, 0, +K).
*Stage*: X along the alpha axis, Z = detector z.  Seen on the detector, X lies at
``tilt_axis_azimuth_deg`` from +x towards +y (right-handed about +z).  With ``mirrored`` the
camera shows the column reflected, and stage Y runs the other way.
*Holder*: fixed to the specimen grid.  v_stage = R(alpha, beta) v_holder with
R(alpha, beta) = Rx(alpha) Ry(beta), active right-handed rotations: the alpha axis is fixed in the
column and beta rides on it.

The tilt vector t = (tilt_x, tilt_y) in mrad points from the direct beam towards the centre of the
Laue circle; |t| is the exact angle between zone axis and beam.  The zone axis, in the sense with
positive z, is u = (sin|t| t/|t|, cos|t|).  The correction is the active right-handed rotation of
the crystal by the rotation vector (+tilt_y, -tilt_x, 0).

Adding the components of t to alpha and beta is tempting and wrong by up to some degrees at large
tilt; everything here is closed form and exact.
"""

from dataclasses import dataclass
from math import cos, sin, sqrt

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
TiltVector = tuple[float, float]


@dataclass(frozen=True)
class HolderFrame:
    """How the stage frame lies on the detector, at one camera length."""

    tilt_axis_azimuth_deg: float
    """Angle from detector +x (column) to the alpha axis, positive towards +y (row)."""
    mirrored: bool = False
    """The camera shows the column reflected: stage Y is at azimuth - 90 instead of + 90."""

    def stage_from_detector(self) -> Vector:
        """Orthogonal (3, 3) matrix that takes detector vectors to stage vectors."""
        azimuth = np.deg2rad(self.tilt_axis_azimuth_deg)
        c, s = np.cos(azimuth), np.sin(azimuth)
        hand = -1.0 if self.mirrored else 1.0
        return np.array([[c, s, 0.0], [-s * hand, c * hand, 0.0], [0.0, 0.0, 1.0]])


def zone_from_tilt(tilt_mrad: TiltVector) -> Vector:
    """Unit zone axis in the detector frame for a tilt vector in mrad."""
    t = np.asarray(tilt_mrad, dtype=float) * 1e-3
    theta = float(np.hypot(t[0], t[1]))
    # sin(theta)/theta without 0/0 at the axis itself
    sinc = float(np.sinc(theta / np.pi))
    return np.array([sinc * t[0], sinc * t[1], np.cos(theta)])


def tilt_from_zone(zone: Vector) -> TiltVector:
    """Tilt vector in mrad for a zone axis (any length) in the detector frame.

    An axis has no sense of its own: the one with z >= 0 is taken.
    """
    u = _unit(zone)
    if u[2] < 0:
        u = -u
    transverse = float(np.hypot(u[0], u[1]))
    theta = float(np.arctan2(transverse, u[2]))
    factor = theta / transverse if transverse > 0 else 1.0
    return float(1e3 * factor * u[0]), float(1e3 * factor * u[1])


def correction_rotation(tilt_mrad: TiltVector) -> Vector:
    """Rotation matrix (3, 3) that brings the zone axis onto the beam, acting on the crystal."""
    tilt_x, tilt_y = tilt_mrad
    return rotation_from_vector(np.array([tilt_y, -tilt_x, 0.0]) * 1e-3)


def rotation_from_vector(rotation_vector_rad: Vector) -> Vector:
    """Active right-handed rotation matrix (3, 3) about a vector, by its length (Rodrigues)."""
    x, y, z = (float(v) for v in rotation_vector_rad)
    angle = sqrt(x * x + y * y + z * z)
    if angle == 0.0:
        return np.eye(3)
    x, y, z = x / angle, y / angle, z / angle
    c, s = cos(angle), sin(angle)
    d = 1.0 - c
    return np.array(
        [
            [c + d * x * x, d * x * y - s * z, d * x * z + s * y],
            [d * x * y + s * z, c + d * y * y, d * y * z - s * x],
            [d * x * z - s * y, d * y * z + s * x, c + d * z * z],
        ]
    )


def double_tilt(alpha_deg: float, beta_deg: float) -> Vector:
    """R(alpha, beta) = Rx(alpha) Ry(beta), (3, 3): holder vectors to stage vectors."""
    ca, sa = np.cos(np.deg2rad(alpha_deg)), np.sin(np.deg2rad(alpha_deg))
    cb, sb = np.cos(np.deg2rad(beta_deg)), np.sin(np.deg2rad(beta_deg))
    rx = np.array([[1.0, 0.0, 0.0], [0.0, ca, -sa], [0.0, sa, ca]])
    ry = np.array([[cb, 0.0, sb], [0.0, 1.0, 0.0], [-sb, 0.0, cb]])
    return np.asarray(rx @ ry, dtype=float)


def zone_in_holder(
    tilt_mrad: TiltVector, alpha_deg: float, beta_deg: float, frame: HolderFrame
) -> Vector:
    """Unit zone axis in the holder frame, measured as ``tilt_mrad`` at the given goniometer."""
    u = frame.stage_from_detector() @ zone_from_tilt(tilt_mrad)
    return double_tilt(alpha_deg, beta_deg).T @ u


def goniometer_for_zone(zone_holder: Vector) -> tuple[float, float]:
    """The (alpha_deg, beta_deg) that puts a holder-frame zone axis onto the beam, exactly.

    Solves Rx(alpha) Ry(beta) v = z in closed form:
    beta = atan2(-v_x, v_z), alpha = atan2(v_y, sqrt(v_x^2 + v_z^2)).
    Whether the holder reaches it is for the caller to check.
    """
    v = _unit(zone_holder)
    if v[2] < 0:
        v = -v
    beta = np.arctan2(-v[0], v[2])
    alpha = np.arctan2(v[1], np.hypot(v[0], v[2]))
    return float(np.rad2deg(alpha)), float(np.rad2deg(beta))


def predicted_tilt(
    zone_holder: Vector, alpha_deg: float, beta_deg: float, frame: HolderFrame
) -> TiltVector:
    """Tilt vector in mrad that a pattern at (alpha, beta) would show; undoes `zone_in_holder`."""
    stage = double_tilt(alpha_deg, beta_deg) @ _unit(zone_holder)
    return tilt_from_zone(frame.stage_from_detector().T @ stage)


def misorientation_deg(zone: Vector) -> float:
    """Angle between a zone axis (detector or stage frame, any length and sense) and the beam."""
    u = _unit(zone)
    return float(np.rad2deg(np.arctan2(np.hypot(u[0], u[1]), abs(u[2]))))


def _unit(vector: Vector) -> Vector:
    v = np.asarray(vector, dtype=float)
    length = float(np.linalg.norm(v))
    if v.shape != (3,) or not (np.isfinite(length) and length > 0):
        raise ValueError(
            f"a direction needs three finite numbers that are not all zero, got {vector!r}"
        )
    return np.asarray(v / length, dtype=float)
