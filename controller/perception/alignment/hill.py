"""The Bloch-wave likelihood about one pose, over tilt and thickness, and the ways up it.

Far from the top only tilts are compared, every thickness at each (compass search).  Near it tilt,
scale and thickness climb together by Gauss-Newton steps (Fisher scoring): near a zone axis tilt and
thickness trade, and neither can be found without the other.  The information matrix at the top,
thickness and scale free, gives the width of the summit.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.apertures import read_apertures
from controller.perception.alignment.bloch import (
    BeamSet,
    BlochModel,
    relrods,
    seen,
    select_beams,
    solve,
)
from controller.perception.alignment.geometry import rotation_from_vector
from controller.perception.alignment.kinematical import excitation
from controller.perception.alignment.likelihood import (
    best_scale,
    certainty,
    gain,
    null_likelihood,
    rough_scale,
)
from controller.perception.alignment.pose import Pose, Scene
from controller.perception.alignment.waves import SPREADS, THICKNESSES_A, Waves

Array = NDArray[np.float64]

MODEL_ERROR = 0.12
"""Relative error of a Bloch intensity: structure factors, thickness profile, absorption."""
MODEL_ERRORS = (0.02, 0.04, 0.07, MODEL_ERROR, 0.24)
"""At the top the likelihood chooses: a good crystal is told more sharply than a poor one."""

_SCAN_SPREAD, _SCAN_EVERY = 0.12, 2
"""Forgiving: between two plates the blurred fringes of a wedge look like either."""
_PLATES_A = np.arange(120.0, 1501.0, 10.0)
_FINE_PLATES_A = np.array([-4.0, -2.0, 0.0, 2.0, 4.0])
_GRID = 2.0e-5
"""Offsets that differ by less, in rad, are one."""
_RENEW_RAD = 3.0e-3
_SLOPE_RAD = 1.0e-4
_SLOPE_A = 2.0
_TRUST_RAD = 1.5e-3
_TRUST_A = 40.0
_MOST_STEPS = 8
_NEARBY_A = 60.0
_KEPT = 8
_REFINED = 5


@dataclass(frozen=True)
class Place:
    """Where on the hill: a turn about x and y in rad, and the thickness with its spread."""

    offset: tuple[float, float]
    thickness_A: float
    spread: float
    log_gain: float = -np.inf


@dataclass(frozen=True, eq=False)
class Look:
    """Counts n, background b and fraction f of the nodes at an offset, their waves and places."""

    n: Array
    b: Array
    f: Array
    unknown: Array
    null: Array
    waves: Waves
    node_px: Array


class Hill:
    """The likelihood over tilt offsets and thicknesses around one pose."""

    def __init__(
        self,
        scene: Scene,
        model: BlochModel,
        pose: Pose,
        beams: int,
        *,
        inverted: bool = False,
        kinematical: bool = False,
        model_error: float = MODEL_ERROR,
    ) -> None:
        self.scene, self.model, self.pose = scene, model, pose
        self.count, self.inverted, self.model_error = beams, inverted, model_error
        self.waves_of = relrods if kinematical else solve
        self.beams: BeamSet = select_beams(model, pose.orientation, beams, inverted=inverted)
        self._chosen = np.zeros(2)
        self._looks: OrderedDict[tuple[int, int], Look] = OrderedDict()
        self._scanned: dict[tuple[int, int], tuple[float, float]] = {}

    # far from the top

    def scanned(self, offset: Array) -> tuple[float, float]:
        """Best gain over all thicknesses at one middling spread, and that thickness."""
        key = _key(offset)
        if key not in self._scanned:
            look = self.look(offset)
            intensity = np.ascontiguousarray(look.waves.scan(_SCAN_SPREAD, _SCAN_EVERY))
            k, best = likeliest_of(
                look.n, look.b, look.f, intensity, look.unknown, look.null, self.model_error
            )
            self._scanned[key] = float(best), float(THICKNESSES_A[_SCAN_EVERY * k])
        return self._scanned[key]

    def scanned_sharply(self, offset: Array) -> Place:
        """Best thickness and spread at an offset, the best plates to a fifth of a nanometre.

        A weak spot far off the sphere goes through its maxima every few nanometres.
        """
        look = self.look(offset)
        waves = look.waves
        wedges = np.ascontiguousarray(waves.scan(_SCAN_SPREAD, 2))
        k, gained = likeliest_of(
            look.n, look.b, look.f, wedges, look.unknown, look.null, self.model_error
        )
        x, y = float(offset[0]), float(offset[1])
        best = Place((x, y), float(THICKNESSES_A[::2][k]), _SCAN_SPREAD, float(gained))
        plates = np.ascontiguousarray(waves.at(_PLATES_A, 0.0))
        rough = rough_gains(
            look.n, look.b, look.f, plates, look.unknown, look.null, self.model_error
        )
        near = _PLATES_A[_peaks(rough, _REFINED)]
        t = (near[:, None] + _FINE_PLATES_A).ravel()
        fine = gains_of(
            look.n, look.b, look.f, np.ascontiguousarray(waves.at(t, 0.0)), look.unknown,
            look.null, self.model_error,
        )  # fmt: skip
        top = int(np.argmax(fine))
        if fine[top] > best.log_gain:
            best = Place((x, y), float(t[top]), 0.0, float(fine[top]))
        return best

    def climb(self, steps: tuple[float, ...], most_moves: int) -> Array:
        """Compass search from wide to narrow steps, in rad; the offset of the top, (2,)."""
        centre = np.zeros(2)
        for step in steps:
            for _ in range(most_moves):
                self._renew(centre)
                here = self.scanned(centre)[0]
                angles = np.arange(6) * np.pi / 3
                around = centre + step * np.stack([np.cos(angles), np.sin(angles)], 1)
                values = [self.scanned(p)[0] for p in around]
                k = int(np.argmax(values))
                if values[k] <= here:
                    break
                centre = np.round(around[k] / _GRID) * _GRID
        return centre

    # near the top

    def starts(self, most: int) -> list[Place]:
        """Thicknesses and spreads from which to climb here, best first.

        Near the zone a thinner crystal tilted a little more can look much the same, and a plate
        like a wedge of another thickness.
        """
        look = self.look(np.zeros(2))
        found = []
        for spread in SPREADS:
            t = _PLATES_A if spread == 0.0 else THICKNESSES_A
            intensity = look.waves.at(t, 0.0) if spread == 0.0 else look.waves.scan(spread)
            gains = gains_of(
                look.n, look.b, look.f, intensity, look.unknown, look.null, self.model_error
            )
            padded = np.pad(gains, 1, constant_values=-np.inf)
            peaks = np.flatnonzero((gains >= padded[:-2]) & (gains >= padded[2:]))
            found += [Place((0.0, 0.0), float(t[k]), spread, float(gains[k])) for k in peaks]
        found.sort(key=lambda p: -p.log_gain)
        kept: list[Place] = []
        for place in found:
            if place.log_gain < 0.7 * found[0].log_gain and kept:
                break
            if all(abs(place.thickness_A - k.thickness_A) > _NEARBY_A for k in kept):
                kept.append(place)
            if len(kept) == most:
                break
        return kept

    def value(self, place: Place) -> Place:
        """The place with its gain."""
        look = self.look(np.array(place.offset))
        intensity = look.waves.at(np.array([place.thickness_A]), place.spread)
        gains = gains_of(
            look.n, look.b, look.f, intensity, look.unknown, look.null, self.model_error
        )
        return replace(place, log_gain=float(gains[0]))

    def top(self, place: Place) -> tuple[Place, Array]:
        """Climb from a place; also choose spread and model error. Top, and covariance (2, 2)."""
        place, _ = self._newton(self._likeliest_spread(self.value(place)))
        self.model_error = self._likeliest_error(place)
        return self._newton(self._likeliest_spread(self.value(place)))

    def _newton(self, place: Place) -> tuple[Place, Array]:
        """The top by Fisher scoring, and the covariance of the tilt there in rad^2, (2, 2)."""
        step, covariance = self._scored(place)
        for _ in range(_MOST_STEPS):
            length = float(np.hypot(*step[:2]))
            step = step * min(
                1.0, _TRUST_RAD / max(length, 1e-12), _TRUST_A / max(abs(step[2]), 1e-12)
            )
            for _ in range(3):
                there = self.value(_moved(place, step))
                if there.log_gain > place.log_gain:
                    break
                step = 0.35 * step
            else:
                break
            gained = there.log_gain - place.log_gain
            place = there
            if gained < 0.03 and np.hypot(*step[:2]) < 1e-4:
                break
            if self._renew(np.array(place.offset)):
                place = self.value(place)
            step, covariance = self._scored(place)
        return place, covariance

    def _likeliest_spread(self, place: Place) -> Place:
        """The place with the spread that fits best, each at its best thickness nearby."""
        look = self.look(np.array(place.offset))
        best = place
        for spread in SPREADS:
            reach = np.linspace(-20.0, 20.0, 5) if spread < 0.1 else np.array([-40.0, 0.0, 40.0])
            t = place.thickness_A + reach
            t = t[(t >= THICKNESSES_A[0] - 20.0) & (t <= THICKNESSES_A[-1])]
            gains = gains_of(
                look.n, look.b, look.f, look.waves.at(t, spread), look.unknown, look.null,
                self.model_error,
            )  # fmt: skip
            k = int(np.argmax(gains))
            if gains[k] > best.log_gain + 0.5:
                best = replace(
                    place, thickness_A=float(t[k]), spread=spread, log_gain=float(gains[k])
                )
        return best

    def _likeliest_error(self, place: Place) -> float:
        look = self.look(np.array(place.offset))
        shape = look.f * look.waves.at(np.array([place.thickness_A]), place.spread)[:, 0]
        gains = [
            best_scale(look.n, look.b, shape, look.unknown, look.null, error)[1]
            for error in MODEL_ERRORS
        ]
        return MODEL_ERRORS[int(np.argmax(gains))]

    def _scored(self, place: Place) -> tuple[Array, Array]:
        """Step of tilt and thickness to the top of the local quadratic, and the tilt's covariance.

        Returns (3,) in rad, rad, angstrom, and (2, 2) in rad^2.
        """
        offset = np.array(place.offset)
        look = self.look(offset)
        t = place.thickness_A + _SLOPE_A * np.array([0.0, -1.0, 1.0])
        here = look.waves.at(t, place.spread)
        shape = look.f * here[:, 0]
        scale, _ = best_scale(look.n, look.b, shape, look.unknown, look.null, self.model_error)
        mean = scale * shape
        slopes = (scale * look.f)[:, None] * self._slopes(offset, look.waves, place)
        thicker = scale * look.f * (here[:, 2] - here[:, 1]) / (2.0 * _SLOPE_A)
        jacobian = np.column_stack([slopes, thicker, mean])
        variance = look.b + mean + (self.model_error * mean) ** 2
        weight = certainty(look.n, look.b, mean, look.unknown, self.model_error)
        weight = np.where(look.f > 0, weight / np.maximum(variance, 1e-9), 0.0)
        information = (jacobian * weight[:, None]).T @ jacobian
        # weak priors: 3 deg of tilt, 8 nm of thickness, any scale
        information += np.diag([1.0 / 0.05**2, 1.0 / 0.05**2, 1.0 / 80.0**2, 1e-3])
        score = (jacobian * weight[:, None]).T @ (look.n - look.b - mean)
        inverse = np.linalg.inv(information)
        step: Array = np.asarray((inverse @ score)[:3], dtype=float)
        return step, np.asarray(inverse[:2, :2], dtype=float)

    # what is seen

    def look(self, offset: Array) -> Look:
        """Apertures and waves with the crystal turned by an offset; the last few are kept."""
        key = _key(offset)
        known = self._looks.get(key)
        if known is not None:
            return known
        waves = self.waves_of(self.model, self.beams, self._turned(np.array(key) * _GRID))
        plate, scale = self.scene.plate, self.pose.inv_A_per_px
        x = self.pose.centre_px[0] + waves.gx / scale
        y = self.pose.centre_px[1] + waves.gy / scale
        n, b, f = read_apertures(
            x, y, plate.counts, plate.background, plate.good, plate.offsets, plate.fractions
        )
        unknown, null = null_likelihood(n, b, self.scene.brightest)
        look = Look(n, b, f, unknown, null, waves, np.stack([x, y], 1))
        self._looks[key] = look
        if len(self._looks) > _KEPT:
            self._looks.popitem(last=False)
        return look

    def _slopes(self, offset: Array, waves: Waves, place: Place) -> Array:
        """Derivatives of all intensities by the two turns, per rad, (beams, 2)."""
        rows = (
            seen(self.beams)
            if self.waves_of is relrods
            else np.concatenate([self.beams.strong, self.beams.weak])
        )
        g, K = self.model.g[rows], self.model.wavenumber
        s = excitation(g, self._turned(offset), K)[2]
        by_turn = [
            (excitation(g, self._turned(offset + _SLOPE_RAD * axis), K)[2] - s) / _SLOPE_RAD
            for axis in np.eye(2)
        ]
        return waves.slopes(place.thickness_A, place.spread, np.stack(by_turn, 1))

    def _turned(self, offset: Array) -> Array:
        """Orientation of the crystal at an offset, (3, 3)."""
        return rotation_from_vector(np.array([offset[0], offset[1], 0.0])) @ self.pose.orientation

    def report(self, place: Place) -> tuple[Array, Array, Array, float]:
        """Nodes, electrons predicted and counted at each, and the quality of the fit.

        The quality is the gain as part of that of a model that predicted every node exactly.
        """
        look = self.look(np.array(place.offset))
        shape = look.f * look.waves.at(np.array([place.thickness_A]), place.spread)[:, 0]
        excess = look.n - look.b
        scale, here = best_scale(look.n, look.b, shape, look.unknown, look.null, MODEL_ERROR)
        shown = look.f > 0
        # noise is not to be predicted: hundreds of empty nodes would make every fit look poor
        there = np.where(excess > 2.0 * np.sqrt(look.b) + 1.5, excess, 0.0)
        perfect = gain(look.n, look.b, there, look.unknown, look.null, MODEL_ERROR)
        quality = float(here) / max(float(perfect), 1.0)
        return look.node_px[shown], scale * shape[shown], excess[shown], quality

    def _renew(self, centre: Array) -> bool:
        """Choose the beams anew where the climb went far from where they were chosen."""
        if np.hypot(*(centre - self._chosen)) <= _RENEW_RAD:
            return False
        turn = rotation_from_vector(np.array([centre[0], centre[1], 0.0]))
        self.beams = select_beams(
            self.model, turn @ self.pose.orientation, self.count, inverted=self.inverted
        )
        self._scanned.clear()
        self._looks.clear()
        self._chosen = np.array(centre, dtype=float)
        return True


def _key(offset: Array) -> tuple[int, int]:
    x, y = (round(float(v) / _GRID) for v in offset)
    return x, y


def _moved(place: Place, step: Array) -> Place:
    """The place a step on, within what is scanned."""
    x, y = np.round((np.array(place.offset) + step[:2]) / _GRID) * _GRID
    thickness = np.clip(place.thickness_A + step[2], THICKNESSES_A[0] - 40.0, THICKNESSES_A[-1])
    return replace(place, offset=(float(x), float(y)), thickness_A=float(thickness))


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def gains_of(
    n: Array, b: Array, f: Array, intensity: Array, unknown: Array, null: Array, model_error: float
) -> Array:
    """Gain of every column of intensities (nodes, columns), each at its best scale, (columns,)."""
    out = np.empty(intensity.shape[1])
    for k in range(intensity.shape[1]):
        _, out[k] = best_scale(n, b, f * intensity[:, k], unknown, null, model_error)
    return out


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def likeliest_of(
    n: Array, b: Array, f: Array, intensity: Array, unknown: Array, null: Array, model_error: float
) -> tuple[int, float]:
    """The column of `gains_of` that gains most, and its gain.

    All columns are compared at coarse scales, and only the best few at their best scale.
    """
    coarse = rough_gains(n, b, f, intensity, unknown, null, model_error)
    best, where = -1e18, 0
    for k in np.argsort(-coarse)[:_REFINED]:
        _, value = best_scale(n, b, f * intensity[:, k], unknown, null, model_error)
        if value > best:
            best, where = value, k
    return where, best


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def rough_gains(
    n: Array, b: Array, f: Array, intensity: Array, unknown: Array, null: Array, model_error: float
) -> Array:
    """`gains_of` at coarse scales, (columns,)."""
    coarse = np.empty(intensity.shape[1])
    for k in range(intensity.shape[1]):
        coarse[k] = rough_scale(n, b, f * intensity[:, k], unknown, null, model_error)[1]
    return coarse


def _peaks(values: Array, most: int) -> NDArray[np.intp]:
    """Places of the highest local maxima, (at most ``most``,)."""
    padded = np.pad(values, 1, constant_values=-np.inf)
    places = np.flatnonzero((values >= padded[:-2]) & (values >= padded[2:]))
    return places[np.argsort(-values[places], kind="stable")[:most]]
