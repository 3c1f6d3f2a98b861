"""The policy, decision by decision: from a belief to the next action."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decision import actions
from controller.decision.belief import Belief, Target, fold
from controller.decision.policy import decide
from controller.hardware.values import Axis, PartialPose, Purpose, StageLimits, StagePose
from controller.plan.run import RunPlan
from controller.record.events import (
    Answered,
    ExposureMade,
    HeightFound,
    Located,
    Moved,
    Pick,
    RunStarted,
    StepStarted,
    TiltFitted,
)

PLAN = RunPlan.from_mapping(
    {"sample": {"material": "UiO-66"}, "targets": {"wanted": 1}}, base=Path(), source="p"
)
POSE = StagePose(x_um=0, y_um=0, z_um=0, alpha_deg=0, beta_deg=0)
LIMITS = StageLimits(
    ranges={
        Axis.X: (-900, 900),
        Axis.Y: (-900, 900),
        Axis.Z: (-100, 100),
        Axis.ALPHA: (-25, 25),
        Axis.BETA: (-15, 15),
    }
)
PICK = Pick(x_um=1, y_um=2, radius_nm=150, score=0.8, diameter_nm=400, frame="f", x_px=1, y_px=1)


def started() -> RunStarted:
    return RunStarted.model_construct(stage_limits=LIMITS, pose=POSE, tiles=((0.0, 0.0),))


def fit(misorientation_deg: float = 1.0, answered: bool = True, **changes: Any) -> TiltFitted:
    off = np.deg2rad(misorientation_deg)
    zone = np.array([np.sin(off), 0, np.cos(off)])
    given = {
        "target": "T01", "frame": "f", "answered": answered, "reason": "too dark",
        "zone_uvw": (0, 0, 1), "tilt_mrad": (17.4 * misorientation_deg, 0), "sigma_mrad": 0.3,
        "misorientation_deg": misorientation_deg, "centre_px": (128, 128), "inv_A_per_px": 0.01,
        "mode": "structure", "holder_zone": tuple(zone),
    }  # fmt: skip
    return TiltFitted.model_validate(given | changes)


HEIGHT = HeightFound(target="T01", offset_um=0.1, sigma_um=0.02, ok=True, applied=False)


def belief(**target: Any) -> Belief:
    """One active crystal in the given state."""
    t = replace(Target("T01", PICK, status="active", x_um=1, y_um=2, visited=True), **target)
    return Belief(
        started=started(),
        tiles_done=frozenset({0}),
        chosen=True,
        targets=MappingProxyType({"T01": t}),
        active="T01",
        pose=POSE,
    )


def act(b: Belief, plan: RunPlan = PLAN) -> actions.Action:
    return decide(plan, b, 0.0).action


def test_a_night_begins_with_the_survey_then_chooses() -> None:
    b = Belief(started=started(), pose=POSE)
    assert act(b) == actions.SurveyTile(0, 0.0, 0.0)
    assert isinstance(act(replace(b, tiles_done=frozenset({0}))), actions.ChooseTargets)


def test_a_crystal_is_found_before_anything_else() -> None:
    assert isinstance(act(belief()), actions.Locate)
    assert isinstance(act(belief(located=True)), actions.FindHeight)


def test_a_crystal_that_is_missed_twice_is_left() -> None:
    action = act(belief(misses=2))
    assert isinstance(action, actions.EndTarget)
    assert "lost" in action.reason


def test_the_first_pattern_is_coarse_the_next_fine_and_doubt_costs_more() -> None:
    coarse = act(belief(located=True, height=HEIGHT))
    fine = act(belief(located=True, height=HEIGHT, fits=(fit(),)))
    again = act(belief(located=True, height=HEIGHT, fits=(fit(answered=False),), unanswered=1))
    assert isinstance(coarse, actions.MeasurePattern)
    assert isinstance(fine, actions.MeasurePattern)
    assert isinstance(again, actions.MeasurePattern)
    assert coarse.fluence_e_per_A2 == PLAN.alignment.coarse_fluence_e_per_A2
    assert fine.fluence_e_per_A2 == PLAN.alignment.fine_fluence_e_per_A2
    assert again.fluence_e_per_A2 == pytest.approx(3 * coarse.fluence_e_per_A2)


def test_the_beam_is_no_wider_than_the_crystal() -> None:
    small = belief(located=True, height=HEIGHT, pick=PICK.replace(radius_nm=60.0))
    action = act(small)
    assert isinstance(action, actions.MeasurePattern)
    assert action.beam_diameter_nm <= 2 * 60


def test_a_crystal_that_cannot_be_read_is_left_with_the_reason() -> None:
    b = belief(located=True, height=HEIGHT, fits=(fit(answered=False),) * 2, unanswered=2)
    action = act(b)
    assert isinstance(action, actions.EndTarget)
    assert "too dark" in action.reason


@given(st.floats(0.2, 14.9))
def test_the_tilt_goes_exactly_to_the_zone_axis(off_deg: float) -> None:
    action = act(belief(located=True, height=HEIGHT, fits=(fit(off_deg),), fresh_fit=True))
    assert isinstance(action, actions.Tilt)
    assert action.beta_deg == pytest.approx(-off_deg, abs=1e-9)
    assert action.alpha_deg == pytest.approx(0, abs=1e-9)


def test_a_zone_beyond_the_holder_is_unreachable() -> None:
    b = belief(located=True, height=HEIGHT, fits=(fit(18.0),), fresh_fit=True)
    action = act(b)
    assert isinstance(action, actions.EndTarget)
    assert "unreachable" in action.reason
    assert "-15 .. 15" in action.reason


def test_on_axis_comes_the_scan_with_the_defocus_that_the_height_asks_for() -> None:
    on_axis = belief(located=True, height=HEIGHT, fits=(fit(0.03),), fresh_fit=True)
    action = act(on_axis)
    assert isinstance(action, actions.AcquireScan)
    assert action.defocus_nm == pytest.approx(PLAN.scan.defocus_nm + 100)
    thick = belief(
        located=True, height=HEIGHT, fits=(fit(0.03, thickness_nm=60.0),), fresh_fit=True
    )
    entrance = act(thick)
    assert isinstance(entrance, actions.AcquireScan)
    assert entrance.defocus_nm == pytest.approx(PLAN.scan.defocus_nm + 100 - 30)


def test_a_height_that_was_moved_is_measured_again_and_one_that_fails_ends_it() -> None:
    moved = belief(located=True, height=HEIGHT.replace(applied=True), height_attempts=1)
    assert isinstance(act(moved), actions.FindHeight)
    lost = HEIGHT.replace(ok=False, reason="crystal not in the picture")
    assert isinstance(act(belief(located=True, height=lost, height_attempts=1)), actions.FindHeight)
    action = act(belief(located=True, height=lost, height_attempts=3))
    assert isinstance(action, actions.EndTarget)
    assert "crystal not in the picture" in action.reason


def test_moves_run_out_and_acceptable_is_accepted() -> None:
    out = {"located": True, "height": HEIGHT, "fresh_fit": True, "moves": 6}
    assert isinstance(act(belief(fits=(fit(0.08),), **out)), actions.AcquireScan)
    action = act(belief(fits=(fit(0.5),), **out))
    assert isinstance(action, actions.EndTarget)
    assert "6 moves" in action.reason


def test_the_budget_ends_the_alignment() -> None:
    b = replace(belief(located=True, height=HEIGHT), spent_e_per_A2=MappingProxyType({"T01": 0.49}))
    action = act(b)
    assert isinstance(action, actions.EndTarget)
    assert "0.5 e/A2" in action.reason


def test_the_run_ends_when_enough_is_done_or_nothing_is_left() -> None:
    done = belief(status="done")
    assert act(replace(done, active=None)) == actions.EndRun(
        "completed", "1 scans accepted, as many as wanted"
    )
    left = act(replace(belief(status="skipped"), active=None))
    assert isinstance(left, actions.EndRun)
    assert left.outcome == "goals_missed"


def test_time_is_up_between_crystals_only() -> None:
    late = PLAN.budget.time_h * 3600 + 1
    assert isinstance(decide(PLAN, belief(), late).action, actions.Locate)
    assert isinstance(decide(PLAN, replace(belief(), active=None), late).action, actions.EndRun)


def test_what_a_person_rejected_is_not_done() -> None:
    no = Answered(
        step=1, action="Tilt", target="T01", answer="reject", by="A. Kim", reason="bent crystal"
    )
    action = act(fold([no], belief(located=True)))
    assert isinstance(action, actions.EndTarget)
    assert "A. Kim" in action.reason
    assert "bent crystal" in action.reason


def test_silence_holds_the_run() -> None:
    silent = Answered(step=1, action="Tilt", target="T01", answer="hold", by="nobody")
    action = act(fold([silent], belief(located=True)))
    assert isinstance(action, actions.EndRun)
    assert action.outcome == "held"


def test_a_move_makes_the_position_stale_and_a_tilt_the_pattern_too() -> None:
    seen = belief(located=True, fresh_fit=True, fits=(fit(),))
    shift = Moved(target="T01", requested=PartialPose(x_um=1), achieved=POSE, residual={})
    tilt = Moved(target="T01", requested=PartialPose(alpha_deg=1), achieved=POSE, residual={})
    shifted, tilted = fold([shift], seen).target("T01"), fold([tilt], seen).target("T01")
    assert (shifted.located, shifted.fresh_fit) == (False, True)
    assert (tilted.located, tilted.fresh_fit) == (False, False)


def test_only_settled_exposures_before_the_scan_count_as_spent() -> None:
    def made(state: str, purpose: Purpose, charge: float) -> ExposureMade:
        return ExposureMade(
            exposure_id="e", area="T01", purpose=purpose, detector="d", duration_s=1, state=state,
            charged_e_per_A2=charge,
        )  # fmt: skip

    events = [
        made("RESERVED", Purpose.ALIGN, 0.4),
        made("SETTLED", Purpose.ALIGN, 0.02),
        made("SETTLED", Purpose.DATA, 120),
        made("UNKNOWN", Purpose.TRACK, 0.01),
    ]
    assert fold(events).spent_e_per_A2["T01"] == pytest.approx(0.03)


def test_steps_count_tilts() -> None:
    def step(action: str) -> StepStarted:
        return StepStarted(step=1, action=action, target="T01", details={}, reason="")

    t = fold([step("Tilt"), step("Visit"), step("Tilt")], belief()).target("T01")
    assert (t.moves, t.visited) == (2, True)


def test_locating_updates_where_the_crystal_is() -> None:
    seen = Located(
        target="T01", frame="g", offset_um=(0.1, 0), position_um=(1.1, 2.0), correlation=0.9,
        found=True, recentred=False,
    )  # fmt: skip
    t = fold([seen], belief()).target("T01")
    assert (t.x_um, t.y_um, t.located) == (1.1, 2.0, True)
