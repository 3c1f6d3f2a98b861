"""Time as a dependency: one clock authority, wall or virtual, given to whoever needs it.

Nobody in lodestem calls ``time.sleep``.  In virtual time a sleep is a *request*: time jumps to
the earliest requested instant only when every registered participant sleeps (cf. trio's
``MockClock``), so that a ten-hour night is a test of seconds and its journal is reproducible.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable


class Clock(Protocol):
    """What time it is, and how to wait."""

    def now_s(self) -> float:
        """Monotonic seconds since an arbitrary origin; for deadlines and durations."""

    def utc(self) -> datetime:
        """Aware UTC time; for records only, since it may step."""

    def sleep(self, duration_s: float) -> None:
        """Return no earlier than `duration_s` from now; at once if it is not positive."""


@runtime_checkable
class Alarming(Protocol):
    """A clock that can also wake somebody else."""

    def call_at(self, at_s: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call `action` when ``now_s()`` reaches `at_s`; return what cancels it.

        It runs beside whoever is at work then, also while that one sleeps or hangs in a driver:
        in a thread of its own by the wall clock, inside a sleep in virtual time.
        """


def call_at(clock: Clock, at_s: float, action: Callable[[], None]) -> Callable[[], None]:
    """`Alarming.call_at`; a clock without alarms never calls."""
    return clock.call_at(at_s, action) if isinstance(clock, Alarming) else lambda: None


class WallClock:
    """The real time of this machine."""

    def call_at(self, at_s: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call `action` in a thread of its own at `at_s`."""
        timer = threading.Timer(max(0.0, at_s - self.now_s()), action)
        timer.daemon = True
        timer.start()
        return timer.cancel

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
        self._alarms: list[tuple[float, int, Callable[[], None]]] = []
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

    def call_at(self, at_s: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call `action` inside the sleep during which time reaches `at_s`."""
        with self._changed:
            self._order += 1
            alarm = (at_s, self._order, action)
            heapq.heappush(self._alarms, alarm)

        def cancel() -> None:
            with self._changed:
                if alarm in self._alarms:
                    self._alarms.remove(alarm)
                    heapq.heapify(self._alarms)

        return cancel

    def sleep(self, duration_s: float) -> None:
        """Wait in virtual time; return when all participants sleep and this wake-up is next."""
        if not duration_s > 0:
            return
        with self._changed:
            self._order += 1
            wake = (self._now_s + duration_s, self._order)
            heapq.heappush(self._wakes, wake)
        while (action := self._sleep_until(wake)) is not None:
            action()
            with self._changed:
                if wake[0] <= self._now_s:  # the alarm itself took time
                    return
                heapq.heappush(self._wakes, wake)

    def _sleep_until(self, wake: tuple[float, int]) -> Callable[[], None] | None:
        """None once `wake` has come; before that an alarm that this thread is to run."""
        with self._changed:
            self._jump_if_all_sleep()
            self._changed.wait_for(lambda: wake not in self._wakes or self._rings())
            if wake not in self._wakes:
                return None
            self._wakes.remove(wake)
            heapq.heapify(self._wakes)
            return heapq.heappop(self._alarms)[2]

    def _rings(self) -> bool:
        return bool(self._alarms) and self._alarms[0][0] <= self._now_s

    def _jump_if_all_sleep(self) -> None:
        if not self._wakes or len(self._wakes) < max(self._participants, 1):
            return
        if self._alarms and self._alarms[0][0] <= self._wakes[0][0]:
            self._now_s = max(self._now_s, self._alarms[0][0])
        else:
            self._now_s = max(self._now_s, heapq.heappop(self._wakes)[0])
        self._changed.notify_all()
