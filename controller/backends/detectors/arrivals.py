"""From what arrives on the wire to batches of consecutive frames.

A protocol turns its messages into arrivals; this module, the same for all, decides what is in
its turn, gathers it, and knows when to stop waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from controller.backends.detectors.keeping import Keeping, KeptElectrons, KeptFrames
from controller.backends.detectors.series_tally import SeriesTally
from controller.hardware.clock import Clock
from controller.hardware.errors import (
    ExposureTimeoutError,
    ProtocolError,
    StaleFrameError,
)
from controller.hardware.values import ScanBatch

SLICE_S = 0.05
"""How long a protocol may wait for its next message before it says that nothing came."""
HAND_ON_S = 0.1
"""A batch is handed on, and so committed, no later than this after its first frame."""


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
    counted
        Batches are lists of electrons; else dense frames, for a single picture.
    """

    job_id: UUID
    detector: str
    frame_shape: tuple[int, int]
    batch_frames: int
    top_is_void: bool
    stopped: Callable[[], bool]
    clock: Clock
    counted: bool = True


def batches(
    arrivals: Iterator[Arrival], tally: SeriesTally, how: Gathering, timeout_s: float
) -> Iterator[ScanBatch]:
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
            gathered.take(arrival, now_s)
            if gathered.ready:
                yield from gathered.handed_on()
            if tally.ended:
                return
            if not now_s < deadline_s:
                _give_up(how, tally, timeout_s)
    except Exception:
        gathered.close()
        yield from gathered.handed_on()
        raise


class _Batch:
    """Consecutive frames being gathered."""

    def __init__(self, how: Gathering, tally: SeriesTally) -> None:
        self._how = how
        self._tally = tally
        self._kept: Keeping = (KeptElectrons if how.counted else KeptFrames)(
            how.frame_shape, how.batch_frames, top_is_void=how.top_is_void
        )
        self.ready: list[ScanBatch] = []
        """What is to be handed on, in order."""
        self._first = 0
        self._next = 0
        self._since_s = 0.0

    def take(self, arrival: Arrival, now_s: float) -> None:
        """Take in one arrival; what is complete then is `ready`."""
        if isinstance(arrival, FrameArrived):  # nearly always; matching takes longer than the rest
            self._take_frame(arrival, now_s)
            return
        match arrival:
            case StaleArrived():
                self._tally.stale += 1
            case NothingArrived():
                self.close()
            case SeriesEnded():
                self._tally.ended = True
                self.close()

    def close(self) -> None:
        """What was gathered, if anything, is a batch."""
        if len(self._kept):
            batch, n_void = self._kept.take(self._how.job_id, self._first)
            self._tally.without_value += n_void
            self.ready.append(batch)

    def handed_on(self) -> list[ScanBatch]:
        """The batches that are ready, once."""
        ready, self.ready = self.ready, []
        return ready

    def _take_frame(self, arrival: FrameArrived, now_s: float) -> None:
        number, tally = arrival.number, self._tally
        if number != self._next:
            self.close()
        if tally.place(number):
            frame = arrival.decode()
            self._check_like(frame)
            if self._kept.add(frame) == 1:
                self._first, self._since_s = number, now_s
            self._next = number + 1
        if self._kept.is_full or tally.ended or now_s - self._since_s > HAND_ON_S:
            self.close()

    def _check_like(self, frame: NDArray[np.unsignedinteger]) -> None:
        """Every frame has the detector's shape and the type of the first one."""
        how, dtype = self._how, self._kept.dtype
        if frame.shape != how.frame_shape:
            raise ProtocolError(
                f"{how.detector} sent a frame of {frame.shape} pixels, it has {how.frame_shape}; "
                f"what came before is kept. Check its region of interest and the `shape` in the "
                f"configuration."
            )
        if dtype is not None and frame.dtype != dtype:
            raise ProtocolError(
                f"{how.detector} sent a frame of {frame.dtype} after frames of {dtype}; what "
                f"came before is kept. Somebody changed its bit depth during the scan."
            )


def _give_up(how: Gathering, tally: SeriesTally, timeout_s: float) -> NoReturn:
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
