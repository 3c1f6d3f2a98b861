"""The plots of the page: the timeline of the night, dose bars, curves; each with its table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from controller.record.report.story import Night
from controller.record.report.svg import add, drawing, tip

ACTIVITIES: dict[str, str] = {
    "SurveyTile": "survey",
    "ChooseTargets": "survey",
    "Visit": "move",
    "Locate": "track",
    "FindHeight": "track",
    "MeasurePattern": "pattern",
    "ChooseZone": "tilt",
    "Tilt": "tilt",
    "UndoTilt": "tilt",
    "TiltBeam": "tilt",
    "AcquireScan": "scan",
    "Reconstruct": "reconstruct",
    "WaitFor": "wait",
}
"""Kind of activity of each action; what is not listed is "other"."""

LEGEND = ("survey", "move", "track", "pattern", "tilt", "focus", "scan", "reconstruct", "wait",
          "approval", "other")  # fmt: skip


@dataclass(frozen=True)
class TimelineRow:
    """One line of the timeline's table."""

    start: str
    duration: str
    lane: str
    activity: str
    reason: str
    ok: str


def timeline(night: Night) -> tuple[ET.Element, list[TimelineRow], list[str]]:
    """The night as lanes (the survey, then each crystal), its table, and the activities used."""
    lanes = ["survey"]
    for step in night.steps:
        lane = step.started.target or "survey"
        if lane not in lanes:
            lanes.append(lane)
    top, row_height, left, width = 22.0, 15.0, 74.0, 1000.0
    height = top + row_height * len(lanes) + 8
    span = max(night.end_s - night.start_s, 1e-9)
    label = f"Timeline over {duration(span)}: {len(night.steps)} steps, {len(night.faults)} faults"
    root = drawing(width, height, label, css="timeline")

    def x_of(clock_s: float) -> float:
        return left + (width - left - 10) * (clock_s - night.start_s) / span

    _hours(root, night, x_of(night.start_s), x_of(night.end_s), height)
    for index, lane in enumerate(lanes):
        y = top + row_height * index
        add(root, "text", lane, x=left - 8, y=y + 11, class_="lane", text_anchor="end")
        add(root, "line", x1=left, x2=width - 10, y1=y + 7.5, y2=y + 7.5, class_="rail")
    rows, used = [], set()
    for step in night.steps:
        lane = step.started.target or "survey"
        activity = ACTIVITIES.get(step.started.action, "other")
        used.add(activity)
        y = top + row_height * lanes.index(lane) + 2
        x = x_of(step.start_s)
        bar = add(root, "rect", x=x, y=y, width=max(x_of(step.end_s) - x, 0.8), height=11,
                  class_=f"act {activity}")  # fmt: skip
        tip(bar, f"{step.started.action}: {step.started.reason}")
        rows.append(
            TimelineRow(
                clock_time(night, step.start_s),
                duration(step.end_s - step.start_s),
                lane,
                step.started.action,
                step.started.reason,
                {True: "done", False: "failed", None: "not over"}[step.ok],
            )
        )
    for approval in night.approvals:
        used.add("approval")
        lane = approval.proposed.target or "survey"
        y = top + row_height * (lanes.index(lane) if lane in lanes else 0) + 2
        x = x_of(approval.start_s)
        add(root, "rect", x=x, y=y, width=max(x_of(approval.end_s) - x, 0.8), height=11,
            class_="act approval")  # fmt: skip
    for entry, fault in night.faults:
        lane = fault.target or "survey"
        y = top + row_height * (lanes.index(lane) if lane in lanes else 0) + 7.5
        _cross(root, x_of(entry.clock_s), y, f"{fault.error}: {fault.message}")
    return root, rows, [name for name in LEGEND if name in used]


@dataclass(frozen=True)
class DoseBar:
    """Dose spent of a budget."""

    label: str
    spent_e_per_A2: float
    budget_e_per_A2: float | None
    is_limit: bool = True
    """False: what was planned; more than that is no breach (charges are upper bounds)."""


def dose_bar(bar: DoseBar) -> ET.Element:
    """A bar of what was spent, up to its budget; beyond it in another colour."""
    budget = bar.budget_e_per_A2
    full = max(budget or 0.0, bar.spent_e_per_A2, 1e-12)
    words = f"{bar.label}: {bar.spent_e_per_A2:.3g} e/Å²"
    if budget is not None:
        words += f" of {budget:.3g} e/Å²"
    root = drawing(200, 12, words, css="dosebar")
    scale = 196.0 / full
    add(root, "rect", x=2, y=2, width=196, height=8, class_="ground")
    within = min(bar.spent_e_per_A2, budget if budget is not None else bar.spent_e_per_A2)
    add(root, "rect", x=2, y=2, width=within * scale, height=8, class_="within")
    if budget is not None and bar.spent_e_per_A2 > budget:
        add(root, "rect", x=2 + budget * scale, y=2, width=(bar.spent_e_per_A2 - budget) * scale,
            height=8, class_="beyond" if bar.is_limit else "extra")  # fmt: skip
    if budget is not None:
        x = 2 + budget * scale
        add(root, "line", x1=x, x2=x, y1=0, y2=12, class_="limit")
    return root


