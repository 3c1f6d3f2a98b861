"""Which events are worth telling, and in what words.  Pure.

At once: faults that hold the run, a beam that is not known to be blanked, the end of the run.
Never: what a person did on purpose.  Pictures and secrets are not told.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from controller.hardware import errors
from controller.hardware.errors import BeamState, MicroscopeError, Retry
from controller.record.events import (
    CalibrationAlarmed,
    Event,
    Fault,
    MapChecked,
    Proposed,
    RunEnded,
    RunResumed,
)


class Severity(IntEnum):
    """How much it matters."""

    INFO = 0
    MINOR = 1
    MAJOR = 2
    FAULT = 3


@dataclass(frozen=True)
class Notice:
    """One thing to tell."""

    severity: Severity
    cause: str
    """Notices of one cause are told once in a while, not every time."""
    subject: str
    body: str

    @property
    def is_urgent(self) -> bool:
        """Whether somebody has to acknowledge it."""
        return self.severity >= Severity.MAJOR


def notice_of(event: Event) -> Notice | None:
    """What an event is worth telling, if anything."""
    match event:
        case Fault() if not event.is_on_purpose:
            return _of_fault(event)
        case CalibrationAlarmed() if event.severity == "major":
            return Notice(
                Severity.MAJOR, f"calibration {event.calibration}", event.message, event.remedy
            )
        case MapChecked() if not event.found:
            return Notice(
                Severity.MAJOR, "map", "the map was not found again; the run holds", event.reason
            )
        case RunResumed():
            return Notice(
                Severity.INFO,
                "resumed",
                "the run goes on",
                f"It had ended: {event.before}. {len(event.unknown)} exposures of unknown end are "
                f"charged at their bound; none is repeated.",
            )
        case RunEnded():
            return _of_end(event)
        case _:
            return None


def waiting(event: Proposed, waited_min: float) -> Notice:
    """A proposal that nobody answers."""
    where = f"{event.target}: " if event.target else ""
    return Notice(
        Severity.MINOR,
        f"approval {event.step}",
        f"{where}{event.action} waits for approval",
        f"It has waited for {waited_min:.0f} min: {event.reason}. It would cost "
        f"{event.cost_e_per_A2:.3g} e/A2. The beam is blanked; silence never approves.",
    )


def unacknowledged(notice: Notice, waited_min: float) -> Notice:
    """An urgent notice that nobody acknowledged."""
    return Notice(
        notice.severity,
        f"escalation of {notice.cause}",
        f"not acknowledged for {waited_min:.0f} min: {notice.subject}",
        notice.body,
    )


def _of_fault(event: Fault) -> Notice | None:
    holds = event.handled.startswith("hold")
    beam_in_doubt = event.beam_state != BeamState.BLANKED.value
    if not holds and not beam_in_doubt and not _needs_a_person(event.error):
        return None
    where = f"{event.target}: " if event.target else ""
    beam = "BEAM NOT KNOWN TO BE BLANKED" if beam_in_doubt else "beam blanked"
    return Notice(
        Severity.FAULT if holds or beam_in_doubt else Severity.MAJOR,
        event.error,
        f"{where}{event.error} ({beam})",
        f"{event.message}\nDone about it: {event.handled}.",
    )


def _needs_a_person(code: str) -> bool:
    kind = getattr(errors, f"{code}Error", MicroscopeError)
    return bool(kind.retry is Retry.OPERATOR)


def _of_end(event: RunEnded) -> Notice | None:
    if event.outcome in ("stopped", "interrupted") and event.beam_blanked:
        return None  # somebody did that on purpose
    good = event.outcome in ("completed", "goals_missed")
    severity = Severity.INFO if good and event.beam_blanked else Severity.FAULT
    beam = "beam blanked" if event.beam_blanked else "BEAM NOT CONFIRMED BLANKED"
    return Notice(
        severity,
        f"end {event.outcome}",
        f"the run has ended: {event.outcome} ({beam})",
        event.reason,
    )
