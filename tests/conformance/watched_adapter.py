"""An adapter in front of another: keeps a diary, and lets a test step in at any call."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from controller.hardware.clock import Clock
from controller.hardware.contract import Adapter
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


class WatchedAdapter:
    """Passes every call on; commands go into `diary`, and `on_call(name)` runs before each."""

    def __init__(self, inner: Adapter) -> None:
        self.inner = inner
        self.diary: list[str] = []
        self.moves: list[tuple[Axis, float]] = []
        self.on_call: Callable[[str], None] = lambda name: None
        self.health_seen: Callable[[ColumnHealth], ColumnHealth] = lambda health: health

    def _note(self, name: str) -> None:
        self.diary.append(name)
        self.on_call(name)

    @property
    def openings(self) -> int:
        return self.diary.count("open_beam")

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    @property
    def calibration(self) -> Calibration:
        return self.inner.calibration

    @property
    def clock(self) -> Clock:
        return self.inner.clock

    def read_pose(self) -> StagePose:
        return self.inner.read_pose()

    def start_move(self, axis: Axis, target: float) -> None:
        self.moves.append((axis, target))
        self._note("start_move")
        self.inner.start_move(axis, target)

    def axis_state(self, axis: Axis) -> AxisState:
        self._note("axis_state")
        return self.inner.axis_state(axis)

    def halt(self) -> None:
        self._note("halt")
        self.inner.halt()

    def holder_limits(self) -> StageLimits:
        return self.inner.holder_limits()

    def read_optics(self) -> OpticsState:
        return self.inner.read_optics()

    def write_optics(self, change: OpticsChange) -> None:
        self._note("write_optics")
        self.inner.write_optics(change)

    def read_health(self) -> ColumnHealth:
        return self.health_seen(self.inner.read_health())

    def run_operation(self, operation: LongOperation) -> LongOperationResult:
        self._note(operation.value)
        return self.inner.run_operation(operation)

    def arm(self, job: DetectorJob) -> None:
        self._note("arm")
        self.inner.arm(job)

    def open_beam(self) -> None:
        self._note("open_beam")
        self.inner.open_beam()
        self._note("opened")

    def blank_beam(self) -> None:
        self._note("blank_beam")
        self.inner.blank_beam()

    def read_blanked(self) -> bool | None:
        return self.inner.read_blanked()

    def collect(self, timeout_s: float) -> RawFrame:
        self._note("collect")
        return self.inner.collect(timeout_s)

    def stream(self, timeout_s: float) -> Iterator[FrameBatch]:
        self._note("stream")
        for batch in self.inner.stream(timeout_s):
            self._note("batch")
            yield batch

    def abort(self) -> None:
        self._note("abort")
        self.inner.abort()

    def close(self) -> None:
        self._note("close")
        self.inner.close()
