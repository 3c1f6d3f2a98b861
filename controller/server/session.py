"""A session at an instrument: adapter, dose ledger, gate and scan files, opened and closed as one.

In process, or behind a hardware server: the ledger and the scan writer sit next to the adapter,
the clock comes from the adapter, scans return receipts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import NAMESPACE_URL, uuid5

from controller.backends.detectors.config import DectrisConfig, MerlinConfig, detector_of
from controller.backends.detectors.opening import attached_detector
from controller.backends.registry import OptionValue, load_adapter_factory
from controller.hardware.clock import Clock
from controller.hardware.contract import Adapter, DoseAuditor, Microscope, ScanSink
from controller.hardware.faults import FaultSource, NoFaults, faults_of
from controller.hardware.values import StageLimits
from controller.hardware.wire.endpoints import load_keys
from controller.hardware.wire.responder import Passage
from controller.safety.dose import DoseLedger
from controller.safety.gate import GuardedMicroscope
from controller.safety.limits import DoseLimits
from controller.server.client import RemoteMicroscope, connect
from controller.server.scan_sink import NativeScanSink

LEDGER_FILE = "ledger.sqlite"
SCAN_FOLDER = "scans"


@dataclass(frozen=True)
class SessionHooks:
    """Where injected faults get into a session; by default nothing does.

    Each is asked with the fault source of the adapter, which only a simulated one has.
    """

    before_ledger: Callable[[Path, FaultSource], None] = lambda path, faults: None
    """Called with the path of the ledger before it is opened."""
    at_write: Callable[[FaultSource], Callable[[str], None]] = lambda faults: lambda point: None
    """Makes what is called at every point of every write of the ledger."""
    wrap_sink: Callable[[ScanSink, FaultSource, Clock], ScanSink] = lambda sink, faults, clock: sink
    """Puts a disk between the guard and the writer of scans."""
    link: Callable[[FaultSource], Passage | None] = lambda faults: None
    """Makes what lies between a served lane and its clients, once for each lane."""


@dataclass
class Session:
    """An open instrument under guard; a context manager that leaves it blanked."""

    microscope: GuardedMicroscope
    ledger: DoseLedger
    run_dir: Path
    injected: FaultSource
    """The faults that were asked for; a real instrument has none."""
    _closing: ExitStack

    @property
    def clock(self) -> Clock:
        """The one clock of this session."""
        return self.microscope.clock

    def bookings(self) -> list[dict[str, Any]]:
        """Everything in the ledger: request and receipt (JSON), state, charge in e/A2."""
        return [
            {
                "request": record.booking.request,
                "state": record.state.value,
                "charged_e_per_A2": record.charged_e_per_A2,
                "receipt": self.ledger.conclusion(record.booking.exposure_id),
            }
            for record in self.ledger.records()
        ]

    def close(self) -> None:
        """Blank, let go of the instrument, close the ledger. Idempotent."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_session(  # noqa: PLR0913  (the parts of a session, each named once)
    backend: str,
    options: Mapping[str, OptionValue],
    *,
    run_dir: Path,
    dose_limits: DoseLimits,
    site_limits: StageLimits | None = None,
    plan_limits: StageLimits | None = None,
    clock: Clock | None = None,
    auditor: DoseAuditor | None = None,
    run_uuid: str | None = None,
    beam_off: Callable[[datetime], datetime | None] = lambda opened: None,
    detector: DectrisConfig | MerlinConfig | None = None,
    hooks: SessionHooks = SessionHooks(),
) -> Session:
    """Open the instrument called `backend` and guard it.

    Parameters
    ----------
    backend, options
        Name of an installed driver and what it wants to know.
    run_dir
        Gets ``ledger.sqlite`` and ``scans/``; created when missing.  A ledger that is there is
        taken up: what an earlier session charged stays charged.
    run_uuid
        Written into scan files; derived from the name of the run folder if not given.
    beam_off
        When a watchdog took off a beam that an earlier process left open; see `DoseLedger`.
    detector
        An external detector beside the column, under its own name (docs/detectors.md).  The
        option ``detector_file`` of `options` names the YAML of one as well.
    hooks
        For injected faults.

    Raises
    ------
    UnknownAdapterError
        No such driver is installed.
    ValueError
        The driver refuses an option.
    LimitError
        The limits leave no room for an axis.
    StorageError
        Another session keeps this ledger.
    """
    factory = load_adapter_factory(backend)
    options, detector = detector_of(options, detector)
    run_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opening:
        column = factory(options, clock=clock, run_dir=run_dir)
        opening.callback(_let_go, column)
        source = opening.enter_context(attached_detector(column, detector)) if detector else None
        adapter = source or column
        injected = faults_of(column)
        hooks.before_ledger(run_dir / LEDGER_FILE, injected)
        ledger = opening.enter_context(
            DoseLedger(
                run_dir / LEDGER_FILE,
                dose_limits,
                adapter.clock,
                beam_off=beam_off,
                at_write=hooks.at_write(injected),
            )
        )
        sink = NativeScanSink(
            run_dir / SCAN_FOLDER,
            adapter.capabilities,
            adapter.calibration,
            adapter.clock,
            run_uuid=run_uuid or str(uuid5(NAMESPACE_URL, run_dir.name)),
            source=source,
        )
        microscope = GuardedMicroscope(
            adapter,
            ledger,
            site=site_limits,
            plan=plan_limits,
            sink=hooks.wrap_sink(sink, injected, adapter.clock),
            auditor=auditor,
        )
        opening.callback(_blank, microscope)
        return Session(microscope, ledger, run_dir, injected, opening.pop_all())


