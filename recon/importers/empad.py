"""EMPAD: `.raw`, frames of 130 x 128 float32, little-endian, and an XML about the scan.

The first 128 rows of a frame are the pattern, the last two are the chip's own data. Values are
analogue: one electron leaves a value that depends on the beam energy and the background reference,
``counts_per_electron``. The XML gives scan shape, energy and exposure; rows are kept as stored
(rows that run upwards: ``flip_ud: true``). The layout of EMPAD-G2 is not public and not read.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from recon.dataset import Dataset4D, sha256_of
from recon.errors import DataError
from recon.importers.assemble import assemble
from recon.importers.fields import read_layout, yaml_beside
from recon.importers.frames import Frames

ROWS, COLS, STORED_ROWS = 128, 128, 130
FRAME_BYTES = STORED_ROWS * COLS * 4


def open_empad(path: Path, defaults: Mapping[str, object]) -> Dataset4D:
    """Open the `.raw`, or the `.xml` that names it.

    Raises
    ------
    DataError
        Truncated, no EMPAD file, or the scan does not fit the frames.
    """
    xml, raw = _pair(path)
    size = raw.stat().st_size
    if size == 0 or size % FRAME_BYTES:
        raise DataError(
            f"{raw.name} has {size} bytes, no whole number of EMPAD frames of {FRAME_BYTES} "
            f"(130 x 128 float32; {size / FRAME_BYTES:.2f} frames): it is truncated or of another "
            f"detector (EMPAD-G2 is not read). Nothing was read; copy it again"
        )
    fields = dict(defaults) | yaml_beside(raw)
    layout = read_layout(fields, str(raw))
    stored = np.memmap(raw, np.dtype("<f4"), "r", shape=(size // FRAME_BYTES, STORED_ROWS, COLS))

    def read(start: int, stop: int) -> NDArray[Any]:
        return np.asarray(stored[start:stop, :ROWS])

    root = None if xml is None else _parse(xml)
    frames = Frames(
        name=raw.name,
        n_frames=len(stored),
        frame_shape=(ROWS, COLS),
        bytes_per_frame=FRAME_BYTES,
        read=read,
        shapes=_shapes(root, raw),
        found={} if root is None else _energy(root),
        raw_headers={} if xml is None else {"empad_xml": xml.read_text(errors="replace")},
        start_time=None if root is None else _start_time(root),
        dwell_s=None if root is None else _exposure_s(root),
    )
    return assemble(frames, fields, layout, raw, sha256_of(raw))


def _pair(path: Path) -> tuple[Path | None, Path]:
    """(XML or None, raw), whichever of the two was given."""
    if path.suffix.lower() == ".raw":
        candidates = [path.with_suffix(".xml"), *sorted(path.parent.glob("*.xml"))]
        for xml in candidates:
            if xml.exists() and (xml.stem == path.stem or _raw_name(_parse(xml)) == path.name):
                return xml, path
        return None, path
    name = _raw_name(_parse(path))
    raw = path.with_name(name) if name else path.with_suffix(".raw")
    if not raw.exists():
        raw = path.with_suffix(".raw")
    if not raw.exists():
        raise DataError(f"{path.name} names {name or raw.name}, which is not beside it")
    return path, raw


def _parse(xml: Path) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(xml.read_bytes())
    except ElementTree.ParseError as problem:
        raise DataError(
            f"{xml.name} is no valid XML: {problem}; move it away or repair it"
        ) from problem


def _raw_name(root: ElementTree.Element) -> str:
    node = root.find("raw_file")
    return "" if node is None else Path(node.get("filename", "")).name


def _shapes(root: ElementTree.Element | None, raw: Path) -> tuple[tuple[str, tuple[int, int]], ...]:
    """Every place that speaks of the scan: they differ between versions, the frames decide."""
    found: list[tuple[str, tuple[int, int]]] = []
    if root is not None:
        pairs = [("pix_y, pix_x", root.find("pix_y"), root.find("pix_x"))]
        for node in root.findall("scan_parameters"):
            where = f"scan_parameters {node.get('mode', '')}"
            pairs.append((where, node.find("scan_resolution_y"), node.find("scan_resolution_x")))
        for where, y, x in sorted(pairs, key=lambda pair: "search" in pair[0]):
            if y is not None and x is not None and y.text and x.text:
                found.append((where, (int(y.text), int(x.text))))
    named = re.search(r"_x(\d+)_y(\d+)", raw.stem)
    if named:
        found.append(("the file name", (int(named[2]), int(named[1]))))
    return tuple(found)


def _energy(root: ElementTree.Element) -> dict[str, object]:
    for tag in ("iom_measurements/source.get_voltage", "iom_measurements/high_voltage"):
        text = root.findtext(tag)
        if text:
            return {"energy_eV": float(text)}
    return {}


def _start_time(root: ElementTree.Element) -> str | None:
    node = root.find("timestamp")
    return None if node is None else node.get("isoformat")


def _exposure_s(root: ElementTree.Element) -> float | None:
    text = root.findtext("exposure_time")
    return float(text) * 1e-3 if text else None
