"""What may be asked of a served microscope: each verb with its arguments, its right and its lane.

The table is the protocol.  Arguments are frozen models that refuse unknown keys; results are JSON,
pictures are arrays beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, ValidationError

from controller.hardware.values import (
    Approach,
    Exposure,
    Finite,
    Frame,
    Frozen,
    LongOperation,
    OpticsChange,
    PartialPose,
    Positive,
    Settle,
    StageLimits,
)
from controller.hardware.wire.message import Array
from controller.hardware.wire.picture import picture_out
from controller.safety.gate import GuardedMicroscope
from controller.safety.limits import DoseLimits
from controller.server.roles import Right

Answer = tuple[Any, list[Array]]


class Lane(StrEnum):
    """How a verb is carried out."""

    INLINE = "inline"
    """By the thread that reads: takes no time."""
    QUERY = "query"
    """Beside everything else."""
    DRIVE = "drive"
    """One at a time, under the lease."""
    SAFETY = "safety"
    """At once, by a thread of its own."""


class Hello(Frozen):
    """Begin a session."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@ -]{1,64}$")]
    role: str = ""
    """Only where no keys are used."""


class TakeLease(Frozen):
    """Begin to drive."""

    by_force: bool = False
    most_s_per_step: Positive | None = None
    budgets: DoseLimits | None = None
    """Of the plan: they hold inside the server's, as long as the lease does."""
    stage_limits: StageLimits | None = None
    """Of the plan, likewise."""


class Beat(Frozen):
    """Still here, at this step."""

    step: Annotated[int, Field(ge=0)] = 0
    working_on: str = ""
    """Id of the command whose answer is awaited."""


class Nothing(Frozen):
    """No arguments."""


class Point(Frozen):
    """A place on the specimen."""

    x_um: Finite
    y_um: Finite


class Sleep(Frozen):
    """Wait on the clock of the instrument."""

    duration_s: Annotated[float, Field(ge=0, le=36_000, allow_inf_nan=False)]


class Move(Frozen):
    """Move the stage."""

    target: PartialPose
    approach: Approach = Approach.DIRECT
    settle: Settle = Settle()
    timeout_s: Positive | None = None


class Operate(Frozen):
    """A long operation."""

    operation: LongOperation


class VerifyBlanker(Frozen):
    """Take a dark frame."""

    detector: str
    duration_s: Positive = 1.0


class Page(Frozen):
    """Bookings from this one on."""

    first: Annotated[int, Field(ge=0)] = 0


class OfExposure(Frozen):
    """One exposure by its id."""

    exposure_id: UUID


class Why(Frozen):
    """A reason, for the log."""

    why: Annotated[str, Field(max_length=500)]


class Budgets(Frozen):
    """Limits of the dose ledger, in e/Å² per cell of the specimen."""

    specimen_e_per_A2: Positive
    before_scan_e_per_A2: Positive
    data_e_per_A2: Positive
    why: Annotated[str, Field(min_length=3, max_length=500)]


RECORDS_A_PAGE = 50
"""Bookings with their receipts that fit well into one header."""

Run = Callable[[GuardedMicroscope, Any], Answer]


@dataclass(frozen=True)
class Verb:
    """One thing that may be asked."""

    name: str
    takes: type[Frozen]
    lane: Lane
    right: Right
    run: Run
    says: str = ""
    """What it is called while it is under way."""

    def arguments(self, args: dict[str, Any]) -> Frozen:
        """Read the arguments.

        Raises
        ------
        ValueError
            With every key that is wrong.
        """
        try:
            return self.takes.model_validate(args)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(str(p) for p in e['loc']) or self.name}: {e['msg']}"
                for e in error.errors(include_url=False, include_input=False)[:10]
            )
            raise ValueError(f"{self.name} was not understood: {wrong}; nothing was done") from None


def _json(value: Frozen) -> Answer:
    return value.model_dump(mode="json"), []


def _expose(microscope: GuardedMicroscope, exposure: Exposure) -> Answer:
    brought = microscope.expose(exposure)
    if isinstance(brought, Frame):
        header, arrays = picture_out(brought)
        return {"frame": header}, arrays
    return {"receipt": brought.model_dump(mode="json")}, []


def _dose(microscope: GuardedMicroscope, point: Point) -> Answer:
    reading = microscope.dose(point.x_um, point.y_um)
    return {purpose.value: value for purpose, value in reading.by_purpose.items()}, []


