"""Azimuth, handedness and gains of the tilt axes from how the Laue centre moves when they turn.

A crystal's zone axis v rides in the holder.  At the readings (alpha, beta) it is seen at

    u = S^T Rx(a) Rz(p) Ry(b) Rz(-p) v,     a = g_alpha alpha,  b = g_beta beta

with S the holder frame (azimuth of the alpha axis and handedness), g the gains of the two drives
and p the angle by which the beta axis misses the right angle.  Signs are not assumed: a drive that
runs the other way shows as another azimuth and handedness.  Both handednesses are fitted, and the
data choose.  With tilts of one degree about each axis this is the 2 x 2 Jacobian of the Laue
centre, but exact, so that larger tilts may be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from controller.calibration.outliers import agreeing, credible
from controller.perception.alignment import HolderFrame, tilt_from_zone, zone_from_tilt
from controller.perception.alignment.geometry import double_tilt, rotation_from_vector

Array = NDArray[np.float64]

_LEAST_WAY_DEG = 0.4
_LEAST_SURENESS = 25.0
"""Least difference of chi squared between the two handednesses."""
_FEWEST = 5


class TiltAxesError(ValueError):
    """The readings do not tell the axes; nothing was measured."""


@dataclass(frozen=True)
class TiltReading:
    """One measured tilt vector with the goniometer reading that belongs to it."""

    alpha_deg: float
    beta_deg: float
    tilt_mrad: tuple[float, float]
    """From the direct beam to the Laue centre, detector frame."""
    sigma_mrad: float
    """Radius that holds 68.3 % of its errors."""


@dataclass(frozen=True)
class TiltAxes:
    """How the goniometer lies on the diffraction camera; each sigma is one standard deviation."""

    azimuth_deg: float
    azimuth_sigma_deg: float
    mirrored: bool
    alpha_gain: float
    alpha_gain_sigma: float
    """Angle that the crystal turns per degree of reading."""
    beta_gain: float
    beta_gain_sigma: float
    non_orthogonality_deg: float
    non_orthogonality_sigma_deg: float
    """Beta axis against the right angle with alpha, about the holder's normal."""
    jacobian_mrad_per_deg: tuple[tuple[float, float], tuple[float, float]]
    """d(tilt_x, tilt_y) by d(alpha, beta) at the mean reading."""
    chi_squared: float
    degrees_of_freedom: int
    other_hand_chi_squared: float
    """Of the best fit with the other handedness."""
    readings_left_out: int = 0
    """That contradicted all others."""

    @property
    def frame(self) -> HolderFrame:
        """As the aligner takes it."""
        return HolderFrame(self.azimuth_deg, self.mirrored)


def fit_tilt_axes(readings: Sequence[TiltReading], *, reading_sigma_deg: float = 0.01) -> TiltAxes:
    """Fit the axes to tilts measured on one crystal.

    Parameters
    ----------
    readings
        At least five, with both axes moved to both sides; all of the same zone axis.
    reading_sigma_deg
        One sigma of a goniometer reading, per axis: noise and what play is left.

    Raises
    ------
    TiltAxesError
        Too few readings, an axis that was not moved, or measurements that contradict each other
        (another zone, a crystal that slipped, a wrong camera constant).
    """
    _require_moves(_data(readings, reading_sigma_deg))
    used, found = agreeing(readings, lambda some: _try(some, reading_sigma_deg), least=_FEWEST)
    if found is None:
        raise TiltAxesError("no fit converged; nothing was measured. Measure again")
    (best, other), _, dof = found
    data = _data(used, reading_sigma_deg)
    if not other.chi2 - best.chi2 > _LEAST_SURENESS:
        raise TiltAxesError(
            f"the readings do not tell the handedness (chi squared {best.chi2:.1f} and "
            f"{other.chi2:.1f}, needed {_LEAST_SURENESS:.0f} apart); nothing was measured. "
            f"Tilt further, or expose longer"
        )
    if not credible(best.chi2, dof):
        raise TiltAxesError(
            f"the readings contradict each other: chi squared {best.chi2:.1f} for {dof} degrees of "
            f"freedom; nothing was measured. The crystal slipped, another zone was read, or the "
            f"goniometer reads worse than {reading_sigma_deg:g} deg: measure again, or give "
            f"--reading-sigma-deg"
        )
    stretch = np.sqrt(max(best.chi2 / dof, 1.0)) if dof > 0 else 1.0
    sigma = stretch * np.sqrt(np.diag(best.covariance))
    azimuth = (np.rad2deg(best.p[0]) + 180.0) % 360.0 - 180.0
    return TiltAxes(
        azimuth_deg=float(azimuth),
        azimuth_sigma_deg=float(np.rad2deg(sigma[0])),
        mirrored=best.hand < 0,
        alpha_gain=float(best.p[1]),
        alpha_gain_sigma=float(sigma[1]),
        beta_gain=float(best.p[2]),
        beta_gain_sigma=float(sigma[2]),
        non_orthogonality_deg=float(np.rad2deg(best.p[3])),
        non_orthogonality_sigma_deg=float(np.rad2deg(sigma[3])),
        jacobian_mrad_per_deg=_jacobian(best.p, best.hand, data),
        chi_squared=best.chi2,
        degrees_of_freedom=dof,
        other_hand_chi_squared=other.chi2,
        readings_left_out=len(readings) - len(used),
    )


@dataclass(frozen=True)
class _Data:
    alpha_deg: Array
    beta_deg: Array
    tilt_mrad: Array
    sigma_mrad: Array
    """One axis, reading noise included, (n,)."""


