"""Which crystal next: what the night teaches must show in the order, and people come first."""

from __future__ import annotations

from typing import Any

import pytest

from controller.decision.belief import Belief, Experience, Target
from controller.decision.frozen import SharedMap, replace
from controller.decision.yields import outlook, prospects, travel_s
from controller.hardware.values import Axis, AxisInfo, Capabilities, StagePose
from controller.record.events import Pick, RunStarted

POSE = StagePose(x_um=0.0, y_um=0.0, z_um=0.0, alpha_deg=0.0, beta_deg=0.0)
AXIS = AxisInfo(low=-900, high=900, speed_per_s=2.0, repeatability=0.03)
STARTED = RunStarted.model_construct(
    capabilities=Capabilities.model_construct(axes={Axis.X: AXIS, Axis.Y: AXIS})
)


def pick(score: float = 0.5, radius_nm: float = 150.0, frame: str = "f") -> Pick:
    return Pick(
        x_um=0, y_um=0, radius_nm=radius_nm, score=score, diameter_nm=300, frame=frame,
        x_px=1, y_px=1,
    )  # fmt: skip


def queued(name: str, x_um: float = 0.0, **of_pick: Any) -> Target:
    return Target(name, pick(**of_pick), x_um=x_um)


def done(name: str, status: Any, seconds: float = 100.0, **of_pick: Any) -> Target:
    fluence = 120.0 if status in ("done", "failed") else None
    learnt = Experience(seconds=seconds, fluence_e_per_A2=fluence)
    return Target(name, pick(**of_pick), status=status, visited=True, experience=learnt)


def belief(*targets: Target, **changes: Any) -> Belief:
    named = SharedMap({target.name: target for target in targets})
    return replace(Belief(started=STARTED, pose=POSE, targets=named), **changes)


def order(b: Belief, by: Any = "yield") -> list[str]:
    return [prospect.target.name for prospect in prospects(b, by)]


def test_before_the_night_the_better_score_comes_first_and_of_equals_the_nearer() -> None:
    b = belief(
        queued("T01", score=0.3), queued("T02", score=0.6, x_um=50.0), queued("T03", score=0.6)
    )
    assert order(b) == ["T03", "T02", "T01"]


def test_a_night_in_which_large_ones_succeed_turns_the_order() -> None:
    choices = (queued("T01", score=0.5, radius_nm=90), queued("T02", score=0.4, radius_nm=240))
    assert order(belief(*choices)) == ["T01", "T02"]
    seen = [done(f"A{n}", "done", score=0.3, radius_nm=230) for n in range(6)]
    seen += [done(f"B{n}", "skipped", score=0.55, radius_nm=90) for n in range(6)]
    assert order(belief(*choices, *seen)) == ["T02", "T01"]


def test_seconds_are_those_of_the_night() -> None:
    usual = outlook([])
    slow = outlook([done(f"A{n}", "done", 400.0) for n in range(30)])
    assert slow.scanned_s > 3 * usual.scanned_s
    assert slow.left_s == usual.left_s
    assert slow.seen == 30


def test_a_scan_that_waits_for_its_result_is_no_evidence_yet() -> None:
    assert outlook([done("T01", "scanned")]).seen == 0


def test_travel_is_the_slower_of_both_axes() -> None:
    assert travel_s(belief(), queued("T01", x_um=30.0)) == 15.0


@pytest.mark.parametrize("by", ["yield", "score", "survey"])
def test_people_come_before_expectations(by: str) -> None:
    b = belief(*(queued(f"T0{n}", score=0.1 * n, frame=f"f{n}") for n in range(1, 5)))
    asked = replace(b, put_first=frozenset({"T01"}), put_last=frozenset({"T04"}))
    assert order(asked, by)[0] == "T01"
    assert order(asked, by)[-1] == "T04"
    assert sorted(order(asked, by)) == ["T01", "T02", "T03", "T04"]


def test_fixed_orders_are_those_of_score_and_survey() -> None:
    b = belief(queued("T01", frame="g"), queued("T02", frame="f"), queued("T03", frame="h"))
    assert order(b, "score") == ["T01", "T02", "T03"]
    assert order(b, "survey") == ["T02", "T01", "T03"]
