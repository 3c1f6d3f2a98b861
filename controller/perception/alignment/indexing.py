"""Orientations from pairs of spots: for patterns too sparse for templates.

A spot is a point on the Ewald sphere, so that two of them are two vectors whose lengths and angle
name the reflections that they may be, and with these the orientation.  Five spots are enough where
a template of a whole pattern, blurred over its grid step, finds as much elsewhere by chance.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.polish import gain_of
from controller.perception.alignment.pose import Pose, Scene
from controller.perception.alignment.spots import Spots
from controller.perception.alignment.structure import CrystalStructure
from controller.perception.alignment.structure_factors import reflections
from controller.perception.alignment.zone import ZoneFrame

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

_SPOTS = 10
"""Brightest spots whose pairs are looked up."""
_REFLECTIONS = 4000
"""Strongest ones that a spot may be."""
_POSITION_PX = 0.8
_RATIO = 0.006
"""Relative error of a length beside that of the spot's position."""
_LEAST_ANGLE_RAD, _ANGLE_RAD = 0.2, 0.02
_MOST_PAIRS = 60000
_COMPARED = 200
"""Orientations whose intensities are compared, of those on which most spots lie."""
_BLUR_RAD, _MODEL_ERROR, _THICKNESS_A = 0.005, 0.8, 420.0
_APART_RAD = 0.009
_ALL_PLACED = 20.0
"""Log-likelihood that counts for an orientation on which all spots lie, beside its intensities."""