def _record(microscope: GuardedMicroscope, asked: OfExposure) -> Answer:
    record = microscope.ledger.record(asked.exposure_id)
    if record is None:
        return None, []
    return {
        "state": record.state.value,
        "charged_e_per_A2": record.charged_e_per_A2,
        "outcome": record.outcome,
        "utc": record.utc,
    }, []


def _records(microscope: GuardedMicroscope, page: Page) -> Answer:
    ledger = microscope.ledger
    wanted = ledger.records()[page.first : page.first + RECORDS_A_PAGE]
    return [
        {
            "request": record.booking.request,
            "state": record.state.value,
            "charged_e_per_A2": record.charged_e_per_A2,
            "receipt": ledger.conclusion(record.booking.exposure_id),
        }
        for record in wanted
    ], []


def _sleep(microscope: GuardedMicroscope, wanted: Sleep) -> Answer:
    microscope.clock.sleep(wanted.duration_s)
    return None, []


def _stop(microscope: GuardedMicroscope, reason: Why) -> Answer:
    microscope.stop(reason.why)
    return None, []


def _budgets(microscope: GuardedMicroscope, _: Frozen) -> Answer:
    return microscope.ledger.limits.model_dump(mode="json"), []


def _move(microscope: GuardedMicroscope, move: Move) -> Answer:
    return _json(
        microscope.stage.move(
            move.target, approach=move.approach, settle=move.settle, timeout_s=move.timeout_s
        )
    )


def _verify(microscope: GuardedMicroscope, wanted: VerifyBlanker) -> Answer:
    check = microscope.verify_blanker(wanted.detector, duration_s=wanted.duration_s)
    return asdict(check), []


_WATCH, _DRIVE = Right.WATCH, Right.DRIVE
_QUERY = Lane.QUERY

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("stage.pose", Nothing, _QUERY, _WATCH, lambda m, _: _json(m.stage.pose())),
        Verb("stage.limits", Nothing, _QUERY, _WATCH, lambda m, _: _json(m.stage.limits())),
        Verb("optics.state", Nothing, _QUERY, _WATCH, lambda m, _: _json(m.optics.state())),
        Verb("column.health", Nothing, Lane.SAFETY, _WATCH, lambda m, _: _json(m.column.health())),
        Verb("forecast", Exposure, _QUERY, _WATCH, lambda m, e: (m.forecast(e), [])),
        Verb("dose", Point, _QUERY, _WATCH, _dose),
        Verb("ledger.records", Page, _QUERY, _WATCH, _records),
        Verb("ledger.record", OfExposure, _QUERY, _WATCH, _record),
        Verb("budgets.get", Nothing, _QUERY, _WATCH, _budgets),
        Verb("clock.now", Nothing, Lane.INLINE, _WATCH, lambda m, _: (m.clock.now_s(), [])),
        Verb(
            "clock.utc", Nothing, Lane.INLINE, _WATCH, lambda m, _: (m.clock.utc().isoformat(), [])
        ),
        Verb("clock.sleep", Sleep, Lane.SAFETY, _WATCH, _sleep),
        Verb("stage.move", Move, Lane.DRIVE, _DRIVE, _move, "a move"),
        Verb(
            "optics.apply",
            OpticsChange,
            Lane.DRIVE,
            _DRIVE,
            lambda m, change: _json(m.optics.apply(change)),
            "a change of the optics",
        ),
        Verb(
            "column.run",
            Operate,
            Lane.DRIVE,
            _DRIVE,
            lambda m, o: _json(m.column.run(o.operation)),
            "a long operation",
        ),
        Verb("expose", Exposure, Lane.DRIVE, _DRIVE, _expose, "an exposure"),
        Verb(
            "verify_blanker", VerifyBlanker, Lane.DRIVE, _DRIVE, _verify, "the check of the blanker"
        ),
        Verb("blank", Why, Lane.SAFETY, Right.STOP, lambda m, r: _json(m.blank(r.why))),
        Verb("stop", Why, Lane.SAFETY, Right.STOP, _stop),
    )
}
"""Verbs that act on the microscope; the service itself knows ``hello``, ``beat``, ``lease.take``,
``lease.release``, ``budgets.set`` and ``service.state``."""
