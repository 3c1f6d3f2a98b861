"""A tile is looked at until the picker is sure, in electrons sent, and never beyond the plan."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from controller.decision.steps.survey import further_look
from controller.perception.protocols import RegionPick, RegionsSeen
from controller.plan.run import SurveyPlan


def seen(best: float, *, detected: float, wanted: float | None) -> RegionsSeen:
    return RegionsSeen(
        (RegionPick(5.0, 5.0, 80.0, best, 300.0),),
        np.zeros((16, 16), np.uint8),
        {},
        electrons_per_px=detected,
        electrons_per_px_wanted=wanted,
    )


def test_a_sure_tile_is_looked_at_once() -> None:
    assert further_look(seen(0.95, detected=4.0, wanted=None), 4.0, SurveyPlan())[0] == 0.0


def test_doubt_asks_for_what_the_picker_wants_in_electrons_sent() -> None:
    """A dark-field detector that sees 5 % of the beam: the wish is in detected electrons."""
    more, why = further_look(seen(0.3, detected=0.2, wanted=0.5), 4.0, SurveyPlan())
    assert more == pytest.approx(6.0)
    assert "0.30 only" in why


def test_the_plan_bounds_all_looks_together() -> None:
    plan = SurveyPlan(electrons_per_px=4.0, most_electrons_per_px=10.0)
    more, _ = further_look(seen(0.3, detected=4.0, wanted=400.0), 4.0, plan)
    assert more == pytest.approx(6.0)
    assert further_look(seen(0.3, detected=10.0, wanted=400.0), 10.0, plan)[0] == 0.0
    assert plan.most_fluence_e_per_A2 == pytest.approx(2.5 * plan.fluence_e_per_A2)


def test_a_picker_that_wishes_nothing_gets_nothing_more() -> None:
    blind = RegionsSeen((), np.zeros((16, 16), np.uint8), {}, abstained=True)
    assert further_look(blind, 4.0, SurveyPlan())[0] == 0.0


def test_a_bound_below_the_first_look_is_refused() -> None:
    with pytest.raises(ValidationError, match="most_electrons_per_px = 2 is below"):
        SurveyPlan(electrons_per_px=4.0, most_electrons_per_px=2.0)
