"""The simulated microscope behind the driver contract.

`SimulatedAdapter` puts a `World` behind one lock and one clock, and plays the protocol of arming,
opening, collecting and blanking, with the faults of a detector's link.  It sleeps through the
clock only, never with the lock held.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controller.hardware.clock import Clock, VirtualClock, WallClock
from controller.hardware.errors import (
    ArmFailedError,
    ExposureTimeoutError,
    LimitError,
    ModeError,
    UnsupportedError,
)
from controller.hardware.faults import FaultSource, kind_of
from controller.hardware.values import (
    Axis,
    AxisState,
    Calibration,
    Capabilities,
    ColumnHealth,
    DetectorJob,
    FrameBatch,
    LongOperation,
    LongOperationResult,
    OpticsChange,
    OpticsState,
    RawFrame,
    StageLimits,
    StagePose,
)
from sim_microscope.capabilities import describe
from sim_microscope.column import OPERATION_S
from sim_microscope.detectors import READOUT_S
from sim_microscope.exposure import Running, electrons_per_frame
from sim_microscope.faults import FaultBoard
from sim_microscope.options import Options, PacedClock, read_options
from sim_microscope.randomness import stream
from sim_microscope.raster import BATCH
from sim_microscope.scenario import Scenario
from sim_microscope.specimen import TruePose
from sim_microscope.truth import Truth
from sim_microscope.world import Shutter, World

Array = NDArray[np.float64]

HANG_S = 120.0
"""How long the lenses hang under their fault."""


@dataclass
class _Armed:
    """What is armed, and when it began."""

    job: DetectorJob
    number: int
    from_s: float | None = None
    pose: TruePose | None = None
    aborted: bool = False


def open_adapter(
    options: Mapping[str, str | int | float | bool | tuple[str, ...] | None],
    *,
    clock: Clock | None = None,
    run_dir: Path | None = None,
) -> SimulatedAdapter:
    """Open a simulated microscope, beam blanked.

    Parameters
    ----------
    options
        ``scenario`` (name or path), ``seed``, ``faults`` (tuple of ``NAME@WHEN``), ``realtime`` and
        ``speed`` (a wall clock that runs that many times as fast).
    clock
        Default: a new virtual clock, or a paced wall clock with ``realtime``.
    run_dir
        Where ``truth.h5`` is written at the end; nowhere if None.

    Raises
    ------
    ValueError
        An unknown key or a bad value, named, with the remedy.
    """
    wanted = read_options(options)
    if clock is None:
        clock = PacedClock(WallClock(), wanted.speed) if wanted.realtime else VirtualClock()
    return SimulatedAdapter(wanted, clock, run_dir)


class _Injected:
    """`FaultSource` of one simulated column."""

    def __init__(self, adapter: SimulatedAdapter) -> None:
        self._adapter = adapter

    def strikes(self, name: str) -> bool:
        return self._adapter.due(kind_of(name).name, lasting=False)

    def is_on(self, name: str) -> bool:
        return self._adapter.due(kind_of(name).name, lasting=True)

    def count(self, what: str) -> None:
        self._adapter.count(what)


class SimulatedAdapter:
    """Implements ``controller.hardware.contract.Adapter`` on simulated physics."""

    def __init__(self, options: Options, clock: Clock, run_dir: Path | None) -> None:
        self._world = World(options)
        self._clock = clock
        self._origin_s = clock.now_s()
        self._run_dir = run_dir
        self._lock = threading.RLock()
        self._capabilities = describe(self._world)
        self._armed: _Armed | None = None
        self._running: Running | None = None
        self._late: RawFrame | None = None
        self._last_job: DetectorJob | None = None
        self._number = 0
        self._closed = False

    # --- what it is ------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """What this instrument can do."""
        return self._capabilities

    @property
    def calibration(self) -> Calibration:
        """Stored calibration; the truth differs."""
        return self._world.optics.calibration

    @property
    def clock(self) -> Clock:
        """The clock this instrument lives by."""
        return self._clock

    @property
    def truth(self) -> Truth:
        """The truth so far; for tests and reports only."""
        with self._lock:
            self._account()
            return self._world.truth

    @property
    def scenario(self) -> Scenario:
        """What is simulated; for tests and reports only."""
        return self._world.scenario

    @property
    def faults(self) -> FaultBoard:
        """For tests: inject and clear faults by name."""
        return self._world.faults

    @property
    def injected(self) -> FaultSource:
        """The faults outside the column, for whoever plays them."""
        return _Injected(self)

    def due(self, name: str, *, lasting: bool) -> bool:
        """Whether a fault is due now, or on; those that strike once are taken."""
        with self._lock:
            board, now = self._world.faults, self._now()
            return board.active(name, now) if lasting else board.take(name, now) is not None

    def count(self, what: str) -> None:
        """One more of what faults may be due at."""
        with self._lock:
            self._world.faults.count(what, self._now())

    def release_alarms(self) -> None:
        """A person has looked at the stage: let go of limiter and touch alarm."""
        with self._lock:
            self._world.stage.release()

    def witness(self) -> dict[str, object]:
        """The truth of the beam as JSON: now, whether it is on, and when it was; for tests only."""
        with self._lock:
            now = self._now()
            column = self._world.column
            return {
                "now_s": now,
                "monotonic_s": time.monotonic(),
                "beam_on": self.is_beam_on_specimen(),
                "openings_s": [list(span) for span in column.openings(0.0, now)],
                "moving": any(self._world.stage.axis_state(a, now).moving for a in Axis),
            }

    def inject_fault(self, name: str) -> None:
        """Make the fault `name` due now."""
        with self._lock:
            self._world.faults.inject(name, self._now())

    def clear_fault(self, name: str) -> None:
        """End a lasting fault."""
        with self._lock:
            self._world.faults.clear(name)

    def is_beam_on_specimen(self) -> bool:
        """The truth, not the blanker's word."""
        with self._lock:
            now = self._now()
            column = self._world.column
            lit = any(on <= now < off for on, off in column.openings(now - 1e-9, now + 1e-9))
            return lit and column.passes(now)

    def true_pose(self) -> TruePose:
        """Where the specimen really is now."""
        with self._lock:
            return self._world.stage.true_pose(self._now())

    def true_beam_um(self) -> tuple[float, float]:
        """Specimen point that lies on the axis of the beam now."""
        with self._lock:
            return self._world.true_beam_um(self._now())

    # --- stage -----------------------------------------------------------------------------

    def read_pose(self) -> StagePose:
        """Present read-back."""
        with self._lock:
            return self._world.stage.read(self._now())

    def start_move(self, axis: Axis, target: float) -> None:
        """Start moving one axis.

        Raises
        ------
        LimitError
            Outside the holder's range; nothing moves.
        """
        low, high = self._world.stage.limits().ranges[axis]
        if not low <= target <= high:
            raise LimitError(
                f"{axis.value} = {target:g} is outside the holder's {low:g} .. {high:g}; "
                f"nothing has moved. Choose a target inside"
            )
        with self._lock:
            self._account()
            self._world.stage.start_move(axis, target, self._now())

    def axis_state(self, axis: Axis) -> AxisState:
        """Status as reported."""
        with self._lock:
            return self._world.stage.axis_state(axis, self._now())

    def halt(self) -> None:
        """Stop all axes."""
        with self._lock:
            self._account()
            self._world.stage.halt(self._now())

    def holder_limits(self) -> StageLimits:
        """What the holder allows."""
        return self._world.stage.limits()

    # --- optics and column ------------------------------------------------------------------

    def read_optics(self) -> OpticsState:
        """Read back."""
        with self._lock:
            return self._world.optics_state(self._now())

    def write_optics(self, change: OpticsChange) -> None:
        """Send settings; see `SimulatedOptics.write`."""
        if self.due("lens-hang", lasting=False):
            self._clock.sleep(HANG_S)
        with self._lock:
            self._account()
            now = self._now()
            self._world.optics.write(change, now, self._world.column.current_factor(now))

    def read_health(self) -> ColumnHealth:
        """Interlocks now."""
        with self._lock:
            self._step_record_clock()
            nominal = self._world.optics.now.probe_current_pA
            return self._world.column.health(nominal, self._now())

    def run_operation(self, operation: LongOperation) -> LongOperationResult:
        """Carry out a long operation and wait for its end."""
        began = self._now()
        self._clock.sleep(OPERATION_S[operation])
        with self._lock:
            self._account()
            return self._world.column.finish(operation, began, self._now())

    # --- beam --------------------------------------------------------------------------------

    def open_beam(self) -> None:
        """Beam on; the armed exposure begins."""
        with self._lock:
            self._account()
            now = self._now()
            self._world.column.open(now)
            self._begin(now)

    def blank_beam(self) -> None:
        """Beam off. Idempotent."""
        with self._lock:
            self._account()
            gone_s = self._world.column.blank(self._now())
            if self._world.column.is_blanked():
                self._account(gone_s)

    def read_blanked(self) -> bool | None:
        """What the blanker says."""
        with self._lock:
            return self._world.column.is_blanked()

    # --- detectors -----------------------------------------------------------------------------

    def arm(self, job: DetectorJob) -> None:
        """Prepare detector and scan engine.

        Raises
        ------
        UnsupportedError, ModeError, LimitError
            No such detector, not in this mode, or a time or shape outside its range.
        ArmFailedError
            The detector did not answer.
        """
        self._check(job)
        with self._lock:
            now = self._now()
            self._world.faults.count("step", now)
            if self._world.faults.take("arm-fails", now) is not None:
                raise ArmFailedError(
                    f"detector {job.detector} did not arm; the beam is blanked. Arm it again"
                )
            self._account()
            self._number += 1
            self._armed = _Armed(job, self._number)
            self._running = None

    def collect(self, timeout_s: float) -> RawFrame:
        """Wait for the armed frame; a dark frame if the beam was never opened."""
        armed = self._require_armed(scan=False)
        job = armed.job
        with self._lock:
            now = self._now()
            self._begin(now)
            lost = self._world.faults.take("camera-timeout", now) is not None
            late = self._world.faults.take("late-frame", now) is not None
            altered = self._world.faults.take("exposure-altered", now) is not None
            shutter = self._shutter(armed)
        if altered:
            shutter = replace(shutter, to_s=0.5 * (shutter.from_s + shutter.to_s))
        ready = shutter.to_s + READOUT_S[job.detector]
        if lost or late or ready - now > timeout_s:
            self._clock.sleep(timeout_s)
            with self._lock:
                self._account()
            if late:
                self._late = RawFrame(job.exposure_id, armed.number, self._frame(armed, shutter))
            raise ExposureTimeoutError(
                f"no frame from {job.detector} within {timeout_s:g} s (exposure of "
                f"{job.frame_s:g} s); blank the beam, abort and arm again"
            )
        self._clock.sleep(ready - now)
        with self._lock:
            self._account()
            if armed.aborted:
                raise ExposureTimeoutError(
                    f"the exposure on {job.detector} was aborted; there is no frame"
                )
            stale = self._world.faults.take("stale-frame", self._now()) is not None
            if self._late is not None:
                frame, self._late = self._late, None
                return frame
        data = self._frame(armed, shutter)
        job_id = self._last_job.exposure_id if stale and self._last_job else job.exposure_id
        self._last_job = job
        self._armed = None
        number = armed.number - 1 if stale else armed.number
        return RawFrame(job_id=job_id, sequence=number, data=data)

    def stream(self, timeout_s: float) -> Iterator[FrameBatch]:
        """Yield the frames of the armed scan; dark where the beam was off."""
        armed = self._require_armed(scan=True)
        with self._lock:
            now = self._now()
            self._begin(now)
            drops = self._world.faults.take("dropped-frames", now) is not None
            short = self._world.faults.take("short-scan", now) is not None
            twice = self._world.faults.take("repeated-frames", now) is not None
            lost = self._world.faults.take("camera-timeout", now) is not None
        if lost:
            self._clock.sleep(timeout_s)
            raise ExposureTimeoutError(
                f"no frame from {armed.job.detector} within {timeout_s:g} s; "
                f"blank the beam, abort and arm again"
            )
        for batch in self._scan_frames(armed):
            if armed.aborted:
                return
            first, count = batch.first_sequence, len(batch.data)
            if short and first > 0.6 * armed.job.frames:
                break
            if drops and (first // BATCH) % 5 == 3 and count > 4:
                yield FrameBatch(batch.job_id, first, batch.data[: count // 2])
                yield FrameBatch(batch.job_id, first + count // 2 + 2, batch.data[count // 2 + 2 :])
                continue
            yield batch
            if twice and (first // BATCH) % 7 == 2:
                yield batch
        self._armed = None

    def abort(self) -> None:
        """Disarm and drain."""
        with self._lock:
            if self._armed is not None:
                self._armed.aborted = True
            self._armed = None
            self._late = None

    def close(self) -> None:
        """Blank; write the truth if there is a run folder."""
        self.blank_beam()
        self.abort()
        if not self._closed and self._run_dir is not None:
            self.write_truth(self._run_dir / "truth.h5")
        self._closed = True

    def write_truth(self, path: Path) -> None:
        """Write the truth so far; never for the eyes of the controller."""
        self.truth.write(path)

    # --- inside --------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._clock.now_s() - self._origin_s

    def _account(self, until_s: float | None = None) -> None:
        self._step_record_clock()
        until = self._now() if until_s is None else until_s
        self._world.account(until, self._running, self._number)

    def _step_record_clock(self) -> None:
        if (
            isinstance(self._clock, VirtualClock)
            and self._world.faults.take("clock-step", self._now()) is not None
        ):
            self._clock.step_utc(3600.0)

    def _begin(self, now_s: float) -> None:
        armed = self._armed
        if armed is not None and armed.from_s is None:
            armed.from_s = now_s
            armed.pose = self._world.stage.true_pose(now_s)
            scan = armed.job.scan
            self._running = None if scan is None else Running(scan, now_s)

    def _check(self, job: DetectorJob) -> None:
        known = {info.name: info for info in self._capabilities.detectors}
        if job.detector not in known:
            raise UnsupportedError(
                f"no detector {job.detector!r}; there are {', '.join(known)}. Nothing was armed"
            )
        info = known[job.detector]
        mode = self._world.optics.mode
        if mode not in info.modes:
            raise ModeError(
                f"{job.detector} works in mode {', '.join(m.value for m in info.modes)}, the "
                f"optics are in {mode.value}; nothing was armed. Change the mode first"
            )
        if job.scan is not None and not info.can_scan:
            raise UnsupportedError(f"{job.detector} cannot scan; nothing was armed")
        if not info.min_exposure_s <= job.frame_s <= info.max_exposure_s:
            raise LimitError(
                f"a frame of {job.frame_s:g} s is outside {info.min_exposure_s:g} .. "
                f"{info.max_exposure_s:g} s of {job.detector}; nothing was armed"
            )

    def _require_armed(self, *, scan: bool) -> _Armed:
        armed = self._armed
        if armed is None or (armed.job.scan is not None) != scan:
            wanted = "scan" if scan else "frame"
            raise ArmFailedError(f"no {wanted} is armed; the beam is left as it was. Arm first")
        return armed

    def _frame(self, armed: _Armed, shutter: Shutter) -> NDArray[np.generic]:
        return self._world.frame(armed.job, shutter, self._now())

    def _shutter(self, armed: _Armed) -> Shutter:
        now = self._now()
        from_s = now if armed.from_s is None else armed.from_s
        to_s = from_s + armed.job.frame_s * armed.job.frames
        pose = armed.pose or self._world.stage.true_pose(now)
        return Shutter(armed.number, from_s, to_s, pose)

    def _scan_frames(self, armed: _Armed) -> Iterator[FrameBatch]:
        """Frames of the armed scan as time goes by."""
        job, world = armed.job, self._world
        scan = job.scan
        if scan is None:
            return
        with self._lock:
            shutter = self._shutter(armed)
            raster = world.raster(scan, shutter, self._now())
        nominal = world.optics.now.probe_current_pA
        rng = stream(world.seed, "frame", armed.number)
        number = np.arange(scan.positions)
        begins = shutter.from_s + number * scan.dwell_s
        begins = begins + (number // scan.shape[1]) * scan.flyback_s
        first, total = 0, 0.0
        try:
            for patterns in raster.patterns():
                times = begins[first : first + len(patterns)]
                self._clock.sleep(float(times[-1]) + scan.dwell_s - self._now())
                if armed.aborted:
                    return
                with self._lock:
                    electrons = electrons_per_frame(
                        world.column, world.faults, nominal, times.tolist(), scan.dwell_s
                    )
                total += float(electrons.sum())
                expected = patterns * electrons[:, None, None]
                data = world.detectors.read(job.detector, expected, scan.dwell_s, rng)
                yield FrameBatch(job.exposure_id, first, data)
                first += len(patterns)
        finally:  # whoever listens may stop at the last frame
            with self._lock:
                world.remember(job, shutter, total, self._now(), raster=raster)
