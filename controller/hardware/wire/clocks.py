"""The clock of an instrument that is somewhere else.

A wall clock needs no asking: this machine's runs as fast, only the origin differs.  A virtual or
paced one is asked every time, and a sleep is a request to it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.hardware.clock import Clock, WallClock
from controller.hardware.errors import LinkError, MicroscopeError
from controller.hardware.wire.requester import Requester

ASK_S = 5.0
SILENT_ASK_S = 0.5
LOOK_S = 0.02
LONGEST_S = 3600.0


def clock_facts(clock: Clock) -> dict[str, Any]:
    """What a hello says of the clock."""
    return {
        "wall_clock": isinstance(clock, WallClock | OffsetClock),
        "now_s": clock.now_s(),
        "utc": clock.utc().isoformat(),
    }


def clock_of(facts: Mapping[str, Any], link: Requester) -> Clock:
    """The clock that a hello told of."""
    if facts["wall_clock"]:
        return OffsetClock(float(facts["now_s"]), datetime.fromisoformat(facts["utc"]))
    return ServedClock(link)


class ServedClock:
    """The clock of the other side, asked every time.

    When it does not answer any more, its last answer goes on with this machine's clock: whoever
    writes down that the link is gone needs an instant for it.
    """

    def __init__(self, link: Requester) -> None:
        self._link = link
        self._now: tuple[float, float] | None = None
        self._utc: tuple[datetime, float] | None = None
        self._is_silent = False

    def call_at(self, at_s: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call `action` in a thread of its own, no more than `LOOK_S` of real time late."""
        cancelled = threading.Event()

        def wait() -> None:
            while not cancelled.is_set():
                try:
                    left_s = at_s - float(self._ask("clock.now"))
                except MicroscopeError:  # nobody tells the time any more: now is the time
                    left_s = 0.0
                if left_s <= 0:
                    action()
                    return
                cancelled.wait(LOOK_S)

        threading.Thread(target=wait, name="lodestem alarm", daemon=True).start()
        return cancelled.set

    def now_s(self) -> float:
        """Its monotonic seconds."""
        try:
            now_s = float(self._ask("clock.now"))
        except LinkError:
            if self._now is None:
                raise
            told_s, at_s = self._now
            return told_s + time.monotonic() - at_s
        self._now = (now_s, time.monotonic())
        return now_s

    def utc(self) -> datetime:
        """Its UTC."""
        try:
            utc = datetime.fromisoformat(self._ask("clock.utc"))
        except LinkError:
            if self._utc is None:
                raise
            told, at_s = self._utc
            return told + timedelta(seconds=time.monotonic() - at_s)
        self._utc = (utc, time.monotonic())
        return utc

    def _ask(self, verb: str) -> Any:  # noqa: ANN401  (seconds or text)
        """What the other side says; asked briefly if it did not answer the last time."""
        try:
            answer = self._link.ask(verb, timeout_s=SILENT_ASK_S if self._is_silent else ASK_S)[0]
        except LinkError:
            self._is_silent = True
            raise
        self._is_silent = False
        return answer

    def sleep(self, duration_s: float) -> None:
        """Wait on that clock."""
        if duration_s > 0:
            timeout_s = duration_s + LONGEST_S
            self._link.ask("clock.sleep", {"duration_s": duration_s}, timeout_s=timeout_s)


class OffsetClock:
    """The clock of this machine, set by the other side's at the time of the hello."""

    def __init__(self, now_s: float, utc: datetime) -> None:
        self._wall = WallClock()
        self._ahead_s = now_s - self._wall.now_s()
        self._ahead_utc = utc - datetime.now(UTC)

    def call_at(self, at_s: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call `action` in a thread of its own at `at_s`."""
        return self._wall.call_at(at_s - self._ahead_s, action)

    def now_s(self) -> float:
        """Monotonic seconds of the other side."""
        return self._wall.now_s() + self._ahead_s

    def utc(self) -> datetime:
        """UTC of the other side."""
        return datetime.now(UTC) + self._ahead_utc

    def sleep(self, duration_s: float) -> None:
        """Block the calling thread."""
        self._wall.sleep(duration_s)
