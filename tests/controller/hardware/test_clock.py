"""Virtual time: nobody oversleeps, nobody is overtaken, and time jumps only when all wait."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.hardware.clock import VirtualClock, WallClock
from tests.strategies import numbers


@given(st.lists(numbers(-1, 1e4), max_size=20))
def test_alone_a_sleep_takes_exactly_its_time(naps: list[float]) -> None:
    clock = VirtualClock()
    for nap in naps:
        before = clock.now_s()
        clock.sleep(nap)
        assert clock.now_s() == pytest.approx(before + max(nap, 0.0))


def test_utc_follows_and_may_step_without_moving_deadlines() -> None:
    start = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)
    clock = VirtualClock(start)
    clock.sleep(90)
    assert clock.utc() == start + timedelta(seconds=90)
    clock.step_utc(-3600)
    assert clock.utc() == start + timedelta(seconds=90 - 3600)
    assert clock.now_s() == 90


def test_a_start_without_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone; give an aware UTC"):
        VirtualClock(datetime(2026, 1, 1))  # noqa: DTZ001  (the point of the test)


def together(clock: VirtualClock, plans: list[list[float]]) -> list[list[float]]:
    """Run one thread per plan of naps, all registered before any starts; return wake-up times."""
    woke: list[list[float]] = [[] for _ in plans]
    ready = threading.Barrier(len(plans))

    def live(number: int) -> None:
        with clock.participant():
            ready.wait(10)
            for nap in plans[number]:
                clock.sleep(nap)
                woke[number].append(clock.now_s())

    threads = [threading.Thread(target=live, args=(n,)) for n in range(len(plans))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads), "somebody sleeps for ever"
    return woke


@settings(max_examples=25)
@given(st.lists(st.lists(numbers(0.01, 100), min_size=1, max_size=6), min_size=2, max_size=4))
def test_every_participant_wakes_exactly_when_it_asked_to(plans: list[list[float]]) -> None:
    """Sleeping never depends on what the others do: time waits for whoever is awake."""
    clock = VirtualClock()
    woke = together(clock, plans)
    for naps, times in zip(plans, woke, strict=True):
        expected = 0.0
        for nap, time in zip(naps, times, strict=True):
            expected += nap
            assert time == pytest.approx(expected)


def test_time_stands_still_while_a_participant_is_awake() -> None:
    clock = VirtualClock()
    woke = threading.Event()

    def sleeper() -> None:
        with clock.participant():
            asleep.set()
            clock.sleep(5)
            woke.set()

    asleep = threading.Event()
    with clock.participant():
        thread = threading.Thread(target=sleeper)
        thread.start()
        asleep.wait(5)
        assert not woke.wait(0.05)
        assert clock.now_s() == 0.0
        clock.sleep(7)
        assert woke.wait(5)
        assert clock.now_s() == 7.0
    thread.join(5)


def test_the_wall_clock_is_monotonic_aware_and_waits() -> None:
    clock = WallClock()
    before = clock.now_s()
    clock.sleep(0.01)
    clock.sleep(-1)
    assert clock.now_s() - before >= 0.01
    assert clock.utc().tzinfo is not None
