"""Every frame of a series came once, in its turn, or is reported by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.backends.detectors.series_tally import SeriesTally
from controller.hardware.errors import SequenceGapError, ShortReadError, StaleFrameError


@given(st.integers(1, 40), st.lists(st.integers(-3, 45), max_size=120))
def test_every_number_is_accounted_for_exactly_once(expected: int, numbers: list[int]) -> None:
    """Whatever comes: received, missing, repeated, late and beyond add up and never overlap."""
    tally = SeriesTally(expected)
    placed = [n for n in numbers if tally.place(n)]
    report = tally.report()
    assert placed == sorted(set(placed))
    assert len(placed) == report.received
    assert sorted([*placed, *report.missing]) == list(range(expected))
    assert report.n_missing == len(report.missing)
    assert set(report.repeated) <= set(placed)
    assert set(report.late) <= set(report.missing)
    thrown_away = report.n_repeated + report.n_late + report.beyond
    assert report.received + thrown_away == len(numbers)


@given(st.integers(1, 40))
def test_an_undisturbed_series_is_clean(expected: int) -> None:
    tally = SeriesTally(expected)
    assert all(tally.place(n) for n in range(expected))
    assert tally.report().is_clean
    assert tally.report().problem() is None
    tally.report().check()


def after(*numbers: int, expected: int = 6, stale: int = 0) -> SeriesTally:
    tally = SeriesTally(expected, stale=stale)
    for number in numbers:
        tally.place(number)
    return tally


def test_a_gap_is_named() -> None:
    with pytest.raises(SequenceGapError, match="5 of 6 frames, 1 missing at 2;") as caught:
        after(0, 1, 3, 4, 5).report().check()
    assert caught.value.snapshot["missing"] == [2]


def test_a_late_frame_is_told_from_a_repeated_one() -> None:
    report = after(0, 2, 2, 1, 3, 4, 5).report()
    assert (report.late, report.repeated, report.missing) == ((1,), (2,), (1,))
    with pytest.raises(SequenceGapError, match="1 missing at 1, 1 repeated at 2, 1 late at 1"):
        report.check()


def test_a_series_that_stops_early_is_short() -> None:
    report = after(0, 1, 3).report()
    assert report.short_by == 2
    assert report.missing == (2, 4, 5)
    with pytest.raises(ShortReadError, match="3 of 6 frames, 3 missing at 2, 4, 5, no end"):
        report.check()


def test_strangers_between_are_stale_frames() -> None:
    with pytest.raises(StaleFrameError, match="6 of 6 frames, 4 of another series"):
        after(0, 1, 2, 3, 4, 5, stale=4).report().check()


def test_a_million_missing_frames_are_counted_and_a_thousand_named() -> None:
    report = after(0, 999_999, expected=1_000_000).report()
    assert report.n_missing == 999_998
    assert len(report.missing) == 1000
    assert report.short_by == 0
    assert "999998 missing at 1, 2, 3, 4, 5, 6, 7, 8, …" in report.in_words()
