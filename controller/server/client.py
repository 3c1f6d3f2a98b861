"""A microscope on the other end of a wire: the same contract, the same errors, the same values.

``connect`` watches; ``microscope.drive()`` takes the lease, keeps it by a heartbeat from a thread
that holds no lock of the caller's, and lets go at the end.  The dose ledger is the server's: this
object is never wrapped in a guard again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from controller.hardware.clock import Clock
from controller.hardware.contract import DoseAuditor
from controller.hardware.errors import (
    LeaseLostError,
    LinkError,
    MicroscopeError,
    ProtocolError,
    ReplyTimeoutError,
    UnreachableError,
)
from controller.hardware.values import (
    Approach,
    BlankResult,
    Calibration,
    Capabilities,
    ColumnHealth,
    DoseReading,
    Exposure,
    Frame,
    Frozen,
    LongOperation,
    LongOperationResult,
    MoveResult,
    OpticsChange,
    OpticsState,
    PartialPose,
    Purpose,
    ScanReceipt,
    Settle,
    StageLimits,
    StagePose,
)
from controller.hardware.wire.clocks import clock_of
from controller.hardware.wire.endpoints import Endpoints, Keys
from controller.hardware.wire.picture import picture_in
from controller.hardware.wire.requester import Answer, Pending, Requester
from controller.safety.darkness import BlankerCheck
from controller.safety.limits import DoseLimits, checked_target

ANSWER_S = 5.0
"""A question is answered within this, or the link is bad."""
SILENT_S = 2.0
"""A server that has not answered a heartbeat for this long is taken to be gone."""
LOST_S = 1.0
"""A command that the server neither works on nor has answered for this long: ask again."""
COMMAND_S = 3600.0
"""Nothing takes longer than this."""
NAP_S = 0.05

Value = TypeVar("Value", bound=Frozen)


class _Link:
    """Two lanes to a server, one session, and the lease if it is held."""

    def __init__(self, endpoints: Endpoints, keys: Keys | None) -> None:
        self.endpoints = endpoints
        self.commands = Requester(endpoints.command, keys=keys, name="commands")
        self.safety = Requester(endpoints.safety, keys=keys, name="safety")
        self.epoch: int | None = None
        self.step = 0
        self.lost: MicroscopeError | None = None
        """Why the lease is gone, once it is."""
        self._working_on = ""
        self._driver_alive = True
        self._beaten_s = time.monotonic()

    def hello(self, name: str, role: str) -> dict[str, Any]:
        try:
            answer, _ = self.commands.ask("hello", {"name": name, "role": role}, timeout_s=ANSWER_S)
        except ReplyTimeoutError as error:
            raise UnreachableError(
                f"no server answered at {self.endpoints.command} within {ANSWER_S:g} s; nothing "
                f"was done. See whether it runs, whether its public key is the one given, and "
                f"whether this client's key is on its list."
            ) from error
        if not isinstance(answer, dict) or "session" not in answer:
            raise ProtocolError("the hello was answered with something else")
        self.commands.session = self.safety.session = str(answer["session"])
        return answer

    def question(self, verb: str, args: dict[str, Any] | None = None) -> Answer:
        return self.commands.ask(verb, args, timeout_s=ANSWER_S)

    def command(self, verb: str, args: dict[str, Any]) -> Answer:
        """Carry out a command under the lease, and wait for its end.

        Raises
        ------
        LeaseLostError
            Not driving (any more).
        ReplyTimeoutError
            The server fell silent: the outcome is unknown.
        """
        if self.lost is not None:
            raise self.lost
        if self.epoch is None:
            raise LeaseLostError(
                f"{verb} was not sent: this connection only watches. Drive inside "
                f"`with microscope.drive():`."
            )
        pending = self.commands.send(verb, args, epoch=self.epoch)
        try:
            return self._wait(verb, pending)
        except KeyboardInterrupt:
            self.stop("interrupted at the client")
            pending.wait(ANSWER_S)
            raise
        finally:
            self.commands.forget(pending)

    def _wait(self, verb: str, pending: Pending) -> Answer:
        began_s = asked_s = time.monotonic()
        while not pending.wait(NAP_S):
            now_s = time.monotonic()
            silent_s = now_s - max(self._beaten_s, began_s)
            if silent_s > SILENT_S or now_s - began_s > COMMAND_S:
                raise ReplyTimeoutError(
                    f"the server has not answered for {silent_s:.1f} s while {verb} was under way; "
                    f"its outcome is unknown. The server blanks when this client falls silent, its "
                    f"watchdog when the server does. Connect again and read the state back before "
                    f"anything else."
                )
            if not self._driver_alive:
                raise ReplyTimeoutError(
                    f"the thread of the server that drives has died while {verb} was under way; "
                    f"its outcome is unknown. Start the server anew and read the state back."
                )
            mine = self._working_on == str(pending.request.id)
            if not mine and self._beaten_s - asked_s > LOST_S:
                asked_s = now_s  # request or answer was lost: the same id again is safe
                self.commands.again(pending)
        return pending.answer()

    def beat(self) -> None:
        """One heartbeat; remembers what the server is working on."""
        answer, _ = self.safety.ask(
            "beat", {"step": self.step}, epoch=self.epoch, timeout_s=SILENT_S
        )
        self._working_on = str(answer.get("working_on", ""))
        self._driver_alive = bool(answer.get("driver_alive", True))
        self._beaten_s = time.monotonic()

    def stop(self, why: str) -> None:
        self.safety.ask("stop", {"why": why}, timeout_s=ANSWER_S)

    def close(self) -> None:
        self.commands.close()
        self.safety.close()


class _RemoteStage:
    def __init__(self, link: _Link) -> None:
        self._link = link

    def pose(self) -> StagePose:
        return _value(StagePose, self._link.question("stage.pose"))

    def limits(self) -> StageLimits:
        return _value(StageLimits, self._link.question("stage.limits"))

    def move(
        self,
        target: PartialPose,
        *,
        approach: Approach = Approach.DIRECT,
        settle: Settle = Settle(),  # noqa: B008  (frozen)
        timeout_s: float | None = None,
    ) -> MoveResult:
        checked_target(**{axis.value: value for axis, value in target.targets().items()})
        args = {
            "target": _dump(target),
            "approach": approach.value,
            "settle": _dump(settle),
            "timeout_s": timeout_s,
        }
        return _value(MoveResult, self._link.command("stage.move", args))


class _RemoteOptics:
    def __init__(self, link: _Link) -> None:
        self._link = link

    def state(self) -> OpticsState:
        return _value(OpticsState, self._link.question("optics.state"))

    def apply(self, change: OpticsChange) -> OpticsState:
        return _value(OpticsState, self._link.command("optics.apply", _dump(change)))


class _RemoteColumn:
    def __init__(self, link: _Link) -> None:
        self._link = link

    def health(self) -> ColumnHealth:
        answer = self._link.safety.ask("column.health", timeout_s=ANSWER_S)
        return _value(ColumnHealth, answer)

    def run(self, operation: LongOperation) -> LongOperationResult:
        answer = self._link.command("column.run", {"operation": operation.value})
        return _value(LongOperationResult, answer)


class RemoteMicroscope:
    """A `contract.Microscope` served somewhere else; made by `connect`."""

    def __init__(self, link: _Link, hello: dict[str, Any]) -> None:
        self._link = link
        self.name = str(hello["name"])
        self.role = str(hello["role"])
        self._capabilities = Capabilities.model_validate(hello["capabilities"])
        self._calibration = Calibration.model_validate(hello["calibration"])
        self._ttl_s = float(hello["lease_ttl_s"])
        self._clock = clock_of(hello, link.commands)
        self.auditor: DoseAuditor | None = None
        """Told before each exposure and after it what the server's ledger holds."""
        self._reserved_e_per_A2 = 0.0
        self._stage = _RemoteStage(link)
        self._optics = _RemoteOptics(link)
        self._column = _RemoteColumn(link)

    @property
    def capabilities(self) -> Capabilities:
        """What the instrument can do."""
        return self._capabilities

    @property
    def calibration(self) -> Calibration:
        """What it believes about its geometry, or what this client adopted."""
        return self._calibration

    def adopt(self, calibration: Calibration) -> None:
        """Believe stored measurements; bounds of the dose are the server's all the same."""
        self._calibration = calibration

    @property
    def clock(self) -> Clock:
        """The clock of the instrument."""
        return self._clock

    @property
    def stage(self) -> _RemoteStage:
        """The goniometer."""
        return self._stage

    @property
    def optics(self) -> _RemoteOptics:
        """Lenses and illumination."""
        return self._optics

    @property
    def column(self) -> _RemoteColumn:
        """Vacuum, gun, valves."""
        return self._column

    @contextmanager
    def drive(
        self,
        *,
        by_force: bool = False,
        most_s_per_step: float | None = None,
        budgets: DoseLimits | None = None,
        stage_limits: StageLimits | None = None,
    ) -> Iterator[None]:
        """Hold the lease inside the ``with``; blanked and halted at its end.

        Parameters
        ----------
        by_force
            Take it from whoever holds it, where the role allows that.
        most_s_per_step
            The server stops everything if the step of `advance` stays the same for longer.
        budgets, stage_limits
            Of the plan; they hold inside the server's until the lease is over.

        Raises
        ------
        LeaseLostError
            Somebody else drives.
        NotAuthorisedError
            The role may not drive.
        LimitError
            The plan's limits leave nothing of an axis.
        """
        answer, _ = self._link.commands.ask(
            "lease.take",
            {
                "by_force": by_force,
                "most_s_per_step": most_s_per_step,
                "budgets": None if budgets is None else _dump(budgets),
                "stage_limits": None if stage_limits is None else _dump(stage_limits),
            },
            timeout_s=ANSWER_S,
        )
        self._link.epoch = int(answer["epoch"])
        self._link.lost = None
        ended = threading.Event()
        self._link.beat()
        heart = threading.Thread(
            target=self._beat, args=(ended,), name="lodestem heartbeat", daemon=True
        )
        heart.start()
        try:
            yield
        finally:
            ended.set()
            heart.join(timeout=SILENT_S)
            self._let_go()

    def advance(self, step: int) -> None:
        """Tell the server that the plan has come to `step`; travels with the heartbeat."""
        self._link.step = step

    def _let_go(self) -> None:
        epoch, self._link.epoch = self._link.epoch, None
        if self._link.lost is not None:
            return
        try:
            self._link.commands.ask("lease.release", epoch=epoch, timeout_s=ANSWER_S)
        except (LinkError, LeaseLostError):  # it ends by itself
            return

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(self._ttl_s / 4):
            try:
                self._link.beat()
            except MicroscopeError as problem:
                # also when only the answers are lost: falling silent makes the server blank
                self._link.lost = problem
                return

    def expose(self, exposure: Exposure) -> Frame | ScanReceipt:
        """Open the beam once, under the server's ledger; see `contract.Microscope.expose`."""
        self._tell(exposure, "reserved", self.forecast(exposure) if self.auditor else 0.0)
        try:
            answer, arrays = self._link.command("expose", _dump(exposure))
        finally:
            self._audit(exposure)
        if isinstance(answer, dict) and "frame" in answer:
            return picture_in(answer["frame"], arrays)
        if isinstance(answer, dict) and "receipt" in answer:
            return ScanReceipt.model_validate(answer["receipt"])
        raise ProtocolError("an exposure was answered with neither a frame nor a receipt")

    def _audit(self, exposure: Exposure) -> None:
        """Tell the auditor what the server's ledger says; unknown where it cannot be asked."""
        if self.auditor is None:
            return
        try:
            answer, _ = self._link.question(
                "ledger.record", {"exposure_id": str(exposure.exposure_id)}
            )
        except LinkError:
            answer = {"state": "unknown", "charged_e_per_A2": self._reserved_e_per_A2}
        if answer is None:
            answer = {"state": "released", "charged_e_per_A2": 0.0}
        self._tell(exposure, str(answer["state"]), float(answer["charged_e_per_A2"]))

    def _tell(self, exposure: Exposure, state: str, fluence_e_per_A2: float) -> None:
        self._reserved_e_per_A2 = fluence_e_per_A2
        if self.auditor is not None:
            self.auditor.charged(exposure, state, fluence_e_per_A2)

    def forecast(self, exposure: Exposure) -> float:
        """Upper bound of the fluence in e/A2 that `exposure` would be booked at."""
        return float(self._link.question("forecast", _dump(exposure))[0])

    def dose(self, x_um: float, y_um: float) -> DoseReading:
        """What the ledger holds at a specimen point."""
        answer, _ = self._link.question("dose", {"x_um": x_um, "y_um": y_um})
        return DoseReading({Purpose(name): float(value) for name, value in answer.items()})

    def verify_blanker(self, detector: str, *, duration_s: float = 1.0) -> BlankerCheck:
        """Take a frame with the beam blanked and see whether it is dark."""
        answer, _ = self._link.command(
            "verify_blanker", {"detector": detector, "duration_s": duration_s}
        )
        return BlankerCheck(**answer)

    def bookings(self) -> list[dict[str, Any]]:
        """Everything in the server's ledger: request and receipt (JSON), state, charge in e/A2."""
        found: list[dict[str, Any]] = []
        while page := self._link.question("ledger.records", {"first": len(found)})[0]:
            found += page
        return found

    def service_state(self) -> dict[str, Any]:
        """Who drives, what is under way, why nothing is; JSON."""
        return dict(self._link.question("service.state")[0])

    def budgets(self) -> dict[str, Any]:
        """Limits of the dose ledger, e/A2."""
        return dict(self._link.question("budgets.get")[0])

    def set_budgets(self, *, why: str, **limits_e_per_A2: float) -> dict[str, Any]:
        """Change the limits of the ledger: ``specimen_e_per_A2`` and its parts.

        Raises
        ------
        NotAuthorisedError
            Only scientists and administrators may.
        """
        return dict(self._link.question("budgets.set", {"why": why, **limits_e_per_A2})[0])

    def blank(self, why: str) -> BlankResult:
        """Blank now. Thread-safe, idempotent, needs no lease."""
        return _value(BlankResult, self._link.safety.ask("blank", {"why": why}, timeout_s=ANSWER_S))

    def stop(self, why: str) -> None:
        """Blank, halt the stage, abort the exposure. Thread-safe; everybody may."""
        self._link.stop(why)

    def close(self) -> None:
        """Let go of the connection. Idempotent."""
        self._link.close()


