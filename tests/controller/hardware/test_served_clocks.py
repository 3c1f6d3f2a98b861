"""The clock of the other side rings too: the watch over an open beam hangs on it."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from controller.hardware.clock import Alarming
from controller.hardware.errors import UnreachableError
from controller.hardware.wire.clocks import OffsetClock, ServedClock
from controller.hardware.wire.requester import Requester

EPOCH = datetime(2026, 12, 1, tzinfo=UTC)


class Link:
    """Tells a time that runs a hundred times as fast, until it is cut."""

    def __init__(self) -> None:
        self.begun_s = time.monotonic()
        self.is_cut = False

    def ask(self, verb: str, args: object = None, *, timeout_s: float) -> tuple[Any, list[Any]]:
        if self.is_cut:
            raise UnreachableError("cut")
        now_s = 100 * (time.monotonic() - self.begun_s)
        return (
            now_s if verb == "clock.now" else (EPOCH + timedelta(seconds=now_s)).isoformat()
        ), []


def test_a_served_clock_goes_on_as_ours_where_the_other_side_falls_silent() -> None:
    link = Link()
    clock = ServedClock(cast(Requester, link))
    before_s, before = clock.now_s(), clock.utc()
    link.is_cut = True
    time.sleep(0.02)
    assert 0.02 <= clock.now_s() - before_s < 60
    assert 0.02 <= (clock.utc() - before).total_seconds() < 60


def test_a_served_clock_that_never_answered_tells_no_time() -> None:
    link = Link()
    link.is_cut = True
    clock = ServedClock(cast(Requester, link))
    for ask in (clock.now_s, clock.utc):
        with pytest.raises(UnreachableError):
            ask()


def rings(clock: Alarming, at_s: float) -> tuple[threading.Event, Any]:
    rung = threading.Event()
    return rung, clock.call_at(at_s, rung.set)


def test_a_clock_ahead_of_ours_rings_at_its_time() -> None:
    clock = OffsetClock(1e6, datetime.now(UTC))
    rung, _ = rings(clock, clock.now_s() + 0.1)
    assert not rung.is_set()
    assert rung.wait(2)
    assert clock.now_s() >= 1e6 + 0.1


def test_a_served_clock_rings_can_be_silenced_and_rings_when_the_link_is_cut() -> None:
    link = Link()
    clock = ServedClock(cast(Requester, link))
    assert isinstance(clock, Alarming)
    rung, _ = rings(clock, 10.0)
    assert rung.wait(2)
    silent, cancel = rings(clock, clock.now_s() + 50.0)
    cancel()
    later, _ = rings(clock, clock.now_s() + 1e6)
    assert not silent.wait(0.7)
    link.is_cut = True
    assert later.wait(2), "nobody tells the time any more: now is the time"