@dataclass
class RemoteSession:
    """An instrument behind a hardware server, driven under a lease while it is open."""

    microscope: RemoteMicroscope
    _closing: ExitStack

    @property
    def injected(self) -> FaultSource:
        """Nothing can be injected over the wire: who serves the column says what fails."""
        return NoFaults()

    @property
    def clock(self) -> Clock:
        """The clock of the instrument."""
        return self.microscope.clock

    def bookings(self) -> list[dict[str, Any]]:
        """Everything in the server's ledger, as `Session.bookings`."""
        return self.microscope.bookings()

    def close(self) -> None:
        """Let go: the server blanks and halts. Idempotent."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_remote_session(
    options: Mapping[str, OptionValue],
    *,
    dose_limits: DoseLimits,
    plan_limits: StageLimits | None = None,
    auditor: DoseAuditor | None = None,
    most_s_per_step: float | None = None,
) -> RemoteSession:
    """Drive the instrument behind a hardware server, under the plan's limits inside its own.

    Parameters
    ----------
    options
        ``url``, and with keys ``key`` (this client's secret file) and ``server_key``.

    Raises
    ------
    ValueError
        Options that are not these, or files that hold no keys.
    UnreachableError, NotAuthorisedError, LeaseLostError, LimitError
        As `client.connect` and `client.RemoteMicroscope.drive`.
    """
    unknown = set(options) - {"url", "key", "server_key"}
    url, key, server_key = (options.get(name) for name in ("url", "key", "server_key"))
    if unknown or not isinstance(url, str) or (key is None) != (server_key is None):
        raise ValueError(
            f"an instrument behind a server takes the options url and, together, key and "
            f"server_key; got {dict(options)}"
        )
    keys = None if key is None else load_keys(Path(str(key)), Path(str(server_key)))
    with ExitStack() as opening:
        microscope = opening.enter_context(connect(url, keys=keys, name="agent", role="agent"))
        microscope.auditor = auditor
        opening.enter_context(
            microscope.drive(
                budgets=dose_limits, stage_limits=plan_limits, most_s_per_step=most_s_per_step
            )
        )
        return RemoteSession(microscope, opening.pop_all())


def _blank(microscope: Microscope) -> None:
    microscope.blank("the session ends")


def _let_go(adapter: Adapter) -> None:
    adapter.close()
