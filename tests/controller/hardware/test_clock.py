"""Virtual time: nobody oversleeps, nobody is overtaken, and time jumps only when all wait."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.hardware.clock import VirtualClock, WallClock, call_at
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


def test_an_alarm_rings_inside_a_sleep_at_its_instant() -> None:
    clock = VirtualClock()
    rung: list[float] = []
    clock.call_at(2.5, lambda: rung.append(clock.now_s()))
    clock.call_at(1.5, lambda: rung.append(clock.now_s()))
    clock.sleep(1.0)
    assert rung == []
    clock.sleep(9.0)
    assert rung == [1.5, 2.5]
    assert clock.now_s() == 10.0


def test_an_alarm_that_was_cancelled_stays_silent() -> None:
    clock = VirtualClock()
    rung: list[float] = []
    cancel = clock.call_at(1.0, lambda: rung.append(clock.now_s()))
    cancel()
    cancel()
    clock.sleep(3.0)
    assert rung == []


def test_an_alarm_may_set_the_next_one_and_may_take_time() -> None:
    clock = VirtualClock()
    rung: list[float] = []

    def tick() -> None:
        rung.append(clock.now_s())
        clock.sleep(0.25)
        if len(rung) < 3:
            clock.call_at(clock.now_s() + 0.75, tick)

    clock.call_at(1.0, tick)
    clock.sleep(2.1)
    assert rung == [1.0, 2.0]
    assert clock.now_s() == pytest.approx(2.25)  # the sleeper had to wait for the alarm
    clock.sleep(5.0)
    assert rung == [1.0, 2.0, 3.0]
    assert clock.now_s() == pytest.approx(7.25)


def test_what_an_alarm_raises_wakes_the_sleeper() -> None:
    clock = VirtualClock()

    def interrupt() -> None:
        raise KeyboardInterrupt

    clock.call_at(1.0, interrupt)
    with pytest.raises(KeyboardInterrupt):
        clock.sleep(5.0)
    clock.sleep(1.0)
    assert clock.now_s() == 2.0


@pytest.mark.timeout(20)
def test_an_alarm_rings_once_however_many_sleep() -> None:
    clock = VirtualClock()
    rung: list[float] = []
    clock.call_at(1.0, lambda: rung.append(clock.now_s()))
    woken = together(clock, [[0.6, 0.9], [2.0], [0.5, 0.5, 0.5]])
    assert rung == [1.0]
    assert woken == [[0.6, 1.5], [2.0], [0.5, 1.0, 1.5]]


@pytest.mark.timeout(20)
def test_by_the_wall_clock_an_alarm_rings_while_the_caller_is_busy() -> None:
    clock = WallClock()
    rung = threading.Event()
    call_at(clock, clock.now_s() + 0.02, rung.set)
    silent = threading.Event()
    call_at(clock, clock.now_s() + 0.02, silent.set)()
    assert rung.wait(10.0)
    assert not silent.wait(0.1)


def test_a_clock_without_alarms_never_calls() -> None:
    class Plain:
        def now_s(self) -> float:
            return 0.0

        def utc(self) -> datetime:
            return datetime.now(UTC)

        def sleep(self, duration_s: float) -> None:
            pass

    call_at(Plain(), -1.0, lambda: pytest.fail("nobody can call"))()
