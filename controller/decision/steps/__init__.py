"""How each action is carried out: the only code of the controller that moves and exposes."""

from __future__ import annotations

from controller.decision.actions import (
    AcquireScan,
    Action,
    CheckMap,
    ChooseTargets,
    ChooseZone,
    EndRun,
    EndTarget,
    FindHeight,
    HandOver,
    Locate,
    MeasurePattern,
    Reconstruct,
    SurveyTile,
    Tilt,
    TiltBeam,
    UndoTilt,
    Visit,
    WaitFor,
    WaitForResults,
)
from controller.decision.belief import Belief
from controller.decision.rig import Rig
from controller.decision.steps.align import choose_zone, measure_pattern, tilt, tilt_beam
from controller.decision.steps.follow import find_height, locate, visit
from controller.decision.steps.resume import check_map
from controller.decision.steps.scan import (
    acquire_scan,
    end_target,
    hand_over,
    reconstruct,
)
from controller.decision.steps.survey import choose_targets, survey_tile


def perform(action: Action, belief: Belief, rig: Rig) -> None:  # noqa: C901  a table over the union
    """Carry out one action; every outcome goes to the journal through ``rig.emit``.

    Raises
    ------
    MicroscopeError
        The instrument or its guard refused or failed; the beam is blanked.
    """
    match action:
        case SurveyTile():
            survey_tile(action, rig)
        case CheckMap():
            check_map(action, rig)
        case ChooseTargets():
            choose_targets(belief, rig)
        case Visit():
            visit(action, rig)
        case Locate():
            locate(action, belief, rig)
        case FindHeight():
            find_height(action, belief, rig)
        case MeasurePattern():
            measure_pattern(action, belief, rig)
        case ChooseZone():
            choose_zone(action, belief, rig)
        case Tilt() | UndoTilt():
            tilt(action, rig)
        case TiltBeam():
            tilt_beam(action, belief, rig)
        case AcquireScan():
            acquire_scan(action, belief, rig)
        case Reconstruct():
            reconstruct(action, belief, rig)
        case HandOver():
            hand_over(action, belief, rig)
        case EndTarget():
            end_target(action, belief, rig)
        case WaitFor():
            rig.microscope.clock.sleep(action.duration_s)
        case EndRun() | WaitForResults():
            pass
