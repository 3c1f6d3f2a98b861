"""Which part of the specimen an exposure may touch, with everything we do not know exactly.

The beam draws a disc, or a scanned rectangle, in the *column plane* (perpendicular to the beam).
A specimen point v = (x, y) off the centre appears there at P v with

    P = [[cos b, 0], [sin a sin b, cos a]],

the upper left corner of R = Rx(a) Ry(b) (a = alpha, b = beta): tilting draws the touched area out
by 1/cos.  What is uncertain (stage read-back, height, beam tails, calibration) widens the shape
in the column plane.  P never lengthens a vector, which makes the cell test below conservative.

A stage that reads z has lifted the specimen by z off the eucentric plane, or has brought a grid
that lay off by -z back into it: nobody knows which.  The first displaces the beam on the tilted
specimen by z sin(tilt), the second does not.  The shape covers both, and all between.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from controller.hardware.errors import LimitError
from controller.hardware.values import (
    Calibration,
    Capabilities,
    Finite,
    Frozen,
    NonNegative,
    OpticsState,
    Positive,
    Scan,
    StagePose,
)

SIGMAS = 3.0
"""How many sigma of position and of length the footprint covers."""
MIN_PROJECTION = 0.05
"""Smallest cos(alpha) cos(beta) that makes sense as an area seen by the beam."""


class Footprint(Frozen):
    """A rectangle with rounded edges in the column plane, seen on the tilted specimen.

    A disc is the rectangle of no size, rounded with the radius of the disc.
    """

    x_um: Finite
    y_um: Finite
    """Specimen point at the centre."""
    radius_nm: Positive
    """Beam or probe radius with tails, plus all position uncertainty."""
    half_width_nm: NonNegative = 0.0
    half_height_nm: NonNegative = 0.0
    angle_deg: Finite = 0.0
    """From the column's X to the side `half_width_nm`, positive towards Y."""
    alpha_deg: Finite = 0.0
    beta_deg: Finite = 0.0

    def projection(self) -> NDArray[np.float64]:
        """P, (2, 2): specimen vector to column plane."""
        return projection(self.alpha_deg, self.beta_deg)

    def half_extent_nm(self, slack_nm: float = 0.0) -> tuple[float, float]:
        """Half of the bounding box on the specimen, (x, y)."""
        reach = math.hypot(self.half_width_nm, self.half_height_nm) + self.radius_nm + slack_nm
        rows = np.linalg.norm(np.linalg.inv(self.projection()), axis=1)
        return float(rows[0] * reach), float(rows[1] * reach)

    def touches(
        self, x_nm: NDArray[np.float64], y_nm: NDArray[np.float64], slack_nm: float
    ) -> NDArray[np.bool_]:
        """Whether specimen points, relative to the centre, lie within `slack_nm` of the shape.

        Parameters
        ----------
        x_nm, y_nm
            Float64 arrays that broadcast, specimen minus centre.
        slack_nm
            Half the diagonal of a cell, to know whether a cell around the point is touched.
        """
        P = self.projection()  # noqa: N806
        u = P[0, 0] * x_nm + P[0, 1] * y_nm
        v = P[1, 0] * x_nm + P[1, 1] * y_nm
        angle = math.radians(self.angle_deg)
        along = math.cos(angle) * u + math.sin(angle) * v
        across = -math.sin(angle) * u + math.cos(angle) * v
        outside_x = np.maximum(np.abs(along) - self.half_width_nm, 0.0)
        outside_y = np.maximum(np.abs(across) - self.half_height_nm, 0.0)
        touched: NDArray[np.bool_] = np.hypot(outside_x, outside_y) <= self.radius_nm + slack_nm
        return touched


def projection(alpha_deg: float, beta_deg: float) -> NDArray[np.float64]:
    """P of the module's docstring, (2, 2).

    Raises
    ------
    LimitError
        The specimen is seen edge-on.
    """
    a, b = math.radians(alpha_deg), math.radians(beta_deg)
    if not abs(math.cos(a) * math.cos(b)) >= MIN_PROJECTION:
        raise LimitError(
            f"at alpha = {alpha_deg:g}, beta = {beta_deg:g} deg the beam meets the specimen "
            f"edge-on and no area can be stated; nothing was exposed. Tilt back below 85 deg."
        )
    return np.array([[math.cos(b), 0.0], [math.sin(a) * math.sin(b), math.cos(a)]])


