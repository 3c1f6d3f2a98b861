"""Stream raw frames into a sparse data set: memory grows with the electrons, not the pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.dataset import Dataset4D, ScanHeader
from recon.dataset.events import pixel_dtype
from recon.errors import DataError
from recon.importers.checks import check_counts
from recon.importers.electrons import to_electrons
from recon.importers.fields import Layout, make_header
from recon.importers.frames import Frames, blocks, choose_scan_shape


@dataclass
class _Gathered:
    """Entries so far: one per pixel that was hit, with its electrons (at most 255)."""

    pixel: list[NDArray[np.unsignedinteger]] = field(default_factory=list)
    multiplicity: list[NDArray[np.uint8]] = field(default_factory=list)
    count: list[NDArray[np.int64]] = field(default_factory=list)
    n_void: int = 0
    n_saturated: int = 0
    largest: int = 0

    def add(self, electrons: NDArray[np.unsignedinteger], first: int) -> None:
        """Append a block that starts at scan index ``first``."""
        recorded = sum(map(len, self.count))
        if first > recorded:
            self.count.append(np.zeros(first - recorded, np.int64))
        n_pixels = electrons[0].size if len(electrons) else 1
        index, hits = find_hits(electrons)
        frame, pixel = np.divmod(index, n_pixels)
        self.largest = max(self.largest, int(hits.max(initial=0)))
        copies = -(-hits // 255)
        last = np.cumsum(copies) - 1
        multiplicity = np.full(int(copies.sum()), 255, np.uint8)
        multiplicity[last] = hits - 255 * (copies - 1)
        self.pixel.append(np.repeat(pixel.astype(pixel_dtype(n_pixels)), copies))
        self.multiplicity.append(multiplicity)
        entries = np.bincount(frame, weights=copies, minlength=len(electrons))
        self.count.append(entries.astype(np.int64))


def find_hits(
    electrons: NDArray[np.unsignedinteger],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat index and electrons of every pixel that was hit.

    At low dose almost all pixels are empty: words of 64 bits are looked at first.
    """
    flat = np.ascontiguousarray(electrons).reshape(-1)
    per_word = 8 // flat.itemsize
    if flat.size % per_word:
        index = np.flatnonzero(flat)
        return index, flat[index].astype(np.int64)
    word = np.flatnonzero(flat.view(np.uint64))
    lanes = flat.reshape(-1, per_word)[word]
    which, lane = np.nonzero(lanes)
    return word[which] * per_word + lane, lanes[which, lane].astype(np.int64)


def assemble(
    frames: Frames, fields: Mapping[str, object], layout: Layout, path: Path, sha256: str
) -> Dataset4D:
    """Read every block once, turn it into electrons and check what came out.

    Parameters
    ----------
    fields
        What the YAML says; it wins over what the file says.
    """
    fields = dict(frames.found) | dict(fields)
    scan_shape = choose_scan_shape(frames, layout)
    more: dict[str, object] = {
        "counting": "thresholded" if layout.counts_per_electron else frames.counting,
        "raw_headers": dict(frames.raw_headers),
    }
    if frames.start_time:
        more["start_time"] = frames.start_time
    if frames.dwell_s:
        more["dwell_s"] = frames.dwell_s
    # before the pixels are read, which takes long
    header = make_header(fields, scan_shape, frames.frame_shape, str(path), more)
    masked = _declared_mask(frames, layout)
    gathered = _gather(frames, layout, scan_shape, masked)
    dataset = replace(_dataset(gathered, header), source=str(path), sha256=sha256)
    dataset = replace(dataset, masked=masked if masked.any() else None)
    notes = [*frames.warnings, *_notes(gathered, frames, layout, dataset)]
    return check_counts(
        replace(dataset, warnings=tuple(notes)), axes_stated=layout.axes is not None
    )


def _declared_mask(frames: Frames, layout: Layout) -> NDArray[np.bool_]:
    masked = np.zeros(frames.frame_shape, bool) if frames.masked is None else frames.masked.copy()
    for row, col in layout.masked_pixels:
        if row >= frames.frame_shape[0] or col >= frames.frame_shape[1]:
            raise DataError(
                f"{frames.name}: masked_pixels names [{row}, {col}], the frames have "
                f"{frames.frame_shape[0]} x {frames.frame_shape[1]} pixels"
            )
        masked[row, col] = True
    return masked


def _gather(
    frames: Frames, layout: Layout, scan_shape: tuple[int, int], masked: NDArray[np.bool_]
) -> _Gathered:
    gathered = _Gathered()
    ceiling = layout.saturation_value or frames.saturation_value
    for first, values in blocks(frames, layout, scan_shape):
        if layout.nan_pixels == "mask" and values.dtype.kind == "f":
            masked |= ~np.isfinite(values).all(axis=0)
        values = np.where(masked, np.zeros((), values.dtype), values) if masked.any() else values
        if frames.void_value is not None:
            void = values == frames.void_value
            gathered.n_void += int(np.count_nonzero(void))
            values = np.where(void, np.zeros((), values.dtype), values)
        if ceiling is not None:
            gathered.n_saturated += int(np.count_nonzero(values >= ceiling))
        block = f"{frames.name} (frames {first} to {first + len(values) - 1})"
        gathered.add(to_electrons(values, layout, block), first)
    return gathered


def _dataset(gathered: _Gathered, header: ScanHeader) -> Dataset4D:
    count = np.zeros(header.n_positions, np.int64)
    recorded = np.concatenate([*gathered.count, np.zeros(0, np.int64)])
    count[: len(recorded)] = recorded
    pixel: NDArray[Any] = np.concatenate(gathered.pixel or [np.zeros(0, np.uint16)])
    multiplicity = np.concatenate(gathered.multiplicity or [np.zeros(0, np.uint8)])
    valid = np.arange(header.n_positions) < len(recorded)
    indptr = np.concatenate([[0], np.cumsum(count)])
    whole = Dataset4D(header, pixel, indptr, valid, multiplicity)
    # one entry per electron is what most readers take; bright data would not fit
    return whole.expanded() if whole.n_electrons < 2 * len(pixel) + 1 else whole


def _notes(gathered: _Gathered, frames: Frames, layout: Layout, dataset: Dataset4D) -> list[str]:
    notes = []
    missing = int(np.count_nonzero(~dataset.valid))
    if missing:
        notes.append(f"{missing} of {dataset.header.n_positions} scan points were never recorded")
    if gathered.n_void:
        notes.append(
            f"{gathered.n_void} values are the detector's mark for an overflow or a pixel without "
            f"a value ({frames.void_value}); they count as no electron. Lower the beam current, or "
            f"list the pixels as masked_pixels"
        )
    ceiling = layout.saturation_value or frames.saturation_value
    if gathered.n_saturated and ceiling is not None:
        notes.append(
            f"the detector is saturated: {gathered.n_saturated} values reach {ceiling:g}, the most "
            f"it can count; the bright parts are too dark. Lower the beam current or the dwell time"
        )
    return notes
