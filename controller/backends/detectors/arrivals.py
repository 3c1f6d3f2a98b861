"""From what arrives on the wire to batches of consecutive frames.

A protocol turns its messages into arrivals; this module, the same for all, decides what is in
its turn, gathers it, and knows when to stop waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from controller.backends.detectors.series_tally import SeriesTally
from controller.hardware.clock import Clock
from controller.hardware.errors import ExposureTimeoutError, ProtocolError, StaleFrameError
from controller.hardware.values import FrameBatch

SLICE_S = 0.05
"""How long a protocol may wait for its next message before it says that nothing came."""


@dataclass(frozen=True)
class FrameArrived:
    """One frame of the armed series: its position, and how to get its counts."""

    number: int
    decode: Callable[[], NDArray[np.unsignedinteger]]
    """Counts (det_y, det_x), any byte order; called only for a frame in its turn."""


@dataclass(frozen=True)
class StaleArrived:
    """A frame or message of another series."""

    what: str


@dataclass(frozen=True)
class SeriesEnded:
    """The detector says that this series is over."""


@dataclass(frozen=True)
class NothingArrived:
    """Nothing for `SLICE_S`."""


Arrival = FrameArrived | StaleArrived | SeriesEnded | NothingArrived


@dataclass
class Gathering:
    """How frames become batches.

    void_value
        The reading that stands for overflow or a masked pixel; it becomes 0 and is counted.
    """

    job_id: UUID
    detector: str
    frame_shape: tuple[int, int]
    batch_frames: int
    void_value: int | None
    stopped: Callable[[], bool]
    clock: Clock


def batches(
    arrivals: Iterator[Arrival], tally: SeriesTally, how: Gathering, timeout_s: float
) -> Iterator[FrameBatch]:
    """Gather arrivals into batches until the series ends, somebody stops it, or time is over.

    A batch is handed on when it is full, when the next frame does not follow, or when nothing
    came for a moment.  Before an error everything that came is handed on.

    Raises
    ------
    ExposureTimeoutError, StaleFrameError
        The series is not over after `timeout_s`.
    ProtocolError
        A frame has another shape than the detector.
    """
    deadline_s = how.clock.now_s() + timeout_s
    gathered = _Batch(how, tally)
    try:
        for arrival in arrivals:
            if how.stopped():
                return
            yield from gathered.take(arrival)
            if tally.ended:
                return
            _check_time(how, tally, timeout_s, deadline_s)
    except Exception:
        yield from gathered.hand_on()
        raise


class _Batch:
    """Consecutive frames being gathered."""

    def __init__(self, how: Gathering, tally: SeriesTally) -> None:
        self._how = how
        self._tally = tally
        self._data: NDArray[np.unsignedinteger] | None = None
        self._first = 0
        self._count = 0

    def take(self, arrival: Arrival) -> Iterator[FrameBatch]:
        """Take in one arrival; yields what is ready to be handed on."""
        match arrival:
            case FrameArrived(number, decode):
                if number != self._first + self._count:
                    yield from self.hand_on()
                if self._tally.place(number):
                    self._add(number, decode())
                if self._count >= self._how.batch_frames or self._tally.ended:
                    yield from self.hand_on()
            case StaleArrived():
                self._tally.stale += 1
            case NothingArrived():
                yield from self.hand_on()
            case SeriesEnded():
                self._tally.ended = True
                yield from self.hand_on()

    def hand_on(self) -> Iterator[FrameBatch]:
        """Yield what was gathered, if anything; the next frame goes into a new array."""
        data, first, count = self._data, self._first, self._count
        if data is not None and count:
            self._data, self._first, self._count = None, first + count, 0
            yield FrameBatch(self._how.job_id, first, data[:count])

    def _add(self, number: int, frame: NDArray[np.unsignedinteger]) -> None:
        how = self._how
        if frame.shape != how.frame_shape:
            raise ProtocolError(
                f"{how.detector} sent a frame of {frame.shape} pixels, it has {how.frame_shape}; "
                f"what came before is kept. Check its region of interest and the `shape` in the "
                f"configuration."
            )
        if self._count == 0:
            self._first = number
        if self._data is None:
            native = frame.dtype.newbyteorder("=")
            self._data = np.empty((how.batch_frames, *how.frame_shape), native)
        stored = self._data[self._count]
        stored[...] = frame
        if how.void_value is not None and stored.max() >= how.void_value:
            void = stored >= how.void_value
            self._tally.without_value += int(void.sum())
            stored[void] = 0
        self._count += 1


def _check_time(how: Gathering, tally: SeriesTally, timeout_s: float, deadline_s: float) -> None:
    if how.clock.now_s() < deadline_s:
        return
    state = f"{tally.report().in_words()} within {timeout_s:.3g} s from {how.detector}"
    if tally.received == 0 and tally.stale > 0:
        raise StaleFrameError(
            f"only frames of another series came: {state}; nothing was written and the caller "
            f"blanks. Look for a second program that arms this detector."
        )
    raise ExposureTimeoutError(
        f"the series is not over: {state}; what came is kept and the caller blanks. Look at the "
        f"trigger cable and for a second client of the stream."
    )