@dataclass(frozen=True)
class Curve:
    """One line of a plot."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def line_plot(
    curves: list[Curve], *, x_label: str, y_label: str, levels: tuple[float, ...] = ()
) -> ET.Element:
    """A small plot with axes, horizontal reference lines and a legend."""
    width, height, left, bottom, right, top = 420.0, 230.0, 50.0, 36.0, 10.0, 10.0
    names = ", ".join(curve.name for curve in curves)
    root = drawing(width, height, f"{y_label} against {x_label}: {names}", css="plot")
    xs = np.concatenate([curve.x for curve in curves])
    ys = np.concatenate([curve.y for curve in curves] + [np.asarray(levels, dtype=float)])
    xs, ys = xs[np.isfinite(xs)], ys[np.isfinite(ys)]
    if not len(xs) or not len(ys):
        return root
    x0, x1 = float(xs.min()), float(xs.max())
    y0, y1 = float(ys.min()), float(ys.max())
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (width - left - right) * (x - x0) / (x1 - x0),
            height - bottom - (height - bottom - top) * (y - y0) / (y1 - y0),
        )

    for value in _ticks(x0, x1):
        x, y = place(value, y0)
        add(root, "line", x1=x, x2=x, y1=top, y2=y, class_="grid")
        add(root, "text", f"{value:g}", x=x, y=y + 13, text_anchor="middle", class_="tick")
    for value in _ticks(y0, y1):
        x, y = place(x0, value)
        add(root, "line", x1=x, x2=width - right, y1=y, y2=y, class_="grid")
        add(root, "text", f"{value:g}", x=x - 5, y=y + 3.5, text_anchor="end", class_="tick")
    for level in levels:
        (xa, y), (xb, _) = place(x0, level), place(x1, level)
        add(root, "line", x1=xa, x2=xb, y1=y, y2=y, class_="level")
    for index, curve in enumerate(curves):
        good = np.isfinite(curve.x) & np.isfinite(curve.y)
        pairs = (
            place(float(x), float(y)) for x, y in zip(curve.x[good], curve.y[good], strict=True)
        )
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)
        add(root, "polyline", points=points, class_=f"curve c{index % 4}")
        add(root, "text", curve.name, x=width - right - 6, y=top + 12 + 13 * index,
            text_anchor="end", class_=f"name c{index % 4}")  # fmt: skip
    add(root, "text", x_label, x=(left + width) / 2, y=height - 6, text_anchor="middle",
        class_="axis-label")  # fmt: skip
    add(root, "text", y_label, x=12, y=(height - bottom) / 2, text_anchor="middle",
        class_="axis-label", transform=f"rotate(-90 12 {(height - bottom) / 2:g})")  # fmt: skip
    return root


def clock_time(night: Night, clock_s: float) -> str:
    """UTC time of day at a clock reading, from the first entry's time."""
    if not night.entries:
        return ""
    return f"{_utc(night, clock_s):%H:%M:%S}"


def duration(seconds: float) -> str:
    """Seconds in words of two units."""
    if not seconds >= 0:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def _utc(night: Night, clock_s: float) -> datetime:
    first = night.entries[0]
    return datetime.fromisoformat(first.utc) + timedelta(seconds=clock_s - first.clock_s)


def _hours(root: ET.Element, night: Night, left: float, right: float, height: float) -> None:
    if not night.entries:
        return
    span = max(night.end_s - night.start_s, 1e-9)
    step = next(
        (s for s in (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200) if span / s <= 12), 14400
    )
    start = _utc(night, night.start_s)
    offset = -(
        (start.hour * 3600 + start.minute * 60 + start.second + start.microsecond * 1e-6) % step
    )
    form = "%H:%M" if step >= 60 else "%H:%M:%S"
    seconds = offset + step if offset < 0 else 0.0
    while seconds <= span:
        x = left + (right - left) * seconds / span
        add(root, "line", x1=x, x2=x, y1=16, y2=height - 6, class_="grid")
        text = f"{start + timedelta(seconds=seconds):{form}}"
        add(root, "text", text, x=x, y=11, text_anchor="middle", class_="tick")
        seconds += step


def _cross(root: ET.Element, x: float, y: float, words: str) -> None:
    group = add(root, "g", class_="fault")
    tip(group, words)
    for sign in (1, -1):
        add(group, "line", x1=x - 4, x2=x + 4, y1=y - 4 * sign, y2=y + 4 * sign)


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]
