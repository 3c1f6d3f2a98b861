"""Merlin / Quantum Detectors `.mib`: every frame behind its own ASCII header, big-endian.

A `.mib` is read alone; its `.hdr` also names a sequence of files (`name1.mib`, `name2.mib`, ...)
that is read in the order of the frame numbers. The `.hdr` gives frames per line.
Rows are kept as stored; some programs show them reversed (``flip_ud: true``).
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.dataset import Dataset4D, sha256_of
from recon.errors import DataError
from recon.importers.assemble import assemble
from recon.importers.fields import read_layout, yaml_beside
from recon.importers.frames import Frames, joined
from recon.importers.merlin_header import UNSIGNED, MibHeader, decode_raw, read_mib_header


@dataclass(frozen=True)
class MibFile:
    """One file of frames, mapped."""

    path: Path
    header: MibHeader
    stored: NDArray[np.uint8]

    @classmethod
    def open(cls, path: Path) -> "MibFile":
        """Map a file after checking that it holds whole frames."""
        with path.open("rb") as stream:
            header = read_mib_header(stream.read(1 << 12), path.name)
        frame_bytes = header.header_bytes + header.data_bytes
        size = path.stat().st_size
        if size < frame_bytes or size % frame_bytes:
            whole = size - size % frame_bytes
            rest = (
                f"; of an interrupted scan cut the file to {whole} bytes and state "
                f"`incomplete: true`"
            )
            raise DataError(
                f"{path.name} has {size} bytes, no whole number of frames of {frame_bytes} "
                f"({size / frame_bytes:.2f}): it is truncated or its frames differ. Copy it "
                f"again{rest if whole else ''}"
            )
        stored = np.memmap(path, np.uint8, "r", shape=(size // frame_bytes, frame_bytes))
        return cls(path, header, stored)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Images ``start:stop`` of this file, native byte order."""
        block, header = self.stored[start:stop], self.header
        if bytes(block[:, :4].ravel()) != b"MQ1," * len(block):
            raise DataError(
                f"{self.path.name}: a frame between {start} and {stop} has no header: damaged"
            )
        data = np.ascontiguousarray(block[:, header.header_bytes :])
        if header.kind == "R64":
            return decode_raw(data, header)
        values = data.view(UNSIGNED[header.kind]).reshape(-1, *header.frame_shape)
        return values.astype(values.dtype.newbyteorder("="))


def open_merlin(path: Path, defaults: Mapping[str, object]) -> Dataset4D:
    """Open a `.mib`, or the sequence that belongs to a `.hdr`, with the YAML of that name.

    Raises
    ------
    DataError
        Truncated, another format, a file of the sequence is missing, or the scan does not fit.
    """
    files = _sequence(path) if path.suffix.lower() == ".hdr" else [MibFile.open(path)]
    header = files[0].header
    n_frames, read = joined([len(file.stored) for file in files], [file.read for file in files])
    said = _read_hdr(path.with_suffix(".hdr"))
    depth = header.depth or int(said.get("Counter Depth (number)", "0") or 0)
    fields = dict(defaults) | yaml_beside(path)
    layout = read_layout(fields, str(path))
    frames = Frames(
        name=path.name,
        n_frames=n_frames,
        frame_shape=header.frame_shape,
        bytes_per_frame=header.header_bytes + header.data_bytes,
        read=read,
        shapes=_shapes(said, n_frames),
        # a one-bit counter has no choice but to be full where an electron fell
        saturation_value=2**depth - 1 if depth > 1 else None,
        counting="thresholded",
        raw_headers={"mib": header.text} | {f"hdr {key}": value for key, value in said.items()},
        start_time=_iso(header.start_time),
        dwell_s=header.exposure_s or None,
    )
    digests = [sha256_of(file.path) for file in files]
    whole = hashlib.sha256("".join(digests).encode()).hexdigest()
    return assemble(frames, fields, layout, path, digests[0] if len(files) == 1 else whole)


def _sequence(hdr: Path) -> list[MibFile]:
    """The `.mib` files of a `.hdr`, by the number of their first frame; none may be missing."""
    name = re.compile(re.escape(hdr.stem) + r"_?\d*\.mib", re.IGNORECASE)
    paths = [path for path in sorted(hdr.parent.iterdir()) if name.fullmatch(path.name)]
    if not paths:
        raise DataError(f"{hdr.name}: no {hdr.stem}.mib is beside it; copy the frames as well")
    files = sorted((MibFile.open(path) for path in paths), key=lambda file: file.header.number)
    expected = files[0].header.number
    for file in files:
        if file.header.frame_shape != files[0].header.frame_shape:
            raise DataError(
                f"{file.path.name}: frames of {file.header.frame_shape} pixels follow frames of "
                f"{files[0].header.frame_shape}; the files belong to different scans"
            )
        if file.header.number != expected:
            raise DataError(
                f"{file.path.name} starts with frame {file.header.number}, expected {expected}: a "
                f"file of the sequence is missing or belongs to another scan"
            )
        expected += len(file.stored)
    return files


def _read_hdr(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = [line.split("\t", 1) for line in lines if "\t" in line]
    return {
        key.strip().rstrip(":"): value.strip()
        for key, value in pairs
        if key.strip() not in ("HDR,", "End")
    }


def _shapes(said: Mapping[str, str], n_frames: int) -> tuple[tuple[str, tuple[int, int]], ...]:
    found = []
    if "ScanX" in said and "ScanY" in said:
        found.append(("ScanX, ScanY of the .hdr", (int(said["ScanY"]), int(said["ScanX"]))))
    per_line = int(said.get("Frames per Trigger (Number)", "0") or 0)
    total = int(said.get("Frames in Acquisition (Number)", "0") or 0) or n_frames
    if per_line > 1 and total % per_line == 0 and total // per_line > 1:
        found.append(("frames per trigger of the .hdr", (total // per_line, per_line)))
    return tuple(found)


def _iso(text: str) -> str | None:
    """Merlin writes up to nine decimals, ISO times take six."""
    found = re.match(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)", text)
    return f"{found[1]}T{found[2]}" if found else None
