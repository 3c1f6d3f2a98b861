"""A field is exposed until the picker is sure, and never beyond what it may cost."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.picker import Pick, RegionResult
from models.sequential import ExposureRule


def seen(best: float, *, wanted: float | None = 5.0, foreign: bool = False) -> RegionResult:
    """A result with one pick of this score."""
    empty = np.zeros((16, 16), np.float32)
    pick = Pick(8.0, 8.0, 60.0, best, 1e5, 300.0, 0.4, "")
    return RegionResult(
        labels=empty.astype(np.uint8),
        probability=np.zeros((6, 16, 16), np.float32),
        thickness_mfp=empty,
        picks=() if foreign else (pick,),
        abstained=best < 0.4,
        reason="",
        electrons_per_px=1.0,
        electrons_per_px_wanted=wanted,
        out_of_distribution=foreign,
        unfamiliarity=2.0 if foreign else 0.5,
    )


@given(
    st.lists(st.tuples(st.floats(0, 1), st.none() | st.floats(0.01, 1e3)), min_size=40, max_size=40)
)
def test_it_ends_in_bounds_and_says_why(answers: list[tuple[float, float | None]]) -> None:
    rule, first = ExposureRule(), 0.2
    taken = [first]
    for answer in answers:
        more, why = rule.further(seen_of(answer), taken[-1])
        assert why
        if more == 0:
            break
        assert more > 0
        taken.append(taken[-1] + more)
    assert taken[-1] <= rule.most_e_per_px * (1 + 1e-6)
    assert all(b <= rule.growth * a + 1e-9 for a, b in pairwise(taken))
    assert len(taken) <= 10


def seen_of(answer: tuple[float, float | None]) -> RegionResult:
    """A result with this score and this wish."""
    return seen(answer[0], wanted=answer[1])


def test_a_sure_pick_ends_it_at_the_first_look() -> None:
    assert ExposureRule().further(seen(0.9), 0.2)[0] == 0.0


def test_a_doubtful_pick_is_looked_at_again_for_as_long_as_it_helps() -> None:
    rule = ExposureRule(most_e_per_px=10.0)
    more, why = rule.further(seen(0.5, wanted=0.7), 0.2)
    assert more == pytest.approx(0.5)
    assert "0.50 only" in why
    assert rule.further(seen(0.5, wanted=None), 0.2)[0] == 0.0
    assert rule.further(seen(0.5, wanted=100.0), 10.0)[0] == 0.0
    assert rule.further(seen(0.5, wanted=100.0), 4.0)[0] == pytest.approx(6.0)


def test_a_foreign_image_is_not_exposed_further() -> None:
    assert ExposureRule().further(seen(0.0, foreign=True), 0.2)[0] == 0.0


@pytest.mark.parametrize("wrong", [{"sure": 0.0}, {"most_e_per_px": 0.0}, {"growth": 1.0}])
def test_a_rule_that_cannot_work_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"wanted|must"):
        ExposureRule(**wrong)
