from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_microscope.goniometer import Manners, at_rest, start_travel, stop_travel

EXACT = Manners(speed_per_s=2.0, play=0.4, repeatability=0.0, read_noise=0.0, creep=0.0)


def travel_to(targets: list[float], manners: Manners = EXACT) -> tuple[float, float]:
    """Drive and specimen after a sequence of moves."""
    rng = np.random.default_rng(0)
    now, travel = 0.0, at_rest(0.0)
    for target in targets:
        travel = start_travel(travel, target, now, manners, rng)
        now = travel.to_s + 100.0
    return travel.drive(now), travel.actual(now, manners.play)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8))
def test_the_specimen_is_never_further_behind_than_half_the_play(targets: list[float]) -> None:
    drive, actual = travel_to(targets)
    assert drive == pytest.approx(targets[-1])
    assert abs(drive - actual) <= EXACT.play / 2 + 1e-9


@given(st.floats(-20, 20), st.lists(st.floats(-20, 20), max_size=4))
def test_coming_from_below_takes_out_the_play(target: float, history: list[float]) -> None:
    """Whatever happened before, an approach from 1 below ends in the same place."""
    _, actual = travel_to([*history, target - 1.0, target])
    assert actual == pytest.approx(target - EXACT.play / 2)


def test_reversing_by_less_than_the_play_moves_nothing() -> None:
    _, before = travel_to([5.0])
    _, after = travel_to([5.0, 4.7])
    assert after == before
    _, far = travel_to([5.0, 4.0])
    assert far == pytest.approx(4.2)


def test_a_move_takes_the_time_of_its_speed_and_is_where_it_should_be_on_the_way() -> None:
    travel = start_travel(at_rest(0.0), 10.0, 3.0, EXACT, np.random.default_rng(0))
    assert travel.to_s - 3.0 == pytest.approx(5.0, abs=0.1)
    assert travel.drive(3.0) == 0.0
    assert travel.drive(0.5 * (3.0 + travel.to_s)) == pytest.approx(5.0)
    assert travel.drive(1e3) == 10.0


def test_stopping_holds_the_drive_where_it_is() -> None:
    travel = start_travel(at_rest(0.0), 10.0, 0.0, EXACT, np.random.default_rng(0))
    held = stop_travel(travel, 2.0, EXACT.play)
    assert held.drive(50.0) == travel.drive(2.0)
    assert held.actual(50.0, EXACT.play) == travel.actual(2.0, EXACT.play)


def test_creep_comes_late_and_dies_out() -> None:
    creeping = Manners(2.0, 0.0, 0.05, 0.0, creep=1.0)
    travel = start_travel(at_rest(0.0), 8.0, 0.0, creeping, np.random.default_rng(3))
    lag = [travel.end - travel.actual(travel.to_s + wait, 0.0) for wait in (0.0, 6.0, 60.0)]
    assert lag[0] == pytest.approx(0.25)
    assert lag[1] == pytest.approx(0.25 / np.e)
    assert abs(lag[2]) < 1e-4
    assert travel.actual(0.0, 0.0) == 0.0


def test_the_residual_has_the_stated_spread() -> None:
    manners = Manners(2.0, 0.0, 0.05, 0.0, 0.0)
    rng = np.random.default_rng(1)
    ends = [start_travel(at_rest(0.0), 1.0, 0.0, manners, rng).end for _ in range(400)]
    assert np.std(ends) == pytest.approx(0.05, rel=0.15)
