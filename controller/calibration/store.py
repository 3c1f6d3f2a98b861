"""The calibration file: YAML that a person can read, one entry per measurement, none ever lost.

A new result is appended; the file is written beside the old one, synced and put in its place, so
that a crash leaves the old or the new file and never half of one.  A file that cannot be read is
refused, not replaced.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from pydantic import ValidationError

from controller.calibration.entries import Entry, StoredCalibration

_HEAD = """\
# lodestem calibrations: every measurement in the order in which it was stored; the newest of a
# kind that fits the conditions counts.  Written by `lodestem calibrate`, listed by
# `lodestem calibrate show`.
"""


class CalibrationFileError(ValueError):
    """The calibration file cannot be used; it was not touched."""


def load_calibration(path: Path) -> StoredCalibration:
    """Read a calibration file.

    Raises
    ------
    CalibrationFileError
        Missing, not YAML, or not a calibration: every problem with its key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise CalibrationFileError(
            f"{path}: there is no such file; make one with `lodestem calibrate`"
        ) from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise CalibrationFileError(f"{path}: cannot be read ({problem})") from problem
    except yaml.YAMLError as problem:
        raise CalibrationFileError(
            f"{path}: not YAML ({problem}); correct it, or move it away to start a new one"
        ) from problem
    try:
        return StoredCalibration.model_validate(content)
    except ValidationError as problems:
        told = "; ".join(
            f"{'.'.join(str(p) for p in e['loc']) or 'the file'}: {e['msg']}"
            for e in problems.errors()
        )
        raise CalibrationFileError(
            f"{path}: not a calibration file: {told}; correct it, or move it away to "
            f"start a new one"
        ) from problems


def append_entry(path: Path, entry: Entry) -> StoredCalibration:
    """Add one result to the file, or start it; return what it holds now.

    Raises
    ------
    CalibrationFileError
        The file that is there cannot be read; it was not touched.
    """
    before = load_calibration(path) if path.exists() else StoredCalibration()
    after = StoredCalibration(entries=(*before.entries, entry))
    text = _HEAD + yaml.safe_dump(
        after.model_dump(mode="json"), sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    if load_text(text) != after:
        raise CalibrationFileError(f"{path}: the result does not survive being written; not stored")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return after


def load_text(text: str) -> StoredCalibration:
    """Parse the content of a calibration file."""
    return StoredCalibration.model_validate(yaml.safe_load(text))
