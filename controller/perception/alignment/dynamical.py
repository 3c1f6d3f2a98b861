"""The last step near the optimum: Bloch-wave intensities against counted ones.

Thin or light crystals scatter kinematically: plain relrods are fitted beside, and the likelihood
chooses.

The kinematical optimum lies 0.05-0.2 deg beside the truth near a zone axis, the more the thicker
the crystal.  From there the tilt climbs the likelihood of Bloch intensities, all thicknesses at
every tilt: first by compass search, then by Gauss-Newton steps (Fisher scoring) over tilt,
thickness and scale, whose information matrix gives the width of the summit.
"""

from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.apertures import read_apertures
from controller.perception.alignment.bloch import (
    SPREADS,
    THICKNESSES_A,
    BeamSet,
    BlochModel,
    intensities,
    relrods,
    select_beams,
)
from controller.perception.alignment.geometry import rotation_from_vector
from controller.perception.alignment.likelihood import (
    best_scale,
    certainty,
    gain,
    null_likelihood,
)
from controller.perception.alignment.polish import Pose, Scene, turn_to_spots

Array = NDArray[np.float64]

MODEL_ERROR = 0.12
"""Relative error of a Bloch intensity: structure factors, thickness profile, absorption."""
_MODEL_ERRORS = (0.03, 0.06, MODEL_ERROR, 0.24)
"""At the top the likelihood chooses: a good crystal is told more sharply than a poor one."""


_GRID = 2.0e-5
"""Offsets that differ by less, in rad, are one."""
_SLOPE_RAD = 2.0e-4
_TRUST_RAD = 1.5e-3
_MOST_STEPS = 6
_AROUND_BEAMS = 100
_AROUND_ERROR = 0.2
_AROUND_RAD = 6.0e-3
_AROUND_STEP_RAD = 1.1e-3
_SCOUT_BEAMS = 60
_SCOUT_ERROR = 0.3


@dataclass(frozen=True)
class Summit:
    """Optimum of the tilt with its curvature."""

    pose: Pose
    covariance: Array
    """Of the tilt (x, y) in rad^2, (2, 2): inverse Fisher information, thickness and scale free."""
    model_error: float
    """Relative error of the intensities at which the pattern is likeliest."""
    node_px: Array
    """Nodes of the model, (n, 2)."""
    expected: Array
    """Electrons predicted in each aperture, (n,)."""
    counted: Array
    """Electrons above background counted there, (n,)."""
    quality: float
    """Gain as part of that of a model that predicted every one of these nodes exactly."""


def scout(scene: Scene, model: BlochModel, pose: Pose) -> Pose:
    """A short, forgiving climb: few beams, wide steps, generous model error.

    For crystals so strongly dynamical that the two-beam optimum is no guide to the right basin.
    """
    hill = _Hill(scene, model, pose, _SCOUT_BEAMS, inverted=False, model_error=_SCOUT_ERROR)
    centre = hill.climb((4.8e-3, 2.4e-3, 1.2e-3), 4)
    gain, thickness = hill.gain(centre)
    turned = pose.rotated(np.array([centre[0], centre[1], 0.0]))
    return replace(turned, log_gain=gain, thickness_A=thickness)


def approach(scene: Scene, model: BlochModel, pose: Pose, *, beams: int) -> Pose:
    """The larger steps of a climb, from a kinematical optimum to within about 0.05 deg."""
    hill = _Hill(scene, model, pose, beams, inverted=False)
    centre = hill.climb((2.4e-3, 1.2e-3), 8)
    gain, thickness = hill.gain(centre)
    turned = pose.rotated(np.array([centre[0], centre[1], 0.0]))
    return replace(turned, log_gain=gain, thickness_A=thickness)


