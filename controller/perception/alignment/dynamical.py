"""The last step near the optimum: Bloch-wave intensities against counted ones.

The kinematical optimum lies 0.05-0.2 deg beside the truth near a zone axis, the more the thicker
the crystal.  From there the tilt climbs the likelihood of Bloch intensities, all thicknesses at
every tilt; a quadratic through the surroundings of the summit gives its place and its width.
"""

from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.apertures import read_apertures
from controller.perception.alignment.bloch import (
    THICKNESSES_A,
    BeamSet,
    BlochModel,
    intensities,
    select_beams,
)
from controller.perception.alignment.geometry import rotation_from_vector
from controller.perception.alignment.likelihood import best_scale, gain, null_likelihood
from controller.perception.alignment.polish import Pose, Scene

Array = NDArray[np.float64]

MODEL_ERROR = 0.12
"""Relative error of a Bloch intensity: structure factors, thickness profile, absorption."""


_SCOUT_BEAMS = 60
_SCOUT_ERROR = 0.3


@dataclass(frozen=True)
class Summit:
    """Optimum of the tilt with its curvature."""

    pose: Pose
    covariance: Array
    """Of the tilt (x, y) in rad^2, (2, 2), from the curvature of the profile likelihood."""
    inverted: bool
    node_px: Array
    """Nodes of the model, (n, 2)."""
    expected: Array
    """Electrons predicted in each aperture, (n,)."""
    counted: Array
    """Electrons above background counted there, (n,)."""
    attainable: float
    """Gain of a model that predicted every one of these nodes exactly."""


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


