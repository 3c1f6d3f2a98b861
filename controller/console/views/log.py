"""The log: the journal in words, filtered.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from controller.console.night import Night
from controller.record.events import (
    Answered,
    BeamTilted,
    CalibrationAlarmed,
    Event,
    ExposureMade,
    Fault,
    FrameStored,
    HeightFound,
    Located,
    MapChecked,
    Moved,
    PosteriorUpdated,
    Proposed,
    QueueChanged,
    Reconstructed,
    RegionsFound,
    RunEnded,
    RunResumed,
    RunStarted,
    ScanHandedOver,
    ScanTaken,
    StepEnded,
    StepStarted,
    TargetEnded,
    TargetsChosen,
    TiltFitted,
    ZoneChosen,
)

MOST_LINES = 300


@dataclass(frozen=True)
class Line:
    """One entry."""

    sequence: int
    time: str
    level: str
    source: str
    region: str
    words: str


def log_view(night: Night, *, level: str = "", region: str = "", text: str = "") -> list[Line]:
    """The newest lines first, at most 300."""
    lines: list[Line] = []
    for entry in reversed(night.entries):
        line = Line(
            entry.sequence,
            entry.utc[11:19],
            level_of(entry.event),
            entry.event.kind,
            getattr(entry.event, "target", None) or "",
            words_of(entry.event),
        )
        if level and line.level != level:
            continue
        if region and line.region != region:
            continue
        if text and text.lower() not in f"{line.source} {line.words}".lower():
            continue
        lines.append(line)
        if len(lines) >= MOST_LINES:
            break
    return lines


def level_of(event: Event) -> str:
    """``info``, ``person``, ``minor`` or ``major``."""
    match event:
        case Fault():
            return "major" if event.handled.startswith("hold") else "minor"
        case CalibrationAlarmed():
            return event.severity
        case RunEnded() if event.outcome in ("fault", "held"):
            return "major"
        case Answered() | QueueChanged():
            return "person"
        case _:
            return "info"


def words_of(event: Event) -> str:  # noqa: C901  (a table over the union)
    """One event in words."""
    match event:
        case RunStarted():
            return f"run {event.name} began ({event.mode}), {len(event.tiles)} survey tiles"
        case RunResumed():
            return f"resumed, session {event.session}: {event.before}"
        case StepStarted():
            return f"{event.action}: {event.reason}"
        case StepEnded():
            return f"step {event.step} {'done' if event.ok else 'broke off'}"
        case Proposed():
            return f"{event.action} proposed: {event.reason} ({event.cost_e_per_A2:.3g} e/Å²)"
        case Answered():
            why = f": {event.reason}" if event.reason else ""
            changes = "".join(f" {k}={v:g}" for k, v in event.edited.items())
            return f"{event.answer} {event.action} by {event.by}{changes}{why}"
        case QueueChanged():
            why = f": {event.reason}" if event.reason else ""
            return f"{event.what.replace('_', ' ')} by {event.by}{why}"
        case ExposureMade():
            return (
                f"{event.purpose.value} exposure {event.state.lower()}, {event.duration_s:.3g} s, "
                f"{event.charged_e_per_A2:.3g} e/Å² charged"
            )
        case FrameStored():
            return f"picture {event.frame}, {event.electrons:.0f} electrons"
        case RegionsFound():
            looks = f" after {event.looks} looks" if event.looks > 1 else ""
            return f"tile {event.tile + 1}: {len(event.picks)} places{looks}"
        case TargetsChosen():
            return f"{len(event.targets)} crystals queued, {len(event.rejected)} left out"
        case Located():
            found = f"found, correlation {event.correlation:.2f}"
            return found if event.found else f"not found: {event.reason}"
        case Moved():
            pose = event.achieved
            return (
                f"stage x {pose.x_um:.2f} y {pose.y_um:.2f} z {pose.z_um:.2f} µm, "
                f"α {pose.alpha_deg:.3f}° β {pose.beta_deg or 0.0:.3f}°"
            )
        case TiltFitted():
            if not event.answered:
                return f"no tilt read: {event.reason}"
            return f"{event.misorientation_deg:.3f}° ± {event.sigma_mrad:.2f} mrad off"
        case PosteriorUpdated():
            return f"all patterns together: {event.off_deg:.3f} ± {event.sigma_deg:.3f}° off"
        case ZoneChosen():
            return f"zone axis {event.chosen.member_uvw}, {event.chosen.off_deg:.2f}° off"
        case BeamTilted():
            return f"beam tilted to {event.achieved_mrad[0]:.2f}, {event.achieved_mrad[1]:.2f} mrad"
        case HeightFound():
            return f"height {event.offset_um:+.2f} ± {event.sigma_um:.2f} µm {event.reason}"
        case ScanTaken():
            return f"4D scan {event.frames_committed} of {event.frames_expected} frames"
        case ScanHandedOver():
            return "handed over for reconstruction"
        case Reconstructed():
            return event.verdict
        case TargetEnded():
            return f"{event.status}: {event.reason}"
        case Fault():
            return f"{event.error}: {event.message} → {event.handled}"
        case CalibrationAlarmed():
            return f"{event.calibration}: {event.message}"
        case MapChecked():
            return f"map looked at again, moved {event.shift_um[0]:.2f}, {event.shift_um[1]:.2f} µm"
        case RunEnded():
            return f"run ended, {event.outcome}: {event.reason}"
