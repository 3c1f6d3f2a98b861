"""The fluence of the next scan follows what the reconstructions have shown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decision.belief import Belief, Experience, Target
from controller.decision.conditions import fluence, resolution
from controller.decision.forecast import BOUND_OVER_PLANNED
from controller.decision.frozen import SharedMap
from controller.plan.demo import demo_plan
from controller.record.events import Pick

PLAN = demo_plan(seed=1, scenario="easy")
PLANNED = PLAN.scan.fluence_e_per_A2
LIMIT = PLAN.reconstruction.accept_resolution_A
PICK = Pick(x_um=0, y_um=0, radius_nm=150, score=0.5, diameter_nm=1, frame="f", x_px=1, y_px=1)
NEXT = Target("N", PICK)


def scanned(name: str, resolution_A: float | None, at: float = PLANNED) -> Target:
    ok = resolution_A is not None and resolution_A <= LIMIT
    learnt = Experience(seconds=100.0, fluence_e_per_A2=at, resolution_A=resolution_A)
    return Target(name, PICK, status="done" if ok else "failed", experience=learnt)


def after(*resolutions_A: float | None) -> Belief:
    seen = {f"T{n}": scanned(f"T{n}", d) for n, d in enumerate(resolutions_A)}
    return Belief(targets=SharedMap(seen))


def test_a_night_begins_with_the_planned_fluence() -> None:
    assert fluence(PLAN, after(), NEXT) == (PLANNED, "")


def test_good_scans_leave_it() -> None:
    assert fluence(PLAN, after(2.0, 1.6, 2.4), NEXT) == (PLANNED, "")


def test_scans_that_fall_short_raise_it_and_it_says_by_how_much() -> None:
    value, why = fluence(PLAN, after(5.5, 5.9, None, 5.2), NEXT)
    assert value > 1.2 * PLANNED
    assert "4 reconstructions" in why
    assert "likely to be accepted" in why


def test_it_may_be_told_to_leave_it_alone() -> None:
    fixed = PLAN.replace(agent=PLAN.agent.replace(adapt_fluence=False))
    assert fluence(fixed, after(9.0, 9.0, 9.0), NEXT)[0] == PLANNED


@given(
    seen=st.lists(st.none() | st.floats(0.8, 30.0), max_size=20),
    share=st.floats(1.0, 5.0),
    fits=st.none() | st.floats(1.0, 400.0),
)
def test_no_history_leads_beyond_the_budget_or_below_what_was_planned(
    seen: list[float | None], share: float, fits: float | None
) -> None:
    plan = PLAN.replace(agent=PLAN.agent.replace(most_fluence_share=share))
    target = Target("N", PICK, fits_e_per_A2=fits)
    value, _ = fluence(plan, after(*seen), target)
    limit = plan.budget.specimen_e_per_A2
    assert limit is not None
    assert BOUND_OVER_PLANNED * value + plan.alignment.budget_e_per_A2 <= limit * (1 + 1e-9)
    assert value >= min(PLANNED, fits or PLANNED) * (1 - 1e-12)
    assert value <= share * PLANNED * (1 + 1e-9)


def test_the_law_is_learnt_from_scans_at_two_fluences() -> None:
    def law(at: float, d: float) -> list[Target]:
        return [scanned(f"T{at}{n}", d, at) for n in range(200)]

    known: Any = resolution(PLAN, [*law(PLANNED, 3.0), *law(PLANNED / 4, 4.5)])
    assert known.mean[1] < 0
    assert known.seen == 400
    assert known.mean[0] == pytest.approx(1.0986, abs=0.05)
