"""The part of the page about one crystal: every picture with its words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from controller.record.events import Located, Reconstructed, TiltFitted
from controller.record.report.charts import Curve, line_plot
from controller.record.report.files import inside
from controller.record.report.patterns import pattern_drawing, spot_reach_px
from controller.record.report.pictures import Album
from controller.record.report.scans import (
    UNBOUNDED,
    Phase,
    phase_drawing,
    read_phase,
    scan_pictures,
    spectrum_drawing,
)
from controller.record.report.story import Night, TargetStory
from controller.record.report.survey import Tile, crop_drawing
from controller.record.report.svg import markup
from controller.record.report.tables import (
    Bar,
    MoveRow,
    dose_bars,
    move_rows,
    notes_of,
    signed,
    zone_words,
)
from controller.record.report.true_scan import read_true_scan
from controller.record.store import StoredFrame, read_frame


@dataclass(frozen=True)
class Figure:
    """One picture with its words."""

    title: str
    drawing: Markup
    caption: str
    file: str = ""
    truth: bool = False
    """From the simulator, and marked so."""


@dataclass
class Section:
    """Everything that the page shows of one crystal."""

    record: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    moves: list[MoveRow] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    plots: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Height, focus and what else was measured on the way, in words."""
    thumbnail: Figure | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Desk:
    """What the sections are made from."""

    night: Night
    run_dir: Path
    album: Album
    tiles: dict[str, Tile]
    truth: Path | None = None
    """The simulator's truth, if it can be read."""


def section(desk: Desk, story: TargetStory, record: dict[str, Any]) -> Section:
    """Make the section of one crystal; what cannot be read is named and left out."""
    made = Section(record)
    made.moves = move_rows(desk.night, story)
    made.bars = dose_bars(desk.night, record)
    made.notes = notes_of(story)
    parts: tuple[Callable[[Desk, TargetStory, Section], None], ...] = (
        _survey,
        _last_look,
        _patterns,
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
    why = f"; {pick.reason}" if pick.reason else ""
    caption = (
        f"Chosen with probability {pick.score:.2f} of being right: usable radius "
        f"{pick.radius_nm:.0f} nm, crystal {pick.diameter_nm:.0f} nm across{why}."
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
    """The last tracking picture: the crystal under the beam, or where it was expected and lost."""
    located = story.last(Located)
    if located is None:
        return
    frame = load_frame(desk.run_dir, desk.night, located.frame)
    stored = desk.night.frames.get(located.frame)
    pixel_size_nm = stored.optics.pixel_size_nm if stored else None
    if frame is None or stored is None or pixel_size_nm is None:
        return
    tile = Tile(located.frame, frame.electrons, stored.pose, pixel_size_nm)
    rows, cols = frame.electrons.shape
    radius = story.pick.radius_nm if story.pick else 100.0
    drawing, file = crop_drawing(
        desk.album,
        f"{story.name}-last-look",
        tile,
        (cols // 2, rows // 2),
        radius,
        f"Last tracking picture of {story.name}",
    )
    if located.found:
        title = "Under the beam"
        caption = (
            f"Last tracking picture: found with correlation {located.correlation:.2f}, "
            f"{1000 * math.hypot(*located.offset_um):.0f} nm off"
            f"{', then centred' if located.recentred else ''}. "
            f"α {signed(stored.pose.alpha_deg)}°, β {signed(stored.pose.beta_deg)}°."
        )
    else:
        title = "Lost"
        caption = f"Expected here, not found: correlation {located.correlation:.2f}. "
        caption = (caption + located.reason).strip()
    made.figures.append(Figure(title, markup(drawing), caption, file))


def _scan_and_phase(desk: Desk, story: TargetStory, made: Section) -> None:
    scan, result = story.scan, story.reconstruction
    field_A = UNBOUNDED
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
    values = phase.field_of(field_A)
    drawing, file = phase_drawing(desk.album, f"{story.name}-phase", values, phase.pixel_size_A)
    caption = _quality(result)
    figure = Figure("Ptychographic phase", markup(drawing), caption, file)
    made.figures.append(figure)
    made.thumbnail = figure
    drawing, file = spectrum_drawing(
        desk.album, story.name, values, phase.pixel_size_A, result.resolution_A
    )
    caption = "Logarithmic, Hann window; rings in ångström, dashed: the resolution."
    made.figures.append(Figure("Power spectrum of the phase", markup(drawing), caption, file))
    _true_phase(desk, story, made, phase, field_A)
    made.plots += _curves(phase)


def _quality(result: Reconstructed) -> str:
    """The numbers that go with a phase image."""
    known = [
        f"{name} {value:.2f} Å"
        for name, value in (
            ("resolution", result.resolution_A),
            ("lattice limit", result.lattice_limit_A),
            ("FRC", result.frc_half_A),
        )
        if value is not None
    ]
    if result.thickness_nm is not None:
        known.append(f"thickness {result.thickness_nm:.0f} nm")
    if result.defocus_nm is not None:
        known.append(f"defocus {signed(result.defocus_nm, 1)} nm")
    text = ", ".join(known) or "No numbers"
    stopped = f": {result.stopped_because}" if result.stopped_because else ""
    return f"{text[0].upper()}{text[1:]}. {result.passes} passes{stopped.rstrip('.')}."


def _true_phase(
    desk: Desk, story: TargetStory, made: Section, phase: Phase, field_A: tuple[float, float]
) -> None:
    """What the simulator knows was there, on the same pixels."""
    if desk.truth is None or story.scan is None:
        return
    true = read_true_scan(desk.truth, Path(story.scan.path).stem)
    values = true.on_pixels_of(phase, field_A) if true else None
    if true is None or values is None:
        return
    drawing, file = phase_drawing(
        desk.album, f"{story.name}-true-phase", values, phase.pixel_size_A
    )
    known = made.record["truth"] or {}
    like = known.get("phase_correlation")
    caption = "From the simulator; no real microscope can know it."
    if like is not None:
        caption += f" Correlation with the reconstruction {like:.2f}."
    if true.defocus_nm is not None:
        caption += f" True defocus {signed(true.defocus_nm, 1)} nm."
    made.figures.append(Figure("Truth: phase", markup(drawing), caption, file, truth=True))


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
