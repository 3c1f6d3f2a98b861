"""A driver made of an `Instrument` and a lane: the state machine that is the same for every vendor.

Vendors' calls block: a move until the stage is there, an image until it is read out.  Here a move
or an exposure is handed to the lane and the caller goes on.  While one is under way the lane
answers nothing else, and nothing here pretends that it does:

- during a move the health is the last one read, with its age, and the pose waits for the move;
- the beam is never opened during a move, so blanking is queued and the blanker reads unknown;
- during an exposure blanking waits for the detector: `BlankInfo.latency_s` says how long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from controller.backends.instrument import Instrument
from controller.backends.lane import Lane, Task
from controller.backends.readings import aged
from controller.backends.refusals import check_job, check_settings, check_target
from controller.backends.vendor_errors import translated
from controller.hardware.clock import Clock
from controller.hardware.errors import (
    ArmFailedError,
    BeamState,
    ExposureTimeoutError,
    MicroscopeError,
    ModeError,
    ReplyTimeoutError,
    UnsupportedError,
)
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

CONNECT_S = 120.0
"""Deadline of the first call; some vendors take a minute to say that they cannot be reached."""
CALL_S = 10.0
"""Deadline of an ordinary call."""
MOVE_FACTOR = 20.0
"""A blocking move may take this many times distance / nominal speed before it counts as lost."""
OPERATION_S = 3600.0
READOUT_S = 30.0
"""How much longer than the exposure a detector may keep the lane."""
HEALTH_FRESH_S = 0.2
BATCH = 64

T = TypeVar("T")


@dataclass(frozen=True)
class _Move:
    axis: Axis
    task: Task[None]
    until_s: float


@dataclass
class _Armed:
    job: DetectorJob
    number: int
    task: Task[NDArray[np.generic]] | None = None


class LanedAdapter:
    """Implements ``controller.hardware.contract.Adapter`` for any `Instrument`.

    Parameters
    ----------
    instrument
        Made on `lane` where the vendor binds objects to a thread.
    lane
        Carries every call.
    clock
        The clock that this instrument lives by.
    detector_lane
        Carries `Instrument.acquire` where the camera has a connection of its own; blanking then
        does not wait for it.
    """

    def __init__(
        self,
        instrument: Instrument,
        lane: Lane,
        clock: Clock,
        *,
        detector_lane: Lane | None = None,
    ) -> None:
        self._instrument = instrument
        self._lane = lane
        self._detector_lane = detector_lane or lane
        self._clock = clock
        self._state = threading.RLock()
        self._move: _Move | None = None
        self._armed: _Armed | None = None
        self._acquiring: Task[NDArray[np.generic]] | None = None
        self._acquiring_s = 0.0
        self._open = False
        self._number = 0
        self._closed = False
        self._capabilities = instrument.capabilities
        self._holder = instrument.holder_limits()
        self._health: tuple[float, ColumnHealth] | None = None
        self.blank_beam()
        self._pose = self.read_pose()
        self.read_health()

    # --- what it is --------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """What this instrument can do."""
        return self._capabilities

    @property
    def calibration(self) -> Calibration:
        """Stored calibration of the instrument."""
        return self._instrument.calibration

    @property
    def clock(self) -> Clock:
        """The clock that this instrument lives by."""
        return self._clock

    # --- stage -------------------------------------------------------------------------------

    def read_pose(self) -> StagePose:
        """Read back; during a blocking move this waits for its end."""
        move = self._move
        waited_s = 0.0 if move is None else max(0.0, move.until_s - self._clock.now_s())
        self._pose = self._call(
            self._instrument.read_pose, "reading the stage", timeout_s=CALL_S + waited_s
        )
        return self._pose

    def start_move(self, axis: Axis, target: float) -> None:
        """Hand the move to the lane.

        Raises
        ------
        UnsupportedError, LimitError
            No such axis, or outside what vendor and holder allow. Nothing has moved.
        ModeError
            The move before has not ended, or the beam is open.
        """
        check_target(axis, target, self._capabilities, self._holder)
        with self._state:
            if self._moving() is not None:
                raise ModeError(
                    f"{axis.value} was not sent: the move before has not ended; the beam is "
                    f"blanked. Wait for the stage."
                )
            if self._open:
                raise ModeError(
                    f"{axis.value} was not sent: the beam is open. Blank it before a move."
                )
            speed = self._capabilities.axes[axis].speed_per_s
            longest_s = MOVE_FACTOR * abs(self._pose.get(axis) - target) / speed + CALL_S
            task = self._lane.start(lambda: self._instrument.move(axis, target), f"{axis.value}")
            self._move = _Move(axis, task, self._clock.now_s() + longest_s)

    def axis_state(self, axis: Axis) -> AxisState:
        """Moving while a move is under way; then what the goniometer says."""
        if self._moving() is not None:
            return AxisState(moving=True)
        with self._state:
            move, self._move = self._move, None
        if move is not None:
            translated(lambda: move.task.result(0.0), f"moving {move.axis.value}")
        return self._call(lambda: self._instrument.axis_state(axis), "reading the stage")

    def halt(self) -> None:
        """Stop the stage if the vendor can; a move that has not begun never will.

        Behind a call that blocks until the stage is there the halt is queued, and not waited for.
        """
        move = self._move
        if move is not None:
            move.task.abandon()
        if not any(info.can_stop for info in self._capabilities.axes.values()):
            return
        task = self._lane.start(self._instrument.halt, "halting the stage", urgent=True)
        if self._moving() is None:
            timeout_s = CALL_S + self._exposure_s()
            translated(lambda: task.result(timeout_s, insist=True), "halting the stage")

    def holder_limits(self) -> StageLimits:
        """What the inserted holder allows."""
        return self._holder

    # --- optics and column -------------------------------------------------------------------

    def read_optics(self) -> OpticsState:
        """Read back."""
        return self._call(self._instrument.read_optics, "reading the optics")

    def write_optics(self, change: OpticsChange) -> None:
        """Send the settings.

        Raises
        ------
        UnsupportedError
            A mode or setting that this instrument has not. Nothing was sent.
        """
        check_settings(change, self._capabilities)
        self._call(
            lambda: self._instrument.write_optics(change), "setting the optics", timeout_s=60.0
        )

    def read_health(self) -> ColumnHealth:
        """Interlocks now; while the lane is taken, the last ones with their age."""
        busy = self._moving() is not None or self._exposing()
        now_s = self._clock.now_s()
        if self._health is not None and (busy or now_s - self._health[0] < HEALTH_FRESH_S):
            return aged(self._health[1], now_s - self._health[0])
        health = self._call(self._instrument.read_health, "reading the column")
        self._health = (self._clock.now_s(), health)
        return health

    def run_operation(self, operation: LongOperation) -> LongOperationResult:
        """Carry out a long operation; return when it has ended.

        Raises
        ------
        UnsupportedError
            Not offered. Nothing was done.
        """
        if operation not in self._capabilities.long_operations:
            raise UnsupportedError(
                f"this instrument cannot {operation.value}; nothing was done. "
                f"A person has to do it by hand."
            )
        began_s = self._clock.now_s()
        succeeded, detail = True, ""
        try:
            detail = self._call(
                lambda: self._instrument.operate(operation),
                operation.value,
                timeout_s=OPERATION_S,
                urgent=operation is LongOperation.CLOSE_VALVE,
            )
        except MicroscopeError as problem:
            succeeded, detail = False, str(problem)
        self._health = None
        return LongOperationResult(
            operation=operation,
            succeeded=succeeded,
            elapsed_s=max(0.0, self._clock.now_s() - began_s),
            detail=detail,
        )

    # --- beam --------------------------------------------------------------------------------

    def open_beam(self) -> None:
        """Let the beam on and start the armed exposure.

        Raises
        ------
        ArmFailedError
            Nothing is armed, or it was exposed already; the beam stays blanked.
        ModeError
            The stage moves; the beam stays blanked.
        """
        with self._state:
            armed = self._armed
            if armed is None or armed.task is not None:
                raise ArmFailedError(
                    "the beam was not opened: no exposure is armed; the beam is blanked. Arm first"
                )
            if self._moving() is not None:
                raise ModeError("the beam was not opened: the stage moves; the beam is blanked")
            job = armed.job
            self._open = True
            self._call(lambda: self._instrument.set_blanked(False), "opening the beam")
            armed.task = self._acquire(job)

    def blank_beam(self) -> None:
        """Take the beam off; waits for a detector that keeps the lane, never for a move."""
        task = self._lane.start(
            lambda: self._instrument.set_blanked(True), "blanking the beam", urgent=True
        )
        if self._moving() is not None and not self._open:
            return
        timeout_s = CALL_S + self._exposure_s()
        translated(lambda: task.result(timeout_s, insist=True), "blanking the beam")
        self._open = False

    def read_blanked(self) -> bool | None:
        """Read back; False while an exposure keeps the lane, unknown while a move does.

        A blanker that should answer and does not is told to blank before the error is raised.
        """
        if self._exposing() and self._open:
            return False
        if self._moving() is not None:
            return None
        try:
            return self._call(self._instrument.is_blanked, "reading the blanker", urgent=True)
        except MicroscopeError:
            self._lane.start(
                lambda: self._instrument.set_blanked(True), "blanking the beam", urgent=True
            )
            raise

    # --- detectors ---------------------------------------------------------------------------

    def arm(self, job: DetectorJob) -> None:
        """Prepare the detector, the beam still blanked.

        Raises
        ------
        UnsupportedError, ModeError, LimitError
            No such detector or scan, not in this mode, or a time outside its range.
        ArmFailedError
            The detector did not take the settings.
        """
        check_job(job, self.read_optics().mode, self._capabilities)
        with self._state:
            self._armed = None
            self._let_the_detector_end()
            if self._acquiring is not None and not self._acquiring.done():
                raise ArmFailedError(
                    f"{job.detector} was not armed: the exposure before is still under way after "
                    f"{CALL_S:g} s; the beam is blanked. Wait, or look at the camera."
                )
            self._call(lambda: self._instrument.prepare(job), f"arming {job.detector}")
            self._number += 1
            self._armed = _Armed(job, self._number)

    def collect(self, timeout_s: float) -> RawFrame:
        """Wait for the frame; a dark one if the beam was never opened."""
        armed = self._required()
        data = self._wait(armed, timeout_s)
        self._armed = None
        return RawFrame(armed.job.exposure_id, armed.number, data)

    def stream(self, timeout_s: float) -> Iterator[FrameBatch]:
        """Yield the frames of the armed scan; all at its end, for these vendors give no earlier."""
        armed = self._required()
        data = self._wait(armed, timeout_s)
        for first in range(0, len(data), BATCH):
            if self._armed is not armed:
                return
            yield FrameBatch(armed.job.exposure_id, first, data[first : first + BATCH])
        self._armed = None

    def abort(self) -> None:
        """Forget what is armed; what the detector still delivers is thrown away."""
        armed, self._armed = self._armed, None
        if armed is not None and armed.task is not None:
            armed.task.abandon()

    def close(self) -> None:
        """Blank and let go."""
        if self._closed:
            return
        self._closed = True
        try:
            self.abort()
            self.blank_beam()
            self._let_the_detector_end()
        finally:
            self._lane.start(self._instrument.close, "closing")
            self._lane.close()
            self._detector_lane.close()

    # --- inside ------------------------------------------------------------------------------

    def _call(
        self,
        work: Callable[[], T],
        what: str,
        *,
        timeout_s: float = CALL_S,
        urgent: bool = False,
    ) -> T:
        wait_s = timeout_s + self._exposure_s()
        return translated(
            lambda: self._lane.call(work, what, timeout_s=wait_s, urgent=urgent), what
        )

    def _moving(self) -> _Move | None:
        move = self._move
        return None if move is None or move.task.done() else move

    def _acquire(self, job: DetectorJob) -> Task[NDArray[np.generic]]:
        task = self._detector_lane.start(lambda: self._instrument.acquire(job), job.detector)
        self._acquiring, self._acquiring_s = task, job.frame_s * job.frames
        return task

    def _let_the_detector_end(self) -> None:
        """Whoever arms or opens it next must not meet an exposure that still runs."""
        task = self._acquiring
        if task is not None:
            with suppress(MicroscopeError):
                translated(lambda: task.result(CALL_S, insist=True), "waiting for the detector")

    def _exposing(self) -> bool:
        """Whether an exposure keeps the lane, wanted or given up."""
        shared = self._detector_lane is self._lane
        return shared and self._acquiring is not None and not self._acquiring.done()

    def _exposure_s(self) -> float:
        """How long it may keep it."""
        return self._acquiring_s + READOUT_S if self._exposing() else 0.0

    def _required(self) -> _Armed:
        armed = self._armed
        if armed is None:
            raise ArmFailedError("nothing is armed; the beam is left as it was. Arm first")
        return armed

    def _wait(self, armed: _Armed, timeout_s: float) -> NDArray[np.generic]:
        job = armed.job
        if armed.task is None:
            armed.task = self._acquire(job)
        task = armed.task
        try:
            return translated(lambda: task.result(timeout_s), f"reading {job.detector}")
        except ReplyTimeoutError as problem:
            raise ExposureTimeoutError(
                f"no frame from {job.detector} within {timeout_s:g} s (exposure of "
                f"{job.frame_s * job.frames:g} s); blank the beam, abort and arm again",
                beam_state=BeamState.UNKNOWN,
            ) from problem


def open_laned(
    make: Callable[[], Instrument],
    lane: Lane,
    clock: Clock,
    *,
    detector_lane: Lane | None = None,
) -> LanedAdapter:
    """An adapter whose instrument is made in its lane, to whose thread a vendor may bind it.

    Raises
    ------
    MicroscopeError
        It could not be opened; the lanes are closed again.
    """
    try:
        instrument = translated(
            lambda: lane.call(make, "connecting", timeout_s=CONNECT_S), "connecting"
        )
        return LanedAdapter(instrument, lane, clock, detector_lane=detector_lane)
    except BaseException:
        lane.close()
        if detector_lane is not None:
            detector_lane.close()
        raise
