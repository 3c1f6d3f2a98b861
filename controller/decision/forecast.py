"""What a proposed step costs the specimen: the upper bound that the ledger would book."""

from __future__ import annotations

from controller.decision.actions import (
    AcquireScan,
    Action,
    CheckMap,
    FindHeight,
    Locate,
    MeasurePattern,
    SurveyTile,
    Tilt,
    UndoTilt,
)
from controller.plan.run import RunPlan

BOUND_OVER_PLANNED = 1.3
"""The ledger books current + 5 sigma over the smallest area: this much above the planned mean."""


def cost_e_per_A2(plan: RunPlan, action: Action) -> float:
    """Fluence that `action` will book where it exposes, in e/A2; 0 if it opens no beam."""
    match action:
        case SurveyTile():
            planned = plan.survey.most_fluence_e_per_A2
        case CheckMap():
            planned = plan.survey.fluence_e_per_A2
        case Locate() | Tilt() | UndoTilt():  # a move implies the picture that finds it again
            planned = plan.tracking.fluence_e_per_A2
        case FindHeight():
            per_picture = plan.height.electrons_per_px / (plan.tracking.pixel_size_nm * 10) ** 2
            planned = 3 * per_picture
        case MeasurePattern():
            planned = action.fluence_e_per_A2
        case AcquireScan():
            planned = action.fluence_e_per_A2
        case _:
            planned = 0.0
    return BOUND_OVER_PLANNED * planned
