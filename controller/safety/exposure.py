"""One opening of the beam, atomically: booked before, blanked after, on every way out.

The order is the safety: interlocks -> upper bound -> RESERVED (durable) -> arm -> look again ->
OPENING (durable) -> open -> wait -> blank -> confirm -> SETTLED or UNKNOWN -> fetch the data.
The beam is blanked when the exposure time is over, not when the detector answers: a camera that
hangs costs a frame, never dose.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, TypeVar
from uuid import UUID

from controller.hardware.contract import Adapter, DoseAuditor, ScanSink
from controller.hardware.errors import (
    AlreadyExposedError,
    ArmFailedError,
    BeamState,
    BlankUnconfirmedError,
    DiskFullError,
    DoseState,
    ExposureTimeoutError,
    MicroscopeError,
    StoppedByOtherError,
    StorageError,
    UnsupportedError,
    WriteFailedError,
)
from controller.hardware.values import (
    BlankResult,
    DetectorInfo,
    DetectorJob,
    Exposure,
    Frame,
    ScanReceipt,
)
from controller.safety.assessment import Assessment, Assessor
from controller.safety.beam_watch import BeamWatch, moved_meanwhile
from controller.safety.blanking import BeamGuard
from controller.safety.delivery import frame_of, receipt_of
from controller.safety.dose import DoseLedger
from controller.safety.ledger_store import NEXT, ChargeState, LedgerRecord
from controller.safety.request import check_request
from controller.safety.scan_tally import ScanTally

DEADLINE_SLACK_S = 0.2
"""How much longer than booked the beam may be on before it is taken off, whoever is at work."""
SCAN_PACE_SHARE = 0.01
"""Of a scan's duration, by which its engine may be slower than it says."""
SCAN_SLACK_S = 1.0
"""How much later than planned the last frame of a scan may come; the beam is off by then."""
SLICE_S = 0.1
"""How often a wait looks whether somebody asked to stop."""
FRAMES_KEPT = 4

Result = TypeVar("Result")


@dataclass
class _Run:
    """One exposure on its way."""

    exposure: Exposure
    detector: DetectorInfo
    now: Assessment
    stops: int
    tally: ScanTally
    opened_s: float | None = None
    closed_s: float | None = None
    blank: BlankResult | None = None
    record: LedgerRecord | None = None
    watch: BeamWatch | None = None
    strayed: bool = False
    """Somebody moved the stage while the beam was open."""

    @property
    def is_cut(self) -> bool:
        """The watch has already taken the beam off."""
        return self.watch is not None and self.watch.cut_s is not None


