"""One thread for everything that is said to one vendor's interface.

COM objects belong to the thread that made them, and a vendor's socket answers one question at a
time.  A lane runs the calls one after the other, gives each a deadline, and lets blanking overtake
whatever has not begun.  What was given up is never carried out later.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from controller.hardware.errors import BeamState, ReplyTimeoutError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Task(Protocol[T_co]):
    """A call that was handed over."""

    def done(self) -> bool:
        """Whether it has ended, well or badly."""

    def result(self, timeout_s: float, *, insist: bool = False) -> T_co:
        """What it returned; raises what it raised.

        Raises
        ------
        ReplyTimeoutError
            Not ended in `timeout_s`. If it had not begun, it never will; with `insist` it stays
            in the queue and will be carried out.
        """

    def abandon(self) -> None:
        """Never begin; without effect once begun."""


class Lane(Protocol):
    """Runs calls one after the other."""

    def start(self, work: Callable[[], T], what: str, *, urgent: bool = False) -> Task[T]:
        """Hand over `work` and return at once; urgent work overtakes what has not begun."""

    def call(
        self, work: Callable[[], T], what: str, *, timeout_s: float, urgent: bool = False
    ) -> T:
        """Run `work` in its turn and return what it returns."""

    def close(self) -> None:
        """Give up what has not begun and end. Idempotent."""


class _ThreadTask(Generic[T]):
    def __init__(self, work: Callable[[], T], what: str) -> None:
        self._work = work
        self._what = what
        self._claim = threading.Lock()
        self._ended = threading.Event()
        self._value: list[T] = []
        self._problem: BaseException | None = None

    def run(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        try:
            self._value.append(self._work())
        except BaseException as problem:  # noqa: BLE001  (handed to whoever asks for the result)
            self._problem = problem
        finally:
            self._ended.set()

    def done(self) -> bool:
        return self._ended.is_set()

    def abandon(self) -> None:
        if self._claim.acquire(blocking=False):
            self._problem = _timeout(self._what, 0.0, begun=False)
            self._ended.set()

    def result(self, timeout_s: float, *, insist: bool = False) -> T:
        if not self._ended.wait(timeout_s):
            if not insist:
                self.abandon()
            if not self._ended.is_set():
                raise _timeout(self._what, timeout_s, begun=True)
        if self._problem is not None:
            raise self._problem
        return self._value[0]


class ThreadLane:
    """A lane in real time: one worker thread, which ends with the process."""

    def __init__(self, name: str) -> None:
        self._queue: queue.PriorityQueue[tuple[int, int, _ThreadTask[object] | None]] = (
            queue.PriorityQueue()
        )
        self._number = itertools.count()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lane-{name}", daemon=True)
        self._thread.start()

    def start(self, work: Callable[[], T], what: str, *, urgent: bool = False) -> Task[T]:
        """Hand over; see `Lane.start`."""
        task = _ThreadTask(work, what)
        if self._closed.is_set():
            task.abandon()
        self._queue.put((0 if urgent else 1, next(self._number), task))  # type: ignore[arg-type]
        return task

    def call(
        self, work: Callable[[], T], what: str, *, timeout_s: float, urgent: bool = False
    ) -> T:
        """Hand over and wait; see `Lane.call`."""
        if threading.current_thread() is self._thread:
            return work()
        return self.start(work, what, urgent=urgent).result(timeout_s)

    def close(self) -> None:
        """End after the call that runs now."""
        self._closed.set()
        self._queue.put((2, next(self._number), None))

    def _run(self) -> None:
        while True:
            task = self._queue.get()[2]
            if task is None:
                return
            task.run()


def _timeout(what: str, timeout_s: float, *, begun: bool) -> ReplyTimeoutError:
    if not begun:
        return ReplyTimeoutError(
            f"{what}: the connection was busy for {timeout_s:g} s, so it was given up before it "
            f"began and will not be carried out. Wait for what is under way, or stop it.",
            beam_state=BeamState.UNKNOWN,
        )
    return ReplyTimeoutError(
        f"{what}: no reply within {timeout_s:g} s; whether it was carried out is not known. "
        f"Read the instrument back before anything else.",
        beam_state=BeamState.UNKNOWN,
    )
