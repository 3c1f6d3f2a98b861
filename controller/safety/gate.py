"""The guarded microscope: the only way to the beam.

Two lanes.  The *drive lane* moves, changes optics, runs long operations and exposes, one command
at a time; a second one is refused, not queued.  The *safety lane* (`blank`, `stop`,
`column.health`) takes no lock at all, so it works while anything moves or exposes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from controller.hardware.clock import Clock
from controller.hardware.contract import Adapter, DoseAuditor, ScanSink
from controller.hardware.errors import ModeError, UnsupportedError
from controller.hardware.values import (
    Approach,
    BlankResult,
    Calibration,
    Capabilities,
    ColumnHealth,
    DoseReading,
    Exposure,
    Frame,
    LongOperation,
    LongOperationResult,
    MoveResult,
    OpticsChange,
    OpticsState,
    PartialPose,
    ScanReceipt,
    Settle,
    StageLimits,
    StagePose,
)
from controller.safety.assessment import Assessor
from controller.safety.blanking import BeamGuard
from controller.safety.darkness import BlankerCheck, check_darkness
from controller.safety.dose import DoseLedger
from controller.safety.exposure import Exposer
from controller.safety.illumination import GuardedOptics
from controller.safety.interlocks import check_holder
from controller.safety.limits import Envelope, vendor_limits
from controller.safety.motion import Mover


class DriveLane:
    """Lets one command drive at a time and refuses the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = ""

    @contextmanager
    def command(self, name: str) -> Iterator[None]:
        """Hold the lane for one command.

        Raises
        ------
        ModeError
            Another command is under way. Nothing was done.
        """
        if not self._lock.acquire(blocking=False):
            raise ModeError(
                f"{name} was refused: {self._busy or 'another command'} is under way; nothing was "
                f"done. One command drives at a time: wait, or stop it first."
            )
        try:
            self._busy = name
            yield
        finally:
            self._busy = ""
            self._lock.release()


class _GuardedStage:
    def __init__(
        self, adapter: Adapter, envelope: Envelope, beam: BeamGuard, lane: DriveLane
    ) -> None:
        self._adapter = adapter
        self._envelope = envelope
        self._beam = beam
        self._lane = lane
        self._holder_id = adapter.read_health().holder_id

    def pose(self) -> StagePose:
        return self._adapter.read_pose()

    def limits(self) -> StageLimits:
        return self._envelope.box()

    def move(
        self,
        target: PartialPose,
        *,
        approach: Approach = Approach.DIRECT,
        settle: Settle = Settle(),  # noqa: B008  (frozen)
        timeout_s: float | None = None,
    ) -> MoveResult:
        with self._lane.command("a move"):
            self._envelope.check(target)
            check_holder(self._adapter.read_health(), holder_id=self._holder_id)
            if self._adapter.read_blanked() is False:
                self._beam.blank()
            mover = Mover(self._adapter, self._envelope, self._beam)
            return mover.move(target, approach=approach, settle=settle, timeout_s=timeout_s)

    def plan(self, limits: StageLimits | None) -> None:
        narrower = replace(self._envelope, plan=limits)
        narrower.box()
        self._envelope = narrower


class _LanedOptics:
    def __init__(self, adapter: Adapter, beam: BeamGuard, lane: DriveLane) -> None:
        self._adapter = adapter
        self._lane = lane
        self._optics = GuardedOptics(adapter, beam)

    def state(self) -> OpticsState:
        return self._adapter.read_optics()

    def apply(self, change: OpticsChange) -> OpticsState:
        with self._lane.command("a change of the optics"):
            return self._optics.apply(change)


class _GuardedColumn:
    def __init__(self, adapter: Adapter, beam: BeamGuard, lane: DriveLane) -> None:
        self._adapter = adapter
        self._beam = beam
        self._lane = lane

    def health(self) -> ColumnHealth:
        return self._adapter.read_health()

    def run(self, operation: LongOperation) -> LongOperationResult:
        known = self._adapter.capabilities.long_operations
        if operation not in known:
            raise UnsupportedError(
                f"this instrument cannot {operation.value}; it offers "
                f"{', '.join(sorted(o.value for o in known)) or 'no long operation'}; nothing was "
                f"done. A person has to do it by hand."
            )
        with self._lane.command(operation.value):
            self._beam.blank()
            if operation is not LongOperation.CLOSE_VALVE:
                self._beam.check_trusted()
            return self._adapter.run_operation(operation)


