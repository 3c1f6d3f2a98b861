"""Build the morning report of a run folder: ``report.html`` and ``report.json``.

A pure fold over the journal and the data beside it: it moves nothing, asks nothing and may run
while the night goes on, after a crash, or years later on another machine.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from controller.record.report.files import inside, list_files
from controller.record.report.ledger import read_map
from controller.record.report.page import render
from controller.record.report.pictures import Album
from controller.record.report.scans import UNBOUNDED, read_phase
from controller.record.report.sections import Desk, load_frame
from controller.record.report.story import Night, TargetStory, read_night
from controller.record.report.summary import summarise
from controller.record.report.survey import Tile
from controller.record.report.true_scan import correlation, read_true_scan
from controller.record.report.truth import TargetTruth, Truth, read_truth
from controller.safety.dose_map import DoseMap

JOURNAL = "journal.jsonl"
LEDGER = "ledger.sqlite"
TRUTH = "truth.h5"


@dataclass(frozen=True)
class ReportResult:
    """Where the report lies, and its numbers.

    html, json
        The two files.
    data
        The content of the JSON file.
    """

    html: Path
    json: Path
    data: dict[str, Any]


def build_report(run_dir: Path) -> ReportResult:
    """Write ``report.html``, ``report.json`` and ``report_files/`` into a run folder.

    Works on any journal: whole, still growing, cut off or damaged. Whatever cannot be read is
    named in the report and left out of it.

    Raises
    ------
    FileNotFoundError
        `run_dir` is no folder. Nothing was written.
    """
    if not run_dir.is_dir():
        raise FileNotFoundError(
            f"{run_dir} is no folder; nothing was written. Give the folder of a run, "
            f"the one that holds {JOURNAL}"
        )
    problems: list[str] = []
    night = read_night(run_dir / JOURNAL)
    truth = _truth(run_dir, night, problems)
    dose_map = _dose_map(run_dir, problems)
    dose_check = truth.dose_check(dose_map) if truth and dose_map else None
    truths = _truths(run_dir, night, truth) if truth else {}
    files = list_files(run_dir, night)
    problems += [f"{file.path} ({file.what}) is {file.check}" for file in files
                 if file.check == "differs"]  # fmt: skip
    summary = summarise(night, truths, files, problems, dose_check)
    truth_path = run_dir / TRUTH if truth else None
    desk = Desk(night, run_dir, Album(run_dir), _tiles(run_dir, night), truth_path)
    page = render(desk, summary, dose_map)
    desk.album.prune()
    html, numbers = run_dir / "report.html", run_dir / "report.json"
    _replace(html, page)
    _replace(numbers, json.dumps(finite(summary.data), indent=1, ensure_ascii=False) + "\n")
    return ReportResult(html, numbers, summary.data)


def finite(value: Any) -> Any:  # noqa: ANN401  JSON
    """`value` with NaN and infinities as None, since JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _replace(path: Path, text: str) -> None:
    """Write beside, then rename: a reader sees the old report or the new one, never a half."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _truth(run_dir: Path, night: Night, problems: list[str]) -> Truth | None:
    path = run_dir / TRUTH
    if not (night.simulated and path.is_file()):
        return None
    try:
        return read_truth(path)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        problems.append(f"the simulator's truth cannot be read: {error}")
        return None


def _truths(run_dir: Path, night: Night, truth: Truth) -> dict[str, TargetTruth]:
    """What the targets really were, by name, for those of which a pattern was read."""
    found = {}
    for name, story in night.targets.items():
        fits = story.answered_fits
        if fits:
            ids = [_exposure_of(run_dir, night, fit.frame) for fit in (fits[0], fits[-1])]
            scan = None if story.scan is None else Path(story.scan.path).stem
            known = truth.of_target(ids[0], ids[1], scan)
            found[name] = replace(known, phase_correlation=_likeness(run_dir, story))
    return found


def _likeness(run_dir: Path, story: TargetStory) -> float | None:
    """Correlation of a target's reconstruction with the true phase."""
    scan, result = story.scan, story.reconstruction
    folder = inside(run_dir, result.folder) if result else None
    if scan is None or folder is None:
        return None
    true = read_true_scan(run_dir / TRUTH, Path(scan.path).stem)
    try:
        return correlation(read_phase(folder), true, UNBOUNDED) if true else None
    except (OSError, ValueError, KeyError):
        return None


def _exposure_of(run_dir: Path, night: Night, name: str) -> str | None:
    frame = load_frame(run_dir, night, name)
    return None if frame is None else str(frame.header.get("exposure_id"))


def _dose_map(run_dir: Path, problems: list[str]) -> DoseMap | None:
    path = run_dir / LEDGER
    if not path.is_file():
        return None
    try:
        return read_map(path)
    except (sqlite3.Error, ValueError, TypeError) as error:
        problems.append(f"the dose ledger cannot be read: {error}")
        return None


def _tiles(run_dir: Path, night: Night) -> dict[str, Tile]:
    """Survey pictures that can be read, by frame name, with the picker's classes."""
    labels = {region.frame: region.labels_path for region in night.regions}
    tiles = {}
    for name, stored in night.frames.items():
        pixel_size_nm = stored.optics.pixel_size_nm
        if stored.role != "survey" or pixel_size_nm is None:
            continue
        frame = load_frame(run_dir, night, name)
        if frame is not None:
            classes = _labels(run_dir, labels.get(name))
            tiles[name] = Tile(name, frame.electrons, stored.pose, pixel_size_nm, classes)
    return tiles


def _labels(run_dir: Path, relative: str | None) -> NDArray[np.uint8] | None:
    path = inside(run_dir, relative or "")
    if path is None or not path.is_file():
        return None
    try:
        with h5py.File(path, "r") as file:
            return np.asarray(file["labels"], dtype=np.uint8)
    except (OSError, KeyError, TypeError, ValueError):
        return None
