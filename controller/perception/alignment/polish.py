"""From a coarse candidate to the kinematical optimum of its basin.

Tilt and thickness climb the over-dispersed likelihood on apertures, with relrods that start as
wide as the search grid and end exact.  After every move the pose is registered on the spots that
the orientation explains.
"""

from dataclasses import replace
from functools import partial

import numba
import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.apertures import read_apertures
from controller.perception.alignment.kinematical import (
    THICKNESS_SPREAD,
    excitation,
    two_beam,
    widened_two_beam,
)
from controller.perception.alignment.likelihood import best_scale, null_likelihood
from controller.perception.alignment.pose import Pose, Scene
from controller.perception.alignment.registration import register
from controller.perception.alignment.two_at_a_time import for_each

Array = NDArray[np.float64]

THICKNESSES_A = np.array([180.0, 280.0, 400.0, 560.0, 760.0, 1000.0])
_BLURS_DEG = (0.45, 0.22, 0.1)
_COARSE_MODEL_ERROR = 0.6
KINEMATICAL_MODEL_ERROR = 0.35
_SLACK = 4.0


def near_sphere(
    scene: Scene, orientation: Array, margin_deg: float, most: int = 300
) -> NDArray[np.intp]:
    """Reflections that can light up within a margin of the orientation, the strongest of them."""
    _, _, s = excitation(scene.g, orientation, scene.wavenumber)
    reach = 0.006 + np.deg2rad(margin_deg) * scene.length
    near = np.flatnonzero(np.abs(s) < reach)
    if len(near) <= most:
        return near
    worth = scene.coupling[near] * np.exp(-2.0 * (s[near] / reach[near]) ** 2)
    return np.sort(near[np.argpartition(-worth, most)[:most]])


def polish(scene: Scene, poses: list[Pose], keep: tuple[int, ...]) -> list[Pose]:
    """Climb from coarse candidates to about 0.1 deg, best first.

    Relrod widths shrink level by level, geometry follows, and after each level only the best
    ``keep[level]`` go on.
    """
    levels = zip(_BLURS_DEG, (4.0, 2.5, 2.0), (1, 2, 3), keep, strict=True)
    for blur_deg, reach_px, n_thick, most in levels:
        thicknesses = np.linspace(300.0, 800.0, n_thick + 2)[1:-1]
        step = partial(
            _polish_once, scene, blur_deg=blur_deg, reach_px=reach_px, thicknesses=thicknesses
        )
        poses = for_each(step, poses)
        poses = distinct(poses, most, 0.4 * blur_deg)
    return poses


def distinct(poses: list[Pose], most: int, apart_deg: float) -> list[Pose]:
    """The best ``most`` poses that differ in orientation, best first."""
    kept: list[Pose] = []
    for pose in sorted(poses, key=lambda p: -p.log_gain):
        if all(pose.apart_rad(other) > np.deg2rad(apart_deg) for other in kept):
            kept.append(pose)
        if len(kept) == most:
            break
    return kept


def _polish_once(
    scene: Scene, pose: Pose, *, blur_deg: float, reach_px: float, thicknesses: Array
) -> Pose:
    near = near_sphere(scene, pose.orientation, 2.2 * blur_deg)
    g, coupling = scene.g[near], scene.coupling[near]
    pose = register(scene, pose, g, coupling, blur_deg, reach_px)
    blur = float(np.deg2rad(blur_deg))
    pose = _climb(scene, pose, g, coupling, blur, thicknesses, _COARSE_MODEL_ERROR)
    return register(scene, pose, g, coupling, blur_deg, reach_px)


def finish_kinematical(scene: Scene, pose: Pose) -> Pose:
    """The last steps with exact relrods, all thicknesses, to 0.05 deg."""
    near = near_sphere(scene, pose.orientation, 0.25)
    g, coupling = scene.g[near], scene.coupling[near]
    for step_deg in (0.1, 0.05):
        step = np.deg2rad(step_deg)
        pose = _climb(
            scene, pose, g, coupling, step, THICKNESSES_A, KINEMATICAL_MODEL_ERROR, exact=True
        )
    return register(scene, pose, g, coupling, 0.05, 1.6, slack=_SLACK)


