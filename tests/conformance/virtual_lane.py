"""A lane in virtual time for instruments whose calls block: nobody waits, and it is deterministic.

A blocking call is carried out at once, and says through `Blocking.spend` how long it would have
taken; the lane then counts as taken until that time is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from controller.backends.lane import Task
from controller.hardware.clock import VirtualClock
from controller.hardware.errors import ReplyTimeoutError

T = TypeVar("T")


class Blocking:
    """Where a fake vendor writes down how long its calls block."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.spent_s = 0.0

    def spend(self, duration_s: float) -> None:
        self.spent_s += duration_s

    def now_s(self) -> float:
        return self.clock.now_s() + self.spent_s


class VirtualTask(Generic[T]):
    def __init__(self, clock: VirtualClock, work: Callable[[], T]) -> None:
        self._clock = clock
        self._value: list[T] = []
        self._problem: Exception | None = None
        self.ends_s = 0.0
        try:
            self._value.append(work())
        except Exception as problem:  # noqa: BLE001  (handed to whoever asks for the result)
            self._problem = problem

    def done(self) -> bool:
        return self._clock.now_s() >= self.ends_s - 1e-9

    def abandon(self) -> None:
        """It has begun already."""

    def result(self, timeout_s: float, *, insist: bool = False) -> T:
        left_s = self.ends_s - self._clock.now_s()
        self._clock.sleep(min(left_s, timeout_s))
        if left_s > timeout_s + 1e-9:
            raise ReplyTimeoutError(f"no reply within {timeout_s:g} s")
        if self._problem is not None:
            raise self._problem
        return self._value[0]


class VirtualLane:
    """Implements `controller.backends.lane.Lane`."""

    def __init__(self, blocking: Blocking) -> None:
        self._blocking = blocking
        self._clock = blocking.clock
        self._free_s = 0.0

    def start(self, work: Callable[[], T], what: str, *, urgent: bool = False) -> Task[T]:
        begins_s = max(self._clock.now_s(), self._free_s)
        self._blocking.spent_s = begins_s - self._clock.now_s()
        task = VirtualTask(self._clock, work)
        self._free_s = task.ends_s = self._clock.now_s() + self._blocking.spent_s
        self._blocking.spent_s = 0.0
        return task

    def call(
        self, work: Callable[[], T], what: str, *, timeout_s: float, urgent: bool = False
    ) -> T:
        return self.start(work, what, urgent=urgent).result(timeout_s)

    def close(self) -> None:
        """Nothing to end."""
