"""Alarms that latch: what, since when, what the machine did, what to do.  Pure.

An alarm stays at its worst level until its cause is gone *and* somebody has acknowledged it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from controller.console.night import Night
from controller.console.views.shell import Surroundings, run_age_s
from controller.record.events import (
    CalibrationAlarmed,
    Event,
    Fault,
    RunEnded,
    StepEnded,
)
from controller.record.journal import Entry

Severity = Literal["INFO", "MINOR", "MAJOR", "NO DATA"]
RUN_SILENT_S = 5.0
LEVELS: dict[Severity, int] = {"INFO": 0, "MINOR": 1, "NO DATA": 2, "MAJOR": 3}
GUIDANCE = {
    "Link": "See whether the hardware server runs (`lodestem status`); its watchdog has blanked. "
    "Go on with `lodestem run --resume`.",
    "BlankUnconfirmed": "Go to the column. Close the column valve by hand, then find out why the "
    "blanker does not confirm.",
    "Interlock": "Something at the column is not fit for a beam. Look at HEALTH, put it right.",
    "Motion": "Somebody or something halted the stage. Look at the column before going on.",
    "Detector": "Look at the detector's own software; free its buffer or start it again.",
    "DoseLimit": "The crystal has had its dose; the run leaves it. Nothing to do.",
    "Limit": "The target lies outside the limits; the run leaves it. Nothing to do.",
    "DiskFull": "Free space on the disk of the run folder, then resume.",
}
"""By error class; the class above it where it has none."""


@dataclass(frozen=True)
class Alarm:
    """One cause, however often it struck."""

    key: str
    severity: Severity
    what: str
    since: str
    effect: str
    did: str
    guidance: str
    count: int = 1
    active: bool = True
    acknowledged: str = ""
    """By whom and when; empty: by nobody."""
    link: str = "/log"

    @property
    def shape(self) -> str:
        """Never colour alone."""
        return {"INFO": "i", "MINOR": "▽", "MAJOR": "✖", "NO DATA": "?"}[self.severity]


def alarms_of(night: Night, around: Surroundings) -> list[Alarm]:
    """All alarms that are active or unacknowledged, worst first."""
    found: dict[str, tuple[int, Alarm]] = {}
    for entry in night.entries:
        alarm = _of_event(entry)
        if alarm is not None:
            before = found.get(alarm.key)
            found[alarm.key] = (entry.sequence, _again(before[1], alarm) if before else alarm)
        elif isinstance(entry.event, StepEnded) and entry.event.ok:
            found = {k: (n, _cleared(a)) for k, (n, a) in found.items()}
    found |= _of_now(night, around)
    acked = {str(a["key"]): a for a in night.acks}
    alarms = [_with_ack(alarm, acked.get(key), seq) for key, (seq, alarm) in found.items()]
    alarms = [a for a in alarms if a.active or not a.acknowledged]
    return sorted(alarms, key=lambda a: (bool(a.acknowledged), -LEVELS[a.severity], a.since))


def unacknowledged(alarms: list[Alarm]) -> int:
    """How many nobody has seen."""
    return sum(not alarm.acknowledged for alarm in alarms)


def _of_event(entry: Entry) -> Alarm | None:
    event: Event = entry.event
    match event:
        case Fault() if not event.is_on_purpose:
            where = f" at {event.target}" if event.target else ""
            return Alarm(
                key=f"fault {event.error}",
                severity="MAJOR" if event.handled.startswith("hold") else "MINOR",
                what=f"{event.error}{where}: {event.message}",
                since=entry.utc,
                effect=f"beam {event.beam_state}, dose {event.dose_state}",
                did=event.handled,
                guidance=_guidance(event.error),
            )
        case CalibrationAlarmed():
            return Alarm(
                key=f"calibration {event.calibration} {event.code}",
                severity="MAJOR" if event.severity == "major" else "MINOR",
                what=event.message,
                since=entry.utc,
                effect="moves may fall short of what they predict",
                did="goes on; every move is measured",
                guidance=event.remedy,
                link="/settings",
            )
        case RunEnded() if event.outcome in ("fault", "held") or not event.beam_blanked:
            sure = "beam blanked" if event.beam_blanked else "BEAM NOT CONFIRMED BLANKED"
            return Alarm(
                key="run ended",
                severity="MAJOR",
                what=f"The run ended ({event.outcome}): {event.reason}",
                since=entry.utc,
                effect=sure,
                did="blanked, halted, wrote the report",
                guidance="See what it says, put it right, go on with `lodestem run --resume`.",
                link="/report",
            )
        case _:
            return None


def _of_now(night: Night, around: Surroundings) -> dict[str, tuple[int, Alarm]]:
    """What no journal tells: silence."""
    if around.replay:
        return {}
    found: dict[str, tuple[int, Alarm]] = {}
    heard = around.heard
    if heard is not None and not heard.age_s(around.now_s) <= RUN_SILENT_S:
        found["hardware silent"] = (
            0,
            Alarm(
                key="hardware silent",
                severity="NO DATA",
                what="The hardware server is not heard of",
                since="",
                effect="the state of the beam is unknown here",
                did="the server blanks when its driver falls silent, its watchdog when it does",
                guidance="Look at the panel. See whether the server and the network are up.",
            ),
        )
    if night.belief.ended is None and run_age_s(night, around) > RUN_SILENT_S:
        found["run silent"] = (
            0,
            Alarm(
                key="run silent",
                severity="MAJOR",
                what="The run does not answer any more",
                since=str((night.desk or {}).get("utc", "")),
                effect="nothing is proposed, nothing is carried out",
                did="the hardware server blanks when its driver falls silent",
                guidance="Go on with `lodestem run --resume`.",
            ),
        )
    return found


def _again(before: Alarm, now: Alarm) -> Alarm:
    worst = max((before.severity, now.severity), key=lambda level: LEVELS[level])
    return replace(now, severity=worst, since=before.since, count=before.count + 1, active=True)


def _cleared(alarm: Alarm) -> Alarm:
    return replace(alarm, active=False) if alarm.key.startswith("fault ") else alarm


def _with_ack(alarm: Alarm, ack: dict[str, Any] | None, sequence: int) -> Alarm:
    """An acknowledgement counts for what had happened by then."""
    if ack is None or int(ack.get("sequence", -1)) < sequence:
        return alarm
    return replace(alarm, acknowledged=f"{ack['by']}, {str(ack['utc'])[11:16]}")


def _guidance(code: str) -> str:
    from controller.hardware import errors

    kind = getattr(errors, f"{code}Error", None)
    for parent in getattr(kind, "__mro__", ()):
        found = GUIDANCE.get(parent.__name__.removesuffix("Error"))
        if found:
            return found
    return "Read the message; the log shows what came before it."