@dataclass(frozen=True, eq=False)
class _Strong:
    """Reflections that bright spots may be."""

    g: Array
    """Crystal frame, 1/A, (n, 3)."""
    length: Array
    chosen: Mask
    """One of each set that the crystal's rotations make equal."""


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Two spots each, with the reflections that they may be."""

    spots: Integers
    """(n, 2)."""
    reflections: Integers
    """(n, 2)."""
    factor: Array
    """True camera constant over the nominal one, as the two lengths want it, (n,)."""


def index_pairs(
    scene: Scene,
    structure: CrystalStructure,
    zones: tuple[ZoneFrame, ...],
    *,
    reach_deg: float,
    scale_reach: float,
    most: int,
) -> list[Pose]:
    """Orientations on which pairs of the brightest spots lie, the likeliest first.

    Parameters
    ----------
    scene
        The pattern, centre and camera constant of its spots.
    structure, zones
        The crystal; the frames of its target zone.
    reach_deg
        Farthest that a member of the target family may be from the beam.
    scale_reach
        How far the camera constant may be off, relative.
    most
        Poses returned at most.
    """
    seen = _bragg(scene.spots)
    if len(seen) < 2:
        return []
    flat = seen[:, :2] * scene.inv_A_per_px
    position = float(np.hypot(_POSITION_PX, scene.centre_sigma_px)) * scene.inv_A_per_px
    strong = _strong(structure, float(np.round(1.05 * scene.length.max(), 1)))
    pairs = _pairs(flat, strong, scale_reach, position)
    orientation = _orientations(flat, strong, pairs, scene.wavenumber)
    near = np.flatnonzero(_lean(orientation, structure, zones[0]) <= np.deg2rad(reach_deg + 0.5))
    weight = np.log1p(np.minimum(seen[:, 2], 60.0))
    placed = _on_spots(
        orientation[near], pairs.factor[near], strong.g, scene.wavenumber, flat, weight,
        position + 2.0 * scene.inv_A_per_px,
        float(np.clip(2.0 * np.sqrt(scene.coupling.max()), 0.003, 0.02)),
    )  # fmt: skip
    order = np.argsort(-placed, kind="stable")[:_COMPARED]
    poses = [
        _compared(scene, _pose(scene, structure, zones, orientation[k], float(pairs.factor[k])))
        for k in near[order]
    ]
    # intensities of two beams mislead where the crystal is thick; where the spots are does not
    likely = _ALL_PLACED * placed[order] / max(float(weight.sum()), 1e-9)
    ranked = np.argsort([-p.log_gain - w for p, w in zip(poses, likely, strict=True)])
    kept: list[Pose] = []
    for k in ranked:
        if all(poses[k].apart_rad(other) > _APART_RAD for other in kept):
            kept.append(poses[k])
        if len(kept) == most:
            break
    return kept


def _bragg(spots: Spots) -> Array:
    """x, y from the direct beam (px) and counts of the other spots, brightest first, (n, 3)."""
    x, y = spots.x_px - spots.centre_px[0], spots.y_px - spots.centre_px[1]
    away = np.hypot(x, y) > 4.0 * spots.sigma_px + 2.0
    if spots.direct is not None:
        away[spots.direct] = False
    return np.stack([x, y, spots.counts], 1)[away]


@lru_cache(maxsize=16)
def _strong(structure: CrystalStructure, g_max: float) -> _Strong:
    known = reflections(structure, g_max)
    top = np.argsort(-known.strength, kind="stable")[:_REFLECTIONS]
    g = known.g[np.sort(top)]
    # of equal reflections the one that is highest along an oblique direction
    oblique = np.array([1.0, np.sqrt(2.0), np.sqrt(3.0)])
    heights = np.einsum("nij,mj,i->mn", structure.rotations, g, oblique)
    return _Strong(g, np.linalg.norm(g, axis=1), g @ oblique >= heights.max(1) - 1e-9)


def _pairs(flat: Array, strong: _Strong, scale_reach: float, position_inv_A: float) -> _Pairs:
    """All readings of two of the brightest spots whose lengths and angle fit."""
    length, unit = strong.length, strong.g / strong.length[:, None]
    size = np.hypot(flat[:, 0], flat[:, 1])
    error = _RATIO + position_inv_A / size
    spots, readings, factors = [], [], []
    n, total = min(_SPOTS, len(flat)), 0
    can = [np.abs(length / size[i] - 1.0) < scale_reach + 0.3 * error[i] for i in range(n)]
    for i, j in ((i, j) for i in range(n) for j in range(n) if i != j):
        angle = float(np.arccos(np.clip(flat[i] @ flat[j] / (size[i] * size[j]), -1.0, 1.0)))
        if not _LEAST_ANGLE_RAD < angle < np.pi - _LEAST_ANGLE_RAD or total > _MOST_PAIRS:
            continue
        ones, others = np.flatnonzero(strong.chosen & can[i]), np.flatnonzero(can[j])
        ratio = (length[ones] / size[i])[:, None] / (length[others] / size[j])[None]
        between = np.arccos(np.clip(unit[ones] @ unit[others].T, -1.0, 1.0))
        fits = np.abs(ratio - 1.0) < error[i] + error[j]
        fits &= np.abs(between - angle) < _ANGLE_RAD + error[i] + error[j]
        a, b = (v.astype(np.int64) for v in np.nonzero(fits))
        spots.append(np.tile(np.array([[i, j]], dtype=np.int64), (len(a), 1)))
        readings.append(np.stack([ones[a], others[b]], 1))
        factors.append((length[ones[a]] + length[others[b]]) / (size[i] + size[j]))
        total += len(a)
    if not spots:
        nothing = np.empty((0, 2), dtype=np.int64)
        return _Pairs(nothing, nothing, np.empty(0))
    return _Pairs(np.concatenate(spots), np.concatenate(readings), np.concatenate(factors))


def _orientations(flat: Array, strong: _Strong, pairs: _Pairs, wavenumber: float) -> Array:
    """Orientations that take the reflections of each pair to its spots on the sphere, (n, 3, 3)."""

    def on_sphere(which: Integers) -> Array:
        xy = flat[which] * pairs.factor[:, None]
        z = np.sqrt(np.maximum(wavenumber**2 - (xy**2).sum(1), 0.0)) - wavenumber
        return np.column_stack([xy, z])

    seen = _frames(on_sphere(pairs.spots[:, 0]), on_sphere(pairs.spots[:, 1]))
    known = _frames(strong.g[pairs.reflections[:, 0]], strong.g[pairs.reflections[:, 1]])
    return np.asarray(np.einsum("nki,nkj->nij", seen, known), dtype=float)


def _frames(one: Array, other: Array) -> Array:
    """Right-handed frames whose first axis halves the angle of two vectors, rows, (n, 3, 3)."""
    a = one / np.linalg.norm(one, axis=1, keepdims=True)
    b = other / np.linalg.norm(other, axis=1, keepdims=True)
    middle = a + b
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    normal = np.cross(a, b)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    return np.stack([middle, np.cross(normal, middle), normal], 1)


def _lean(orientation: Array, structure: CrystalStructure, zone: ZoneFrame) -> Array:
    """Angle in rad from the beam to the nearest member of the zone's family, (n,)."""
    members = structure.rotations @ zone.frame[2]
    height = np.abs(orientation[:, 2] @ members.T).max(axis=1, initial=0.0)
    return np.asarray(np.arccos(np.clip(height, 0.0, 1.0)), dtype=float)


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _on_spots(
    orientation: Array,
    factor: Array,
    g: Array,
    wavenumber: float,
    flat: Array,
    weight: Array,
    reach: float,
    slack: float,
) -> Array:
    """Weight of the spots that lie where each orientation has reflections near the sphere, (n,)."""
    out = np.zeros(orientation.shape[0])
    used = np.empty(flat.shape[0], dtype=np.bool_)
    for k in range(orientation.shape[0]):
        used[:] = False
        o = orientation[k]
        for m in range(g.shape[0]):
            x = o[0, 0] * g[m, 0] + o[0, 1] * g[m, 1] + o[0, 2] * g[m, 2]
            y = o[1, 0] * g[m, 0] + o[1, 1] * g[m, 1] + o[1, 2] * g[m, 2]
            z = o[2, 0] * g[m, 0] + o[2, 1] * g[m, 1] + o[2, 2] * g[m, 2]
            r2 = x * x + y * y
            s = -z - 0.5 * (r2 + z * z) / wavenumber
            if abs(s) > slack + 0.006 * np.sqrt(r2):
                continue
            for i in range(flat.shape[0]):
                dx, dy = flat[i, 0] * factor[k] - x, flat[i, 1] * factor[k] - y
                if dx * dx + dy * dy < reach * reach:
                    used[i] = True
        for i in range(flat.shape[0]):
            if used[i]:
                out[k] += weight[i]
    return out