def _climb(
    scene: Scene,
    pose: Pose,
    g: Array,
    coupling: Array,
    step: float,
    thicknesses: Array,
    model_error: float,
    *,
    exact: bool = False,
) -> Pose:
    """Pattern search over the tilt with one step size, until no neighbour is better."""
    plate = scene.plate
    orientation, thickness, gain, moves = _climb_kernel(
        g, coupling, pose.orientation, scene.wavenumber,
        np.array([pose.centre_px[0], pose.centre_px[1], pose.inv_A_per_px]),
        plate.counts, plate.background, plate.good, plate.offsets, plate.fractions,
        thicknesses, np.array([step, 0.0 if exact else step, model_error, scene.brightest]),
    )  # fmt: skip
    del moves
    return replace(
        pose, orientation=orientation, thickness_A=float(thickness), log_gain=float(gain)
    )


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def gain_of(  # noqa: PLR0913
    g: Array,
    coupling: Array,
    orientation: Array,
    wavenumber: float,
    place: Array,
    counts: Array,
    background: Array,
    good: Array,
    offsets: NDArray[np.int64],
    fractions: Array,
    thicknesses: Array,
    blur: float,
    model_error: float,
    brightest: float,
) -> tuple[float, float]:
    """Log-likelihood gain of an orientation at its best thickness, and that thickness (A).

    ``place`` is centre x, centre y (px) and camera constant (1/A per px).
    """
    gx, gy, s = excitation(g, orientation, wavenumber)
    n, b, f = read_apertures(
        place[0] + gx / place[2], place[1] + gy / place[2],
        counts, background, good, offsets, fractions,
    )  # fmt: skip
    length = np.sqrt(gx * gx + gy * gy)
    unknown, null = null_likelihood(n, b, brightest)
    best, at = -1e18, thicknesses[0]
    for thickness in thicknesses:
        if blur > 0:
            shape = f * widened_two_beam(s, coupling, length, thickness, blur)
        else:
            shape = f * two_beam(s, coupling, thickness, THICKNESS_SPREAD)
        _, value = best_scale(n, b, shape, unknown, null, model_error)
        if value > best:
            best, at = value, thickness
    return best, at


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _climb_kernel(  # noqa: PLR0913
    g: Array,
    coupling: Array,
    orientation: Array,
    wavenumber: float,
    place: Array,
    counts: Array,
    background: Array,
    good: Array,
    offsets: NDArray[np.int64],
    fractions: Array,
    thicknesses: Array,
    settings: Array,
) -> tuple[Array, float, float, int]:
    step, blur, model_error, brightest = settings[0], settings[1], settings[2], settings[3]
    best, thickness = gain_of(
        g, coupling, orientation, wavenumber, place, counts, background, good, offsets,
        fractions, thicknesses, blur, model_error, brightest,
    )  # fmt: skip
    current = orientation.copy()
    moves = 0
    for _ in range(4):
        moved = False
        winner = current
        for k in range(6):
            ax, ay = step * np.cos(k * np.pi / 3), step * np.sin(k * np.pi / 3)
            angle = np.sqrt(ax * ax + ay * ay)
            x, y = ax / angle, ay / angle
            c, d = np.cos(angle), np.sin(angle)
            turn = np.array(
                [
                    [c + x * x * (1 - c), x * y * (1 - c), y * d],
                    [x * y * (1 - c), c + y * y * (1 - c), -x * d],
                    [-y * d, x * d, c],
                ]
            )
            trial = turn @ current
            value, t = gain_of(
                g, coupling, trial, wavenumber, place, counts, background, good, offsets,
                fractions, thicknesses, blur, model_error, brightest,
            )  # fmt: skip
            if value > best:
                best, thickness, winner, moved = value, t, trial, True
        if not moved:
            break
        current = winner.copy()
        moves += 1
    return current, thickness, best, moves
