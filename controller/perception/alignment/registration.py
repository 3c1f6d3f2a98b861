"""In-plane rotation, camera constant and centre from the positions of explained spots.

Linear least squares with the prior uncertainty of each: spots that lie near lit nodes pull, the
nominal values hold.
"""

from dataclasses import replace

import numba
import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.kinematical import excitation, widened_two_beam
from controller.perception.alignment.pose import Pose, Scene

Array = NDArray[np.float64]

_FARTHEST_SCALE = 0.04
_AT_NODE_PX = 1.5
UNKNOWN_TURN_RAD = 0.02
"""Standard deviation of an in-plane rotation that no spots tell."""


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
    limits = _scale_limits(scene, slack)
    places = np.array([*pose.centre_px, pose.inv_A_per_px])
    nominal = np.array([*spots.centre_px, scene.inv_A_per_px])
    sigma = (slack * scene.centre_sigma_px, slack * scene.scale_sigma)
    there, turn = _registered(
        np.stack([gx[lit], gy[lit]], 1), intensity[lit], found, counts, places, nominal, sigma,
        limits, reach_px,
    )  # fmt: skip
    turned = pose.rotated(np.array([0.0, 0.0, turn])) if turn else pose
    return replace(
        turned, centre_px=(float(there[0]), float(there[1])), inv_A_per_px=float(there[2])
    )


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator, unused-ignore]
def _registered(  # noqa: PLR0913
    g: Array,
    intensity: Array,
    found: Array,
    counts: Array,
    place: Array,
    nominal: Array,
    sigma: tuple[float, float],
    limits: tuple[float, float],
    reach_px: float,
) -> tuple[Array, float]:
    """Centre x, y (px) and camera constant (1/A per px), (3,), and turn (rad) in two steps."""
    at, turn, g = place.copy(), 0.0, g.copy()
    node, near = np.empty(len(found), dtype=np.int64), np.empty(len(found), dtype=np.bool_)
    weight = np.log(intensity)
    for _ in range(2):
        for i in range(len(found)):
            best, near[i] = np.inf, False
            for k in range(len(g)):
                dx = found[i, 0] - at[0] - g[k, 0] / at[2]
                dy = found[i, 1] - at[1] - g[k, 1] / at[2]
                d2 = dx * dx + dy * dy
                if d2 > reach_px * reach_px:
                    continue
                # of two nodes in reach the brighter one is the likelier
                cost = d2 / (reach_px * reach_px) - 0.3 * weight[k]
                if cost < best:
                    best, node[i], near[i] = cost, k, True
        if near.sum() < 2:
            break
        arm = g[node[near]] / at[2]
        move, _ = _similarity(
            arm, found[near] - at[:2] - arm, counts[near], sigma, at[2] / nominal[2] - 1.0,
            nominal[:2] - at[:2], 0.2,
        )  # fmt: skip
        at[0] += move[0]
        at[1] += move[1]
        at[2] = min(max(at[2] / (1.0 + move[2]), limits[0]), limits[1])
        c, s = np.cos(move[3]), np.sin(move[3])
        g = np.stack((c * g[:, 0] - s * g[:, 1], s * g[:, 0] + c * g[:, 1]), 1)
        turn += move[3]
    return at, turn


def turn_to_spots(scene: Scene, pose: Pose, node_px: Array, expected: Array) -> tuple[Pose, float]:
    """In-plane rotation, centre and camera constant from the spots at nodes known to be lit.

    At a large tilt the rotation is what limits the answer: an error of 0.1 deg turns a tilt of
    14 deg by 0.02.  Bright spots are told to a twentieth of a pixel and count accordingly.

    Returns
    -------
    Pose
        The pose, turned.
    float
        Standard deviation of its rotation, in rad.
    """
    lit = node_px[expected > max(0.3, 0.01 * float(expected.max(initial=0.0)))]
    spots = scene.spots
    bragg = np.ones(len(spots), dtype=bool)
    if spots.direct is not None:
        bragg[spots.direct] = False
    found = np.stack([spots.x_px, spots.y_px], 1)[bragg]
    if len(lit) < 2 or len(found) < 2:
        return pose, UNKNOWN_TURN_RAD
    distance = np.linalg.norm(found[:, None] - lit[None], axis=2)
    node = np.argmin(distance, axis=1)
    near = distance[np.arange(len(found)), node] < _AT_NODE_PX
    if near.sum() < 2:
        return pose, UNKNOWN_TURN_RAD
    centre = np.array(pose.centre_px)
    move, turn_sigma = _similarity(
        lit[node[near]] - centre,
        found[near] - lit[node[near]],
        spots.counts[bragg][near] / spots.sigma_px**2,
        (scene.centre_sigma_px, max(scene.scale_sigma, 0.002)),
        pose.inv_A_per_px / scene.inv_A_per_px - 1.0,
        np.array(spots.centre_px) - centre,
        0.05,
    )
    turned = pose.rotated(np.array([0.0, 0.0, move[3]]))
    moved = replace(
        turned,
        centre_px=(float(centre[0] + move[0]), float(centre[1] + move[1])),
        inv_A_per_px=pose.inv_A_per_px / (1.0 + float(move[2])),
    )
    return moved, float(turn_sigma)


def _scale_limits(scene: Scene, slack: float) -> tuple[float, float]:
    """A camera constant good to 3 % cannot be off by 5: such fits sit on the wrong lattice."""
    reach = min(2.7 * slack * scene.scale_sigma, _FARTHEST_SCALE)
    return (1.0 - reach) * scene.inv_A_per_px, (1.0 + reach) * scene.inv_A_per_px


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _similarity(
    arm: Array,
    residual: Array,
    counts: Array,
    sigma: tuple[float, float],
    scale_off: float,
    centre_off: Array,
    floor_px: float,
) -> tuple[Array, float]:
    """Shift x, y (px), relative magnification, rotation (rad) by least squares with priors.

    Beside it the standard deviation of the rotation.  ``sigma`` is that of the centre (px) and of
    the camera constant (relative).  A magnification m turns the camera constant into itself /
    (1 + m), which is pulled towards the nominal value.
    """
    pull = np.array([1.0 / sigma[0] ** 2, 1.0 / sigma[0] ** 2, 1.0 / sigma[1] ** 2, 2500.0])
    normal = np.diag(pull)
    right = pull * np.array([centre_off[0], centre_off[1], scale_off, 0.0])
    row = np.empty((2, 4))
    for i in range(arm.shape[0]):
        # position error of a spot: counting, and everything else
        w2 = 1.0 / (floor_px**2 + 1.0 / max(counts[i], 1.0))
        row[0] = np.array([1.0, 0.0, arm[i, 0], -arm[i, 1]])
        row[1] = np.array([0.0, 1.0, arm[i, 1], arm[i, 0]])
        for k in range(2):
            right += w2 * residual[i, k] * row[k]
            normal += w2 * np.outer(row[k], row[k])
    inverse = np.linalg.inv(normal)
    return inverse @ right, np.sqrt(inverse[3, 3])