def _pose(
    scene: Scene,
    structure: CrystalStructure,
    zones: tuple[ZoneFrame, ...],
    orientation: Array,
    factor: float,
) -> Pose:
    """The pose with the member of the target family nearest to the beam on its frame's axis."""
    equal = orientation @ structure.rotations
    height = np.stack([equal[:, 2] @ zone.frame[2] for zone in zones])
    which, turn = np.unravel_index(int(np.argmax(height)), height.shape)
    return Pose(
        zones[int(which)], equal[int(turn)], scene.spots.centre_px, scene.inv_A_per_px * factor,
        _THICKNESS_A, 0.0,
    )  # fmt: skip


def _compared(scene: Scene, pose: Pose) -> Pose:
    """The pose with its gain on widened relrods, as in a sweep of all tilts."""
    s = -(scene.g @ pose.orientation[2]) - 0.5 * scene.length**2 / scene.wavenumber
    near = np.abs(s) < 0.005 + 2.5 * _BLUR_RAD * scene.length
    plate = scene.plate
    value, _ = gain_of(
        scene.g[near], scene.coupling[near], pose.orientation, scene.wavenumber,
        np.array([pose.centre_px[0], pose.centre_px[1], pose.inv_A_per_px]),
        plate.counts, plate.background, plate.good, plate.offsets, plate.fractions,
        np.array([_THICKNESS_A]), _BLUR_RAD, _MODEL_ERROR, scene.brightest,
    )  # fmt: skip
    return replace(pose, log_gain=float(value))
