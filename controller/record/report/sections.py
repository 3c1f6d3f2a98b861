"""The part of the page about one crystal: pictures, table of moves, dose bars, words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from controller.record.events import Located, Moved, TiltFitted
from controller.record.report.charts import Curve, DoseBar, clock_time, dose_bar, line_plot
from controller.record.report.files import inside
from controller.record.report.patterns import pattern_drawing, spot_reach_px
from controller.record.report.pictures import Album
from controller.record.report.scans import (
    Phase,
    phase_drawing,
    read_phase,
    scan_pictures,
    spectrum_drawing,
)
from controller.record.report.story import Night, TargetStory
from controller.record.report.survey import Tile, crop_drawing
from controller.record.report.svg import markup
from controller.record.store import StoredFrame, read_frame

_GREEK = {"alpha_deg": "α", "beta_deg": "β"}


@dataclass(frozen=True)
class Figure:
    """One picture with its words."""

    title: str
    drawing: Markup
    caption: str
    file: str = ""


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


@dataclass
class Section:
    """Everything that the page shows of one crystal."""

    record: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    moves: list[MoveRow] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    plots: list[Figure] = field(default_factory=list)
    thumbnail: Figure | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Desk:
    """What the sections are made from."""

    night: Night
    run_dir: Path
    album: Album
    tiles: dict[str, Tile]


def section(desk: Desk, story: TargetStory, record: dict[str, Any]) -> Section:
    """Make the section of one crystal; what cannot be read is named and left out."""
    made = Section(record)
    made.moves = _moves(desk.night, story)
    made.bars = _bars(desk.night, record)
    parts: tuple[Callable[[Desk, TargetStory, Section], None], ...] = (
        _survey,
        _patterns,
        _last_look,
        _scan_and_phase,
    )
    for part in parts:
        part(desk, story, made)
    return made


def load_frame(run_dir: Path, night: Night, name: str) -> StoredFrame | None:
    """A frame of the journal by name, None where it is not there or cannot be read."""
    stored = night.frames.get(name)
    path = inside(run_dir, stored.path) if stored else None
    if path is None:
        return None
    try:
        return read_frame(path)
    except ValueError:
        return None


def _survey(desk: Desk, story: TargetStory, made: Section) -> None:
    pick = story.pick
    if pick is None:
        return
    tile = desk.tiles.get(pick.frame)
    if tile is None:
        made.problems.append(f"the survey frame {pick.frame} cannot be read")
        return
    drawing, file = crop_drawing(
        desk.album,
        f"{story.name}-survey",
        tile,
        (pick.x_px, pick.y_px),
        pick.radius_nm,
        f"Survey around {story.name}",
    )
    why = f" {pick.reason}." if pick.reason else ""
    caption = (
        f"Chosen with probability {pick.score:.2f} of being right; usable radius "
        f"{pick.radius_nm:.0f} nm, crystal {pick.diameter_nm:.0f} nm across.{why}"
    )
    made.figures.append(Figure("As found", markup(drawing), caption, file))


def _patterns(desk: Desk, story: TargetStory, made: Section) -> None:
    fits, answered = story.fits, story.answered_fits
    if not fits:
        return
    if answered:
        chosen = [("Before", "before", answered[0])]
        if len(answered) > 1:
            chosen.append(("After", "after", answered[-1]))
        if not fits[-1].answered:
            chosen.append(("Last, not read", "unread", fits[-1]))
    else:
        chosen = [("Not read", "unread", fits[-1])]
    for title, suffix, fit in chosen:
        _pattern(desk, story, made, (title, suffix), fit)


def _pattern(
    desk: Desk, story: TargetStory, made: Section, titles: tuple[str, str], fit: TiltFitted
) -> None:
    frame = load_frame(desk.run_dir, desk.night, fit.frame)
    stored = desk.night.frames.get(fit.frame)
    if frame is None or stored is None:
        made.problems.append(f"the pattern {fit.frame} cannot be read")
        return
    name = f"{story.name}-{titles[1]}"
    drawing, file = pattern_drawing(
        desk.album,
        name,
        frame.electrons,
        stored.optics,
        fit,
        reach_px=spot_reach_px(story.answered_fits),
    )
    if fit.answered:
        caption = (
            f"{fit.misorientation_deg:.2f}° from {zone_words(fit)}, 68 % within "
            f"{fit.sigma_mrad:.2f} mrad; {len(fit.spots_px)} spots used. "
            f"α {signed(stored.pose.alpha_deg)}°, β {signed(stored.pose.beta_deg)}°, "
            f"{stored.charged_e_per_A2:.3f} e/Å² charged."
        )
    else:
        caption = f"No tilt was read: {fit.reason or 'no reason given'}."
    made.figures.append(Figure(f"Pattern: {titles[0].lower()}", markup(drawing), caption, file))


def _last_look(desk: Desk, story: TargetStory, made: Section) -> None:
    """For a crystal that was lost: the tracking picture that made the machine decide."""
    located = story.last(Located)
    if located is None or located.found:
        return
    frame = load_frame(desk.run_dir, desk.night, located.frame)
    stored = desk.night.frames.get(located.frame)
    if frame is None or stored is None:
        return
    pixel = stored.optics.pixel_size_nm or 1.0
    tile = Tile(located.frame, frame.electrons, stored.pose, pixel)
    rows, cols = frame.electrons.shape
    radius = story.pick.radius_nm if story.pick else 100.0
    drawing, file = crop_drawing(
        desk.album,
        f"{story.name}-lost",
        tile,
        (cols // 2, rows // 2),
        radius,
        f"Tracking picture in which {story.name} was not found",
    )
    caption = (
        f"Expected here, not found: correlation {located.correlation:.2f}. {located.reason}".strip()
    )
    made.figures.append(Figure("Lost", markup(drawing), caption, file))


def _scan_and_phase(desk: Desk, story: TargetStory, made: Section) -> None:
    scan, result = story.scan, story.reconstruction
    field_A = (float("inf"), float("inf"))
    if scan is not None:
        path = inside(desk.run_dir, scan.path)
        try:
            if path is None:
                raise FileNotFoundError(f"{scan.path} leads out of the run folder")
            pictures = scan_pictures(desk.album, story.name, path)
        except (OSError, ValueError, KeyError) as error:
            made.problems.append(f"the scan cannot be shown: {error}")
        else:
            field_A = pictures.field_A
            whole = "" if scan.complete else (
                f" Incomplete: {scan.frames_committed} of {scan.frames_expected} positions."
            )  # fmt: skip
            caption = (
                f"{field_A[1] / 10:.1f} × {field_A[0] / 10:.1f} nm, "
                f"{pictures.electrons_per_pattern:.0f} electrons per pattern, "
                f"planned {scan.fluence_e_per_A2:.0f} e/Å², defocus "
                f"{signed(scan.optics.defocus_nm, 1)} nm.{whole}"
            )
            made.figures.append(
                Figure("4D-STEM: virtual bright field", markup(pictures.virtual), caption,
                       pictures.virtual_file)
            )  # fmt: skip
            made.figures.append(
                Figure("4D-STEM: mean pattern", markup(pictures.pattern),
                       "All patterns averaged, logarithmic; the ring is the probe's semi-angle.",
                       pictures.pattern_file)
            )  # fmt: skip
    if result is None:
        return
    folder = inside(desk.run_dir, result.folder)
    try:
        if folder is None:
            raise FileNotFoundError(f"{result.folder} leads out of the run folder")
        phase = read_phase(folder)
    except (OSError, ValueError, KeyError) as error:
        made.problems.append(f"the reconstruction cannot be shown: {error}")
        return
    _phase(desk, story, made, phase, field_A)


def _phase(
    desk: Desk, story: TargetStory, made: Section, phase: Phase, field_A: tuple[float, float]
) -> None:
    result = story.reconstruction
    if result is None:
        return
    values = phase.field_of(field_A) if field_A[0] < float("inf") else phase.phase_rad
    drawing, file = phase_drawing(desk.album, story.name, values, phase.pixel_size_A)
    resolution = f"{result.resolution_A:.2f} Å" if result.resolution_A else "resolution unknown"
    caption = f"{resolution}: {result.verdict or 'no verdict'}."
    figure = Figure("Ptychographic phase", markup(drawing), caption, file)
    made.figures.append(figure)
    made.thumbnail = figure
    drawing, file = spectrum_drawing(
        desk.album, story.name, values, phase.pixel_size_A, result.resolution_A
    )
    caption = "Logarithmic, Hann window; rings in ångström, dashed: the resolution."
    made.figures.append(Figure("Power spectrum of the phase", markup(drawing), caption, file))
    made.plots += _curves(phase)


def _curves(phase: Phase) -> list[Figure]:
    """Whatever curves the reconstruction left, each against its own x axis."""
    figures = []
    frc = {key: y for key, y in phase.curves.items() if key.lower().startswith("frc")}
    axis = next((key for key in frc if "_q" in key or "frequency" in key or "inv_A" in key), None)
    if axis is not None:
        curves = [
            Curve(key, frc[axis], y)
            for key, y in frc.items()
            if key != axis and len(y) == len(frc[axis])
        ]
        if curves:
            plot = line_plot(curves, x_label="1/Å", y_label="FRC", levels=(0.143, 0.5))
            caption = "Two reconstructions from independent halves of the electrons."
            figures.append(Figure("Fourier ring correlation", markup(plot), caption))
    losses = [
        Curve(key.split("_nll")[0].replace("_", " "), np.arange(1.0, len(y) + 1), y)
        for key, y in phase.curves.items()
        if "nll" in key and len(y) > 1
    ]
    if losses:
        plot = line_plot(losses, x_label="pass", y_label="−log L per electron")
        caption = "On the electrons that were fitted, and on those held out."
        figures.append(Figure("Convergence", markup(plot), caption))
    return figures


def _moves(night: Night, story: TargetStory) -> list[MoveRow]:
    rows = []
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
                    f"{predicted:.3f}" if predicted is not None else "",
                    f"{len(event.spots_px)} spots, {zone_words(event)}"
                    if event.answered
                    else event.reason,
                )
            )
        elif isinstance(event, Moved) and _tilts(event):
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
                    f"residual {residual}" if residual else "",
                )
            )
    return rows


def _tilts(moved: Moved) -> bool:
    return moved.requested.alpha_deg is not None or moved.requested.beta_deg is not None


def _asked_got(asked: float | None, got: float | None) -> str:
    return signed(got) if asked is None else f"{signed(asked)} → {signed(got)}"


def signed(value: float | None, digits: int = 2) -> str:
    """With its sign, a true minus for negative ones."""
    return f"{value or 0.0:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _bars(night: Night, record: dict[str, Any]) -> list[Bar]:
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
