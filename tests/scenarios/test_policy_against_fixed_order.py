"""The policy against a fixed order with fixed conditions, on surrogate nights."""

from __future__ import annotations

import pytest

from benchmarks.surrogate import compare, plans, surrogate_night
from sim_microscope.surrogate import SurrogateNight


def test_a_surrogate_night_is_the_same_night_again() -> None:
    shipped, _ = plans(0.5, 5.0)
    grid = {"crystals": 60, "field_um": 20.0}
    assert surrogate_night(shipped, SurrogateNight(3, **grid)) == surrogate_night(
        shipped, SurrogateNight(3, **grid)
    )


def test_no_night_goes_on_after_its_hours_by_more_than_a_crystal() -> None:
    shipped, _ = plans(0.5, 5.0)
    night = surrogate_night(shipped, SurrogateNight(3, crystals=200, field_um=40.0))
    assert 0.5 < night.hours < 0.5 + 0.1
    assert 0 < night.accepted <= night.visited


@pytest.mark.timeout(600)
def test_the_policy_gives_more_accepted_scans_per_beam_hour() -> None:
    found = compare(4, hours=1.5)
    assert found.ratio > 1.15


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_two_hundred_nights_give_thirty_per_cent_more() -> None:
    found = compare(200)
    low, _ = found.interval()
    assert found.ratio >= 1.3
    assert low >= 1.3
