"""All tilts of a registered lattice: for small cells, whose few spots guide no climb.

Spot positions fix in-plane rotation and camera constant at any tilt; which spots are lit fixes the
tilt, but each within a range narrower than any coarse grid.  So the widened two-beam gain is
computed on the whole disc of tilts, and its local maxima are the candidates.
"""

from dataclasses import replace

import numba
import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.polish import gain_of
from controller.perception.alignment.pose import Pose, Scene

Array = NDArray[np.float64]

_STEP_DEG = 0.35
_BLUR_DEG = 0.2
_THICKNESS_A = np.array([420.0])
_MODEL_ERROR = 0.8


def sweep(scene: Scene, poses: list[Pose], reach_deg: float, most: int) -> list[Pose]:
    """Local maxima over the tilt disc for each distinct in-plane rotation, best first.

    Parameters
    ----------
    scene
        The pattern.
    poses
        Registered candidates, best first; the first few distinct in-plane rotations are taken.
    reach_deg
        Radius of the disc.
    most
        How many candidates to return.
    """
    axis = np.arange(-reach_deg, reach_deg + 1e-9, _STEP_DEG)
    n = len(axis)
    tilts = 1e3 * np.deg2rad(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    inside = np.hypot(tilts[:, 0], tilts[:, 1]) <= 1e3 * np.deg2rad(reach_deg)
    found: list[Pose] = []
    for pose, rotation in _rotations(poses):
        gains = np.full(n * n, -1e9)
        spin = pose.zone.orientation((0.0, 0.0), rotation)
        plate = scene.plate
        gains[inside] = _gains(
            tilts[inside] * 1e-3, spin, scene.g, scene.length, scene.coupling, scene.wavenumber,
            np.array([pose.centre_px[0], pose.centre_px[1], pose.inv_A_per_px]),
            plate.counts, plate.background, plate.good, plate.offsets, plate.fractions,
            np.array([np.deg2rad(_BLUR_DEG), _MODEL_ERROR, scene.brightest]), _THICKNESS_A,
        )  # fmt: skip
        for i in _maxima(gains.reshape(n, n), most):
            tilt = (float(tilts[i, 0]), float(tilts[i, 1]))
            found.append(
                replace(
                    pose,
                    orientation=pose.zone.orientation(tilt, rotation),
                    log_gain=float(gains[i]),
                )
            )
    found.sort(key=lambda p: -p.log_gain)
    return found[:most]


def _rotations(poses: list[Pose]) -> list[tuple[Pose, float]]:
    kept: list[tuple[Pose, float]] = []
    for pose in poses:
        _, phi = pose.zone.parameters(pose.orientation)
        period = 2 * np.pi / pose.zone.fold
        if all(
            abs((phi - other + period / 2) % period - period / 2) > np.deg2rad(2.0)
            or pose.zone is not known.zone
            for known, other in kept
        ):
            kept.append((pose, phi))
        if len(kept) == 3:
            break
    return kept


def _maxima(gains: Array, most: int) -> NDArray[np.intp]:
    padded = np.pad(gains, 1, constant_values=-np.inf)
    n = gains.shape[0]
    top = np.ones_like(gains, dtype=bool)
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            top &= gains >= padded[dy : dy + n, dx : dx + n]
    places = np.flatnonzero(top.ravel() & (gains.ravel() > 0))
    return places[np.argsort(-gains.ravel()[places], kind="stable")][:most]


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _gains(  # noqa: PLR0913
    tilts: Array,
    spin: Array,
    g: Array,
    length: Array,
    coupling: Array,
    wavenumber: float,
    place: Array,
    counts: Array,
    background: Array,
    good: Array,
    offsets: NDArray[np.int64],
    fractions: Array,
    settings: Array,
    thickness: Array,
) -> Array:
    out = np.empty(tilts.shape[0])
    near = np.empty(g.shape[0], dtype=np.int64)
    for k in range(tilts.shape[0]):
        angle = np.sqrt(tilts[k, 0] ** 2 + tilts[k, 1] ** 2)
        turn = np.eye(3)
        if angle > 0:
            x, y = -tilts[k, 1] / angle, tilts[k, 0] / angle
            c, d = np.cos(angle), np.sin(angle)
            turn = np.array(
                [
                    [c + x * x * (1 - c), x * y * (1 - c), y * d],
                    [x * y * (1 - c), c + y * y * (1 - c), -x * d],
                    [-y * d, x * d, c],
                ]
            )
        orientation = turn @ spin
        m = 0
        for i in range(g.shape[0]):
            z = (
                orientation[2, 0] * g[i, 0]
                + orientation[2, 1] * g[i, 1]
                + orientation[2, 2] * g[i, 2]
            )
            s = -z - 0.5 * length[i] * length[i] / wavenumber
            if abs(s) < 0.005 + 2.5 * settings[0] * length[i]:
                near[m] = i
                m += 1
        out[k], _ = gain_of(
            g[near[:m]], coupling[near[:m]], orientation, wavenumber, place, counts, background,
            good, offsets, fractions, thickness, settings[0], settings[1], settings[2],
        )  # fmt: skip
    return out
