"""Tilt with a known structure: find the basin, climb it, say what else could be.

Templates around the target zone find candidates; these climb an over-dispersed likelihood that
counts empty nodes, with widths that shrink; the survivors finish on Bloch waves.  The answer is
the best of them, its error follows from the curvature there, and its rivals are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.apertures import read_apertures
from controller.perception.alignment.bloch import BlochModel
from controller.perception.alignment.centre_candidates import CONVINCING, centre_batches
from controller.perception.alignment.dynamical import (
    Summit,
    approach,
    finished,
    scout,
    summit,
)
from controller.perception.alignment.explanation import (
    StructureFit,
    expected_quality,
    explain,
    explained_spots,
    merit,
    needs_model_error,
    quality_of,
)
from controller.perception.alignment.indexing import index_pairs
from controller.perception.alignment.likelihood import gain, null_likelihood
from controller.perception.alignment.optics import wavenumber_inv_A
from controller.perception.alignment.polish import (
    KINEMATICAL_MODEL_ERROR,
    distinct,
    finish_kinematical,
    polish,
)
from controller.perception.alignment.pose import Pose, Scene
from controller.perception.alignment.search import (
    Candidate,
    TemplateLibrary,
    polar_image,
    search,
    template_libraries,
)
from controller.perception.alignment.second_look import BEAMS, looked_around, sharpened
from controller.perception.alignment.structure_free import fit_structure_free
from controller.perception.alignment.sweep import sweep
from controller.perception.alignment.task import (
    Task,
    bloch_model_of,
    expected_poses,
    grid_step_deg,
    is_small,
    resolution_inv_A,
    scene_of,
)
from controller.perception.alignment.two_at_a_time import for_each
from controller.perception.alignment.zone import nearest_member, zone_frames

Array = NDArray[np.float64]

REACH_DEG = 20.0
_SCALES = (0.98, 1.0, 1.02)
_CANDIDATES = {(False, False): 30, (False, True): 18, (True, False): 90, (True, True): 50}
"""How many candidates are polished, for (small cell, lattice known)."""
_INDEXED, _SPARSE_SPOTS = 30, 40
"""Further candidates from pairs of spots; spots of a larger cell up to which these are looked for.
"""
_SCOUTED = 12
"""Of these, how many are climbed on Bloch waves straight away."""
_APPROACH_BEAMS = 120
_TRIAL_BEAMS = 160
_QUICK_BEAMS = 120
_QUICK_SCOUTS, _QUICK_CLIMBS = 5, 3
_CLIMBS = 16
_CIRCLE_WORKS_MRAD = 45.0
_HOPELESS = 0.2
"""Two-beam gain, relative to that of the found spots, below which no better physics helps."""
_CENTRE_RIVAL = 0.7
"""Coarse score, relative to the best, from which another centre is climbed too."""
_WORTH_CLIMBING = 0.3
_MERIT_RIVAL = 0.6
"""Merit, relative to the best of other centres, from which a second look can turn the order."""
_LEAST_QUALITY = 0.5
_MOSTLY_EXPLAINED = 0.6
"""Part of the spots that lie on lit nodes at which the centre is right, whatever the quality."""


def fit_structure(task: Task, *, first: Callable[[StructureFit], bool]) -> StructureFit:
    """Search, climb and rank.

    Parameters
    ----------
    task
        The pattern and the crystal.
    first
        Told of the quick fit as soon as there is one; True ends the work there.
    """
    g_max = resolution_inv_A(task)
    libraries = template_libraries(
        task.structure, task.zone_uvw, round(wavenumber_inv_A(task.energy_keV), 3), g_max,
        REACH_DEG, grid_step_deg(task.structure),
    )  # fmt: skip
    model = bloch_model_of(task, g_max)
    best: StructureFit | None = None
    for batch, enough in centre_batches(task):
        starts = _starts(batch, libraries, g_max)
        if not starts:
            continue
        if best is None:
            quick = _quick(starts[0], model)
            if first(quick):
                return quick
        fit = _fit_at(starts, model)
        if best is None or merit(fit) > _MERIT_RIVAL * merit(best):
            fit = sharpened(looked_around(fit, model), model)
        if best is None or merit(fit) > merit(best):
            best = fit
        if _is_convincing(best, enough):
            break
    return best or StructureFit((), scene_of(task, g_max, 1.0))


@dataclass(frozen=True)
class _Start:
    """Two-beam poses about one centre of the direct beam, best first."""

    task: Task
    scene: Scene
    poses: list[Pose]
    indexed: list[Pose]
    """As pairs of spots have it, not climbed; empty where there is a lattice or many spots."""
    part: float
    """Gain of the best pose as part of what exact predictions of the found spots would gain."""

    @property
    def worth(self) -> float:
        """Gain times its part: about a wrong centre the direct beam counts as a reflection."""
        return max(self.poses[0].log_gain, 0.0) * max(self.part, 0.0)


def _starts(
    centres: list[tuple[Task, float]], libraries: tuple[TemplateLibrary, ...], g_max: float
) -> list[_Start]:
    """Search and polish about the centres that templates favour, best first."""
    small = is_small(centres[0][0].structure)
    tries = []
    for there, sigma in centres:
        rays = int(g_max / there.inv_A_per_px) + 3
        polar = polar_image(there.pattern, there.spots, there.spots.centre_px, rays)
        scales = (1.0,) if there.match else _SCALES
        most = _CANDIDATES[small, there.match is not None]
        found = search(polar, libraries, there.inv_A_per_px, scales, most, there.match)
        tries.append((found[0].score if found else 0.0, there, sigma, found))
    tries.sort(key=lambda t: -t[0])
    starts = []
    for score, there, sigma, found in tries:
        if score < _CENTRE_RIVAL * tries[0][0]:
            break
        scene = scene_of(there, g_max, sigma)
        indexed = _indexed(there, scene)
        poses = _polished(there, scene, found, indexed)
        if poses:
            part = poses[0].log_gain / max(_spot_gain(scene), 1.0)
            starts.append(_Start(there, scene, poses, indexed, part))
    return sorted(starts, key=lambda s: (_is_hopeless(s), -s.worth))


def _is_convincing(fit: StructureFit, enough: float) -> bool:
    """Whether the centre of the fit is right: by its quality, or by where the spots lie.

    At high doses the model, not the counting, limits the quality; the spots still lie where they
    should.
    """
    quality = quality_of(fit)
    if quality == 0.0:
        return False
    best = fit.explanations[0]
    if quality < expected_quality(best.structure) and needs_model_error(best.summit):
        return False
    _, part = explained_spots(fit.scene.spots, best.summit)
    return quality > enough or (quality >= _LEAST_QUALITY and part > _MOSTLY_EXPLAINED)


def _quick(start: _Start, model: BlochModel) -> StructureFit:
    """A first answer: only the best pose, on few beams."""
    structure = start.task.structure
    if is_small(structure):
        scouted = scout(start.scene, model, start.poses[:_QUICK_SCOUTS], most=_QUICK_CLIMBS)
        poses = distinct(scouted, 4, 0.25)
    else:
        poses = start.poses
        nearest = finish_kinematical(start.scene, poses[0])
        poses = [approach(start.scene, model, nearest, beams=_QUICK_BEAMS), *poses[1:]]
    top = summit(start.scene, model, poses[0], beams=_QUICK_BEAMS, thorough=False)
    explanations = [explain(structure, s) for s in [top, *(_unclimbed(p) for p in poses[1:])]]
    return StructureFit(tuple(explanations), start.scene)


def _fit_at(starts: list[_Start], model: BlochModel) -> StructureFit:
    """The best fit over some centres of the direct beam."""
    hopeful = [s for s in starts if not _is_hopeless(s)]
    if not hopeful:
        structure = starts[0].task.structure
        hopeless = [explain(structure, _unclimbed(p)) for p in starts[0].poses]
        return StructureFit(tuple(hopeless), starts[0].scene)
    best: StructureFit | None = None
    for start in hopeful:
        # two-beam gains cannot decide between centres in a thick crystal: climb what is near
        if start.worth < _WORTH_CLIMBING * hopeful[0].worth:
            continue
        fit = _climbed(start, model)
        if best is None or merit(fit) > merit(best):
            best = fit
        if _is_convincing(best, CONVINCING):
            break
    return best or StructureFit((), hopeful[0].scene)


def _is_hopeless(start: _Start) -> bool:
    """So little is explained that no better physics helps."""
    return not is_small(start.task.structure) and start.part < _HOPELESS


def _spot_gain(scene: Scene) -> float:
    """Gain of a model that predicted exactly the spots that were found."""
    spots, plate = scene.spots, scene.plate
    n, b, _ = read_apertures(
        spots.x_px, spots.y_px, plate.counts, plate.background, plate.good, plate.offsets,
        plate.fractions,
    )  # fmt: skip
    unknown, null = null_likelihood(n, b, scene.brightest)
    perfect = np.maximum(n - b, 0.0)
    return float(gain(n, b, perfect, unknown, null, KINEMATICAL_MODEL_ERROR))


def _indexed(task: Task, scene: Scene) -> list[Pose]:
    """Poses from pairs of spots, where these are few or the cell is small."""
    if not is_small(task.structure) and (task.match or len(task.spots) > _SPARSE_SPOTS):
        return []
    zones = zone_frames(task.structure, task.zone_uvw)
    scale_reach = 0.006 if task.match else 0.03
    found = index_pairs(
        scene, task.structure, zones, reach_deg=REACH_DEG, scale_reach=scale_reach, most=_INDEXED
    )
    return expected_poses(task, found)


def _polished(
    task: Task, scene: Scene, candidates: list[Candidate], indexed: list[Pose]
) -> list[Pose]:
    """The best two-beam poses about one centre."""
    centre = task.spots.centre_px
    poses = [
        Pose(c.zone, c.orientation, centre, task.inv_A_per_px * c.scale, 400.0, 0.0)
        for c in candidates
    ]
    keep = (24, 16, 12) if is_small(task.structure) else (10, 6, 4)
    return polish(scene, expected_poses(task, poses) + indexed, keep)


def _climbed(start: _Start, model: BlochModel) -> StructureFit:
    """Bloch-wave summits of the best poses, best first, and the rest as they are."""
    task, scene, poses = start.task, start.scene, start.poses
    indexed = start.indexed[:_SCOUTED]
    if is_small(task.structure):
        swept = expected_poses(task, sweep(scene, poses, REACH_DEG, 30))
        swept = [p for p in swept if p.log_gain > 0.3 * swept[0].log_gain]
        poses = distinct(scout(scene, model, poses + swept + indexed, most=_CLIMBS), 10, 0.25)
    else:
        poses = distinct(for_each(lambda p: finish_kinematical(scene, p), poses), 4, 0.25)
        starts = poses[:1] + [p for p in poses[1:] if _is_worth(p, poses[0])]
        starts += _circle_starts(task, starts[:1])
        climbed = for_each(lambda p: approach(scene, model, p, beams=_APPROACH_BEAMS), starts)
        scouted = scout(scene, model, indexed, most=4) if indexed else []
        poses = distinct(climbed + scouted, 3, 0.15) + [
            p for p in poses if not _is_worth(p, poses[0])
        ]
    if not poses:
        return StructureFit((), scene)
    worth = poses[:1] + [p for p in poses[1:] if _is_worth(p, poses[0])]
    tops = for_each(lambda p: summit(scene, model, p, beams=_TRIAL_BEAMS), worth)
    summits = for_each(lambda s: finished(scene, model, s, beams=BEAMS), tops)
    summits.sort(key=lambda s: -s.pose.log_gain)
    rest = [_unclimbed(p) for p in poses[1:] if not _is_worth(p, poses[0])]
    explanations = [explain(task.structure, s) for s in summits + rest]
    return StructureFit(tuple(explanations), scene)


def _is_worth(pose: Pose, best: Pose) -> bool:
    """Near enough to the best for better physics to turn the order."""
    return pose.log_gain > 0.75 * best.log_gain - 5.0


def _circle_starts(task: Task, poses: list[Pose]) -> list[Pose]:
    """The Laue circle on the lattice as a further start.

    Near the zone of a thick crystal two-beam intensities can mislead by half a degree; the circle,
    which knows no intensities, does not.
    """
    starts = []
    for pose in poses:
        _, tilt, _ = nearest_member(task.structure, pose.zone, pose.orientation)
        if np.hypot(*tilt) > _CIRCLE_WORKS_MRAD:
            continue
        fit = fit_structure_free(
            task.pattern, task.spots, wavenumber_inv_A(task.energy_keV), pose.inv_A_per_px
        )
        if fit.posterior is None:
            continue
        off = np.array(fit.posterior.tilt_mrad) - np.array(tilt)
        if 1.5 < np.hypot(*off) < _CIRCLE_WORKS_MRAD:
            starts.append(pose.rotated(1e-3 * np.array([-off[1], off[0], 0.0])))
    return starts


def _unclimbed(pose: Pose) -> Summit:
    """A rival too poor to climb on Bloch waves, kept for the record."""
    nothing = np.empty(0)
    return Summit(pose, np.full((2, 2), np.nan), np.nan, np.empty((0, 2)), nothing, nothing, np.nan)
