"""The clock of the other side rings too: the watch over an open beam hangs on it."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any, cast

from controller.hardware.clock import Alarming
from controller.hardware.errors import UnreachableError
from controller.hardware.wire.clocks import OffsetClock, ServedClock
from controller.hardware.wire.requester import Requester


class Link:
    """Tells a time that runs a hundred times as fast, until it is cut."""

    def __init__(self) -> None:
        self.begun_s = time.monotonic()
        self.is_cut = False

    def ask(self, verb: str, args: object = None, *, timeout_s: float) -> tuple[Any, list[Any]]:
        if self.is_cut:
            raise UnreachableError("cut")
        return 100 * (time.monotonic() - self.begun_s), []


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
