"""What an external detector promises, and how it reports what became of a series of frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from controller.hardware.errors import (
    DetectorError,
    SequenceGapError,
    ShortReadError,
    StaleFrameError,
)
from controller.hardware.values import DetectorInfo, DetectorJob, ScanBatch

MAX_LISTED = 1000
"""How many positions of each kind a report names; the counts are always whole."""
_IN_A_MESSAGE = 8


@dataclass(frozen=True)
class StreamReport:
    """What became of every frame of one series; positions count from 0 in scan order."""

    expected: int
    received: int
    """Frames that came in their turn and were handed on."""
    n_missing: int
    missing: tuple[int, ...]
    """Positions without a frame (at most `MAX_LISTED` are named)."""
    short_by: int
    """How many of these lie after the last frame that came."""
    n_repeated: int
    repeated: tuple[int, ...]
    """Positions whose frame came again; the first one counts."""
    n_late: int
    late: tuple[int, ...]
    """Positions whose frame came after later ones; thrown away, so also missing."""
    stale: int
    """Frames and messages of another series, thrown away."""
    beyond: int
    """Frames with a number outside the series, thrown away."""
    without_value: int
    """Pixel readings that the detector marked as overflow or masked; stored as 0."""
    ended: bool
    """The series was received to its end: the last frame, or the detector's own end mark."""

    @property
    def is_clean(self) -> bool:
        """Every frame came once, in order, and nothing else did."""
        strange = self.n_missing + self.n_repeated + self.n_late + self.stale + self.beyond
        return self.ended and strange == 0

    def in_words(self) -> str:
        """One line with numbers and positions."""
        said = [f"{self.received} of {self.expected} frames"]
        for count, name, where in (
            (self.n_missing, "missing", self.missing),
            (self.n_repeated, "repeated", self.repeated),
            (self.n_late, "late", self.late),
        ):
            if count:
                said.append(f"{count} {name} at {_positions(where, count)}")
        if self.stale:
            said.append(f"{self.stale} of another series")
        if self.beyond:
            said.append(f"{self.beyond} numbered outside the series")
        if self.without_value:
            said.append(f"{self.without_value} pixel readings without a value")
        if not self.ended:
            said.append("no end of the series was seen")
        return ", ".join(said)

    def problem(self) -> DetectorError | None:
        """The error that describes this series, or None for a clean one.

        ``ShortReadError`` where the end is missing, ``SequenceGapError`` for any other loss,
        repetition or lateness, ``StaleFrameError`` where only strangers came between.
        """
        if self.is_clean:
            return None
        error: type[DetectorError] = SequenceGapError
        if self.short_by:
            error = ShortReadError
        elif not (self.n_missing or self.n_repeated or self.n_late or self.beyond):
            error = StaleFrameError
        return error(
            f"the series is not clean: {self.in_words()}; the beam is blanked and what came in "
            f"its turn is kept. Look whether a second client drains the detector's stream.",
            snapshot={"missing": list(self.missing), "repeated": list(self.repeated),
                      "late": list(self.late), "stale": self.stale},
        )  # fmt: skip

    def check(self) -> None:
        """Raise `problem`, if there is one."""
        problem = self.problem()
        if problem is not None:
            raise problem


class Detector4D(Protocol):
    """A pixelated detector with its own control and data connection.

    One series at a time: ``arm``, ``start`` (only where the scan engine does not trigger),
    ``frames`` to the end, ``report``.  Everything but ``abort`` is called by one thread.
    """

    @property
    def info(self) -> DetectorInfo:
        """Name, shape and limits, as the capabilities will show them."""

    def arm(self, job: DetectorJob) -> None:
        """Drain, configure, read back, arm, and wait for the detector's own word that it is armed.

        When it returns, the next trigger starts the series.  When it raises, the detector is
        disarmed as far as it answers.

        Raises
        ------
        ArmFailedError
            It refused, took another setting than asked, or never confirmed.
        LinkError
            It cannot be reached or does not answer in time.
        """

    def start(self) -> None:
        """Trigger by software, if this job is triggered so; else nothing. Returns at once."""

    def frames(self, timeout_s: float) -> Iterator[ScanBatch]:
        """Yield the frames of the armed series as they come, in order, each once.

        Ends with the series or with `abort`.  A frame that is lost leaves a gap in the numbers;
        `report` names it.  Frames that came before an error have been yielded.

        Raises
        ------
        ExposureTimeoutError
            The series is not over `timeout_s` after the call; says which positions came.
        StaleFrameError
            Likewise, and all that came belongs to another series.
        LinkError
            The connection broke, or sent what is no message of this protocol.
        """

    def report(self) -> StreamReport:
        """What became of the last series, so far."""

    def headers(self) -> Mapping[str, str]:
        """What the detector said at the start of the last series, verbatim."""

    def abort(self) -> None:
        """Stop and disarm; a running `frames` ends. Thread-safe, idempotent, never raises."""

    def close(self) -> None:
        """Disarm and let go of the connections. Idempotent."""


def _positions(where: tuple[int, ...], count: int) -> str:
    named = ", ".join(map(str, where[:_IN_A_MESSAGE]))
    return named + (", …" if count > _IN_A_MESSAGE else "")