class Exposer:
    """Carries out exposures through an adapter, under a ledger."""

    def __init__(
        self,
        adapter: Adapter,
        ledger: DoseLedger,
        beam: BeamGuard,
        assessor: Assessor,
        *,
        sink: ScanSink | None,
        auditor: DoseAuditor | None,
    ) -> None:
        self._adapter = adapter
        self._ledger = ledger
        self._beam = beam
        self._assessor = assessor
        self._sink = sink
        self._auditor = auditor
        self._writing = False
        self._frames: OrderedDict[UUID, Frame] = OrderedDict()

    def expose(self, exposure: Exposure) -> Frame | ScanReceipt:
        """Do what `contract.Microscope.expose` promises; the caller holds the drive lane."""
        recorded = self._ledger.record(exposure.exposure_id)
        if recorded is not None:
            return self._repeated(exposure, recorded)
        run = self._prepare(exposure)
        try:
            self._open(run)
            self._close(run, None)
        except BaseException as problem:
            self._close_after(run, problem)
            if isinstance(problem, Exception):
                self._check_blanked(run, problem)
            raise
        self._tell(exposure, run.record)
        self._check_blanked(run, None)
        if run.strayed:
            return self._refuse_blurred(run)
        return self._deliver(run)

    def _refuse_blurred(self, run: _Run) -> NoReturn:
        problem = moved_meanwhile()
        _to_the_end(self._adapter.abort)
        _to_the_end(self._abandon_scan)
        _stamp(problem, run)
        raise problem

    # --- before the beam ---------------------------------------------------------------------

    def _prepare(self, exposure: Exposure) -> _Run:
        """Everything up to the instant before OPENING; on failure nothing stays booked."""
        stops = self._beam.stop_count()
        self._beam.check_trusted()
        self._assessor.check_column()
        self._assessor.check_still()
        now = self._assessor.assess(exposure)
        detector = check_request(exposure, now.optics, self._adapter.capabilities)
        if exposure.scan is not None and self._sink is None:
            raise UnsupportedError(
                "this session has nowhere to write scans; nothing was exposed and the beam is "
                "blanked. Open the session with a scan sink."
            )
        positions = 1 if exposure.scan is None else exposure.scan.positions
        tally = ScanTally(exposure.exposure_id, positions)
        try:
            self._tell(exposure, self._reserve(exposure, now))
            self._arm(exposure, detector)
            self._assessor.check_unchanged(now)
            self._begin_scan(exposure, now)
            self._check_not_stopped(stops)
        except BaseException as problem:
            _to_the_end(partial(self._release, exposure, problem))
            raise
        return _Run(exposure, detector, now, stops, tally)

    def _reserve(self, exposure: Exposure, now: Assessment) -> LedgerRecord:
        return self._ledger.reserve(
            exposure.exposure_id,
            area=exposure.area,
            purpose=exposure.purpose,
            footprint=now.footprint,
            fluence_e_per_A2=now.bound.fluence_e_per_A2,
            unseen_e_per_A2=now.bound.unseen_e_per_A2,
            request=exposure.model_dump_json(),
        )

    def _arm(self, exposure: Exposure, detector: DetectorInfo) -> None:
        scan = exposure.scan
        self._adapter.arm(
            DetectorJob(
                exposure_id=exposure.exposure_id,
                detector=detector.name,
                frame_s=exposure.duration_s if scan is None else scan.dwell_s,
                frames=1 if scan is None else scan.positions,
                scan=scan,
            )
        )
        if self._adapter.read_blanked() is False:
            self._beam.blank()
            raise ArmFailedError(
                "the beam was open while the detector armed; it was blanked and nothing was "
                "charged. A person has to find what opened it.",
                dose_state=DoseState.UNKNOWN,
            )

    def _begin_scan(self, exposure: Exposure, now: Assessment) -> None:
        if exposure.scan is None or self._sink is None:
            return
        with _disk_errors("nothing was exposed"):
            self._sink.begin(exposure, now.optics, now.pose, exposure.detector)
        self._writing = True

    def _release(self, exposure: Exposure, problem: BaseException) -> None:
        self._adapter.abort()
        self._abandon_scan()
        record = self._ledger.record(exposure.exposure_id)
        if record is not None and record.state is ChargeState.RESERVED:
            released = self._ledger.release(exposure.exposure_id, _because(problem))
            self._tell(exposure, released)

    # --- the beam ----------------------------------------------------------------------------

    def _open(self, run: _Run) -> None:
        """Open, and wait until the exposure is over."""
        exposure = run.exposure
        self._tell(exposure, self._ledger.opening(exposure.exposure_id))
        run.opened_s = self._adapter.clock.now_s()
        run.watch = BeamWatch(
            self._adapter,
            self._beam,
            deadline_s=run.opened_s + run.now.bound.open_s + _slack_s(run),
            holder_id=self._assessor.holder_id,
            is_in_place=lambda pose: self._assessor.is_unmoved(pose, run.now.pose),
        )
        run.watch.begin()
        self._adapter.open_beam()
        if exposure.scan is None:
            self._wait(exposure.duration_s, run)
        else:
            self._receive(run, run.opened_s)

    def _wait(self, duration_s: float, run: _Run) -> None:
        clock = self._adapter.clock
        end_s = clock.now_s() + duration_s
        self._check_go_on(run)
        while (left_s := end_s - clock.now_s()) > 1e-9:
            clock.sleep(min(left_s, SLICE_S))
            self._check_go_on(run)

    def _receive(self, run: _Run, opened_s: float) -> None:
        tally = run.tally
        limit_s = run.now.bound.open_s + SCAN_SLACK_S
        self._check_go_on(run)
        for batch in self._adapter.stream(limit_s):
            self._check_go_on(run)
            fresh = tally.take(batch)
            if fresh is not None and self._sink is not None:
                with _disk_errors("the scan was cut off, what was committed is kept"):
                    self._sink.append(fresh)
            if tally.is_full:
                return
            elapsed_s = self._adapter.clock.now_s() - opened_s
            if run.is_cut or not elapsed_s <= limit_s:
                raise ExposureTimeoutError(
                    f"{tally.next} of {tally.positions} frames came in {elapsed_s:.2f} s (limit "
                    f"{limit_s:.2f} s); the beam is blanked and what came is kept. Look at the "
                    f"scan engine before the next scan."
                )
        self._check_go_on(run)

    def _check_go_on(self, run: _Run) -> None:
        self._check_not_stopped(run.stops)
        if run.watch is not None:
            run.watch.check()

    def _check_not_stopped(self, stops: int) -> None:
        if self._beam.stop_count() != stops:
            raise StoppedByOtherError(
                f"the exposure was stopped: {self._beam.reason}; the beam is blanked. "
                f"Go on only when whoever stopped it agrees."
            )

    # --- after the beam ----------------------------------------------------------------------

    def _close(self, run: _Run, problem: BaseException | None) -> None:
        """Blank and charge; repeating it changes nothing."""
        run.blank = self._beam.blank()
        if run.closed_s is None:
            cut_s = None if run.watch is None else run.watch.cut_s
            run.closed_s = self._adapter.clock.now_s() if cut_s is None else cut_s
        if run.watch is not None:
            run.watch.end()
        if problem is not None:
            self._adapter.abort()
        run.record = self._charge(run, run.blank, run.closed_s, problem)
        self._charge_way(run)
        if problem is not None:
            self._abandon_scan()

    def _close_after(self, run: _Run, problem: BaseException) -> None:
        """Close an exposure that failed; where even that fails, say what is charged."""
        try:
            _to_the_end(partial(self._close, run, problem))
            self._tell(run.exposure, run.record)
        except MicroscopeError as second:
            run.record = self._ledger.record(run.exposure.exposure_id)
            _stamp(second, run)
            raise
        finally:
            _stamp(problem, run)

    def _charge(
        self, run: _Run, blank: BlankResult, closed_s: float, problem: BaseException | None
    ) -> LedgerRecord | None:
        exposure_id = run.exposure.exposure_id
        record = self._ledger.record(exposure_id)
        if record is None or not NEXT[record.state]:
            return record
        if record.state is ChargeState.RESERVED:
            return self._ledger.release(exposure_id, _because(problem))
        if run.opened_s is None:
            return self._ledger.settle(exposure_id, 0.0, "the beam was never opened")
        open_s = closed_s - run.opened_s + self._adapter.capabilities.blank.latency_s
        highest_pA = None if run.watch is None else run.watch.highest_pA
        measured = run.now.bound.at(open_s, self._assessor.current_now_pA(highest_pA))
        if blank.guard != "blanker":
            return self._ledger.unknown(exposure_id, measured, _because(problem))
        if problem is not None or not blank.confirmed:
            measured = max(measured, record.booking.reserved_e_per_A2)
        return self._ledger.settle(exposure_id, measured, _because(problem))

    def _charge_way(self, run: _Run) -> None:
        """Charge where the beam was if somebody moved the stage under it."""
        if run.opened_s is None or run.strayed:
            return
        try:
            now = self._adapter.read_pose()
        except MicroscopeError:
            return
        if not self._assessor.is_unmoved(now, run.now.pose):
            run.strayed = True
            way = self._assessor.way(run.exposure, run.now, now)
            self._ledger.stray(run.exposure.exposure_id, way, "the stage moved meanwhile")

    def _check_blanked(self, run: _Run, problem: Exception | None) -> None:
        blank, record = run.blank, run.record
        if blank is None or blank.guard == "blanker":
            return
        charged = 0.0 if record is None else record.charged_e_per_A2
        valve = "was closed instead" if blank.blanked else "could not be closed: THE BEAM IS ON"
        raise BlankUnconfirmedError(
            f"the beam did not blank after an exposure; the column valve {valve}. "
            f"{charged:.4g} e/Å² are charged as unknown. No further exposure is made; a person "
            f"has to check the blanker.",
            beam_state=BeamState.BLANKED if blank.blanked else BeamState.OPEN,
            dose_state=DoseState.UNKNOWN,
        ) from problem

    def _deliver(self, run: _Run) -> Frame | ScanReceipt:
        """Bring back what the exposure left; the dose is charged whatever happens here."""
        exposure, record = run.exposure, run.record
        charged = 0.0 if record is None else record.charged_e_per_A2
        try:
            if exposure.scan is not None and self._sink is not None:
                with _disk_errors("the scan is over, what was committed is kept"):
                    left = self._sink.finish()
                self._writing = False
                receipt = receipt_of(exposure, exposure.scan, run.now, run.tally, left, charged)
                self._ledger.conclude(exposure.exposure_id, receipt.model_dump_json())
                run.tally.check_not_empty(left[0])
                self._assessor.check_column()
                return receipt
            frame = frame_of(self._adapter, exposure, run.detector, run.now, charged)
            self._assessor.check_column()
        except BaseException as problem:
            _to_the_end(self._adapter.abort)
            _to_the_end(self._abandon_scan)
            _stamp(problem, run)
            raise
        self._frames[exposure.exposure_id] = frame
        while len(self._frames) > FRAMES_KEPT:
            self._frames.popitem(last=False)
        return frame

    def _repeated(self, exposure: Exposure, record: LedgerRecord) -> Frame | ScanReceipt:
        """The recorded outcome of an id that was used before; the beam stays blanked."""
        same = record.booking.request == exposure.model_dump_json()
        conclusion = self._ledger.conclusion(exposure.exposure_id)
        if same and conclusion is not None:
            return ScanReceipt.model_validate_json(conclusion)
        if same and exposure.exposure_id in self._frames:
            return self._frames[exposure.exposure_id]
        content = "" if same else " with another content"
        raise AlreadyExposedError(
            f"exposure {exposure.exposure_id} was asked for before{content}: "
            f"{record.state.value}, {record.charged_e_per_A2:.4g} e/Å² charged; the beam was not "
            f"opened again. Use the data of the first one, or a new exposure_id.",
            dose_state=_dose_state(record),
            snapshot={"state": record.state.value, "outcome": record.outcome},
        )

    def _abandon_scan(self) -> None:
        """Close the file of a scan that failed; what was committed stays in it."""
        if self._writing and self._sink is not None:
            self._writing = False
            with suppress(StorageError, OSError):
                self._sink.finish()

    def _tell(self, exposure: Exposure, record: LedgerRecord | None) -> None:
        if self._auditor is not None and record is not None:
            self._auditor.charged(exposure, record.state.value, record.charged_e_per_A2)


