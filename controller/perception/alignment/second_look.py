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
    opacity,
    quality_of,
)
from controller.perception.alignment.pose import Pose
from controller.perception.alignment.task import is_small
from controller.perception.alignment.two_at_a_time import for_each

BEAMS = 320
"""Coupled at the top that is answered with."""
_MOST_BEAMS = 600
_AROUND_RAD, _AROUND_STEP_RAD = 8.0e-3, 0.65e-3
_LOOKED_OVER_RAD = 4.5e-3
"""Angle to the middle of a look within which there is no need of another."""
_LOOKS, _LOOKS_LARGE = 5, 2
"""Tops that are looked around at most, the best and its rivals; fewer in large cells."""
_WORTH_A_LOOK = 0.7
"""Gain, relative to the best, from which a close look can turn the order."""
_OPAQUE = 3.0
"""Thickness in extinction lengths."""
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
    while fit.explanations:
        best = fit.explanations[0]
        # a better top at the rim of a look has not been looked around itself
        moved = bool(seen) and _is_new(best.summit.pose, seen, 0.0)
        opaque = not seen and _is_opaque(fit)
        enough = len(seen) >= (_LOOKS if is_small(best.structure) else _LOOKS_LARGE)
        if enough or not (moved or opaque or _is_doubtful(fit)):
            break
        least = _WORTH_A_LOOK * best.summit.pose.log_gain
        near = next((e for e in fit.explanations if _is_new(e.summit.pose, seen, least)), None)
        if near is None:
            break
        fit = _with_tops_about(fit, model, near)
        seen.append(near.summit.pose)
    return fit


def _is_opaque(fit: StructureFit) -> bool:
    """Whether the crystal scatters so strongly that tops beside the best have to be known.

    They explain as much where electrons are few, and are the error of the answer.
    """
    best = fit.explanations[0]
    return is_small(best.structure) and opacity(fit.scene, best.summit.pose) > _OPAQUE


def _is_new(pose: Pose, seen: list[Pose], least: float) -> bool:
    return pose.log_gain >= least and all(pose.apart_rad(p) > _LOOKED_OVER_RAD for p in seen)


def _with_tops_about(fit: StructureFit, model: BlochModel, near: Explanation) -> StructureFit:
    """The fit with what is found within a third of a degree of one of its explanations."""
    small = is_small(near.structure)
    tops = tops_around(
        fit.scene, model, near.summit, radius_rad=_AROUND_RAD, step_rad=_AROUND_STEP_RAD,
        most=12 if small else 3,
    )  # fmt: skip
    best = for_each(lambda s: finished(fit.scene, model, s, beams=BEAMS), tops[:3])
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
    some_left = not is_all_explained(fit.scene.spots, best.summit)
    if not is_small(best.structure):
        _, kinematical = best.summit.setting
        expected = poor or kinematical or some_left
        return quality < (expected_quality(best.structure) if expected else _HALF_EXPLAINED)
    rivals = [
        e.summit.pose.log_gain
        for e in fit.explanations
        if np.hypot(*np.subtract(e.tilt_mrad, best.tilt_mrad)) > _RIVAL_MRAD
    ]
    gap = best.summit.pose.log_gain - max(rivals, default=0.0)
    near = gap < _LEAST_RELATIVE_GAP * best.summit.pose.log_gain
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