def total_tilt_deg(alpha_deg: float, beta_deg: float) -> float:
    """Angle between the specimen normal and the beam."""
    cosine = math.cos(math.radians(alpha_deg)) * math.cos(math.radians(beta_deg))
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def footprint_of(
    pose: StagePose,
    optics: OpticsState,
    scan: Scan | None,
    capabilities: Capabilities,
    calibration: Calibration,
    *,
    drifting_s: float = 0.0,
) -> Footprint:
    """What an exposure with these settings may touch.

    Parameters
    ----------
    drifting_s
        Time since the map of the ledger and the read-back of the stage agreed.
    """
    alpha_deg, beta_deg = pose.alpha_deg, pose.beta_deg or 0.0
    widen = 1 + SIGMAS * calibration.pixel_size_relative_sigma
    shift_nm = np.asarray(optics.beam_shift_nm)
    lifted_nm = 500 * pose.z_um * _along_normal(alpha_deg, beta_deg)
    centre_nm = np.linalg.inv(projection(alpha_deg, beta_deg)) @ (shift_nm - lifted_nm)
    radius_nm = (
        beam_radius_nm(optics, scan, height_um=pose.z_um) * capabilities.beam_tail_factor * widen
        + float(np.linalg.norm(lifted_nm))
        + _position_uncertainty_nm(pose, capabilities, drifting_s)
        + float(np.linalg.norm(shift_nm)) * _frame_error(calibration)
    )
    if scan is None:
        half_width_nm = half_height_nm = 0.0
    else:
        half_height_nm, half_width_nm = (0.05 * n * scan.step_A * widen for n in scan.shape)
        radius_nm += math.hypot(half_width_nm, half_height_nm) * _frame_error(calibration)
    return Footprint(
        x_um=pose.x_um + float(centre_nm[0]) / 1000,
        y_um=pose.y_um + float(centre_nm[1]) / 1000,
        radius_nm=radius_nm,
        half_width_nm=half_width_nm,
        half_height_nm=half_height_nm,
        angle_deg=_scan_angle_deg(optics, calibration),
        alpha_deg=alpha_deg,
        beta_deg=beta_deg,
    )


def _along_normal(alpha_deg: float, beta_deg: float) -> NDArray[np.float64]:
    """Where a unit of height along the holder's normal appears in the column plane: R[:2, 2]."""
    a, b = math.radians(alpha_deg), math.radians(beta_deg)
    return np.array([math.sin(b), -math.sin(a) * math.cos(b)])


def beam_radius_nm(optics: OpticsState, scan: Scan | None, *, height_um: float = 0.0) -> float:
    """Radius of the disc on the specimen; a defocused probe is a cone cut by the specimen.

    `height_um` off the eucentric plane adds to the defocus, whichever side it lies on.
    """
    radius = optics.beam_diameter_nm / 2
    if scan is None:
        return radius
    away_nm = abs(optics.defocus_nm) + 1000 * abs(height_um)
    return radius + away_nm * math.tan(optics.convergence_semiangle_mrad / 1000)


def _position_uncertainty_nm(
    pose: StagePose, capabilities: Capabilities, drifting_s: float
) -> float:
    tilt = math.radians(total_tilt_deg(pose.alpha_deg, pose.beta_deg or 0.0))
    height_nm = 1000 * capabilities.eucentric_sigma_um * math.sin(tilt)
    drift_nm = capabilities.drift_nm_per_s * drifting_s
    return SIGMAS * math.hypot(capabilities.position_sigma_nm, height_nm, drift_nm)


def _frame_error(calibration: Calibration) -> float:
    """Relative displacement of the end of a vector by wrong length and direction."""
    turn = math.sin(math.radians(min(SIGMAS * calibration.azimuth_sigma_deg, 90.0)))
    return turn + SIGMAS * calibration.pixel_size_relative_sigma


def _scan_angle_deg(optics: OpticsState, calibration: Calibration) -> float:
    """Direction of the scan's fast axis in the column frame, from X towards Y.

    The raster is turned by theta against the detector, as (row, col) vectors, so the fast axis
    lies at -theta from the detector's +x; the alpha axis X lies at the azimuth.
    """
    theta = calibration.scan_to_detector_rotation_deg + optics.scan_rotation_deg
    angle = -theta - calibration.tilt_axis_azimuth_deg
    return -angle if calibration.diffraction_mirrored else angle
