"""The frame round every screen: mode, state, beam, who drives.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from controller.console.instrument import Heard
from controller.console.night import Night
from controller.hardware.values import Condition
from controller.record.events import StepStarted

Mode = Literal["HARDWARE", "SIMULATOR", "REPLAY"]
State = Literal[
    "OFFLINE",
    "IDLE",
    "RUNNING",
    "NEEDS APPROVAL",
    "PAUSED",
    "STOPPING",
    "STOPPED",
    "FAULT",
    "DONE",
]
SILENT_S = 2.0
"""An instrument or a run that was not heard of for longer is not shown as current."""
_DO = {
    "SurveyTile": "survey tile",
    "CheckMap": "look at the map again",
    "FindHeight": "find the height",
    "MeasurePattern": "take a pattern",
    "Tilt": "tilt move",
    "UndoTilt": "undo the last tilt",
    "AcquireScan": "4D scan",
    "Visit": "go to the crystal",
    "Locate": "find the crystal",
    "TiltBeam": "tilt the beam",
    "Reconstruct": "reconstruct",
    "ChooseTargets": "choose crystals",
    "ChooseZone": "choose the zone axis",
}
SHAPES: dict[State, str] = {
    "OFFLINE": "✖",
    "IDLE": "○",
    "RUNNING": "▶",
    "NEEDS APPROVAL": "▲",
    "PAUSED": "❚❚",
    "STOPPING": "▨",
    "STOPPED": "■",
    "FAULT": "✖",
    "DONE": "✔",
}


@dataclass(frozen=True)
class Shell:
    """What stands above every screen."""

    mode: Mode
    state: State
    shape: str
    sentence: str
    beam: str
    beam_class: Literal["dark", "on", "unknown"]
    vacuum: str
    dose: str
    driver: str
    asked_by: str
    revision: int
    run: str
    alarms: int = 0
    pose: dict[str, Any] = field(default_factory=dict)
    instrument_age_s: float | None = None
    """None where no hardware server is listened to."""


@dataclass(frozen=True)
class Surroundings:
    """What a view depends on besides the run itself."""

    now: datetime
    now_s: float
    """Monotonic seconds of this process, as in `Heard`."""
    heard: Heard | None = None
    """None: there is no hardware server to listen to."""
    replay: bool = False
    simulated: bool = False
    """What is known of the instrument before a run has begun."""
    stop_sent: bool = False
    """A STOP was sent that neither the instrument nor the run has answered yet."""


def shell_view(night: Night | None, around: Surroundings, alarms: int = 0) -> Shell:
    """The shell of a run (None: none was started)."""
    state = state_of(night, around)
    beam, beam_class = _beam(around)
    lease = {} if night is None or night.desk is None else night.desk["lease"]
    holder = lease.get("holder")
    driver = "nobody drives" if holder is None else str(holder["name"])
    if holder is not None and lease.get("orphaned"):
        driver += " (page silent)"
    asked = lease.get("asked_by")
    heard = around.heard
    return Shell(
        mode=mode_of(night, around),
        state=state,
        shape=SHAPES[state],
        sentence=_sentence(night, state, around),
        beam=beam,
        beam_class=beam_class,
        vacuum=_health(around),
        dose=_dose(night),
        driver=driver,
        asked_by="" if asked is None else str(asked["name"]),
        revision=0 if night is None else night.belief.revision,
        run="" if night is None or night.started is None else night.started.name,
        alarms=alarms,
        pose={} if heard is None else _pose(heard),
        instrument_age_s=None if heard is None else min(heard.age_s(around.now_s), 1e6),
    )


def mode_of(night: Night | None, around: Surroundings) -> Mode:
    """What the banner says; an instrument is never taken for a simulator."""
    if around.replay:
        return "REPLAY"
    known = None if night is None else night.simulated
    return "SIMULATOR" if (around.simulated if known is None else known) else "HARDWARE"


def state_of(night: Night | None, around: Surroundings) -> State:
    """The one word for how things stand."""
    if night is None or night.started is None:
        return "OFFLINE" if _is_gone(around) else "IDLE"
    belief = night.belief
    if belief.ended is not None:
        return "FAULT" if belief.ended.outcome in ("fault", "held") else "DONE"
    if around.replay:
        return "STOPPED" if belief.stopped else "PAUSED" if belief.paused else "RUNNING"
    if _is_gone(around):
        return "OFFLINE"
    if belief.stopped:
        return "STOPPED"
    if around.stop_sent:
        return "STOPPING"
    if run_age_s(night, around) > SILENT_S:
        return "FAULT"
    if night.proposal is not None:
        return "NEEDS APPROVAL"
    return "PAUSED" if belief.paused else "RUNNING"


def run_age_s(night: Night, around: Surroundings) -> float:
    """How long ago the run last said that it lives; 0 where it keeps no desk."""
    if night.desk is None:
        return 0.0
    said = datetime.fromisoformat(str(night.desk["utc"]))
    return (around.now - said.astimezone(UTC)).total_seconds()


def doing(action: str) -> str:
    """An action in the operator's words."""
    return _DO.get(action, action)