@dataclass(frozen=True)
class _Fit:
    p: Array
    """Azimuth (rad), gain of alpha, gain of beta, non-orthogonality (rad), v_x, v_y."""
    hand: float
    chi2: float
    covariance: Array


def _data(readings: Sequence[TiltReading], reading_sigma_deg: float) -> _Data:
    pattern = np.array([r.sigma_mrad for r in readings]) / 1.515
    reading = 1e3 * np.deg2rad(reading_sigma_deg)
    return _Data(
        np.array([r.alpha_deg for r in readings]),
        np.array([r.beta_deg for r in readings]),
        np.array([r.tilt_mrad for r in readings]).reshape(-1, 2),
        np.hypot(pattern, reading),
    )


def _require_moves(data: _Data) -> None:
    if len(data.alpha_deg) < _FEWEST:
        raise TiltAxesError(
            f"{len(data.alpha_deg)} tilts were read, {_FEWEST} are needed (in the middle, and to "
            f"both sides of each axis); nothing was measured"
        )
    for name, values in (("alpha", data.alpha_deg), ("beta", data.beta_deg)):
        if not np.ptp(values) >= 2 * _LEAST_WAY_DEG:
            raise TiltAxesError(
                f"{name} moved by {np.ptp(values):.2f} deg, at least {2 * _LEAST_WAY_DEG:g} are "
                f"needed to tell its axis; nothing was measured. Tilt further"
            )


def _try(
    readings: Sequence[TiltReading], reading_sigma_deg: float
) -> tuple[tuple[_Fit, _Fit], float, int] | None:
    """Fits of the better and the worse hand, chi squared, degrees of freedom.

    None where an axis did not move.
    """
    data = _data(readings, reading_sigma_deg)
    try:
        _require_moves(data)
    except TiltAxesError:
        return None
    fits = [_fit(data, hand) for hand in (1.0, -1.0)]
    best, other = sorted(fits, key=lambda fit: fit.chi2)
    return (best, other), best.chi2, 2 * len(readings) - len(best.p)


def _predicted(p: Array, hand: float, alpha_deg: Array, beta_deg: Array) -> Array:
    """Tilt vectors in mrad, (n, 2)."""
    to_detector = HolderFrame(float(np.rad2deg(p[0])), hand < 0).stage_from_detector().T
    v = np.array([p[4], p[5], np.sqrt(max(1.0 - p[4] ** 2 - p[5] ** 2, 0.0))])
    skew = rotation_from_vector(np.array([0.0, 0.0, p[3]]))
    seen = []
    for a, b in zip(alpha_deg, beta_deg, strict=True):
        tilted = (
            double_tilt(float(p[1] * a), 0.0) @ skew @ double_tilt(0.0, float(p[2] * b)) @ skew.T
        )
        seen.append(tilt_from_zone(to_detector @ tilted @ v))
    return np.array(seen)


def _fit(data: _Data, hand: float) -> _Fit:
    """Least squares for one handedness, from the azimuth that the plain differences suggest."""

    def residual(p: Array) -> Array:
        off = _predicted(p, hand, data.alpha_deg, data.beta_deg) - data.tilt_mrad
        return np.asarray((off / data.sigma_mrad[:, None]).ravel())

    fits = []
    for azimuth in np.deg2rad([0.0, 180.0]) + _guess(data, hand):
        start = _start(data, float(azimuth), hand)
        solved = optimize.least_squares(
            residual, start, x_scale=[0.1, 0.1, 0.1, 0.1, 0.01, 0.01],
            bounds=([-np.inf, 0.3, 0.3, -0.5, -1, -1], [np.inf, 3.0, 3.0, 0.5, 1, 1]),
        )  # fmt: skip
        fits.append(solved)
    best = min(fits, key=lambda s: s.cost)
    information = best.jac.T @ best.jac
    return _Fit(np.asarray(best.x), hand, 2.0 * float(best.cost), np.linalg.pinv(information))


def _guess(data: _Data, hand: float) -> float:
    """Azimuth from the linear part: turning alpha moves the Laue centre along -Y."""
    design = np.column_stack([np.ones_like(data.alpha_deg), data.alpha_deg, data.beta_deg])
    linear = np.linalg.lstsq(design, data.tilt_mrad, rcond=None)[0]
    minus_y = linear[1]
    y_azimuth = np.arctan2(-minus_y[1], -minus_y[0])
    return float(y_azimuth - hand * np.pi / 2)


def _start(data: _Data, azimuth: float, hand: float) -> Array:
    frame = HolderFrame(float(np.rad2deg(azimuth)), hand < 0)
    seen = frame.stage_from_detector() @ zone_from_tilt(
        (float(data.tilt_mrad[0, 0]), float(data.tilt_mrad[0, 1]))
    )
    v = double_tilt(float(data.alpha_deg[0]), float(data.beta_deg[0])).T @ seen
    v = v if v[2] >= 0 else -v
    return np.array(
        [azimuth, 1.0, 1.0, 0.0, np.clip(v[0], -0.99, 0.99), np.clip(v[1], -0.99, 0.99)]
    )


def _jacobian(
    p: Array, hand: float, data: _Data
) -> tuple[tuple[float, float], tuple[float, float]]:
    a, b, h = float(data.alpha_deg.mean()), float(data.beta_deg.mean()), 1e-3
    around = _predicted(p, hand, np.array([a + h, a - h, a, a]), np.array([b, b, b + h, b - h]))
    by_alpha, by_beta = (around[0] - around[1]) / (2 * h), (around[2] - around[3]) / (2 * h)
    return (
        (float(by_alpha[0]), float(by_beta[0])),
        (float(by_alpha[1]), float(by_beta[1])),
    )