def look_around(scene: Scene, model: BlochModel, pose: Pose, *, most: int) -> list[Pose]:
    """The best tilts within a third of a degree, all thicknesses at each, best first.

    For patterns of strong scatterers, whose likelihood has several tops near the zone.
    """
    hill = _Hill(scene, model, pose, _AROUND_BEAMS, inverted=False, model_error=_AROUND_ERROR)
    n = int(_AROUND_RAD / _AROUND_STEP_RAD)
    i, j = (v.ravel() for v in np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1)))
    offsets = _AROUND_STEP_RAD * np.stack([i + 0.5 * j, np.sqrt(0.75) * j], 1)
    offsets = offsets[np.hypot(offsets[:, 0], offsets[:, 1]) <= _AROUND_RAD]
    gains = np.array([hill.gain(offset)[0] for offset in offsets])
    chosen: list[Pose] = []
    places: list[Array] = []
    for k in np.argsort(-gains, kind="stable"):
        if all(np.hypot(*(offsets[k] - place)) > 1.8 * _AROUND_STEP_RAD for place in places):
            places.append(offsets[k])
            gain, thickness = hill.gain(offsets[k])
            turned = pose.rotated(np.array([offsets[k, 0], offsets[k, 1], 0.0]))
            chosen.append(replace(turned, log_gain=gain, thickness_A=thickness))
        if len(chosen) == most:
            break
    return chosen


def summit(
    scene: Scene, model: BlochModel, pose: Pose, *, beams: int, thorough: bool = True
) -> Summit:
    """Tilt, thickness and curvature at the top of the Bloch-wave likelihood.

    Parameters
    ----------
    scene, model
        The pattern; the crystal.
    pose
        A pose near the top.
    beams
        How many beams are coupled.
    thorough
        Also from a second thickness, kinematically, in the inverted setting where there is one,
        and with the likeliest model error.
    """
    hills = []
    settings = [(False, False)]
    if thorough:
        settings += [(False, True)] if _is_real(model) else [(False, True), (True, False)]
    for inverted, kinematical in settings:
        hill = _Hill(scene, model, pose, beams, inverted=inverted, kinematical=kinematical)
        for column in hill.thickness_starts()[: None if thorough else 1]:
            hill.column, hill.top = column, -np.inf
            hill.seen.clear()
            hill.model_error = MODEL_ERROR
            centre, covariance = hill.newton(np.zeros(2))
            if thorough:
                hill.choose_model_error(centre)
                centre, covariance = hill.newton(centre)
            hills.append((*hill.gain(centre), hill.model_error, hill, centre, covariance))
    gain, thickness, model_error, hill, centre, covariance = max(hills, key=lambda item: item[0])
    turned = pose.rotated(np.array([centre[0], centre[1], 0.0]))
    final = replace(turned, log_gain=gain, thickness_A=thickness)
    hill.column = int(np.searchsorted(THICKNESSES_A, thickness)) + len(THICKNESSES_A)
    node_px, expected, counted, quality = hill.look(centre)
    if thorough:
        final = turn_to_spots(scene, final, node_px, expected)
    # a rotation about (x, y) moves the zone axis by (y, -x): covariance in tilt components
    swap = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return Summit(
        final, swap @ covariance @ swap.T, model_error, node_px, expected, counted, quality
    )


def _is_real(model: BlochModel) -> bool:
    table = model.factors.table
    return bool(np.abs(table.imag).max() < 1e-6 * np.abs(table.real).max())


