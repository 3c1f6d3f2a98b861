"""From a coarse candidate to the kinematical optimum of its basin.

Tilt and thickness climb the over-dispersed likelihood on apertures, with relrods that start as
wide as the search grid and end exact.  In-plane rotation, camera constant and centre follow from
the positions of the spots that the orientation explains, by linear least squares with their
prior uncertainties, after every move.
"""

from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.apertures import Plate, read_apertures
from controller.perception.alignment.geometry import rotation_from_vector
from controller.perception.alignment.kinematical import (
    THICKNESS_SPREAD,
    excitation,
    two_beam,
    widened_two_beam,
)
from controller.perception.alignment.likelihood import best_scale, null_likelihood
from controller.perception.alignment.spots import Spots
from controller.perception.alignment.zone import ZoneFrame

Array = NDArray[np.float64]

THICKNESSES_A = np.array([180.0, 280.0, 400.0, 560.0, 760.0, 1000.0])
_BLURS_DEG = (0.45, 0.22, 0.1)
_COARSE_MODEL_ERROR = 0.6
KINEMATICAL_MODEL_ERROR = 0.35
_SLACK = 4.0
_FARTHEST_SCALE = 0.04
_AT_NODE_PX = 1.5


@dataclass(frozen=True)
class Pose:
    """Everything geometric about one explanation of a pattern."""

    zone: ZoneFrame
    orientation: Array
    centre_px: tuple[float, float]
    inv_A_per_px: float
    thickness_A: float
    log_gain: float

    def rotated(self, rotation_vector_rad: Array) -> "Pose":
        """The same with the crystal turned in the detector frame."""
        turn = rotation_from_vector(rotation_vector_rad)
        return replace(self, orientation=np.asarray(turn @ self.orientation, dtype=float))


@dataclass(frozen=True)
class Scene:
    """What all explanations of one pattern share."""

    plate: Plate
    spots: Spots
    wavenumber: float
    g: Array
    """Reflections in the crystal frame, 1/A, (n, 3)."""
    length: Array
    """|g|, (n,)."""
    coupling: Array
    """1/xi^2 = (gamma |F| / (pi V K))^2 in 1/A^2, (n,)."""
    inv_A_per_px: float
    """Nominal camera constant."""
    scale_sigma: float
    """Its relative standard deviation."""
    centre_sigma_px: float
    brightest: float
    """Counts of the brightest spot besides the direct beam."""


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
        poses = [_polish_once(scene, pose, blur_deg, reach_px, thicknesses) for pose in poses]
        poses = distinct(poses, most, 0.4 * blur_deg)
    return poses


def distinct(poses: list[Pose], most: int, apart_deg: float) -> list[Pose]:
    """The best ``most`` poses that differ in orientation, best first."""
    kept: list[Pose] = []
    limit = 1.0 + 2.0 * np.cos(np.deg2rad(apart_deg))
    for pose in sorted(poses, key=lambda p: -p.log_gain):
        if all((pose.orientation * other.orientation).sum() < limit for other in kept):
            kept.append(pose)
        if len(kept) == most:
            break
    return kept


