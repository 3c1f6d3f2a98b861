"""Tables, bars and notes about one crystal: what was tilted, what was spent, what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from controller.record.events import (
    BeamTilted,
    HeightFound,
    Located,
    Moved,
    StepStarted,
    TiltFitted,
    ZoneChosen,
)
from controller.record.report.charts import DoseBar, clock_time, dose_bar
from controller.record.report.story import Night, TargetStory
from controller.record.report.svg import markup

_ALLOWED = {"approve": "approved", "edit": "edited"}
_GREEK = {"alpha_deg": "α", "beta_deg": "β"}


@dataclass(frozen=True)
class MoveRow:
    """One line of the table of moves: a pattern that was read, or a tilt."""

    time: str
    what: str
    alpha: str
    beta: str
    measured: str
    predicted: str
    remark: str


@dataclass(frozen=True)
class Bar:
    """A dose bar with its words."""

    label: str
    drawing: Markup
    spent: float
    budget: float | None


def move_rows(night: Night, story: TargetStory) -> list[MoveRow]:
    """Patterns that were read and tilts, in the order they happened."""
    rows, tilts = [], story.tilt_moves
    allowed = {
        approval.proposed.step: approval.answered
        for approval in night.approvals
        if approval.answered is not None and approval.answered.answer in ("approve", "edit")
    }
    by = ""
    for entry in story.entries:
        event = entry.event
        time = clock_time(night, entry.clock_s)
        if isinstance(event, TiltFitted):
            stored = night.frames.get(event.frame)
            pose = stored.pose if stored else None
            predicted = event.predicted_deg
            rows.append(
                MoveRow(
                    time,
                    "pattern",
                    signed(pose.alpha_deg) if pose else "",
                    signed(pose.beta_deg) if pose else "",
                    f"{event.misorientation_deg:.3f} ± {event.sigma_mrad * 0.0573:.3f}"
                    if event.answered
                    else "not read",
                    _forecast(predicted, event.predicted_sigma_deg),
                    f"{len(event.spots_px)} spots, {zone_words(event)}"
                    if event.answered
                    else event.reason,
                )
            )
        elif isinstance(event, BeamTilted):
            x, y = event.achieved_mrad
            left = f"{event.off_deg:.3f} ± {event.sigma_deg:.3f}"
            remark = f"beam at ({signed(x)}, {signed(y)}) mrad"
            rows.append(MoveRow(time, "beam tilt", "", "", "", left, remark))
        elif isinstance(event, StepStarted):
            answer = allowed.get(event.step)
            by = "" if answer is None else f"{_ALLOWED[answer.answer]} by {answer.by}"
        elif isinstance(event, Moved) and event in tilts:
            asked, got = event.requested, event.achieved
            residual = ", ".join(
                f"{_GREEK.get(key, key)} {signed(value, 3)}"
                for key, value in event.residual.items()
                if key in _GREEK
            )
            rows.append(
                MoveRow(
                    time,
                    "tilt",
                    _asked_got(asked.alpha_deg, got.alpha_deg),
                    _asked_got(asked.beta_deg, got.beta_deg),
                    "",
                    "",
                    ", ".join(filter(None, (f"residual {residual}" if residual else "", by))),
                )
            )
    return rows


def _forecast(off_deg: float | None, sigma_deg: float | None) -> str:
    if off_deg is None:
        return ""
    return f"{off_deg:.3f}" + (f" ± {sigma_deg:.3f}" if sigma_deg is not None else "")


def notes_of(story: TargetStory) -> list[str]:
    """Choice of the zone, height and tracking in words."""
    notes = [_zone_note(event) for event in story.events(ZoneChosen)]
    for height in story.events(HeightFound):
        if not height.ok:
            notes.append(f"Height not found ({height.reason}).")
            continue
        done = "taken out by the stage" if height.applied else "taken into account by the lens"
        notes.append(
            f"Height {signed(height.offset_um)} ± {height.sigma_um:.2f} µm off the tilt axis, "
            f"{done}."
        )
    looks = story.events(Located)
    if looks:
        found = [look.correlation for look in looks if look.found]
        worst = f", weakest correlation {min(found):.2f}" if found else ""
        notes.append(f"Seen in {len(found)} of {len(looks)} tracking pictures{worst}.")
    return notes


def _zone_note(event: ZoneChosen) -> str:
    """Where it was sent, and what else was within its reach."""
    said = []
    for axis in event.candidates:
        angles = f"α {signed(axis.alpha_deg, 1)}°, β {signed(axis.beta_deg, 1)}°"
        what = f"[{' '.join(map(str, axis.member_uvw))}] {axis.off_deg:.1f}° away, {angles}"
        said.append(what if axis.reachable else f"{what}, out of reach")
    chosen = " ".join(map(str, event.chosen.member_uvw))
    return f"Sent to [{chosen}]; its wanted zones: {'; '.join(said)}."


def _asked_got(asked: float | None, got: float | None) -> str:
    return signed(got) if asked is None else f"{signed(asked)} → {signed(got)}"


def signed(value: float | None, digits: int = 2) -> str:
    """With its sign, a true minus for negative ones."""
    return f"{value or 0.0:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def dose_bars(night: Night, record: dict[str, Any]) -> list[Bar]:
    """Dose before the scan, of the scan, of both, each against what the plan says."""
    before, scan = record["alignment_dose_e_per_A2"], record["scan_dose_e_per_A2"]
    wanted = [
        DoseBar(
            "before the scan, of its budget",
            before,
            night.planned_number("alignment", "budget_e_per_A2"),
        ),
        DoseBar(
            "scan, of what was planned",
            scan,
            night.planned_number("scan", "fluence_e_per_A2"),
            is_limit=False,
        ),
        DoseBar(
            "both, of what the specimen may get",
            before + scan,
            night.planned_number("budget", "specimen_e_per_A2"),
        ),
    ]
    return [
        Bar(bar.label, markup(dose_bar(bar)), bar.spent_e_per_A2, bar.budget_e_per_A2)
        for bar in wanted
    ]


def zone_words(fit: TiltFitted) -> str:
    """The zone axis in brackets, negative indices with an overline."""
    if fit.zone_uvw is None:
        return "the nearest zone axis"
    shown = (f"{abs(i)}\N{COMBINING OVERLINE}" if i < 0 else str(i) for i in fit.zone_uvw)
    return f"[{' '.join(shown)}]"