def summit(scene: Scene, model: BlochModel, pose: Pose, *, beams: int) -> Summit:
    """Tilt, thickness and curvature at the top of the Bloch-wave likelihood.

    Parameters
    ----------
    scene, model
        The pattern; the crystal.
    pose
        A pose near the top.
    beams
        How many beams are coupled.
    """
    hills = []
    for inverted in (False, True) if not _is_real(model) else (False,):
        hill = _Hill(scene, model, pose, beams, inverted=inverted)
        centre = hill.climb((1.2e-3, 6e-4), 6)
        hills.append((hill.gain(centre)[0], inverted, hill, centre))
    _, inverted, hill, centre = max(hills, key=lambda item: item[0])
    centre, covariance, gain, thickness = hill.summit(centre)
    turned = pose.rotated(np.array([centre[0], centre[1], 0.0]))
    final = replace(turned, log_gain=gain, thickness_A=thickness)
    node_px, expected, counted, attainable = hill.look(centre)
    # a rotation about (x, y) moves the zone axis by (y, -x): covariance in tilt components
    swap = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return Summit(
        final, swap @ covariance @ swap.T, inverted, node_px, expected, counted, attainable
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
        model_error: float = MODEL_ERROR,
    ) -> None:
        self.scene, self.model, self.pose = scene, model, pose
        self.count, self.inverted, self.model_error = beams, inverted, model_error
        self.beams: BeamSet = select_beams(model, pose.orientation, beams, inverted=inverted)
        self.seen: dict[tuple[int, int], tuple[float, int]] = {}
        self.thickness = -1
        self.top = -np.inf
        self.grid = 5.0e-5

    def gain(self, offset: Array) -> tuple[float, float]:
        """Profile log-likelihood gain and thickness at an offset."""
        key = (round(float(offset[0]) / self.grid), round(float(offset[1]) / self.grid))
        if key not in self.seen:
            self.seen[key] = self._evaluate(np.array(key) * self.grid)
        gain, k = self.seen[key]
        return gain, float(THICKNESSES_A[k])

    def _evaluate(self, offset: Array) -> tuple[float, int]:
        n, b, f, intensity, _ = self._read(offset)
        # away from the first look the thickness stays near the best one known
        low, high = 0, intensity.shape[1]
        if self.thickness >= 0:
            low, high = max(self.thickness - 3, 0), min(self.thickness + 4, high)
        gain, k = best_thickness(
            n, b, f, intensity[:, low:high], self.model_error, self.scene.brightest
        )
        if gain > self.top:
            self.top, self.thickness = gain, low + k
        return float(gain), low + k

    def _read(self, offset: Array) -> tuple[Array, Array, Array, Array, Array]:
        turn = rotation_from_vector(np.array([offset[0], offset[1], 0.0]))
        orientation = turn @ self.pose.orientation
        intensity, gx, gy = intensities(self.model, self.beams, orientation)
        plate, scale = self.scene.plate, self.pose.inv_A_per_px
        x = self.pose.centre_px[0] + gx / scale
        y = self.pose.centre_px[1] + gy / scale
        n, b, f = read_apertures(
            x, y, plate.counts, plate.background, plate.good, plate.offsets, plate.fractions
        )
        return n, b, f, intensity, np.stack([x, y], 1)

    def climb(self, steps: tuple[float, ...], most_moves: int) -> Array:
        """Compass search from wide to narrow steps; beams are chosen anew where it went far."""
        centre = np.zeros(2)
        chosen = np.zeros(2)
        for step in steps:
            for _ in range(most_moves):
                if np.hypot(*(centre - chosen)) > 3e-3:
                    turn = rotation_from_vector(np.array([centre[0], centre[1], 0.0]))
                    self.beams = select_beams(
                        self.model, turn @ self.pose.orientation, self.count,
                        inverted=self.inverted,
                    )  # fmt: skip
                    self.seen.clear()
                    chosen = centre.copy()
                here = self.gain(centre)[0]
                angles = np.arange(6) * np.pi / 3
                around = centre + step * np.stack([np.cos(angles), np.sin(angles)], 1)
                values = [self.gain(p)[0] for p in around]
                k = int(np.argmax(values))
                if values[k] <= here:
                    break
                centre = np.round(around[k] / self.grid) * self.grid
        return centre

    def summit(self, centre: Array) -> tuple[Array, Array, float, float]:
        """Vertex, covariance, gain and thickness from a quadratic through the top."""
        wanted = 6e-4
        for _ in range(4):
            step = wanted
            ring = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)]
            offsets = step * np.array(ring, dtype=float)
            values = np.array([self.gain(centre + o)[0] for o in offsets])
            drop = values[0] - np.sort(values[1:])[4]
            if drop > 8.0 and step > 2.5e-4:
                wanted = 0.5 * step
            elif drop < 1.0 and step < 3e-3:
                wanted = 2.0 * step
            else:
                break
        x, y = offsets.T / step
        design = np.stack([np.ones(9), x, y, 0.5 * x * x, x * y, 0.5 * y * y], 1)
        c = np.linalg.lstsq(design, values, rcond=None)[0]
        hessian = -np.array([[c[3], c[4]], [c[4], c[5]]])
        lean, axes = np.linalg.eigh(hessian)
        lean = np.maximum(lean, 0.02)
        covariance = (axes / lean) @ axes.T * step**2
        move = np.clip((axes / lean) @ axes.T @ np.array([c[1], c[2]]), -1.0, 1.0) * step
        gain, thickness = self.gain(centre)
        return centre + move, covariance, gain, thickness

    def look(self, offset: Array) -> tuple[Array, Array, Array, float]:
        """Nodes with predicted and counted electrons at an offset, and the attainable gain."""
        n, b, f, intensity, place = self._read(offset)
        _, k = best_thickness(n, b, f, intensity, MODEL_ERROR, self.scene.brightest)
        unknown, null = null_likelihood(n, b, self.scene.brightest)
        shape = f * intensity[:, k]
        scale, _ = best_scale(n, b, shape, unknown, null, MODEL_ERROR)
        seen = f > 0
        perfect = gain(n, b, np.maximum(n - b, 0.0), unknown, null, MODEL_ERROR)
        return place[seen], scale * shape[seen], (n - b)[seen], float(perfect)


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
