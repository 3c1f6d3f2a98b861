"""What an interrupted night knows of itself: time, shifts of the map, which charges are its own."""

from __future__ import annotations

from typing import Any

import pytest

from controller.decision.belief import Belief, Experience, fold, update
from controller.decision.resume import Booked, Interrupted, interrupted, of_run
from controller.decision.rig import ExposureIds
from controller.hardware.values import Exposure, Purpose, StagePose
from controller.plan.demo import demo_plan
from controller.record.events import (
    Event,
    MapChecked,
    Pick,
    QueueChanged,
    RegionsFound,
    RunResumed,
    RunStarted,
    StepEnded,
    StepStarted,
    TargetEnded,
    TargetsChosen,
)
from controller.record.journal import Entry
from tests.conformance.fake_adapter import OPTICS

POSE = StagePose(x_um=0.0, y_um=0.0, z_um=0.0, alpha_deg=0.0, beta_deg=0.0)


def resumed(used_s: float = 0.0) -> RunResumed:
    return RunResumed(
        session=2, mode="unattended", pose=POSE, optics=OPTICS, blank_verified=True,
        program_version="0", before="", used_s=used_s,
    )  # fmt: skip


def checked(x_um: float) -> MapChecked:
    return MapChecked(tile=0, frame="f", shift_um=(x_um, 0.0), correlation=0.9, found=True)


def pick(x_um: float) -> Pick:
    return Pick(
        x_um=x_um, y_um=0.0, radius_nm=100, score=0.5, diameter_nm=200, frame="f", x_px=1, y_px=1
    )


def surveyed(*events: Event) -> Belief:
    return fold(
        [
            RegionsFound(tile=0, frame="f", picks=(pick(10.0),), class_fractions={}),
            TargetsChosen(targets={"T01": pick(10.0)}),
            *events,
        ]
    )


def test_a_shift_is_counted_once_however_often_the_run_is_resumed() -> None:
    belief = surveyed(resumed(), checked(0.5), resumed(), checked(0.5), resumed(), checked(0.7))
    assert belief.target("T01").x_um == pytest.approx(10.7)


def test_what_is_found_after_a_shift_lies_where_it_was_seen() -> None:
    belief = fold([RegionsFound(tile=0, frame="f", picks=(pick(10.0),), class_fractions={})])
    for event in (
        resumed(),
        checked(0.5),
        RegionsFound(tile=1, frame="g", picks=(pick(20.0),), class_fractions={}),
    ):
        belief = update(belief, event)
    chosen = {f"T{n:02d}": found for n, (_, found) in enumerate(belief.picks, start=1)}
    belief = update(belief, TargetsChosen(targets=chosen))
    assert [t.x_um for t in belief.targets.values()] == pytest.approx([10.5, 20.0])


def test_a_crystal_pointed_at_after_a_shift_lies_where_it_was_pointed_at() -> None:
    belief = surveyed(resumed(), checked(0.5))
    added = QueueChanged(what="add", by="Ann", target="P01", pick=pick(7.0 - 0.5))
    belief = update(belief, added)
    assert belief.target("P01").x_um == pytest.approx(7.0)


def folded(*lines: tuple[float, Any]) -> Interrupted:
    return interrupted((Entry(n, "", s, event, "") for n, (s, event) in enumerate(lines)), "here")


def begun() -> RunStarted:
    plan = demo_plan(seed=1, scenario="easy").model_dump(mode="json", by_alias=True)
    return RunStarted.model_construct(
        kind="run_started", plan=plan, mode="unattended", run_id="run", pose=POSE
    )


def test_time_that_was_used_is_that_of_the_sessions_not_of_the_pauses() -> None:
    started, nothing = begun(), StepEnded(step=0, ok=True)
    first = folded((0.0, started), (7200.0, nothing))
    assert first.used_s == 7200.0
    second = folded(
        (0.0, started), (7200.0, nothing), (39_600.0, nothing), (39_600.0, resumed(7200.0)),
        (41_400.0, nothing),
    )  # fmt: skip
    assert second.used_s == 7200.0 + 1800.0
    anew = folded((50_000.0, started), (57_200.0, nothing), (3.0, resumed(7200.0)))
    assert anew.used_s == 7200.0


def booked(exposure_id: Any, area: str = "T01") -> Booked:
    exposure = Exposure(
        exposure_id=exposure_id, area=area, purpose=Purpose.DATA, detector="d", duration_s=1.0
    )
    return Booked(exposure=exposure, state="settled", charged_e_per_A2=1.0)


def test_the_charges_of_other_runs_are_theirs() -> None:
    started = begun()
    run = folded((0.0, started), (1.0, resumed()))
    mine, later, other = ExposureIds("run"), ExposureIds("run/1"), ExposureIds("another")
    rows = [booked(mine()), booked(other()), booked(later()), booked(other())]
    assert of_run(run, rows) == [rows[0], rows[2]]


def test_a_crystal_that_is_done_with_is_remembered_by_what_it_taught() -> None:
    visit = StepStarted(step=0, action="Visit", target="T01", details={}, reason="", at_s=100.0)
    last = StepStarted(step=1, action="EndTarget", target="T01", details={}, reason="", at_s=190.5)
    ended = TargetEnded(
        target="T01", status="skipped", reason="bent",
        dose_before_scan_e_per_A2=0.0, dose_scan_e_per_A2=0.0,
    )  # fmt: skip
    target = surveyed(visit, last, ended).target("T01")
    assert (target.status, target.reason, target.visited) == ("skipped", "bent", True)
    assert target.experience == Experience(seconds=90.5)
    assert target.fits == ()
