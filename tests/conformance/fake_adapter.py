"""A small honest instrument for tests: virtual time, scripted faults, a diary of what was done.

It has no physics.  It knows how long the beam was on, where, and how wide, so that a test can ask
what the specimen truly received.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np

from controller.hardware.clock import Clock, VirtualClock
from controller.hardware.errors import ArmFailedError, ExposureTimeoutError
from controller.hardware.values import (
    Axis,
    AxisInfo,
    AxisState,
    BlankInfo,
    Calibration,
    Capabilities,
    ColumnHealth,
    Condition,
    DetectorInfo,
    DetectorJob,
    Exposure,
    FrameBatch,
    HealthReading,
    LongOperation,
    LongOperationResult,
    Mode,
    OpticsChange,
    OpticsState,
    RawFrame,
    ScanInfo,
    StageLimits,
    StagePose,
)

ELECTRONS_PER_PA_S = 6.241509074e6
STALE_ID = UUID(int=1)

AXES = {
    Axis.X: AxisInfo(low=-1000, high=1000, speed_per_s=100, repeatability=0.02, backlash=0.1),
    Axis.Y: AxisInfo(low=-1000, high=1000, speed_per_s=100, repeatability=0.02, backlash=0.1),
    Axis.Z: AxisInfo(low=-300, high=300, speed_per_s=20, repeatability=0.02, backlash=0.1),
    Axis.ALPHA: AxisInfo(low=-70, high=70, speed_per_s=5, repeatability=0.01, backlash=0.05),
    Axis.BETA: AxisInfo(low=-30, high=30, speed_per_s=2, repeatability=0.02, backlash=0.05),
}

GOOD = HealthReading(condition=Condition.GOOD)


def good_health(**changes: object) -> ColumnHealth:
    names = [
        "valve_open",
        "vacuum_ready",
        "gun_on",
        "high_tension_on",
        "screen_up",
        "holder_inserted",
        "not_refilling",
        "no_flash_due",
    ]
    health = ColumnHealth(**dict.fromkeys(names, GOOD), holder_id="holder-1")
    return health.replace(**changes)


def capabilities(**changes: object) -> Capabilities:
    return Capabilities(
        vendor="fake",
        model="paper",
        api="1",
        adapter_version="1",
        simulated=True,
        axes=AXES,
        blank=BlankInfo(latency_s=0.001, readable=True, independent=True, kind="electrostatic"),
        current_from="gun",
        max_current_pA=100.0,
        detectors=(
            DetectorInfo(
                name="camera",
                shape=(48, 64),
                kind="integrating",
                modes=frozenset(Mode),
                gain=4.0,
                offset=10.0,
                bad_pixels=((3, 5),),
                max_exposure_s=20.0,
            ),
            DetectorInfo(
                name="pixels",
                shape=(12, 16),
                kind="counting",
                modes=frozenset({Mode.STEM, Mode.DIFFRACTION}),
                can_scan=True,
            ),
        ),
        scan=ScanInfo(max_shape=(512, 512), min_dwell_s=1e-5),
        modes=frozenset(Mode),
        long_operations=frozenset(
            {LongOperation.OPEN_VALVE, LongOperation.CLOSE_VALVE, LongOperation.REFILL}
        ),
    ).replace(**changes)


OPTICS = OpticsState(
    mode=Mode.IMAGE,
    energy_keV=300,
    probe_current_pA=10.0,
    beam_diameter_nm=2000.0,
    convergence_semiangle_mrad=0.0,
    defocus_nm=0.0,
    pixel_size_nm=20.0,
    detector_sampling_mrad=1.0,
)


@dataclass
class Faults:
    """What goes wrong; everything off."""

    blanker_stuck: bool = False
    blanker_unreadable: bool = False
    blanker_leaks: bool = False
    valve_stuck: bool = False
    arm_fails: bool = False
    no_frame: bool = False
    stale_frames: int = 0
    wrong_shape: bool = False
    drop: frozenset[int] = frozenset()
    repeat_batches: bool = False
    stale_batches: bool = False
    scan_stalls_at: int | None = None
    true_current_factor: float = 1.0
    optics_clamp: dict[str, object] = field(default_factory=dict)
    stuck_axis: Axis | None = None
    slow_factor: float = 1.0
    offset: dict[Axis, float] = field(default_factory=dict)
    limiter_axis: Axis | None = None
    touch_axis: Axis | None = None
    idle_flaps: bool = False


@dataclass
class _Leg:
    start: float
    target: float
    begun_s: float
    speed: float

    def position(self, now_s: float) -> float:
        away = self.target - self.start
        travelled = min(self.speed * (now_s - self.begun_s), abs(away))
        return self.start + math.copysign(travelled, away)

    def moving(self, now_s: float) -> bool:
        return abs(self.position(now_s) - self.target) > 1e-9


class FakeAdapter:
    """Implements `contract.Adapter`; see the module."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        caps: Capabilities | None = None,
        calibration: Calibration | None = None,
        optics: OpticsState = OPTICS,
        holder: StageLimits | None = None,
    ) -> None:
        self._clock = clock or VirtualClock()
        self._capabilities = caps or capabilities()
        self._calibration = calibration or Calibration()
        self._holder = holder or StageLimits(ranges={Axis.ALPHA: (-60, 60)})
        self.optics = optics
        self.health = good_health()
        self.faults = Faults()
        self.diary: list[str] = []
        self.positions: dict[Axis, _Leg] = {a: _Leg(0, 0, 0, 1.0) for a in AXES}
        self.blanked = True
        self.valve_open = True
        self.job: DetectorJob | None = None
        self.opened_s: float | None = None
        self.on_s = 0.0
        """Seconds that the beam truly was on the specimen, in total."""
        self.frame_on_s = 0.0
        self.openings = 0
        self.closed = False
        self.on_event: Callable[[str], None] = lambda event: None
        """Called with every entry of the diary; a test may raise here, or act as another thread."""

    # --- what a test may ask -----------------------------------------------------------------

    def note(self, event: str) -> None:
        self.diary.append(event)
        self.on_event(event)

    @property
    def beam_on_specimen(self) -> bool:
        return not self.blanked and self.valve_open

    def electrons(self) -> float:
        """Electrons that truly reached the specimen."""
        return self.on_s * self.true_current_pA() * ELECTRONS_PER_PA_S

    def true_current_pA(self) -> float:
        return self.optics.probe_current_pA * self.faults.true_current_factor

    # --- Adapter -----------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def calibration(self) -> Calibration:
        return self._calibration

    @property
    def clock(self) -> Clock:
        return self._clock

    def read_pose(self) -> StagePose:
        now_s = self._clock.now_s()
        return StagePose(
            **{
                axis.value: leg.position(now_s) + self.faults.offset.get(axis, 0.0)
                for axis, leg in self.positions.items()
            }
        )

    def start_move(self, axis: Axis, target: float) -> None:
        self.note(f"move {axis.value} {target:g}")
        now_s = self._clock.now_s()
        start = self.positions[axis].position(now_s)
        speed = self._capabilities.axes[axis].speed_per_s / self.faults.slow_factor
        if axis is self.faults.stuck_axis:
            speed = 1e-9
        self.positions[axis] = _Leg(start, target, now_s, speed)

    def axis_state(self, axis: Axis) -> AxisState:
        now_s = self._clock.now_s()
        moving = self.positions[axis].moving(now_s)
        if self.faults.idle_flaps and int(now_s * 10) % 2:
            moving = False
        return AxisState(
            moving=moving,
            limiter=axis is self.faults.limiter_axis,
            touch=axis is self.faults.touch_axis,
        )

    def halt(self) -> None:
        self.note("halt")
        now_s = self._clock.now_s()
        for axis, leg in self.positions.items():
            here = leg.position(now_s)
            self.positions[axis] = _Leg(here, here, now_s, leg.speed)

    def holder_limits(self) -> StageLimits:
        return self._holder

    def read_optics(self) -> OpticsState:
        return self.optics

    def write_optics(self, change: OpticsChange) -> None:
        self.note("write_optics")
        if self.beam_on_specimen:
            raise RuntimeError("optics were changed with the beam on")
        changes = {n: getattr(change, n) for n in change.model_fields_set}
        self.optics = self.optics.replace(**(changes | self.faults.optics_clamp))

    def read_health(self) -> ColumnHealth:
        changes: dict[str, object] = {"probe_current_pA": self.true_current_pA()}
        if not self.valve_open:
            changes["valve_open"] = HealthReading(condition=Condition.BAD)
        return self.health.replace(**changes)

    def run_operation(self, operation: LongOperation) -> LongOperationResult:
        self.note(operation.value)
        self._account()
        succeeded = True
        if operation is LongOperation.CLOSE_VALVE:
            succeeded = not self.faults.valve_stuck
            self.valve_open = not succeeded
        if operation is LongOperation.OPEN_VALVE:
            self.valve_open = True
        return LongOperationResult(operation=operation, succeeded=succeeded, elapsed_s=0.0)

    def arm(self, job: DetectorJob) -> None:
        self.note("arm")
        if self.faults.arm_fails:
            raise ArmFailedError("the detector did not arm; disarm it and try again")
        self.job = job
        self.frame_on_s = 0.0

    def open_beam(self) -> None:
        self.note("open")
        if self.blanked:
            self.openings += 1
        self.blanked = False
        self.opened_s = self._clock.now_s()

    def blank_beam(self) -> None:
        self.note("blank")
        self._account()
        if not self.faults.blanker_stuck:
            self.blanked = True
            self.opened_s = None

    def read_blanked(self) -> bool | None:
        return None if self.faults.blanker_unreadable else self.blanked

    def collect(self, timeout_s: float) -> RawFrame:
        self.note("collect")
        self._account()
        if self.job is None or self.faults.no_frame:
            self._clock.sleep(timeout_s)
            raise ExposureTimeoutError(f"no frame in {timeout_s:g} s")
        info = self._capabilities.detector(self.job.detector)
        if self.faults.stale_frames > 0:
            self.faults.stale_frames -= 1
            return RawFrame(STALE_ID, 0, np.zeros(info.shape, np.uint16))
        on_s = self.job.frame_s if self.faults.blanker_leaks else self.frame_on_s
        electrons = on_s * self.true_current_pA() * ELECTRONS_PER_PA_S
        data = np.full(info.shape, info.offset, np.float64)
        data += info.gain * electrons / data.size
        if self.faults.wrong_shape:
            data = data[1:]
        return RawFrame(self.job.exposure_id, 0, np.clip(data, 0, 65535).astype(np.uint16))

    def stream(self, timeout_s: float) -> Iterator[FrameBatch]:
        job = self.job
        if job is None or job.scan is None:
            raise ExposureTimeoutError("no scan is armed")
        shape = self._capabilities.detector(job.detector).shape
        if self.faults.stale_batches:
            yield FrameBatch(STALE_ID, 0, np.ones((2, *shape), np.uint8))
        for row in range(job.scan.shape[0]):
            width = job.scan.shape[1]
            first = row * width
            self.note(f"row {row}")
            if self.faults.scan_stalls_at is not None and first >= self.faults.scan_stalls_at:
                self._clock.sleep(timeout_s)
                raise ExposureTimeoutError(f"the scan is not over after {timeout_s:g} s")
            self._clock.sleep(width * job.scan.dwell_s + job.scan.flyback_s)
            if self.job is None:
                return
            kept = [i for i in range(first, first + width) if i not in self.faults.drop]
            for begin, count in _runs(kept):
                data = np.zeros((count, *shape), np.uint8)
                data[:, shape[0] // 2, shape[1] // 2] = (np.arange(begin, begin + count) % 7) + 1
                yield FrameBatch(job.exposure_id, begin, data)
                if self.faults.repeat_batches:
                    yield FrameBatch(job.exposure_id, begin, data)

    def abort(self) -> None:
        self.note("abort")
        self.job = None

    def close(self) -> None:
        self.note("close")
        self.blank_beam()
        self.closed = True

    def _account(self) -> None:
        now_s = self._clock.now_s()
        if self.opened_s is not None and not self.blanked:
            if self.valve_open:
                self.on_s += now_s - self.opened_s
                self.frame_on_s += now_s - self.opened_s
            self.opened_s = now_s


def _runs(values: list[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers: (first, how many)."""
    runs: list[tuple[int, int]] = []
    for value in values:
        if runs and value == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((value, 1))
    return runs


class MemorySink:
    """A scan sink that keeps the frames in memory."""

    def __init__(self) -> None:
        self.batches: list[FrameBatch] = []
        self.begun: list[UUID] = []
        self.finished = 0
        self.full_after: int | None = None

    def begin(
        self, exposure: Exposure, optics: OpticsState, pose: StagePose, detector: str
    ) -> None:
        self.begun.append(exposure.exposure_id)
        self.batches = []

    def append(self, batch: FrameBatch) -> None:
        if self.full_after is not None and len(self.batches) >= self.full_after:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.batches.append(batch)

    def finish(self) -> tuple[str, int, str]:
        self.finished += 1
        last = self.batches[-1] if self.batches else None
        committed = 0 if last is None else last.first_sequence + len(last.data)
        return f"memory:{self.begun[-1]}", committed, "0" * 64