class GuardedMicroscope:
    """A `contract.Microscope` over any adapter, with limits, interlocks and a dose ledger.

    Parameters
    ----------
    adapter
        The driver; nobody else may use it from now on.
    ledger
        The one dose ledger of the specimen in the column.
    site, plan
        Limits of the stage besides those of vendor and holder.
    sink
        Where scans are written; without one, scans are refused.
    auditor
        Told of every change of a booking, before the beam opens and after it is blanked.
    """

    def __init__(  # the parts of one instrument
        self,
        adapter: Adapter,
        ledger: DoseLedger,
        *,
        site: StageLimits | None = None,
        plan: StageLimits | None = None,
        sink: ScanSink | None = None,
        auditor: DoseAuditor | None = None,
    ) -> None:
        self._adapter = adapter
        self._adopted: Calibration | None = None
        self._ledger = ledger
        self._lane = DriveLane()
        self._beam = BeamGuard(adapter)
        envelope = Envelope(
            vendor_limits(adapter.capabilities), adapter.holder_limits(), site, plan
        )
        envelope.box()
        self._stage = _GuardedStage(adapter, envelope, self._beam, self._lane)
        self._optics = _LanedOptics(adapter, self._beam, self._lane)
        self._column = _GuardedColumn(adapter, self._beam, self._lane)
        self._assessor = Assessor(
            adapter,
            holder_id=adapter.read_health().holder_id,
            cell_nm=ledger.cell_nm,
            drifting_s=ledger.age_s(),
        )
        self._exposer = Exposer(
            adapter, ledger, self._beam, self._assessor, sink=sink, auditor=auditor
        )
        self._beam.blank()

    @property
    def capabilities(self) -> Capabilities:
        """What this instrument can do."""
        return self._adapter.capabilities

    @property
    def calibration(self) -> Calibration:
        """What it believes about its geometry."""
        return self._adopted or self._adapter.calibration

    def adopt(self, calibration: Calibration) -> None:
        """Believe stored measurements instead of what the driver says; before anything moves.

        Bounds of the dose are computed from the driver's own calibration all the same.
        """
        self._adopted = calibration

    def plan_limits(self, limits: StageLimits | None) -> None:
        """Take the stage limits of another plan, inside those of vendor, holder and site.

        Raises
        ------
        LimitError
            They leave nothing of an axis; the former ones stay.
        """
        self._stage.plan(limits)

    @property
    def clock(self) -> Clock:
        """The one clock of this instrument."""
        return self._adapter.clock

    @property
    def stage(self) -> _GuardedStage:
        """The goniometer."""
        return self._stage

    @property
    def optics(self) -> _LanedOptics:
        """Lenses and illumination."""
        return self._optics

    @property
    def column(self) -> _GuardedColumn:
        """Vacuum, gun, valves."""
        return self._column

    @property
    def ledger(self) -> DoseLedger:
        """The dose ledger, for maps and exports; only this object books."""
        return self._ledger

    def expose(self, exposure: Exposure) -> Frame | ScanReceipt:
        """Open the beam once, under the ledger; see `contract.Microscope.expose`."""
        with self._lane.command("an exposure"):
            try:
                return self._exposer.expose(exposure)
            finally:
                if self._adapter.read_blanked() is False:
                    self._beam.blank()

    def forecast(self, exposure: Exposure) -> float:
        """Upper bound of the fluence in e/A2 that `exposure` would be booked at, here and now."""
        return self._assessor.assess(exposure).bound.fluence_e_per_A2

    def dose(self, x_um: float, y_um: float) -> DoseReading:
        """What the ledger holds at a specimen point."""
        return self._ledger.reading(x_um, y_um)

    def is_blanked(self) -> bool | None:
        """Whether the beam is blanked, as read back; None where that cannot be read."""
        return self._adapter.read_blanked()

    def blank(self, why: str) -> BlankResult:
        """Blank now. Thread-safe, idempotent, needs no lease."""
        return self._beam.blank()

    def stop(self, why: str) -> None:
        """Blank, halt the stage, abort the exposure. Thread-safe; everybody may."""
        self._beam.note_stop(why)
        try:
            self._beam.blank()
        finally:
            try:
                self._adapter.halt()
            finally:
                self._adapter.abort()

    def verify_blanker(self, detector: str, *, duration_s: float = 1.0) -> BlankerCheck:
        """Take a frame with the beam blanked and see whether it is dark; see `darkness`."""
        with self._lane.command("the check of the blanker"):
            return check_darkness(
                self._adapter,
                self._beam,
                self._ledger,
                self._assessor,
                detector=detector,
                duration_s=duration_s,
            )