def _polish_once(
    scene: Scene, pose: Pose, blur_deg: float, reach_px: float, thicknesses: Array
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


def register(
    scene: Scene,
    pose: Pose,
    g: Array,
    coupling: Array,
    blur_deg: float,
    reach_px: float,
    *,
    slack: float = 1.0,
) -> Pose:
    """In-plane rotation, camera constant and centre from the spots that lie at lit nodes.

    Far from the optimum many spots meet the wrong node, and together they would pull centre and
    camera constant away from where these are known to be: ``slack`` loosens these priors.
    """
    gx, gy, s = excitation(g, pose.orientation, scene.wavenumber)
    length = np.hypot(gx, gy)
    intensity = widened_two_beam(s, coupling, length, 400.0, float(np.deg2rad(blur_deg)))
    lit = np.argsort(-intensity)[:150]
    lit = lit[intensity[lit] > 0.003 * intensity[lit[0]]] if len(lit) else lit
    spots = scene.spots
    bragg = np.ones(len(spots), dtype=bool)
    if spots.direct is not None:
        bragg[spots.direct] = False
    found = np.stack([spots.x_px, spots.y_px], 1)[bragg]
    counts = spots.counts[bragg]
    if len(lit) < 2 or len(found) < 2:
        return pose
    centre, scale = np.array(pose.centre_px), pose.inv_A_per_px
    for _ in range(2):
        arm = np.stack([gx[lit], gy[lit]], 1) / scale
        distance = np.linalg.norm(found[:, None] - (centre + arm)[None], axis=2)
        # of two nodes in reach the brighter one is the likelier
        cost = distance**2 / reach_px**2 - 0.3 * np.log(intensity[lit])[None]
        cost[distance > reach_px] = np.inf
        node = np.argmin(cost, axis=1)
        ok = np.isfinite(cost[np.arange(len(found)), node])
        if ok.sum() < 2:
            return pose
        move = _similarity(
            arm[node[ok]],
            found[ok] - centre - arm[node[ok]],
            counts[ok],
            (slack * scene.centre_sigma_px, slack * scene.scale_sigma),
            scale / scene.inv_A_per_px - 1.0,
            np.array(scene.spots.centre_px) - centre,
        )
        centre = centre + move[:2]
        scale = float(np.clip(scale / (1.0 + move[2]), *_scale_limits(scene, slack)))
        turn = rotation_from_vector(np.array([0.0, 0.0, move[3]]))
        gx, gy = turn[0, 0] * gx + turn[0, 1] * gy, turn[1, 0] * gx + turn[1, 1] * gy
        pose = pose.rotated(np.array([0.0, 0.0, move[3]]))
    return replace(pose, centre_px=(float(centre[0]), float(centre[1])), inv_A_per_px=float(scale))


def turn_to_spots(scene: Scene, pose: Pose, node_px: Array, expected: Array) -> Pose:
    """In-plane rotation, centre and camera constant from the spots at nodes known to be lit.

    At a large tilt the rotation is what limits the answer: an error of 0.1 deg turns a tilt of
    14 deg by 0.02.  Bright spots are told to a twentieth of a pixel and count accordingly.
    """
    lit = node_px[expected > max(0.3, 0.01 * float(expected.max(initial=0.0)))]
    spots = scene.spots
    bragg = np.ones(len(spots), dtype=bool)
    if spots.direct is not None:
        bragg[spots.direct] = False
    found = np.stack([spots.x_px, spots.y_px], 1)[bragg]
    if len(lit) < 2 or len(found) < 2:
        return pose
    distance = np.linalg.norm(found[:, None] - lit[None], axis=2)
    node = np.argmin(distance, axis=1)
    near = distance[np.arange(len(found)), node] < _AT_NODE_PX
    if near.sum() < 2:
        return pose
    centre = np.array(pose.centre_px)
    move = _similarity(
        lit[node[near]] - centre,
        found[near] - lit[node[near]],
        spots.counts[bragg][near] / spots.sigma_px**2,
        (scene.centre_sigma_px, max(scene.scale_sigma, 0.002)),
        pose.inv_A_per_px / scene.inv_A_per_px - 1.0,
        np.array(spots.centre_px) - centre,
        floor_px=0.05,
    )
    turned = pose.rotated(np.array([0.0, 0.0, move[3]]))
    return replace(
        turned,
        centre_px=(float(centre[0] + move[0]), float(centre[1] + move[1])),
        inv_A_per_px=pose.inv_A_per_px / (1.0 + float(move[2])),
    )


def _scale_limits(scene: Scene, slack: float) -> tuple[float, float]:
    """A camera constant good to 3 % cannot be off by 5: such fits sit on the wrong lattice."""
    reach = min(2.7 * slack * scene.scale_sigma, _FARTHEST_SCALE)
    return (1.0 - reach) * scene.inv_A_per_px, (1.0 + reach) * scene.inv_A_per_px


def _similarity(
    arm: Array,
    residual: Array,
    counts: Array,
    sigma: tuple[float, float],
    scale_off: float,
    centre_off: Array,
    *,
    floor_px: float = 0.2,
) -> Array:
    """Shift x, y (px), relative magnification, rotation (rad) by least squares with priors.

    ``sigma`` is that of the centre (px) and of the camera constant (relative).
    """
    n = len(arm)
    # position error of a spot: counting, and everything else
    w = 1.0 / np.sqrt(floor_px**2 + 1.0 / np.maximum(counts, 1.0))
    design = np.zeros((2 * n + 4, 4))
    right = np.zeros(2 * n + 4)
    design[:n, 0] = w
    design[n : 2 * n, 1] = w
    design[:n, 2], design[n : 2 * n, 2] = w * arm[:, 0], w * arm[:, 1]
    design[:n, 3], design[n : 2 * n, 3] = -w * arm[:, 1], w * arm[:, 0]
    right[:n], right[n : 2 * n] = w * residual[:, 0], w * residual[:, 1]
    # magnification m turns scale into scale / (1 + m): pull it towards the nominal value
    for row, (column, spread, off) in enumerate(
        (
            (0, sigma[0], centre_off[0]),
            (1, sigma[0], centre_off[1]),
            (2, sigma[1], scale_off),
            (3, 0.02, 0.0),
        )
    ):
        design[2 * n + row, column] = 1.0 / spread
        right[2 * n + row] = off / spread
    return np.asarray(np.linalg.lstsq(design, right, rcond=None)[0], dtype=float)


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


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
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
