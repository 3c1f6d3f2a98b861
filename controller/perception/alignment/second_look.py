"""A second look about the best tops, where a fit is doubtful.

A small cell shows few spots, and several tilts explain their intensities nearly as well: the
climbs, which take wide steps, may have ended on any of them.  In dense zones of large cells a few
hundred beams may explain a part only.
"""

import numpy as np

from controller.perception.alignment.bloch import BlochModel
from controller.perception.alignment.dynamical import finished, tops_around
from controller.perception.alignment.explanation import (
    WELL_EXPLAINED,
    Explanation,
    StructureFit,
    expected_quality,
    explain,
    is_all_explained,
    needs_model_error,
    quality_of,
)
from controller.perception.alignment.pose import Pose
from controller.perception.alignment.task import is_small
from controller.perception.alignment.two_at_a_time import for_each

BEAMS = 320
"""Coupled at the top that is answered with."""
_MOST_BEAMS = 600
_AROUND_RAD, _AROUND_STEP_RAD = 6.0e-3, 0.9e-3
_CLOSE_RAD, _CLOSE_STEP_RAD = 1.5e-3, 0.4e-3
_LOOKS = 5
"""Tops of a small cell that are looked around at most, the best and its rivals."""
_WORTH_A_LOOK = 0.7
"""Gain, relative to the best, from which a close look can turn the order."""
_RIVAL_MRAD = 5.0
_LEAST_RELATIVE_GAP = 0.15
"""Gap to the next orientation, as part of the gain, below which a small cell is looked at again."""
_HOPELESS = 0.35
"""Part of the attainable gain below which no top nearby is the right one: another crystal."""
_HALF_EXPLAINED = 0.5
"""Part of the attainable gain below which the surroundings of the best of a large cell are looked
over; more where no model error is large enough."""


def looked_around(fit: StructureFit, model: BlochModel) -> StructureFit:
    """The fit, or where it is doubtful a better one from a close look about its best tops."""
    seen: list[Pose] = []
    for e in fit.explanations:
        if len(seen) == (_LOOKS if is_small(e.structure) else 1) or not _is_doubtful(fit):
            break
        pose = e.summit.pose
        if pose.log_gain < _WORTH_A_LOOK * fit.explanations[0].summit.pose.log_gain:
            continue
        if all(_apart_rad(pose, other) > _AROUND_RAD for other in seen):
            fit = _with_tops_about(fit, model, e)
            seen.append(pose)
    return fit


def _apart_rad(one: Pose, other: Pose) -> float:
    """Angle between two orientations of the crystal."""
    trace = float((one.orientation * other.orientation).sum())
    return float(np.arccos(np.clip(0.5 * (trace - 1.0), -1.0, 1.0)))


def _with_tops_about(fit: StructureFit, model: BlochModel, near: Explanation) -> StructureFit:
    """The fit with what is found within a third of a degree of one of its explanations."""
    small = is_small(near.structure)
    tops = tops_around(
        fit.scene, model, near.summit, radius_rad=_AROUND_RAD, step_rad=_AROUND_STEP_RAD,
        most=8 if small else 3,
    )  # fmt: skip
    if small and (tops[0].quality < WELL_EXPLAINED or needs_model_error(tops[0])):
        for top in tops[:2]:
            tops += tops_around(
                fit.scene, model, top, radius_rad=_CLOSE_RAD, step_rad=_CLOSE_STEP_RAD, most=3
            )
    tops = sorted(tops, key=lambda s: -s.pose.log_gain)[:2]
    best = for_each(lambda s: finished(fit.scene, model, s, beams=BEAMS), tops)
    more = [explain(near.structure, s) for s in best]
    ranked = sorted([*more, *fit.explanations], key=lambda e: -e.summit.pose.log_gain)
    return StructureFit(tuple(ranked), fit.scene)


def _is_doubtful(fit: StructureFit) -> bool:
    """Whether the best top looks like one beside the right one.

    On the right one the intensities are predicted well, with a small error of the model, and no
    other orientation comes near.
    """
    quality = quality_of(fit)
    if quality < _HOPELESS:
        return False
    best = fit.explanations[0]
    poor = needs_model_error(best.summit)
    if not is_small(best.structure):
        return quality < (expected_quality(best.structure) if poor else _HALF_EXPLAINED)
    rivals = [
        e.summit.pose.log_gain
        for e in fit.explanations
        if np.hypot(*np.subtract(e.tilt_mrad, best.tilt_mrad)) > _RIVAL_MRAD
    ]
    gap = best.summit.pose.log_gain - max(rivals, default=0.0)
    near = gap < _LEAST_RELATIVE_GAP * best.summit.pose.log_gain
    some_left = not is_all_explained(fit.scene.spots, best.summit)
    return poor or near or some_left or quality < WELL_EXPLAINED


def sharpened(fit: StructureFit, model: BlochModel) -> StructureFit:
    """The fit with its best top on twice the beams, where a few hundred explain it in part only.

    Dense zones of large cells need them; elsewhere it costs half a second and changes nothing.
    """
    if not 0.0 < quality_of(fit) < WELL_EXPLAINED:
        return fit
    best, *others = fit.explanations
    more = finished(fit.scene, model, best.summit, beams=_MOST_BEAMS)
    if more.pose.log_gain < best.summit.pose.log_gain:
        return fit
    return StructureFit((explain(best.structure, more), *others), fit.scene)
