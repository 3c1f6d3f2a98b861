"""What a microscope promises: `Adapter` for drivers, `Microscope` for everybody else.

There is one way to the beam.  A driver implements :class:`Adapter`, which can open the beam and
is private to ``backends``, ``safety`` and ``server``.  Everybody else holds a
:class:`Microscope`, which has :meth:`Microscope.expose` and no unblank;
``safety.gate.GuardedMicroscope`` (and a network client) are the only ones.

Calls block and have deadlines.  ``blank``, ``stop`` and ``health`` are thread-safe, need no
lease and never queue behind a move.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from controller.hardware.clock import Clock
from controller.hardware.values import (
    Approach,
    Axis,
    AxisState,
    BlankResult,
    Calibration,
    Capabilities,
    ColumnHealth,
    DetectorJob,
    DoseReading,
    Exposure,
    Frame,
    LongOperation,
    LongOperationResult,
    MoveResult,
    OpticsChange,
    OpticsState,
    PartialPose,
    RawFrame,
    ScanBatch,
    ScanReceipt,
    Settle,
    StageLimits,
    StagePose,
)


class Stage(Protocol):
    """Five-axis goniometer."""

    def pose(self) -> StagePose:
        """Measured position; never the last target echoed back."""

    def move(
        self,
        target: PartialPose,
        *,
        approach: Approach = Approach.DIRECT,
        settle: Settle = Settle(),  # noqa: B008
        timeout_s: float | None = None,
    ) -> MoveResult:
        """Move the named axes, wait until settled, return what was achieved and the residual.

        Raises
        ------
        LimitError
            The target is outside the limits. Nothing has moved.
        NotReachedError
            Settled outside the tolerance; carries the residual.
        MoveTimeoutError, StalledError
            Not settled in time, or no progress. The stage was told to halt.
        LimiterHitError, TouchAlarmError
            The goniometer says so. Halted; a person has to look.
        """

    def limits(self) -> StageLimits:
        """The reachable box: vendor, holder, site and plan, intersected."""


class Optics(Protocol):
    """Lenses, deflectors and the illumination."""

    def state(self) -> OpticsState:
        """Read back now."""

    def apply(self, change: OpticsChange) -> OpticsState:
        """Apply `change` with the beam blanked and return what was achieved.

        The whole change is validated first; applying it is not transactional.

        Raises
        ------
        LimitError, UnsupportedError
            Nothing was changed.
        ModeError
            The read-back differs from what was asked.
        """


class Column(Protocol):
    """Vacuum, gun, valves, dewars."""

    def health(self) -> ColumnHealth:
        """Each interlock as a value or UNKNOWN, with its age. Thread-safe."""

    def run(self, operation: LongOperation) -> LongOperationResult:
        """Carry out a long operation with the beam blanked; return when it has ended.

        Raises
        ------
        UnsupportedError
            Not among ``capabilities.long_operations``.
        """


@runtime_checkable
class Microscope(Protocol):
    """The guarded instrument."""

    @property
    def capabilities(self) -> Capabilities:
        """What this instrument can do."""

    @property
    def calibration(self) -> Calibration:
        """What it believes about its geometry."""

    @property
    def clock(self) -> Clock:
        """The one clock of this instrument."""

    @property
    def stage(self) -> Stage:
        """The goniometer."""

    @property
    def optics(self) -> Optics:
        """Lenses and illumination."""

    @property
    def column(self) -> Column:
        """Vacuum, gun, valves."""

    def expose(self, exposure: Exposure) -> Frame | ScanReceipt:
        """Open the beam once, under the ledger, and bring back a frame or a scan's receipt.

        The dose is booked at its upper bound, durably, before the shutter opens; the beam is
        blanked on every way out.  A repeated ``exposure_id`` never opens the beam again.

        Raises
        ------
        DoseLimitError, LimitError, UnsupportedError, ModeError
            Refused; the beam stayed blanked, nothing is charged.
        AlreadyExposedError
            The ``exposure_id`` was used and what it brought is no longer at hand.
        InterlockError
            The column is not fit; nothing is charged.
        DetectorError, StorageError
            The exposure failed; ``dose_state`` tells what is charged.
        BlankUnconfirmedError
            The blanker did not confirm; the second guard was used.
        """

    def forecast(self, exposure: Exposure) -> float:
        """Upper bound of the fluence in e/A2 that `exposure` would be booked at, here and now."""

    def dose(self, x_um: float, y_um: float) -> DoseReading:
        """What the ledger holds at a specimen point."""

    def blank(self, why: str) -> BlankResult:
        """Blank now. Thread-safe, idempotent, needs no lease."""

    def stop(self, why: str) -> None:
        """Blank, halt the stage, abort the exposure. Thread-safe; everybody may."""


class Adapter(Protocol):
    """A driver: converts units and signs once, promises little, guards nothing."""

    @property
    def capabilities(self) -> Capabilities:
        """What this instrument can do."""

    @property
    def calibration(self) -> Calibration:
        """Stored calibration of the instrument."""

    @property
    def clock(self) -> Clock:
        """The clock that this instrument lives by."""

    def read_pose(self) -> StagePose:
        """Present read-back of the goniometer."""

    def start_move(self, axis: Axis, target: float) -> None:
        """Start moving one axis towards `target` (unit of the axis); return at once."""

    def axis_state(self, axis: Axis) -> AxisState:
        """Moving, limiter, touch alarm of one axis."""

    def halt(self) -> None:
        """Stop all axes as fast as the goniometer can. Thread-safe."""

    def holder_limits(self) -> StageLimits:
        """What the inserted holder allows."""

    def read_optics(self) -> OpticsState:
        """Read back lenses, deflectors, mode and current."""

    def write_optics(self, change: OpticsChange) -> None:
        """Send the settings; may be incomplete when it raises."""

    def read_health(self) -> ColumnHealth:
        """Interlocks now. Thread-safe."""

    def run_operation(self, operation: LongOperation) -> LongOperationResult:
        """Carry out a long operation; return when it has ended."""

    def arm(self, job: DetectorJob) -> None:
        """Prepare the detector (and the scan engine) and confirm, the beam still blanked."""

    def open_beam(self) -> None:
        """Let the beam onto the specimen; return at once.

        Starts the armed exposure, which then integrates by itself: the guard blanks when its time
        is over and collects the frame afterwards.
        """

    def blank_beam(self) -> None:
        """Take the beam off the specimen. Thread-safe, idempotent."""

    def read_blanked(self) -> bool | None:
        """True if blanked, None if the blanker cannot be read. Thread-safe."""

    def collect(self, timeout_s: float) -> RawFrame:
        """Wait for the armed single frame; the beam is blanked again by then.

        If the beam was never opened since :meth:`arm`, the dark frame of the armed duration.

        Raises
        ------
        ExposureTimeoutError
            Nothing came in `timeout_s`.
        """

    def stream(self, timeout_s: float) -> Iterator[ScanBatch]:
        """Yield the frames of the armed scan as they come; ends with the scan, or with `abort`.

        Raises
        ------
        ExposureTimeoutError
            The scan is not over `timeout_s` after the call.
        """

    def abort(self) -> None:
        """Disarm and drain the detector. Thread-safe, idempotent."""

    def close(self) -> None:
        """Let go of the instrument, beam blanked."""


class ScanSink(Protocol):
    """Where the frames of a scan go: counted and written by the process that receives them."""

    def begin(
        self, exposure: Exposure, optics: OpticsState, pose: StagePose, detector: str
    ) -> None:
        """Open the file of this scan."""

    def append(self, batch: ScanBatch) -> None:
        """Count, if that is not done yet, and commit consecutive frames."""

    def finish(self) -> tuple[str, int, str]:
        """Close the file; return (uri, committed frames, sha256)."""


class DoseAuditor(Protocol):
    """Anything that wants to know what was charged (journal, console)."""

    def charged(self, exposure: Exposure, state: str, fluence_e_per_A2: float) -> None:
        """Called after every change of state of an exposure in the ledger."""
