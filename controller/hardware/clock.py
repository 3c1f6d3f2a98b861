"""Time as a dependency: one clock authority, wall or virtual, given to whoever needs it.

Nobody in lodestem calls ``time.sleep``.  In virtual time a sleep is a *request*: time jumps to
the earliest requested instant only when every registered participant sleeps (cf. trio's
``MockClock``), so that a ten-hour night is a test of seconds and its journal is reproducible.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What time it is, and how to wait."""

    def now_s(self) -> float:
        """Monotonic seconds since an arbitrary origin; for deadlines and durations."""

    def utc(self) -> datetime:
        """Aware UTC time; for records only, since it may step."""

    def sleep(self, duration_s: float) -> None:
        """Return no earlier than `duration_s` from now; at once if it is not positive."""


class WallClock:
    """The real time of this machine."""

    def now_s(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def utc(self) -> datetime:
        """Aware UTC time of this machine."""
        return datetime.now(UTC)

    def sleep(self, duration_s: float) -> None:
        """Block the calling thread."""
        if duration_s > 0:
            time.sleep(duration_s)


class VirtualClock:
    """Simulated time that jumps when everybody waits.

    Parameters
    ----------
    start
        UTC instant at ``now_s() == 0``.

    Notes
    -----
    A thread that takes part registers itself with :meth:`participant`; with none registered the
    calling thread is taken to be the only one, and its sleeps return at once.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, 20, 0, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError(
                f"the start of virtual time {start} has no time zone; give an aware UTC"
            )
        self._start = start
        self._now_s = 0.0
        self._step_s = 0.0
        self._participants = 0
        self._order = 0
        self._wakes: list[tuple[float, int]] = []
        self._changed = threading.Condition()

    def now_s(self) -> float:
        """Virtual seconds since the start."""
        with self._changed:
            return self._now_s

    def utc(self) -> datetime:
        """Virtual UTC time, with any injected step of the record clock."""
        with self._changed:
            return self._start + timedelta(seconds=self._now_s + self._step_s)

    def step_utc(self, step_s: float) -> None:
        """Make the record clock jump, as NTP or a person would; deadlines do not notice."""
        with self._changed:
            self._step_s += step_s

    @contextmanager
    def participant(self) -> Iterator[None]:
        """Register the calling thread: time does not advance while it is awake."""
        with self._changed:
            self._participants += 1
        try:
            yield
        finally:
            with self._changed:
                self._participants -= 1
                self._jump_if_all_sleep()

    def sleep(self, duration_s: float) -> None:
        """Wait in virtual time; return when all participants sleep and this wake-up is next."""
        if not duration_s > 0:
            return
        with self._changed:
            self._order += 1
            wake = (self._now_s + duration_s, self._order)
            heapq.heappush(self._wakes, wake)
            self._jump_if_all_sleep()
            self._changed.wait_for(lambda: wake not in self._wakes)

    def _jump_if_all_sleep(self) -> None:
        if self._wakes and len(self._wakes) >= max(self._participants, 1):
            self._now_s = max(self._now_s, heapq.heappop(self._wakes)[0])
            self._changed.notify_all()
