"""Where the zone axis lies: a Bayesian filter over the patterns of a crystal, and over the night.

State, all in one vector x (degrees and plain numbers):

    instrument   azimuth of the alpha axis on the camera, gains of alpha and beta, skew of the beta
                 axis, play of alpha and beta, gain and turn of the beam tilt
    crystal      zone axis v in the holder: two components across the present estimate
    settings     for each setting of the goniometer, where alpha and beta really stood

A pattern at setting i with the beam tilted by b shows the tilt vector

    t = tilt( S(azimuth, hand)^T U(b) Rx(a_i) Rz(skew) Ry(b_i) Rz(-skew) v ),

S from detector to stage, U(b) the rotation that lays the tilted beam along z.  The estimate is the
minimum of |t - t_measured|^2 / sigma^2 plus the priors (Gauss-Newton, a dozen unknowns), its
covariance the inverse curvature.  The hand of the camera is a choice between two such minima,
weighted by their likelihoods.  What a crystal teaches of the instrument is the prior of the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.hardware.values import Axis, Calibration, Capabilities
from controller.perception.alignment import (
    HolderFrame,
    goniometer_for_zone,
    tilt_from_zone,
    zone_in_holder,
)
from controller.perception.alignment.geometry import double_tilt
from controller.perception.alignment.result import RADIUS_OF_68_PERCENT
from controller.record.events import FilterState, GoniometerSetting, InstrumentState

Array = NDArray[np.float64]

PARAMETERS = (
    "azimuth_deg",
    "alpha_gain",
    "beta_gain",
    "skew_deg",
    "alpha_play_deg",
    "beta_play_deg",
    "beam_gain",
    "beam_turn_deg",
)
"""Of the instrument, in the order of its mean and covariance."""
_N = len(PARAMETERS)
GAIN_SIGMA, SKEW_SIGMA_DEG = 0.003, 0.1
BEAM_GAIN_SIGMA, BEAM_TURN_SIGMA_DEG = 0.02, 1.0
DOUBT_OF_HAND = 0.02
"""Prior probability that the camera is mirrored against its calibration."""
OUTLIER_CHI2 = 20.0
"""Beyond this the patterns contradict each other."""
SURPRISING = 2.8
"""Standard deviations from its forecast (2 % of honest readings) beyond which a pattern is not
believed alone."""
NEITHER_CHI2 = 40.0
"""A hand that fits worse than this is not the less likely for it."""
FLOOR_MRAD = 0.13
"""One axis: what no number of patterns takes away (bend of the crystal, bias of the estimator)."""
_BASE_DEG = 0.01
"""Least uncertainty of where a goniometer stands: creep, and readings that are steps."""


@dataclass(frozen=True)
class Look:
    """One pattern that was read."""

    setting: int
    """Index into the settings."""
    beam_tilt_mrad: tuple[float, float]
    tilt_mrad: tuple[float, float]
    sigma_mrad: float
    """Radius that holds 68.3 %."""


@dataclass(frozen=True)
class Forecast:
    """What a pattern would show: tilt vector and its radius of 68.3 %."""

    tilt_mrad: tuple[float, float]
    sigma_mrad: float
    covariance_mrad2: tuple[tuple[float, float], tuple[float, float]]

    @property
    def off_deg(self) -> float:
        """Angle between zone axis and incident beam."""
        return float(np.rad2deg(np.hypot(*self.tilt_mrad) * 1e-3))

    @property
    def sigma_deg(self) -> float:
        """Radius of 68.3 %."""
        return float(np.rad2deg(self.sigma_mrad * 1e-3))


def instrument_prior(calibration: Calibration, capabilities: Capabilities) -> InstrumentState:
    """What the stored calibration says of the instrument, with its uncertainties."""
    alpha, beta = (capabilities.axes.get(axis) for axis in (Axis.ALPHA, Axis.BETA))
    play = [0.0 if info is None else info.backlash for info in (alpha, beta)]
    beam_gain, beam_turn_deg, beam_rest = _gain_and_turn(calibration)
    mean = (
        calibration.tilt_axis_azimuth_deg,
        calibration.alpha_gain,
        calibration.beta_gain,
        calibration.axes_skew_deg,
        *play,
        beam_gain,
        beam_turn_deg,
    )
    sigma = (
        max(calibration.azimuth_sigma_deg, 0.1),
        max(calibration.gain_sigma, GAIN_SIGMA),
        max(calibration.gain_sigma, GAIN_SIGMA),
        max(calibration.axes_skew_sigma_deg, SKEW_SIGMA_DEG),
        *(0.3 * p + 0.01 for p in play),
        max(np.hypot(calibration.beam_tilt_sigma, beam_rest), BEAM_GAIN_SIGMA),
        max(np.rad2deg(beam_rest), BEAM_TURN_SIGMA_DEG),
    )
    return InstrumentState(
        mean=mean,
        covariance=_as_rows(np.diag(np.square(np.asarray(sigma, dtype=float)))),
        mirrored=calibration.diffraction_mirrored,
        doubt=DOUBT_OF_HAND,
    )


def _gain_and_turn(calibration: Calibration) -> tuple[float, float, float]:
    """The calibrated beam-tilt matrix as a gain and a turn in degrees, and what they leave over."""
    (a, b), (c, d) = calibration.beam_tilt_matrix
    # the nearest multiple of a rotation has these two elements
    along, across = 0.5 * (a + d), 0.5 * (c - b)
    rest = 0.5 * float(np.hypot(a - d, b + c))
    return (
        float(np.hypot(along, across)),
        float(np.rad2deg(np.arctan2(across, along))),
        rest,
    )


def where_it_stands(
    commanded_deg: float, readings_deg: Sequence[float], *, repeatability: float, read_noise: float
) -> tuple[float, float]:
    """Best estimate of one axis and its sigma, from what was asked for and what was read.

    The residual of a move has the variance repeatability²; read_noise² of it is the reading's.
    """
    drive = max(repeatability**2 - read_noise**2, _BASE_DEG**2)
    values, weights = [commanded_deg], [1 / drive]
    if readings_deg:
        values.append(float(np.mean(readings_deg)))
        weights.append(1 / max(read_noise**2 / len(readings_deg), _BASE_DEG**2))
    mean = float(np.average(values, weights=weights))
    return mean, float(np.hypot(1 / np.sqrt(sum(weights)), _BASE_DEG))


def estimate(
    looks: Sequence[Look], settings: Sequence[GoniometerSetting], prior: InstrumentState
) -> FilterState:
    """Everything that the patterns of one crystal say, the instrument included.

    Parameters
    ----------
    looks
        At least one; all of the same zone axis.
    prior
        Of the instrument, from the crystals before.

    Returns
    -------
    FilterState
        With `dropped` patterns left out where they contradict each other: the one without which
        the others agree, or, if there is no such one, all but the newest.
    """
    best = _both_hands(looks, settings, prior)
    if best.chi2 <= OUTLIER_CHI2 or len(looks) == 1:
        return best
    if len(looks) > 2:
        fewer = [
            _both_hands([*looks[:n], *looks[n + 1 :]], settings, prior) for n in range(len(looks))
        ]
        best = min(fewer, key=lambda state: state.chi2)
        if best.chi2 <= OUTLIER_CHI2:
            return best.replace(dropped=1)
    alone = _both_hands(looks[-1:], settings, prior)
    return alone.replace(dropped=len(looks) - 1)


def forecast(
    state: FilterState, setting: GoniometerSetting | int, beam_tilt_mrad: tuple[float, float]
) -> Forecast:
    """What a pattern would show at a known (index) or a new setting."""
    x, covariance = np.asarray(state.mean), np.asarray(state.covariance)
    settings = list(state.settings)
    if isinstance(setting, int):
        index = setting
    else:
        index = len(settings)
        settings.append(setting)
        x = np.append(x, [0.0, 0.0])
        spread = np.square([setting.sigma_alpha_deg, setting.sigma_beta_deg])
        covariance = _block(covariance, np.diag(spread))
    model = _Model(np.asarray(state.zone_holder), settings, state.instrument.mirrored)
    look = Look(index, beam_tilt_mrad, (0.0, 0.0), 1.0)
    tilt = model.tilt(x, look)
    slope = model.slope(x, look)
    spread = slope @ covariance @ slope.T + FLOOR_MRAD**2 * np.eye(2)
    radius = RADIUS_OF_68_PERCENT * float(np.sqrt(np.trace(spread) / 2))
    (a, b), (c, d) = spread.tolist()
    return Forecast((float(tilt[0]), float(tilt[1])), radius, ((a, b), (c, d)))


def aim(state: FilterState) -> tuple[float, float]:
    """(alpha_deg, beta_deg) to ask for, approached from below, to lay the zone axis on the beam."""
    x = np.asarray(state.mean)
    model = _Model(np.asarray(state.zone_holder), state.settings, state.instrument.mirrored)
    alpha, beta = goniometer_for_zone(model.zone(x))
    for _ in range(4):
        here = model.column(x, alpha, beta, from_below=True)
        # a small rotation of the stage that lays what is left onto the beam
        a, b = goniometer_for_zone(double_tilt(alpha, beta).T @ here)
        alpha, beta = a, b
        if np.hypot(here[0], here[1]) < 1e-7:
            break
    return alpha, beta


def beam_onto_zone(
    state: FilterState, setting: int, limit_mrad: float
) -> tuple[float, float] | None:
    """Beam tilt that lays the beam along the zone axis; None where it is beyond the limit."""
    x = np.asarray(state.mean)
    model = _Model(np.asarray(state.zone_holder), state.settings, state.instrument.mirrored)
    here = model.column_at(x, setting)
    wanted = 1e3 * here[:2] / here[2]
    tilt = np.linalg.solve(_beam_matrix(x), wanted)
    if not np.abs(tilt).max() <= limit_mrad:
        return None
    return float(tilt[0]), float(tilt[1])


def surprise(forecast_: Forecast, tilt_mrad: tuple[float, float], sigma_mrad: float) -> float:
    """How far a reading lies from its forecast, in standard deviations of both (Mahalanobis)."""
    axis = sigma_mrad / RADIUS_OF_68_PERCENT
    spread = np.asarray(forecast_.covariance_mrad2) + axis**2 * np.eye(2)
    off = np.asarray(tilt_mrad) - np.asarray(forecast_.tilt_mrad)
    return float(np.sqrt(off @ np.linalg.solve(spread, off)))


def _both_hands(
    looks: Sequence[Look], settings: Sequence[GoniometerSetting], prior: InstrumentState
) -> FilterState:
    fits = {hand: _fit(looks, settings, prior, hand) for hand in (False, True)}
    # a reading that fits neither hand says nothing about the hand
    likelihood = {h: np.exp(-0.5 * min(f.chi2, NEITHER_CHI2)) for h, f in fits.items()}
    weight = {h: likelihood[h] * _belief_in(prior, h) for h in fits}
    hand = max(weight, key=lambda h: weight[h])
    doubt = float(weight[not hand] / sum(weight.values()))
    best = fits[hand]
    return best.replace(instrument=best.instrument.replace(doubt=min(max(doubt, 1e-9), 0.5)))


def _belief_in(prior: InstrumentState, mirrored: bool) -> float:
    return 1 - prior.doubt if mirrored == prior.mirrored else prior.doubt


def _fit(
    looks: Sequence[Look],
    settings: Sequence[GoniometerSetting],
    prior: InstrumentState,
    mirrored: bool,
) -> FilterState:
    """The most probable state with one hand of the camera."""
    start = np.concatenate([prior.mean, np.zeros(2 + 2 * len(settings))])
    precision = np.zeros((len(start), len(start)))
    precision[:_N, :_N] = np.linalg.inv(np.asarray(prior.covariance))
    for i, setting in enumerate(settings):
        spread = np.square([setting.sigma_alpha_deg, setting.sigma_beta_deg])
        at = _N + 2 + 2 * i
        precision[at : at + 2, at : at + 2] = np.diag(1 / spread)
    last = looks[-1]
    s = settings[last.setting]
    zone = zone_in_holder(
        last.tilt_mrad, s.alpha_deg, s.beta_deg, HolderFrame(prior.mean[0], mirrored)
    )
    x = start
    for _ in range(8):
        model = _Model(zone, settings, mirrored)
        gradient, curvature = precision @ (x - start), precision.copy()
        for look in looks:
            off = model.tilt(x, look) - np.asarray(look.tilt_mrad)
            slope = model.slope(x, look)
            weight = (RADIUS_OF_68_PERCENT / look.sigma_mrad) ** 2
            gradient += weight * slope.T @ off
            curvature += weight * slope.T @ slope
        step = np.linalg.solve(curvature, -gradient)
        x = x + step
        zone, x = model.zone(x), x * _but_zone(len(x))
        if np.abs(step).max() < 1e-7:
            break
    model = _Model(zone, settings, mirrored)
    chi2 = float((x - start) @ precision @ (x - start))
    for look in looks:
        off = model.tilt(x, look) - np.asarray(look.tilt_mrad)
        chi2 += float(off @ off) * (RADIUS_OF_68_PERCENT / look.sigma_mrad) ** 2
    covariance: Array = np.asarray(np.linalg.inv(curvature), dtype=float)
    return FilterState(
        instrument=InstrumentState(
            mean=tuple(x[:_N].tolist()),
            covariance=_as_rows(covariance[:_N, :_N]),
            mirrored=mirrored,
            doubt=prior.doubt,
        ),
        zone_holder=(float(zone[0]), float(zone[1]), float(zone[2])),
        settings=tuple(settings),
        mean=tuple(x.tolist()),
        covariance=_as_rows(covariance),
        chi2=chi2,
        looks=len(looks),
    )


@dataclass(frozen=True)
class _Model:
    """The measurement: what the camera shows of a zone axis, given the state x."""

    base: Array
    """Zone axis in the holder about which x counts."""
    settings: Sequence[GoniometerSetting]
    mirrored: bool

    def zone(self, x: Array) -> Array:
        """Zone axis in the holder, (3,)."""
        e1, e2 = _across(self.base)
        a, b = np.deg2rad(x[_N : _N + 2])
        v = self.base + a * e1 + b * e2
        return np.asarray(v / np.linalg.norm(v))

    def column(self, x: Array, alpha_deg: float, beta_deg: float, *, from_below: bool) -> Array:
        """Zone axis in the column, (3,), with the drives at alpha, beta."""
        _, gain_a, gain_b, skew, play_a, play_b, _, _ = x[:_N]
        side = 0.5 if from_below else 0.0
        alpha = gain_a * alpha_deg - side * play_a
        beta = gain_b * beta_deg - side * play_b
        v = self.zone(x)
        c, s = np.cos(np.deg2rad(skew)), np.sin(np.deg2rad(skew))
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        return np.asarray(double_tilt(alpha, 0.0) @ turn @ double_tilt(0.0, beta) @ turn.T @ v)

    def column_at(self, x: Array, index: int) -> Array:
        """Zone axis in the column, (3,), at a setting."""
        s = self.settings[index]
        da, db = x[_N + 2 + 2 * index : _N + 4 + 2 * index]
        return self.column(x, s.alpha_deg + da, s.beta_deg + db, from_below=s.from_below)

    def tilt(self, x: Array, look: Look) -> Array:
        """Tilt vector in mrad, (2,)."""
        bx, by = 1e-3 * _beam_matrix(x) @ np.asarray(look.beam_tilt_mrad)
        seen = carry_onto_z(np.array([bx, by, 1.0])) @ self.column_at(x, look.setting)
        frame = HolderFrame(float(x[0]), self.mirrored)
        return np.asarray(tilt_from_zone(frame.stage_from_detector().T @ seen))

    def slope(self, x: Array, look: Look) -> Array:
        """Derivative of the tilt vector, (2, parameters), by central differences."""
        columns = []
        for k in range(len(x)):
            h = np.zeros_like(x)
            h[k] = 1e-4
            columns.append((self.tilt(x + h, look) - self.tilt(x - h, look)) / 2e-4)
        return np.stack(columns, axis=1)


def _beam_matrix(x: Array) -> Array:
    """(2, 2): true beam tilt from the nominal one."""
    gain, turn = x[6], np.deg2rad(x[7])
    return np.asarray(
        gain * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    )


def carry_onto_z(direction: Array) -> Array:
    """The shortest rotation that takes a direction near z onto z, (3, 3)."""
    u = direction / np.linalg.norm(direction)
    x, y, z = u
    k = 1 / (1 + z)
    return np.array([[1 - k * x * x, -k * x * y, -x], [-k * x * y, 1 - k * y * y, -y], [x, y, z]])


def _across(v: Array) -> tuple[Array, Array]:
    """Two unit vectors across v and each other."""
    helper = np.array([1.0, 0.0, 0.0]) if abs(v[0]) < 0.8 else np.array([0.0, 1.0, 0.0])
    e1 = np.cross(helper, v)
    e1 /= np.linalg.norm(e1)
    return e1, np.cross(v, e1)


def _but_zone(length: int) -> Array:
    """Ones, and zeros at the two components of the zone axis: they were taken into the base."""
    keep = np.ones(length)
    keep[_N : _N + 2] = 0.0
    return keep


def _block(a: Array, b: Array) -> Array:
    joined = np.zeros((len(a) + len(b), len(a) + len(b)))
    joined[: len(a), : len(a)], joined[len(a) :, len(a) :] = a, b
    return joined


def _as_rows(matrix: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())