class _Hill:
    """The likelihood over tilt offsets (rotation about x, y in rad) around one pose."""

    def __init__(
        self,
        scene: Scene,
        model: BlochModel,
        pose: Pose,
        beams: int,
        *,
        inverted: bool,
        kinematical: bool = False,
        model_error: float = MODEL_ERROR,
    ) -> None:
        self.scene, self.model, self.pose = scene, model, pose
        self.count, self.inverted, self.model_error = beams, inverted, model_error
        self.predict = relrods if kinematical else intensities
        self.beams: BeamSet = select_beams(model, pose.orientation, beams, inverted=inverted)
        self.chosen = np.zeros(2)
        self.seen: dict[tuple[int, int], tuple[float, int]] = {}
        self.column = -1
        """Spread and thickness to stay near; negative: any thickness at the middle spread."""
        self.top = -np.inf

    def gain(self, offset: Array) -> tuple[float, float]:
        """Profile log-likelihood gain and thickness at an offset."""
        key = (round(float(offset[0]) / _GRID), round(float(offset[1]) / _GRID))
        if key not in self.seen:
            self.seen[key] = self._best(self._read(np.array(key) * _GRID))
        gain, k = self.seen[key]
        return gain, float(THICKNESSES_A[k % len(THICKNESSES_A)])

    def _best(self, look: "_Look") -> tuple[float, int]:
        columns = self._columns()
        gain, k = best_thickness(
            look.n, look.b, look.f, look.intensity[:, columns], self.model_error,
            self.scene.brightest,
        )  # fmt: skip
        if self.column >= 0 and gain > self.top:
            self.top, self.column = gain, int(columns[k])
        return float(gain), int(columns[k])

    def _columns(self) -> NDArray[np.int64]:
        """Spreads and thicknesses to look at: every thickness, or those near the best known."""
        n = len(THICKNESSES_A)
        if self.column < 0:
            return np.arange(n, 2 * n)
        k = self.column % n
        near = np.arange(max(k - 3, 0), min(k + 4, n))
        return np.concatenate([j * n + near for j in range(len(SPREADS))])

    def _read(self, offset: Array) -> "_Look":
        turn = rotation_from_vector(np.array([offset[0], offset[1], 0.0]))
        orientation = turn @ self.pose.orientation
        intensity, gx, gy = self.predict(self.model, self.beams, orientation)
        plate, scale = self.scene.plate, self.pose.inv_A_per_px
        x = self.pose.centre_px[0] + gx / scale
        y = self.pose.centre_px[1] + gy / scale
        n, b, f = read_apertures(
            x, y, plate.counts, plate.background, plate.good, plate.offsets, plate.fractions
        )
        return _Look(n, b, f, intensity, np.stack([x, y], 1))

    def _renew(self, centre: Array) -> None:
        """Choose the beams anew where the climb went far from where they were chosen."""
        if np.hypot(*(centre - self.chosen)) > 3e-3:
            turn = rotation_from_vector(np.array([centre[0], centre[1], 0.0]))
            self.beams = select_beams(
                self.model, turn @ self.pose.orientation, self.count, inverted=self.inverted
            )
            self.seen.clear()
            self.chosen = centre.copy()

    def climb(self, steps: tuple[float, ...], most_moves: int) -> Array:
        """Compass search from wide to narrow steps."""
        centre = np.zeros(2)
        for step in steps:
            for _ in range(most_moves):
                self._renew(centre)
                here = self.gain(centre)[0]
                angles = np.arange(6) * np.pi / 3
                around = centre + step * np.stack([np.cos(angles), np.sin(angles)], 1)
                values = [self.gain(p)[0] for p in around]
                k = int(np.argmax(values))
                if values[k] <= here:
                    break
                centre = np.round(around[k] / _GRID) * _GRID
        return centre

    def thickness_starts(self) -> list[int]:
        """Columns from which to climb: the best thickness, and another that is nearly as good.

        Near the zone a thinner crystal tilted a little more can look much the same.
        """
        look = self._read(np.zeros(2))
        n = len(THICKNESSES_A)
        gains = np.array(
            [
                best_thickness(
                    look.n, look.b, look.f, look.intensity[:, [n + k]], self.model_error,
                    self.scene.brightest,
                )[0]
                for k in range(n)
            ]
        )  # fmt: skip
        best = int(np.argmax(gains))
        padded = np.pad(gains, 1, constant_values=-np.inf)
        peak = (gains >= padded[:-2]) & (gains >= padded[2:])
        peak &= (np.abs(np.arange(n) - best) > 3) & (gains > 0.75 * gains[best])
        others = np.flatnonzero(peak)
        return [n + best] + [n + int(k) for k in others[np.argsort(-gains[others])][:1]]

    def choose_model_error(self, centre: Array) -> None:
        """Take the relative model error at which the counts are likeliest, from here on."""
        look = self._read(centre)
        columns = self._columns()
        gains = [
            best_thickness(
                look.n, look.b, look.f, look.intensity[:, columns], error, self.scene.brightest
            )[0]
            for error in _MODEL_ERRORS
        ]
        self.model_error = _MODEL_ERRORS[int(np.argmax(gains))]
        self.top = -np.inf
        self.seen.clear()

    def newton(self, centre: Array) -> tuple[Array, Array]:
        """The top by Fisher scoring, and the covariance of the tilt there in rad^2, (2, 2)."""
        step, covariance = self._scored(centre)
        for _ in range(_MOST_STEPS):
            here = self.gain(centre)[0]
            length = float(np.hypot(*step))
            step = step * min(1.0, _TRUST_RAD / max(length, 1e-12))
            for _ in range(3):
                if self.gain(centre + step)[0] > here:
                    break
                step = 0.4 * step
            else:
                break
            gained = self.gain(centre + step)[0] - here
            centre = np.round((centre + step) / _GRID) * _GRID
            if gained < 0.03 and np.hypot(*step) < 1e-4:
                break
            self._renew(centre)
            step, covariance = self._scored(centre)
        return centre, covariance

    def _scored(self, centre: Array) -> tuple[Array, Array]:
        """Step of tilt to the top of the local quadratic, and its covariance."""
        look = self._read(centre)
        _, column = self._best(look)
        unknown, null = null_likelihood(look.n, look.b, self.scene.brightest)
        shape = look.f * look.intensity[:, column]
        scale, _ = best_scale(look.n, look.b, shape, unknown, null, self.model_error)
        mean = scale * shape
        slopes = [
            scale * look.f
            * (self._read(centre + o).intensity[:, column] - look.intensity[:, column]) / _SLOPE_RAD
            for o in _SLOPE_RAD * np.eye(2)
        ]  # fmt: skip
        n = len(THICKNESSES_A)
        k = int(np.clip(column % n, 1, n - 2)) + n * (column // n)
        thicker = 0.5 * scale * look.f * (look.intensity[:, k + 1] - look.intensity[:, k - 1])
        jacobian = np.stack([*slopes, mean, thicker], 1)
        variance = look.b + mean + (self.model_error * mean) ** 2
        weight = certainty(look.n, look.b, mean, unknown, self.model_error)
        weight = np.where(look.f > 0, weight / np.maximum(variance, 1e-9), 0.0)
        information = (jacobian * weight[:, None]).T @ jacobian
        # weak priors: 3 deg of tilt, any scale, two steps of thickness
        information += np.diag([1.0 / 0.05**2, 1.0 / 0.05**2, 1e-3, 0.25])
        score = (jacobian * weight[:, None]).T @ (look.n - look.b - mean)
        inverse = np.linalg.inv(information)
        step: Array = np.asarray((inverse @ score)[:2], dtype=float)
        return step, np.asarray(inverse[:2, :2], dtype=float)

    def look(self, offset: Array) -> tuple[Array, Array, Array, float]:
        """Nodes with predicted and counted electrons at an offset, and the quality of the fit."""
        look = self._read(offset)
        self.model_error = MODEL_ERROR
        _, column = self._best(look)
        unknown, null = null_likelihood(look.n, look.b, self.scene.brightest)
        shape = look.f * look.intensity[:, column]
        excess = look.n - look.b
        scale, here = best_scale(look.n, look.b, shape, unknown, null, MODEL_ERROR)
        seen = look.f > 0
        perfect = gain(look.n, look.b, np.maximum(excess, 0.0), unknown, null, MODEL_ERROR)
        quality = float(here) / max(float(perfect), 1.0)
        return look.place[seen], scale * shape[seen], excess[seen], quality


@dataclass(frozen=True)
class _Look:
    """Counts n, background b, fraction f of nodes, their Bloch intensities and places."""

    n: Array
    b: Array
    f: Array
    intensity: Array
    place: Array


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def best_thickness(
    n: Array, b: Array, f: Array, intensity: Array, model_error: float, brightest: float
) -> tuple[float, int]:
    """Largest gain over thicknesses, each at its best scale, and the index of the thickness."""
    unknown, null = null_likelihood(n, b, brightest)
    best, at = -1e18, 0
    for k in range(intensity.shape[1]):
        _, value = best_scale(n, b, f * intensity[:, k], unknown, null, model_error)
        if value > best:
            best, at = value, k
    return best, at
