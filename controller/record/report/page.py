"""The page: sections, plots and tables put into the template, every text escaped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from controller.record.report.charts import clock_time, duration, timeline
from controller.record.report.pictures import Album, coloured, framed, scale_bar
from controller.record.report.sections import Desk, Section, section
from controller.record.report.summary import Summary
from controller.record.report.survey import Marker, mosaic_drawing, stitch
from controller.record.report.svg import add, drawing, markup
from controller.safety.dose_map import DoseMap

_TEMPLATES = Path(__file__).parent / "templates"

STATUS_WORDS = {
    "done": "finished",
    "skipped": "skipped",
    "failed": "failed",
    "unfinished": "unfinished",
    "queued": "not visited",
}


@dataclass(frozen=True)
class DosePicture:
    """The map of charged fluence as a picture with its scale."""

    drawing: Markup
    file: str
    highest_e_per_A2: float
    cell_nm: float


def render(desk: Desk, summary: Summary, dose_map: DoseMap | None) -> str:
    """The whole page as HTML."""
    night = desk.night
    records = {record["id"]: record for record in summary.data["targets"]}
    sections = [section(desk, story, records[name]) for name, story in night.targets.items()]
    calibration = night.started.calibration if night.started else None
    mosaic = stitch(list(desk.tiles.values()), calibration) if calibration else None
    survey = None
    if mosaic is not None:
        survey = markup(mosaic_drawing(desk.album, mosaic, _markers(sections)))
    lanes, rows, used = timeline(night)
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration, "size": size}
    environment.globals |= {"clock_time": clock_time}
    return environment.get_template("report.html.j2").render(
        css=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        data=summary.data,
        needs=summary.needs,
        night=night,
        sections=sections,
        gallery=_gallery(sections),
        survey=survey,
        has_classes=mosaic is not None and bool(mosaic.labels.any()),
        timeline=markup(lanes),
        timeline_rows=rows,
        timeline_used=used,
        dose=_dose_picture(desk.album, dose_map),
        status_words=STATUS_WORDS,
        icons={status: _icon(status) for status in STATUS_WORDS},
        plan=_flat(night.started.plan) if night.started else [],
        capabilities=_flat(night.started.capabilities.model_dump(mode="json"))
        if night.started
        else [],
        calibration=_flat(calibration.model_dump(mode="json")) if calibration else [],
    )


def number(value: float | None, digits: int = 3, unit: str = "") -> str:
    """`value` with significant digits and its unit; an en dash where there is none."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:.{digits}g}" + (f"\N{NO-BREAK SPACE}{unit}" if unit else "")


def size(count: int) -> str:
    """Bytes in decimal units."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _gallery(sections: list[Section]) -> list[Section]:
    """Sections with a phase image, the finest first."""
    shown = [s for s in sections if s.thumbnail is not None]
    return sorted(shown, key=lambda s: (s.record["status"] != "done",
                                        s.record["resolution_A"] or np.inf))  # fmt: skip


def _markers(sections: list[Section]) -> list[Marker]:
    return [
        Marker(
            s.record["id"],
            s.record["x_um"],
            s.record["y_um"],
            s.record["pick_radius_nm"] or 0.0,
            s.record["status"],
            f"{s.record['id']}: {STATUS_WORDS[s.record['status']]}. {s.record['reason']}",
        )
        for s in sections
        if s.record["x_um"] is not None
    ]


def _icon(status: str) -> Markup:
    from controller.record.report.survey import status_shape

    root = drawing(20, 20, "", css=f"icon marker {status}")
    root.set("aria-hidden", "true")
    status_shape(add(root, "g"), status, 10, 10, 6)
    return markup(root)


def _dose_picture(album: Album, dose_map: DoseMap | None) -> DosePicture | None:
    """All purposes on a logarithmic scale, stage x to the right and y down."""
    if dose_map is None:
        return None
    total = dose_map.total_e_per_A2
    rows, cols = np.nonzero(total > 0)
    if not len(rows):
        return None
    cut = total[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
    highest = float(cut.max())
    low = np.log10(max(float(cut[cut > 0].min()), highest * 1e-6))
    unit = (np.log10(np.maximum(cut, 10**low)) - low) / max(np.log10(highest) - low, 1e-9)
    pixels = coloured(unit, "viridis")
    pixels[cut <= 0] = 12
    factor = max(1, 512 // max(cut.shape))
    picture = album.keep("dose-map", pixels.repeat(factor, 0).repeat(factor, 1))
    root = framed(picture, f"Charged fluence, at most {highest:.3g} e/Å²", css="picture dose")
    scale_bar(root, dose_map.cell_nm / factor * 1e-3, "µm", text=3.4)
    return DosePicture(markup(root), picture.file, highest, dose_map.cell_nm)


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:  # noqa: ANN401  JSON
    """Nested JSON as dotted keys and texts."""
    if isinstance(value, dict):
        rows: list[tuple[str, str]] = []
        for key, item in value.items():
            rows += _flat(item, f"{prefix}.{key}" if prefix else str(key))
        return rows
    if isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        rows = []
        for index, item in enumerate(value):
            rows += _flat(item, f"{prefix}[{index}]")
        return rows
    if isinstance(value, float):
        return [(prefix, f"{value:g}")]
    if isinstance(value, list | tuple):
        return [(prefix, ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value))]
    return [(prefix, "–" if value is None else str(value))]
