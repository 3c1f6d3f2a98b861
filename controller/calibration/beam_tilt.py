"""What a beam tilt does: to the direct beam on the camera, and to the angle of incidence.

With the beam tilted by nominal b (mrad, column frame), the electrons travel along M b in the frame
of the *detector*, and the crystal is seen from there: its zone axis u becomes U(M b) u, with U(d)
the rotation that lays the direction d along z.  To first order the tilt vector is t - M b.  The
direct beam itself walks by D b on the camera where pivot or descan are off.  M holds gain, turn
and cross-talk of the coils and the azimuth of the alpha axis together, so that it needs no other
calibration; ``column_matrix`` takes the azimuth out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from controller.calibration.outliers import agreeing, credible
from controller.perception.alignment import HolderFrame, tilt_from_zone, zone_from_tilt
from controller.perception.alignment.geometry import rotation_from_vector

Array = NDArray[np.float64]
Matrix = tuple[tuple[float, float], tuple[float, float]]

_LEAST_WAY_MRAD = 1.0
_FEWEST = 3


class BeamTiltError(ValueError):
    """The readings do not tell what the beam tilt does; nothing was measured."""


@dataclass(frozen=True)
class BeamTiltReading:
    """One pattern at one beam tilt."""

    beam_tilt_mrad: tuple[float, float]
    """Nominal, column frame."""
    tilt_mrad: tuple[float, float]
    """From the direct beam to the Laue centre, detector frame."""
    sigma_mrad: float
    """Radius that holds 68.3 % of its errors."""
    centre_px: tuple[float, float]
    """(x, y) of the direct beam on the camera."""
    centre_sigma_px: float
    """One sigma per axis."""


@dataclass(frozen=True)
class BeamTilt:
    """Matrices by columns: what 1 mrad of nominal tilt along X and along Y does."""

    true_tilt: Matrix
    """M: travel of the electrons in mrad, detector frame, per nominal mrad."""
    true_tilt_sigma: float
    """One sigma of each of its elements."""
    shift_px_per_mrad: Matrix
    """D: walk of the direct beam."""
    shift_sigma_px_per_mrad: float
    centre_px: tuple[float, float]
    """Direct beam without tilt."""
    chi_squared: float
    degrees_of_freedom: int
    readings_left_out: int = 0
    """That contradicted all others."""


def fit_beam_tilt(readings: Sequence[BeamTiltReading]) -> BeamTilt:
    """Fit M and D to patterns of one crystal, the goniometer untouched.

    Parameters
    ----------
    readings
        At least three beam tilts that span both directions; five (none, and both ways along
        each axis) also check themselves.

    Raises
    ------
    BeamTiltError
        Too few, all along a line, or contradicting each other.
    """
    _require_moves(_beam(readings))
    used, found = agreeing(readings, _try, least=_FEWEST)
    if found is None or not credible(found[1], found[2]):
        chi, dof = (float("nan"), 0) if found is None else found[1:]
        raise BeamTiltError(
            f"the readings contradict each other: chi squared {chi:.1f} for {dof} degrees of "
            f"freedom; nothing was measured. The crystal drifted out of the beam, or the coils are "
            f"not linear so far out: tilt less, or measure again"
        )
    return replace(found[0], readings_left_out=len(readings) - len(used))


def _beam(readings: Sequence[BeamTiltReading]) -> Array:
    return np.array([r.beam_tilt_mrad for r in readings], dtype=float).reshape(-1, 2)


def _try(readings: Sequence[BeamTiltReading]) -> tuple[BeamTilt, float, int] | None:
    """Fit, chi squared, degrees of freedom; None where the tilts do not span both directions."""
    b = _beam(readings)
    try:
        _require_moves(b)
    except BeamTiltError:
        return None
    t = np.array([r.tilt_mrad for r in readings], dtype=float).reshape(-1, 2)
    c = np.array([r.centre_px for r in readings], dtype=float).reshape(-1, 2)
    sigma_t = np.array([r.sigma_mrad for r in readings]) / 1.515
    sigma_c = np.array([r.centre_sigma_px for r in readings])

    def residual(p: Array) -> Array:
        return np.asarray(((_seen(p, b) - t) / sigma_t[:, None]).ravel())

    design = np.column_stack([np.ones(len(b)), b])
    linear = np.linalg.lstsq(design, t, rcond=None)[0]
    start = np.concatenate([-linear[1:].T.ravel(), linear[0]])
    solved = optimize.least_squares(residual, start)
    information = solved.jac.T @ solved.jac
    walk, chi_c, variance_c = _weighted(design, c, sigma_c)
    dof = 2 * len(b) - 6
    chi = 2.0 * float(solved.cost)
    stretch = np.sqrt(max(chi / dof, 1.0)) if dof > 0 else 1.0
    stretch_c = np.sqrt(max(chi_c / dof, 1.0)) if dof > 0 else 1.0
    own = np.diag(np.linalg.pinv(information))[:4]
    fit = BeamTilt(
        true_tilt=_matrix(solved.x[:4].reshape(2, 2)),
        true_tilt_sigma=float(stretch * np.sqrt(own.mean())),
        shift_px_per_mrad=_matrix(walk[1:].T),
        shift_sigma_px_per_mrad=float(stretch_c * np.sqrt(variance_c[1:].mean())),
        centre_px=(float(walk[0, 0]), float(walk[0, 1])),
        chi_squared=chi + chi_c,
        degrees_of_freedom=2 * dof,
    )
    return fit, chi + chi_c, 2 * dof


def column_matrix(true_tilt: Matrix, frame: HolderFrame) -> Array:
    """True beam tilt in the column frame per nominal tilt, (2, 2): the identity if all is well."""
    return np.asarray(frame.stage_from_detector()[:2, :2] @ np.array(true_tilt), dtype=float)


def direct_beam(counts: Array, near_px: tuple[float, float]) -> tuple[tuple[float, float], float]:
    """Centroid (x, y) of the direct beam, and its one sigma, from where it is expected.

    Raises
    ------
    BeamTiltError
        There is no spot.
    """
    x0, y0 = near_px
    counts = np.nan_to_num(counts)
    rows, cols = counts.shape
    y, x = np.mgrid[:rows, :cols]
    total = 0.0
    for radius in (4.0, 3.0, 3.0, 3.0):
        inside = np.hypot(x - x0, y - y0) <= radius
        ring = (np.hypot(x - x0, y - y0) <= radius + 3) & ~inside
        floor = float(np.median(counts[ring])) if ring.any() else 0.0
        weight = np.where(inside, np.maximum(counts - floor, 0.0), 0.0)
        total = float(weight.sum())
        if not total > 20:
            raise BeamTiltError(
                f"no direct beam at ({near_px[0]:.1f}, {near_px[1]:.1f}) px: {total:.0f} "
                f"electrons, 20 are needed; nothing was measured. Take the beam stop out, or "
                f"expose longer"
            )
        x0, y0 = float((weight * x).sum() / total), float((weight * y).sum() / total)
    return (x0, y0), float(np.hypot(1.0 / np.sqrt(total), 0.03))


def _seen(p: Array, beam_tilt_mrad: Array) -> Array:
    """Tilt vectors in mrad with the beam tilted, (n, 2)."""
    matrix = p[:4].reshape(2, 2)
    zone = zone_from_tilt((float(p[4]), float(p[5])))
    seen = []
    for b in beam_tilt_mrad:
        d = 1e-3 * matrix @ b
        # the shortest way: a rotation about (d_y, -d_x, 0) lays (d_x, d_y, 1) along z
        angle = float(np.arctan(np.hypot(*d)))
        length = float(np.hypot(*d)) or 1.0
        turn = rotation_from_vector(angle / length * np.array([d[1], -d[0], 0.0]))
        seen.append(tilt_from_zone(turn @ zone))
    return np.array(seen)


def _require_moves(b: Array) -> None:
    if len(b) < _FEWEST:
        raise BeamTiltError(
            f"{len(b)} beam tilts were read, at least 3 are needed (none, one along each axis); "
            f"nothing was measured"
        )
    spread = np.linalg.svd(b - b.mean(axis=0), compute_uv=False)
    if not spread[1] >= _LEAST_WAY_MRAD:
        raise BeamTiltError(
            f"the beam tilts span {spread[0]:.2f} by {spread[1]:.2f} mrad, at least "
            f"{_LEAST_WAY_MRAD:g} both ways are needed; nothing was measured. Tilt along both axes"
        )


def _weighted(design: Array, values: Array, sigma: Array) -> tuple[Array, float, Array]:
    """Linear least squares of (n, 2) values: solution (3, 2), chi squared, variances (3,)."""
    scaled = design / sigma[:, None]
    solution = np.linalg.lstsq(scaled, values / sigma[:, None], rcond=None)[0]
    chi = float((((values - design @ solution) / sigma[:, None]) ** 2).sum())
    variance = np.diag(np.linalg.inv(scaled.T @ scaled))
    return np.asarray(solution, dtype=float), chi, np.asarray(variance, dtype=float)


def _matrix(values: Array) -> Matrix:
    return (
        (float(values[0, 0]), float(values[0, 1])),
        (float(values[1, 0]), float(values[1, 1])),
    )
