"""The policy, decision by decision: from a belief to the next action."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decision import actions
from controller.decision.belief import Belief, Target, fold
from controller.decision.frozen import SharedMap
from controller.decision.knowledge import filtered, zones_of
from controller.decision.policy import decide
from controller.hardware.values import (
    Axis,
    AxisInfo,
    Calibration,
    Capabilities,
    PartialPose,
    Purpose,
    StageLimits,
    StagePose,
)
from controller.perception.alignment import zone_from_tilt
from controller.plan.run import RunPlan
from controller.record.events import (
    Answered,
    ExposureMade,
    GoniometerSetting,
    HeightFound,
    Located,
    Moved,
    Pick,
    PosteriorUpdated,
    RunStarted,
    StepStarted,
    TiltFitted,
    ZoneAxis,
    ZoneChosen,
)

PLAN = RunPlan.from_mapping(
    {"sample": {"material": "UiO-66"}, "targets": {"wanted": 1}}, base=Path(), source="p"
)
ALONE = PLAN.replace(alignment=PLAN.alignment.replace(confirm=False))
"""A plan that believes a single pattern."""
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


TILTING = AxisInfo(low=-30, high=30, speed_per_s=1, repeatability=0.02, backlash=0.2)


def started(beam_tilt_mrad: float = 0.0) -> RunStarted:
    capabilities = Capabilities.model_construct(
        axes={Axis.ALPHA: TILTING, Axis.BETA: TILTING}, beam_tilt_mrad=beam_tilt_mrad
    )
    return RunStarted.model_construct(
        stage_limits=LIMITS, pose=POSE, tiles=((0.0, 0.0),), capabilities=capabilities,
        calibration=Calibration(),
    )  # fmt: skip


HERE = GoniometerSetting(alpha_deg=0, beta_deg=0, sigma_alpha_deg=0.01, sigma_beta_deg=0.01)


def fit(misorientation_deg: float = 1.0, answered: bool = True, **changes: Any) -> TiltFitted:
    given = {
        "target": "T01", "frame": "f", "answered": answered, "reason": "too dark",
        "zone_uvw": (0, 0, 1), "tilt_mrad": (np.pi / 0.18 * misorientation_deg, 0),
        "sigma_mrad": 0.15, "misorientation_deg": misorientation_deg, "centre_px": (128, 128),
        "inv_A_per_px": 0.01, "mode": "structure", "setting": HERE, "electrons": 6000.0,
    }  # fmt: skip
    return TiltFitted.model_validate(given | changes)


HEIGHT_FIRST = PLAN.replace(agent=PLAN.agent.replace(look_first=False))
HEIGHT = HeightFound(target="T01", offset_um=0.1, sigma_um=0.02, ok=True, applied=False)


def belief(**target: Any) -> Belief:
    """One active crystal in the given state."""
    t = replace(Target("T01", PICK, status="active", x_um=1, y_um=2, visited=True), **target)
    return Belief(
        started=started(),
        tiles_done=frozenset({0}),
        chosen=True,
        targets=SharedMap({"T01": t}),
        active="T01",
        pose=POSE,
    )


def read(*fits: TiltFitted, beam_tilt_mrad: float = 0.0, **target: Any) -> Belief:
    """A crystal that was found, with its height, and whose last pattern was read here."""
    b = belief(**{"located": True, "height": HEIGHT, "fits": fits, "fresh_fit": True} | target)
    b = replace(b, started=started(beam_tilt_mrad))
    zone = decide(PLAN, b, 0.0).action
    if not isinstance(zone, actions.ChooseZone):
        return b
    chosen, found = zones_of(PLAN, b, b.target("T01"))
    assert chosen is not None
    tilt, sigma = fits[-1].tilt_mrad, fits[-1].sigma_mrad
    b = fold(
        [
            ZoneChosen(
                target="T01", chosen=chosen, candidates=found, frame="f", tilt_mrad=tilt,
                sigma_mrad=sigma,
            )
        ],
        b,
    )  # fmt: skip
    state = filtered(b, b.target("T01"))
    assert state is not None
    posterior = PosteriorUpdated.model_construct(
        target="T01", zone_uvw=(0, 0, 1), state=state, doubt_of_hand=0.01, surprise=None
    )
    return fold([posterior], b)


def act(b: Belief, plan: RunPlan = PLAN) -> actions.Action:
    return decide(plan, b, 0.0).action


def test_a_night_begins_with_the_survey_then_chooses() -> None:
    b = Belief(started=started(), pose=POSE)
    assert act(b) == actions.SurveyTile(0, 0.0, 0.0)
    assert isinstance(act(replace(b, tiles_done=frozenset({0}))), actions.ChooseTargets)


def test_a_crystal_is_found_before_anything_else() -> None:
    assert isinstance(act(belief()), actions.Locate)
    assert isinstance(act(belief(located=True), HEIGHT_FIRST), actions.FindHeight)


def test_a_crystal_that_is_missed_twice_is_left() -> None:
    action = act(belief(misses=2))
    assert isinstance(action, actions.EndTarget)
    assert "lost" in action.reason


def electrons(action: actions.Action) -> float:
    assert isinstance(action, actions.MeasurePattern)
    return action.fluence_e_per_A2 * np.pi * (5 * action.beam_diameter_nm) ** 2


def test_the_first_pattern_is_coarse_the_last_fine_and_doubt_costs_more() -> None:
    align = PLAN.alignment
    coarse = electrons(act(belief(located=True, height=HEIGHT)))
    far = read(fit(8.0))
    tilted = replace(far, asked_deg=(0.0, -8.0), read_deg=((0.0, -8.0),))
    there = replace(far.target("T01"), tilts=1, fresh_fit=False)
    fine = electrons(act(replace(tilted, targets=SharedMap({"T01": there}))))
    unread = fit(answered=False, electrons=5000.0)
    again = electrons(act(belief(located=True, height=HEIGHT, fits=(unread,), unanswered=1)))
    told = unread.replace(electrons_wanted=4e4)
    wanted = electrons(act(belief(located=True, height=HEIGHT, fits=(told,), unanswered=1)))
    assert coarse == pytest.approx(align.coarse_electrons)
    assert 1.3 * coarse < fine < align.max_electrons
    assert again == pytest.approx(3 * coarse - 5000)
    assert wanted == pytest.approx(4e4 - 5000)


def test_no_pattern_gets_more_than_the_plan_allows() -> None:
    unread = fit(answered=False, electrons_wanted=1e9, electrons=1e4)
    b = belief(located=True, height=HEIGHT, fits=(unread,), unanswered=1)
    assert electrons(act(b)) == pytest.approx(PLAN.alignment.max_electrons)


def test_the_beam_is_no_wider_than_the_crystal() -> None:
    small = belief(located=True, height=HEIGHT, pick=PICK.replace(radius_nm=60.0))
    action = act(small)
    assert isinstance(action, actions.MeasurePattern)
    assert action.beam_diameter_nm <= 2 * 60


def test_a_crystal_that_cannot_be_read_is_left_with_the_reason() -> None:
    dark = fit(answered=False, summed=("d", "e"))
    b = belief(located=True, height=HEIGHT, fits=(dark,) * 3, unanswered=3)
    action = act(b)
    assert isinstance(action, actions.EndTarget)
    assert "too dark" in action.reason


@given(st.floats(0.2, 14.8))
def test_the_tilt_goes_to_the_zone_axis(off_deg: float) -> None:
    """The play of 0.2 deg lies on the same side before and after: it drops out."""
    action = act(read(fit(off_deg)))
    assert isinstance(action, actions.Tilt)
    assert action.beta_deg == pytest.approx(-off_deg, abs=0.003)
    assert action.alpha_deg == pytest.approx(0, abs=0.02)


def test_the_height_shifts_the_crystal_while_it_tilts() -> None:
    action = act(read(fit(10.0)))
    assert isinstance(action, actions.Tilt)
    z_um = HEIGHT.offset_um
    assert action.x_um == pytest.approx(1 + z_um * np.tan(np.deg2rad(action.beta_deg)))
    assert action.y_um == pytest.approx(2, abs=1e-3)


def test_what_is_left_goes_to_the_beam_where_it_can_be_tilted() -> None:
    beam = act(read(fit(0.3), beam_tilt_mrad=20.0))
    assert isinstance(beam, actions.TiltBeam)
    assert beam.x_mrad == pytest.approx(np.pi / 0.18 * 0.3, rel=0.01)
    assert isinstance(act(read(fit(0.3))), actions.Tilt)
    assert isinstance(act(read(fit(0.8), beam_tilt_mrad=20.0)), actions.Tilt)
    too_little = read(fit(0.3), beam_tilt_mrad=2.0)
    assert isinstance(act(too_little), actions.Tilt)


def test_the_zone_is_chosen_with_its_reasons_before_anything_moves() -> None:
    b = belief(located=True, height=HEIGHT, fits=(fit(3.0),), fresh_fit=True)
    decision = decide(PLAN, b, 0.0)
    assert isinstance(decision.action, actions.ChooseZone)
    assert decision.action.zone_uvw == (0, 0, 1)
    assert "3.0 deg away" in decision.reason


def test_a_zone_beyond_the_holder_is_unreachable_unless_another_is_not() -> None:
    lost = act(read(fit(18.0)))
    assert isinstance(lost, actions.EndTarget)
    assert "-15 .. 15" in lost.reason
    axes = (
        ZoneAxis(zone_uvw=(0, 0, 1), member_uvw=(0, 0, 1), direction=tilted(18.0, 0.0)),
        ZoneAxis(zone_uvw=(1, 1, 0), member_uvw=(0, 1, 1), direction=tilted(0.0, 20.0)),
    )
    b = belief(located=True, height=HEIGHT, fits=(fit(18.0, axes=axes),), fresh_fit=True)
    decision = decide(PLAN, b, 0.0)
    assert isinstance(decision.action, actions.ChooseZone)
    assert decision.action.member_uvw == (0, 1, 1)
    assert "not [0 0 1] (beta_deg" in decision.reason
    nearest = PLAN.replace(alignment=PLAN.alignment.replace(targets="nearest"))
    assert isinstance(act(b, nearest), actions.EndTarget)


def tilted(x_deg: float, y_deg: float) -> tuple[float, float, float]:
    x, y, z = zone_from_tilt((np.pi / 0.18 * x_deg, np.pi / 0.18 * y_deg)).tolist()
    return x, y, z


def test_on_axis_comes_the_scan_with_the_defocus_that_the_height_asks_for() -> None:
    action = act(read(fit(0.003)), ALONE)
    assert isinstance(action, actions.AcquireScan)
    assert action.defocus_nm == pytest.approx(PLAN.scan.defocus_nm + 100)
    entrance = act(read(fit(0.003, thickness_nm=60.0)), ALONE)
    assert isinstance(entrance, actions.AcquireScan)
    assert entrance.defocus_nm == pytest.approx(PLAN.scan.defocus_nm + 100 - 30)


def test_a_scan_takes_what_the_neighbours_have_left_and_says_so() -> None:
    decision = decide(ALONE, read(fit(0.003), fits_e_per_A2=74.0), 0.0)
    assert isinstance(decision.action, actions.AcquireScan)
    assert decision.action.fluence_e_per_A2 == 74.0
    assert "74 e/A2 that its neighbours' scans have left" in decision.reason


def test_two_views_near_the_axis_have_to_agree_before_the_scan() -> None:
    one = read(fit(0.003))
    second = decide(PLAN, one, 0.0)
    assert isinstance(second.action, actions.MeasurePattern)
    assert "a second view" in second.reason
    both = fold([fit(0.004, frame="g", beam_tilt_mrad=(1.0, 0.0))], one)
    assert isinstance(act(both), actions.AcquireScan)
    posterior = both.target("T01").posterior
    assert posterior is not None
    split = posterior.model_copy(update={"state": posterior.state.replace(dropped=1)})
    assert isinstance(act(fold([split], both)), actions.MeasurePattern)


def test_a_reading_that_is_not_sure_enough_is_taken_again() -> None:
    action = act(read(fit(0.003, sigma_mrad=1.5)))
    assert isinstance(action, actions.MeasurePattern)


def test_a_reading_that_surprises_is_confirmed_before_the_scan() -> None:
    b = read(fit(0.003))
    expected = b.target("T01").posterior
    assert expected is not None
    odd = expected.model_copy(update={"surprise": 4.0})
    decision = decide(PLAN, fold([odd], b), 0.0)
    assert isinstance(decision.action, actions.MeasurePattern)
    assert "4.0 sigma" in decision.reason
    coarse = PLAN.alignment.coarse_electrons
    assert electrons(decision.action) == pytest.approx(2 * coarse)  # its counts are added: 3 times
    agrees = fit(0.004, frame="g", summed=("f",))
    assert isinstance(act(fold([agrees, odd], b), ALONE), actions.AcquireScan)
    differs = fit(0.2, frame="g", summed=("f", "e"))
    given_up = act(fold([differs, odd], b))
    assert isinstance(given_up, actions.EndTarget)
    assert "contradict" in given_up.reason


def test_a_pattern_that_cannot_be_read_is_followed_by_a_look() -> None:
    dark = fold([fit(answered=False)], belief(located=True, height=HEIGHT))
    assert isinstance(act(dark), actions.Locate)


def test_a_crystal_lost_after_a_tilt_is_brought_back_once() -> None:
    lost = {"located": False, "misses": 2, "before_tilt": (1.0, -2.0), "height": HEIGHT}
    action = act(replace(belief(**lost), asked_deg=(4.0, 5.0)))
    assert isinstance(action, actions.UndoTilt)
    assert (action.alpha_deg, action.beta_deg) == (1.0, -2.0)
    assert (action.from_alpha_deg, action.from_beta_deg) == (4.0, 5.0)
    assert isinstance(act(belief(**lost, undone=1)), actions.EndTarget)


def test_a_tilt_that_leaves_nothing_to_read_is_undone() -> None:
    dark = fit(answered=False, summed=("d", "e"), tilts=1)
    b = belief(
        located=True, height=HEIGHT, fits=(fit(8.0), dark), unanswered=1, tilts=1,
        before_tilt=(0.0, 0.0),
    )  # fmt: skip
    decision = decide(PLAN, b, 0.0)
    assert isinstance(decision.action, actions.UndoTilt)
    assert "too dark" in decision.reason


def test_a_person_may_ask_to_undo() -> None:
    undo = Answered(step=1, action="MeasurePattern", target="T01", answer="undo", by="A. Kim")
    decision = decide(PLAN, fold([undo], read(fit(0.5), before_tilt=(0.0, 0.0))), 0.0)
    assert isinstance(decision.action, actions.UndoTilt)
    assert "A. Kim" in decision.reason
    assert not isinstance(act(fold([undo], read(fit(0.5)))), actions.UndoTilt)


def test_a_crystal_is_looked_at_before_the_time_for_its_height_is_spent() -> None:
    assert isinstance(act(belief(located=True)), actions.MeasurePattern)
    seen = {"located": True, "fits": (fit(8.0),), "fresh_fit": True, "height": None}
    assert isinstance(act(belief(**seen)), actions.ChooseZone)
    far = read(fit(60.0), height=None)
    assert isinstance(act(far), actions.EndTarget)
    assert isinstance(act(read(fit(8.0), height=None)), actions.FindHeight)


def test_from_far_the_pattern_before_the_height_is_enough_to_tilt() -> None:
    assert isinstance(act(after_height(fit(8.0))), actions.Tilt)
    assert isinstance(act(after_height(fit(1.0))), actions.MeasurePattern)
    assert isinstance(act(after_height(fit(8.0), moves=1)), actions.MeasurePattern)


def after_height(*fits: TiltFitted, **target: Any) -> Belief:
    b = read(*fits)
    t = replace(b.target("T01"), fresh_fit=False, **target)
    return replace(b, targets=b.targets.with_("T01", t))


def test_a_height_that_was_moved_is_measured_again_and_one_that_fails_ends_it() -> None:
    moved = belief(located=True, height=HEIGHT.replace(applied=True), height_attempts=1)
    assert isinstance(act(moved, HEIGHT_FIRST), actions.FindHeight)
    lost = HEIGHT.replace(ok=False, reason="crystal not in the picture")
    again = belief(located=True, height=lost, height_attempts=1)
    assert isinstance(act(again, HEIGHT_FIRST), actions.FindHeight)
    action = act(belief(located=True, height=lost, height_attempts=3))
    assert isinstance(action, actions.EndTarget)
    assert "crystal not in the picture" in action.reason


def test_moves_run_out_and_acceptable_is_accepted() -> None:
    assert isinstance(act(read(fit(0.08), moves=6)), actions.AcquireScan)
    action = act(read(fit(0.5), moves=6))
    assert isinstance(action, actions.EndTarget)
    assert "6 moves" in action.reason


def test_the_budget_ends_the_alignment() -> None:
    b = replace(belief(located=True, height=HEIGHT), spent_e_per_A2=SharedMap({"T01": 0.4995}))
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


def test_a_lone_surprise_teaches_nothing_of_the_instrument() -> None:
    b = read(fit(3.0))
    posterior = b.target("T01").posterior
    assert posterior is not None
    state = posterior.state
    known = posterior.model_copy(update={"surprise": 1.0})
    odd = posterior.model_copy(update={"surprise": 5.0})
    split = posterior.model_copy(update={"state": state.replace(dropped=1)})
    assert fold([known], b).instrument == state.instrument
    assert fold([odd], b).instrument is None
    assert fold([split], b).instrument is None
    confirmed = fold([fit(3.0, frame="g", summed=("f",)), odd], b)
    assert confirmed.instrument == state.instrument
