"""An external detector and a column as one instrument.

The column keeps stage, optics, shutter and scan engine; the detector is armed first and has
confirmed before the scan engine is, and the scan starts only when the beam opens.  The other way
round the first frames are lost (LiberTEM-live#35).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

from controller.backends.detectors.contract import Detector4D
from controller.hardware.clock import Clock
from controller.hardware.contract import Adapter
from controller.hardware.errors import ArmFailedError, ExposureTimeoutError, UnsupportedError
from controller.hardware.values import (
    Axis,
    AxisState,
    Calibration,
    Capabilities,
    ColumnHealth,
    DetectorJob,
    LongOperation,
    LongOperationResult,
    OpticsChange,
    OpticsState,
    RawFrame,
    ScanBatch,
    StageLimits,
    StagePose,
)

logger = logging.getLogger(__name__)


def with_external_detector(
    adapter: Adapter, detector: Detector4D, *, scan_with: str | None = None
) -> ExternallyDetected:
    """`adapter` with one more detector.

    Parameters
    ----------
    adapter
        The column; closed together with what is returned.
    detector
        Likewise.  Its name must be new to the column.
    scan_with
        The column's own detector in whose name its scan engine is armed, so that it scans and
        sends its pulses; None: the first one that can scan.

    Raises
    ------
    ValueError
        The name is taken, or `scan_with` is no detector of the column that can scan.
    """
    return ExternallyDetected(adapter, detector, scan_with)


class ExternallyDetected:
    """Implements `hardware.contract.Adapter`; see the module."""

    def __init__(self, column: Adapter, detector: Detector4D, scan_with: str | None) -> None:
        self._column = column
        self._detector = detector
        self._name = detector.info.name
        base = column.capabilities
        names = [info.name for info in base.detectors]
        scanning = [info.name for info in base.detectors if info.can_scan]
        if self._name in names:
            raise ValueError(
                f"the column has a detector {self._name!r} already; give the external one another "
                f"`name`"
            )
        if scan_with is not None and scan_with not in scanning:
            raise ValueError(
                f"scan_with = {scan_with!r} is no detector of this column that can scan; there "
                f"are {scanning}"
            )
        can_scan = base.scan is not None and bool(scanning)
        self._scan_with = (scan_with or scanning[0]) if can_scan else None
        info = detector.info.replace(can_scan=detector.info.can_scan and can_scan)
        # before the column's own that scan: a plan's scans go to the first that can
        place = names.index(scanning[0]) if scanning else len(names)
        detectors = (*base.detectors[:place], info, *base.detectors[place:])
        self._capabilities = base.replace(detectors=detectors)
        self._job: DetectorJob | None = None
        self._started = False
        self._is_last = False
        """Whether what was armed last is the external detector."""

    # --- the external detector ---------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """Those of the column, with one more detector."""
        return self._capabilities

    def arm(self, job: DetectorJob) -> None:
        """Arm the detector, wait for its word, then arm the scan engine; the beam is blanked."""
        self._job = None
        self._is_last = job.detector == self._name
        if not self._is_last:
            self._column.arm(job)
            return
        if job.scan is not None and self._scan_with is None:
            raise UnsupportedError(
                f"this column has no scan engine for {self._name}; nothing was armed. Take single "
                f"frames, or scan with a detector of the column."
            )
        self._detector.arm(job)
        try:
            if job.scan is not None and self._scan_with is not None:
                self._column.arm(replace(job, detector=self._scan_with))
        except BaseException:
            self._detector.abort()
            raise
        self._job, self._started = job, False

    def open_beam(self) -> None:
        """Open; the scan starts and triggers, or the detector is triggered by software."""
        self._column.open_beam()
        if self._job is not None:
            self._start()

    def collect(self, timeout_s: float) -> RawFrame:
        """The armed single frame; see `hardware.contract.Adapter.collect`."""
        job = self._job
        if job is None:
            return self._column.collect(timeout_s)
        if job.scan is not None:
            raise ArmFailedError(
                f"{self._name} is armed for a scan, not for a frame; the beam is left as it was. "
                f"Arm it for a frame."
            )
        self._start()
        try:
            for batch in self._detector.frames(timeout_s):
                return RawFrame(job.exposure_id, batch.first_sequence, batch.data[0])
        finally:
            self._end()
        raise ExposureTimeoutError(
            f"{self._name} ended without a frame: {self._detector.report().in_words()}; blank the "
            f"beam and arm again."
        )

    def stream(self, timeout_s: float) -> Iterator[ScanBatch]:
        """The frames of the armed scan; see `hardware.contract.Adapter.stream`."""
        if self._job is None:
            yield from self._column.stream(timeout_s)
            return
        try:
            yield from self._detector.frames(timeout_s)
        finally:
            self._end()

    def abort(self) -> None:
        """Disarm both, the scan engine first. Thread-safe, idempotent."""
        try:
            self._column.abort()
        finally:
            self._detector.abort()

    def close(self) -> None:
        """Let go of both, the column and its beam first."""
        try:
            self._column.close()
        finally:
            self._detector.close()

    def scan_headers(self) -> Mapping[str, str]:
        """What the external detector said when it was armed; empty if another one is."""
        if not self._is_last:
            return {}
        gain = self._detector.info.gain
        return {"counts per electron": f"{gain:g}", **self._detector.headers()}

    def scan_report(self) -> str | None:
        """What became of the frames of its last series, as JSON; None if another one scanned."""
        if not self._is_last:
            return None
        report = self._detector.report()
        said = {"detector": self._name, "frames": report.in_words()} | asdict(report)
        return json.dumps(said)

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._detector.start()

    def _end(self) -> None:
        """The series is over or given up: nothing of it stays armed."""
        job, self._job = self._job, None
        report = self._detector.report()
        if not report.is_clean:
            logger.warning("%s: %s", self._name, report.in_words())
        self._detector.abort()
        if job is not None and job.scan is not None:
            self._column.abort()

    # --- the column ----------------------------------------------------------------------------

    @property
    def calibration(self) -> Calibration:
        """Of the column."""
        return self._column.calibration

    @property
    def clock(self) -> Clock:
        """Of the column."""
        return self._column.clock

    def read_pose(self) -> StagePose:
        """Of the column."""
        return self._column.read_pose()

    def start_move(self, axis: Axis, target: float) -> None:
        """Of the column."""
        self._column.start_move(axis, target)

    def axis_state(self, axis: Axis) -> AxisState:
        """Of the column."""
        return self._column.axis_state(axis)

    def halt(self) -> None:
        """Of the column."""
        self._column.halt()

    def holder_limits(self) -> StageLimits:
        """Of the column."""
        return self._column.holder_limits()

    def read_optics(self) -> OpticsState:
        """Of the column."""
        return self._column.read_optics()

    def write_optics(self, change: OpticsChange) -> None:
        """Of the column."""
        self._column.write_optics(change)

    def read_health(self) -> ColumnHealth:
        """Of the column."""
        return self._column.read_health()

    def run_operation(self, operation: LongOperation) -> LongOperationResult:
        """Of the column."""
        return self._column.run_operation(operation)

    def blank_beam(self) -> None:
        """Of the column."""
        self._column.blank_beam()

    def read_blanked(self) -> bool | None:
        """Of the column."""
        return self._column.read_blanked()
