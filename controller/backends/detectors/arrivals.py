"""From what arrives on the wire to batches of consecutive frames.

A protocol turns its messages into arrivals; this module, the same for all, decides what is in
its turn, gathers it, and knows when to stop waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from controller.backends.detectors.series_tally import SeriesTally
from controller.hardware.clock import Clock
from controller.hardware.errors import ExposureTimeoutError, ProtocolError, StaleFrameError
from controller.hardware.values import FrameBatch

SLICE_S = 0.05
"""How long a protocol may wait for its next message before it says that nothing came."""
HAND_ON_S = 0.1
"""A batch is handed on, and so committed, no later than this after its first frame."""
BATCH_BYTES = 1 << 22
"""A batch holds no more, whatever the configuration says, but at least one frame."""


class FrameArrived(NamedTuple):  # made for every frame: a third of the time of a dataclass
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

    top_is_void
        The largest value of the pixel type stands for overflow or a masked pixel; it becomes 0
        and is counted.
    """

    job_id: UUID
    detector: str
    frame_shape: tuple[int, int]
    batch_frames: int
    top_is_void: bool
    stopped: Callable[[], bool]
    clock: Clock


def batches(
    arrivals: Iterator[Arrival], tally: SeriesTally, how: Gathering, timeout_s: float
) -> Iterator[FrameBatch]:
    """Gather arrivals into batches until the series ends, somebody stops it, or time is over.

    A batch is handed on when it is full, when the next frame does not follow, when nothing came
    for a moment, and after `HAND_ON_S` at the latest.  Before an error everything that came is
    handed on.

    Raises
    ------
    ExposureTimeoutError, StaleFrameError
        The series is not over after `timeout_s`.
    ProtocolError
        A frame has another shape than the detector, or another type than the one before.
    """
    deadline_s = how.clock.now_s() + timeout_s
    gathered = _Batch(how, tally)
    try:
        for arrival in arrivals:
            if how.stopped():
                return
            now_s = how.clock.now_s()
            yield from gathered.take(arrival, now_s)
            if tally.ended:
                return
            _check_time(how, tally, timeout_s, is_over=not now_s < deadline_s)
    except Exception:
        yield from gathered.hand_on()
        raise


class _Batch:
    """Consecutive frames being gathered."""

    def __init__(self, how: Gathering, tally: SeriesTally) -> None:
        self._how = how
        self._tally = tally
        self._data: NDArray[np.unsignedinteger] | None = None
        self._like: np.dtype[np.unsignedinteger] | None = None
        self._first = 0
        self._count = 0
        self._since_s = 0.0

    def take(self, arrival: Arrival, now_s: float) -> Iterator[FrameBatch]:
        """Take in one arrival; yields what is ready to be handed on."""
        match arrival:
            case FrameArrived(number, decode):
                if number != self._first + self._count:
                    yield from self.hand_on()
                if self._tally.place(number):
                    self._add(number, decode(), now_s)
                if self._tally.ended or self._is_due(now_s):
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
            if self._how.top_is_void:
                self._empty_voids(data[:count])
            yield FrameBatch(self._how.job_id, first, data[:count])

    def _empty_voids(self, frames: NDArray[np.unsignedinteger]) -> None:
        top = np.iinfo(frames.dtype).max
        if frames.max() == top:
            void = frames == top
            self._tally.without_value += int(np.count_nonzero(void))
            frames[void] = 0

    def _is_due(self, now_s: float) -> bool:
        full = self._data is not None and self._count >= len(self._data)
        return full or (self._count > 0 and now_s - self._since_s > HAND_ON_S)

    def _add(self, number: int, frame: NDArray[np.unsignedinteger], now_s: float) -> None:
        data = self._room(frame)
        if self._count == 0:
            self._first, self._since_s = number, now_s
        data[self._count] = frame
        self._count += 1

    def _room(self, frame: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        """The array that the frame goes into, new if there is none."""
        how = self._how
        if self._data is not None and frame.shape == how.frame_shape and frame.dtype == self._like:
            return self._data
        if frame.shape != how.frame_shape:
            raise ProtocolError(
                f"{how.detector} sent a frame of {frame.shape} pixels, it has {how.frame_shape}; "
                f"what came before is kept. Check its region of interest and the `shape` in the "
                f"configuration."
            )
        if self._data is not None:
            raise ProtocolError(
                f"{how.detector} sent a frame of {frame.dtype} after frames of {self._like}; what "
                f"came before is kept. Somebody changed its bit depth during the scan."
            )
        n_frames = min(how.batch_frames, max(1, BATCH_BYTES // frame.nbytes))
        self._data = np.empty((n_frames, *how.frame_shape), frame.dtype.newbyteorder("="))
        self._like = frame.dtype
        return self._data


def _check_time(how: Gathering, tally: SeriesTally, timeout_s: float, *, is_over: bool) -> None:
    if not is_over:
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
