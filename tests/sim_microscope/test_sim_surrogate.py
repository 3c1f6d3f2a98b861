"""The surrogate mode: drawn, repeatable, marked, and lawful where physics is."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim_microscope.surrogate import MARK, SurrogateNight, shipped_models


def night(seed: int = 1, crystals: int = 200, unlike: float = 0.0) -> SurrogateNight:
    return SurrogateNight(seed, crystals=crystals, field_um=40.0, unlike=unlike)


def test_the_same_seed_is_the_same_grid_however_often_it_is_asked() -> None:
    a, b, other = night(), night(), night(seed=2)
    assert a.offers == b.offers != other.offers
    asked = [a.read(0), a.read(0), b.read(0)]
    assert asked[0] == asked[1] == asked[2]
    assert [a.end_deg(k) for k in range(20)] == [b.end_deg(k) for k in range(20)]


def test_what_is_drawn_follows_the_models() -> None:
    models, grid = shipped_models(), night(crystals=5000)
    kinds = [grid.kind(k) for k in range(len(grid.offers))]
    for name, kind in models.kinds.items():
        numbers = [k for k, drawn in enumerate(kinds) if drawn == name]
        expected = kind.per_crystal * 5000
        assert abs(len(numbers) - expected) < 5 * math.sqrt(expected)
        answered = np.mean([grid.read(k).answered for k in numbers])
        spread = math.sqrt(kind.answered * (1 - kind.answered) / len(numbers))
        assert abs(answered - kind.answered) < 5 * spread + 1e-9
        shown = {(grid.offers[k].score, grid.offers[k].radius_nm) for k in numbers}
        assert shown <= set(kind.picks)
    ends = [e for k in range(len(kinds)) if (e := grid.end_deg(k)) is not None]
    assert abs(np.median(ends) / models.end_deg[0] - 1) < 0.1


def test_nothing_is_aligned_that_was_not_read_and_reached() -> None:
    grid = night(crystals=1000)
    for number in range(len(grid.offers)):
        reading = grid.read(number)
        assert reading.answered or not reading.reachable
        assert reading.reachable or grid.end_deg(number) is None
        assert reading.patterns >= 1


@given(number=st.integers(0, 50), low=st.floats(5.0, 250.0), high=st.floats(5.0, 250.0))
def test_below_the_critical_dose_more_electrons_never_resolve_less(
    number: int, low: float, high: float
) -> None:
    grid = night()
    low, high = min(low, high), max(low, high)
    coarse, fine = grid.resolution_A(number, low), grid.resolution_A(number, high)
    assert (coarse is None) == (fine is None)
    if coarse is not None and fine is not None:
        assert fine <= coarse * (1 + 1e-12)


def test_it_says_what_it_is() -> None:
    assert MARK.startswith("SURROGATE")
    assert shipped_models().made_by.startswith("python -m benchmarks.surrogate --measure")