@contextmanager
def connect(
    url: str, *, keys: Keys | None = None, name: str = "script", role: str = ""
) -> Iterator[RemoteMicroscope]:
    """Connect to a hardware server and watch; see `RemoteMicroscope.drive`.

    Parameters
    ----------
    url
        ``tcp://HOST:PORT`` or ``ipc://PATH``.
    keys
        This client's keys and the server's public key; None for a simulator without.
    name, role
        As whom; with keys the server's list decides.

    Raises
    ------
    UnreachableError
        Nobody answered: no server there, or the keys do not fit.
    ValueError
        No such address.
    """
    link = _Link(Endpoints.of(url), keys)
    try:
        yield RemoteMicroscope(link, link.hello(name, role))
    finally:
        link.close()


def stop_now(url: str, why: str, *, keys: Keys | None = None) -> None:
    """STOP from any shell: no session, no lease, nothing to wait for.

    Raises
    ------
    UnreachableError
        Nobody answered.
    """
    safety = Requester(Endpoints.of(url).safety, keys=keys, name="stop")
    try:
        safety.ask("stop", {"why": why}, timeout_s=ANSWER_S)
    except ReplyTimeoutError as error:
        raise UnreachableError(
            f"no server answered at {url}; the state of the beam is unknown. Press the blanker at "
            f"the panel, or close the column valve."
        ) from error
    finally:
        safety.close()


def _dump(value: Frozen) -> dict[str, Any]:
    return value.model_dump(mode="json", exclude_none=True)


def _value(kind: type[Value], answer: Answer) -> Value:
    try:
        return kind.model_validate(answer[0])
    except ValueError as error:
        raise ProtocolError(f"an answer that is no {kind.__name__}: {error}") from error