def _is_gone(around: Surroundings) -> bool:
    heard = around.heard
    return heard is not None and not heard.age_s(around.now_s) <= SILENT_S


def _beam(around: Surroundings) -> tuple[str, Literal["dark", "on", "unknown"]]:
    heard = around.heard
    if around.replay:
        return "not live", "unknown"
    if heard is None or _is_gone(around) or heard.blanked is None:
        return "UNKNOWN", "unknown"
    return ("BLANKED", "dark") if heard.blanked else ("ON", "on")


def _health(around: Surroundings) -> str:
    heard = around.heard
    if heard is None or _is_gone(around) or "health" not in heard.body:
        return "unknown"
    health = heard.body["health"]
    bad = [
        name.replace("_", " ")
        for name, reading in health.items()
        if isinstance(reading, dict) and reading.get("condition") not in (None, Condition.GOOD)
    ]
    return "ok" if not bad else "not " + ", not ".join(bad)


def _pose(heard: Heard) -> dict[str, Any]:
    pose = heard.body.get("pose")
    return pose if isinstance(pose, dict) else {}


def _dose(night: Night | None) -> str:
    if night is None or night.plan is None or night.belief.active is None:
        return ""
    name = night.belief.active
    spent = night.belief.spent_e_per_A2.get(name, 0.0)
    budget = night.plan.alignment.budget_e_per_A2
    return f"{name} {100 * spent / budget:.0f} %"


def _sentence(night: Night | None, state: State, around: Surroundings) -> str:
    if night is None or night.started is None:
        return {"OFFLINE": "No word from the instrument."}.get(state, "No run was started.")
    belief = night.belief
    match state:
        case "OFFLINE":
            return "No word from the instrument; what is shown is old."
        case "NEEDS APPROVAL" if night.proposal is not None:
            proposal = night.proposal
            where = f"{proposal['target']}: " if proposal["target"] else ""
            until = datetime.fromisoformat(proposal["until_utc"])
            left_s = max(0.0, (until - around.now).total_seconds())
            silence = "hold" if night.plan is None else night.plan.approval.on_silence
            what = "the run holds" if silence == "hold" else "the crystal is skipped"
            return f"{where}{doing(proposal['action'])} waits; in {_minutes(left_s)} {what}."
        case "STOPPED":
            return f"Beam blanked, stage halted. {belief.paused}"
        case "STOPPING":
            return "STOP sent…"
        case "PAUSED":
            return f"Beam blanked; {belief.paused}"
        case "FAULT" if belief.ended is None:
            return "The run does not answer any more; its journal stands still."
        case "FAULT" | "DONE" if belief.ended is not None:
            return belief.ended.reason
        case _:
            return _at_work(night)


def _at_work(night: Night) -> str:
    for entry in reversed(night.entries):
        if isinstance(entry.event, StepStarted):
            where = f"{entry.event.target}: " if entry.event.target else ""
            return f"{where}{doing(entry.event.action)}: {entry.event.reason}"
    return "The run begins."


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