class _disk_errors:  # noqa: N801  (reads as a statement)
    """Turns what the operating system says about a disk into our errors."""

    def __init__(self, state: str) -> None:
        self._state = state

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if not isinstance(problem, OSError) or isinstance(problem, InterruptedError):
            return
        full = problem.errno == errno.ENOSPC
        error = DiskFullError if full else WriteFailedError
        raise error(
            f"the scan could not be written ({problem}); {self._state} and the beam is blanked. "
            f"{'Free some space' if full else 'Check the disk'} before the next scan.",
            vendor_code=problem.errno,
            vendor_text=str(problem),
        ) from problem


def _to_the_end(action: Callable[[], Result]) -> Result:
    """Run what must not be left half done, however often somebody presses Ctrl-C."""
    while True:
        try:
            return action()
        except KeyboardInterrupt:
            continue


def _stamp(problem: BaseException, run: _Run) -> None:
    """Write on an error what state it leaves behind."""
    if isinstance(problem, MicroscopeError) and run.record is not None:
        problem.dose_state = _dose_state(run.record)
        if run.blank is not None:
            problem.beam_state = BeamState.BLANKED if run.blank.blanked else BeamState.OPEN


def _dose_state(record: LedgerRecord) -> DoseState:
    if record.state is ChargeState.RELEASED or record.charged_e_per_A2 == 0:
        return DoseState.NONE
    is_known = record.state is ChargeState.SETTLED
    return DoseState.CHARGED if is_known else DoseState.UNKNOWN


def _slack_s(run: _Run) -> float:
    """How much longer than booked the beam may be on; a scan engine keeps time to a per cent."""
    scan = run.exposure.scan
    return DEADLINE_SLACK_S + (0.0 if scan is None else SCAN_PACE_SHARE * scan.duration_s)


def _because(problem: BaseException | None) -> str:
    return "" if problem is None else f"{type(problem).__name__}: {problem}"
