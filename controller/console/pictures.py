"""From frames to what viewers get: the newest picture of each stream, encoded once."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from controller.console.frames import encode_frame, smoothed, to_bytes, to_jpeg
from controller.console.night import Night
from controller.console.views.align import overlay_of
from controller.hardware.values import Frame, Mode
from controller.record.events import FrameStored
from controller.record.store import read_frame

SMOOTH_PX = {"pattern": 0.6, "image": 1.3}
"""Of what is shown; files, profiles and read-outs are as they were counted."""
STREAMS = {"pattern": ("pattern",), "image": ("survey", "track")}
"""Stream, and the roles of frames that it shows."""


@dataclass(frozen=True)
class Shown:
    """What was encoded last on a stream."""

    key: str
    message: bytes


def newest_frame(night: Night, stream: str) -> FrameStored | None:
    """The frame that a stream shows: the newest of its roles."""
    roles = STREAMS[stream]
    for entry in reversed(night.entries):
        if isinstance(entry.event, FrameStored) and entry.event.role in roles:
            return entry.event
    return None


def key_of(night: Night, stream: str) -> str:
    """Changes when there is something new to show on a stream."""
    frame = newest_frame(night, stream)
    if frame is None:
        return ""
    proposal = night.proposal
    overlay = overlay_of(night, frame.frame) if stream == "pattern" else {}
    return f"{frame.frame}/{'' if proposal is None else proposal['id']}/{len(overlay)}"


def message_of(night: Night, stream: str) -> bytes | None:
    """The newest stored picture of a stream as a message."""
    stored = newest_frame(night, stream)
    path = None if stored is None else inside(night.folder, stored.path)
    if stored is None or path is None or not path.exists():
        return None
    frame = read_frame(path)
    log = stream == "pattern"
    grey, low, high = to_bytes(smoothed(frame.electrons, SMOOTH_PX[stream]), log=log)
    header = {
        "stream": stream,
        "frame": stored.frame,
        "utc": str(frame.header["utc"]),
        "role": stored.role,
        "target": stored.target or "",
        "live": False,
        "log": log,
        "shape": list(frame.electrons.shape),
        "black": low,
        "white": high,
        "intact": is_intact(path, stored.sha256),
        "electrons": stored.electrons,
        "charged_e_per_A2": stored.charged_e_per_A2,
        "pixel_nm": stored.optics.pixel_size_nm,
        "overlay": (overlay_of(night, stored.frame) | {"notes": notes_on(night, stored.frame)})
        if log
        else _mark(night, stored),
    }
    return encode_frame(header, to_jpeg(grey))


def live_message(frame: Frame, sequence: int) -> tuple[str, bytes]:
    """Stream and message of a picture that has just come over the telemetry."""
    stream = "pattern" if frame.optics.mode is Mode.DIFFRACTION else "image"
    counts = frame.electrons().astype(np.float32)
    log = stream == "pattern"
    grey, low, high = to_bytes(counts, log=log)
    header = {
        "stream": stream,
        "frame": "",
        "sequence": sequence,
        "utc": frame.utc,
        "role": "live",
        "target": "",
        "live": True,
        "log": log,
        "shape": list(counts.shape),
        "black": low,
        "white": high,
        "intact": True,
        "electrons": float(counts.sum()),
        "charged_e_per_A2": frame.charged_e_per_A2,
        "pixel_nm": frame.optics.pixel_size_nm,
        "overlay": {},
    }
    return stream, encode_frame(header, to_jpeg(grey))


def is_intact(path: Path, sha256: str) -> bool:
    """Whether the detector values are those that the journal names; True where it names none."""
    if not sha256:
        return True
    with h5py.File(path, "r") as file:
        raw = np.ascontiguousarray(np.asarray(file["data"]))
    return hashlib.sha256(raw.tobytes()).hexdigest() == sha256


def inside(folder: Path, relative: str) -> Path | None:
    """A path of the journal, if it stays in the run folder."""
    path = (folder / relative).resolve()
    return path if path.is_relative_to(folder.resolve()) else None


def frame_named(night: Night, name: str) -> tuple[FrameStored, NDArray[np.float32]] | None:
    """A frame of the run in full depth."""
    for entry in night.entries:
        event = entry.event
        if isinstance(event, FrameStored) and event.frame == name:
            path = inside(night.folder, event.path)
            return None if path is None else (event, read_frame(path).electrons)
    return None


def notes_on(night: Night, frame: str) -> list[dict[str, Any]]:
    """What people wrote onto a picture."""
    path = night.folder / "labels.jsonl"
    found: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with suppress(ValueError, KeyError):
            label = json.loads(line)
            if label.get("what_for") == "annotation" and label["frame"] == frame:
                x, y = float(label["x_px"]), float(label["y_px"])
                found.append({"x": x, "y": y, "text": str(label["text"])})
    return found


def _mark(night: Night, stored: FrameStored) -> dict[str, Any]:
    """Where the crystal is, on a survey or tracking picture."""
    target = night.belief.find(stored.target)
    if target is None or stored.optics.pixel_size_nm is None:
        return {}
    return {"radius_px": (target.radius_nm or target.pick.radius_nm) / stored.optics.pixel_size_nm}
