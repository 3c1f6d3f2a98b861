"""The driver of a column that lives in a process of its own; see `column_host`.

Several may hold on to one column, as a server and its watchdog do: the last command counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from controller.backends.registry import OptionValue
from controller.hardware.clock import Clock
from controller.hardware.errors import (
    LinkError,
    ProtocolError,
    ReplyTimeoutError,
    UnreachableError,
)
from controller.hardware.faults import FaultSource, NoFaults, kind_of
from controller.hardware.values import (
    Axis,
    AxisState,
    Calibration,
    Capabilities,
    ColumnHealth,
    DetectorJob,
    FrameBatch,
    Frozen,
    LongOperation,
    LongOperationResult,
    OpticsChange,
    OpticsState,
    RawFrame,
    StageLimits,
    StagePose,
)
from controller.hardware.wire.clocks import clock_of
from controller.hardware.wire.message import Array
from controller.hardware.wire.requester import Requester

ANSWER_S = 5.0
LONG_S = 3600.0

Value = TypeVar("Value", bound=Frozen)


def open_column(
    options: Mapping[str, OptionValue],
    *,
    clock: Clock | None = None,
    run_dir: Path | None = None,
) -> ColumnAdapter:
    """Hold on to a hosted column; entry point ``column``.

    Parameters
    ----------
    options
        ``address`` (``ipc://PATH`` or ``tcp://127.0.0.1:PORT``), and ``end``: whether closing this
        ends the column.
    clock
        Not used: the column has its own.

    Raises
    ------
    ValueError
        Another option, or none.
    UnreachableError
        No column there.
    """
    unknown = set(options) - {"address", "end"}
    address = options.get("address")
    if unknown or not isinstance(address, str):
        raise ValueError(
            f"a hosted column takes the options address (ipc://PATH or tcp://127.0.0.1:PORT) and "
            f"end, got {dict(options)}"
        )
    return ColumnAdapter(address, ends=bool(options.get("end", False)))


class ColumnAdapter:
    """Implements ``contract.Adapter`` by asking a `column_host.ColumnHost`."""

    def __init__(self, address: str, *, ends: bool = False) -> None:
        self._link = Requester(address, name="column")
        self._ends = ends
        try:
            hello = self._ask("hello")
        except ReplyTimeoutError as error:
            self._link.close()
            raise UnreachableError(
                f"no column answered at {address} within {ANSWER_S:g} s; see whether its process "
                f"runs"
            ) from error
        self._capabilities = Capabilities.model_validate(hello["capabilities"])
        self._calibration = Calibration.model_validate(hello["calibration"])
        self._clock = clock_of(hello, self._link)
        self._has_faults = bool(hello["injectable"])

    def _ask(self, verb: str, args: dict[str, Any] | None = None, *, within_s: float = 0.0) -> Any:  # noqa: ANN401
        return self._link.ask(verb, args, timeout_s=ANSWER_S + within_s)[0]

    def _value(self, kind: type[Value], verb: str) -> Value:
        try:
            return kind.model_validate(self._ask(verb))
        except ValueError as error:
            raise ProtocolError(f"the column answered {verb} with no {kind.__name__}") from error

    @property
    def capabilities(self) -> Capabilities:
        """What this instrument can do."""
        return self._capabilities

    @property
    def calibration(self) -> Calibration:
        """Stored calibration."""
        return self._calibration

    @property
    def clock(self) -> Clock:
        """The column's."""
        return self._clock

    def read_pose(self) -> StagePose:
        """Present read-back."""
        return self._value(StagePose, "read_pose")

    def start_move(self, axis: Axis, target: float) -> None:
        """Start moving one axis."""
        self._ask("start_move", {"axis": axis.value, "target": target})

    def axis_state(self, axis: Axis) -> AxisState:
        """Status of one axis."""
        return AxisState(**self._ask("axis_state", {"axis": axis.value}))

    def halt(self) -> None:
        """Stop all axes."""
        self._ask("halt")

    def holder_limits(self) -> StageLimits:
        """What the holder allows."""
        return self._value(StageLimits, "holder_limits")

    def read_optics(self) -> OpticsState:
        """Read back."""
        return self._value(OpticsState, "read_optics")

    def write_optics(self, change: OpticsChange) -> None:
        """Send the settings."""
        self._ask("write_optics", change.model_dump(mode="json", exclude_none=True))

    def read_health(self) -> ColumnHealth:
        """Interlocks now."""
        return self._value(ColumnHealth, "read_health")

    def run_operation(self, operation: LongOperation) -> LongOperationResult:
        """Carry out a long operation."""
        result = self._ask("run_operation", {"operation": operation.value}, within_s=LONG_S)
        return LongOperationResult.model_validate(result)

    def arm(self, job: DetectorJob) -> None:
        """Prepare the detector and confirm."""
        scan = None if job.scan is None else job.scan.model_dump(mode="json")
        self._ask(
            "arm",
            {
                "exposure_id": str(job.exposure_id),
                "detector": job.detector,
                "frame_s": job.frame_s,
                "frames": job.frames,
                "scan": scan,
            },
        )

    def open_beam(self) -> None:
        """Beam on."""
        self._ask("open_beam")

    def blank_beam(self) -> None:
        """Beam off."""
        self._ask("blank_beam")

    def read_blanked(self) -> bool | None:
        """What the blanker says."""
        answer = self._ask("read_blanked")
        return None if answer is None else bool(answer)

    def collect(self, timeout_s: float) -> RawFrame:
        """Wait for the armed frame."""
        answer, arrays = self._link.ask(
            "collect", {"timeout_s": timeout_s}, timeout_s=ANSWER_S + LONG_S
        )
        return RawFrame(UUID(answer["job_id"]), int(answer["sequence"]), _only(arrays))

    def stream(self, timeout_s: float) -> Iterator[FrameBatch]:
        """Yield the frames of the armed scan."""
        number = self._ask("stream.begin", {"timeout_s": timeout_s})
        while True:
            answer, arrays = self._link.ask(
                "stream.next", {"stream": number}, timeout_s=ANSWER_S + LONG_S
            )
            if answer is None:
                return
            yield FrameBatch(UUID(answer["job_id"]), int(answer["first_sequence"]), _only(arrays))

    def abort(self) -> None:
        """Disarm and drain."""
        self._ask("abort")

    def extra(self, name: str, *args: object) -> Any:  # noqa: ANN401  (whatever the column says)
        """What only a simulated column offers: ``witness``, ``inject_fault`` and the like."""
        return self._ask("extra", {"name": name, "args": list(args)})

    @property
    def injected(self) -> FaultSource:
        """The faults that were asked for; none if the column is no simulated one."""
        return _RemoteFaults(self._link) if self._has_faults else NoFaults()

    def close(self) -> None:
        """Blank and let go; the column lives on unless it was to end with this."""
        try:
            self.blank_beam()
            if self._ends:
                self._ask("end")
        except LinkError:  # it is gone already
            pass
        finally:
            self._link.close()


class _RemoteFaults:
    """The `FaultSource` of a hosted column."""

    def __init__(self, link: Requester) -> None:
        self._link = link

    def strikes(self, name: str) -> bool:
        """See `FaultSource.strikes`."""
        return bool(self._ask("strikes", kind_of(name).name))

    def is_on(self, name: str) -> bool:
        """See `FaultSource.is_on`."""
        return bool(self._ask("is_on", kind_of(name).name))

    def count(self, what: str) -> None:
        """See `FaultSource.count`."""
        self._ask("count", what)

    def _ask(self, how: str, what: str) -> object:
        return self._link.ask("fault", {"how": how, "what": what}, timeout_s=ANSWER_S)[0]


def _only(arrays: list[Array]) -> Array:
    if len(arrays) != 1:
        raise ProtocolError(f"{len(arrays)} arrays came from the column; one was expected")
    return arrays[0]
