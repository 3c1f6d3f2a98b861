"""Counted 4D-STEM data in memory: which pixel each electron hit, position by position (CSR).

At 100 electrons per pattern 97 % of the pixels of a dense frame are zero; the list of hits is
twenty to forty times smaller and every virtual detector is one pass over it.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recon.dataset.header import ScanHeader
from recon.dataset.vacuum import VacuumProbe
from recon.errors import DataError

UInt = NDArray[np.unsignedinteger]


def pixel_dtype(n_pixels: int) -> type[np.uint16] | type[np.uint32]:
    """Return the smaller of uint16 and uint32 that can address every pixel of a frame."""
    return np.uint16 if n_pixels <= 1 << 16 else np.uint32


@dataclass(frozen=True)
class Counted:
    """What dense frames hold, electron by electron."""

    pixel: UInt
    """Flat pixel index of every electron, frame after frame."""
    count: NDArray[np.uint32]
    """Electrons of each frame, (n,)."""
    n_void: int
    """Pixels that held the void value."""


def events_from_dense(frames: NDArray[np.generic]) -> tuple[UInt, NDArray[np.uint32]]:
    """List the electrons of dense frames, one entry per electron.

    Parameters
    ----------
    frames
        Counts, any unsigned integer dtype (or non-negative integers), (n, det_y, det_x).

    Returns
    -------
    pixel, count
        Flat pixel index of every electron, and the number of electrons of each frame, uint32, (n,).

    Raises
    ------
    DataError
        The array is not three-dimensional or holds something other than counts.
    """
    counted = count_electrons(frames)
    return counted.pixel, counted.count


def count_electrons(frames: NDArray[np.generic], *, void: int | None = None) -> Counted:
    """As `events_from_dense`; pixels that hold the value `void` hold no electron.

    Raises
    ------
    DataError
        The array is not three-dimensional or holds something other than counts.
    """
    if frames.ndim != 3:
        raise DataError(f"frames must be (n, det_y, det_x), got shape {frames.shape}")
    if not np.issubdtype(frames.dtype, np.integer):
        raise DataError(f"frames must hold integer counts, got dtype {frames.dtype}")
    if not np.issubdtype(frames.dtype, np.unsignedinteger) and frames.size and frames.min() < 0:
        raise DataError(f"frames hold negative counts (minimum {frames.min()})")
    n_frames, n_pixels = len(frames), frames.shape[1] * frames.shape[2]
    flat = np.ascontiguousarray(frames).reshape(-1)
    hit = _nonzero(flat)
    electrons = flat[hit]
    most = int(electrons.max()) if len(hit) else 0
    n_void = 0
    if void is not None and most >= void:
        holds = electrons != void
        n_void = len(hit) - int(np.count_nonzero(holds))
        hit, electrons = hit[holds], electrons[holds]
    frame_ends = np.searchsorted(hit, np.arange(n_frames + 1) * n_pixels)
    hits = np.diff(frame_ends)
    frame_start = np.repeat(np.arange(n_frames) * n_pixels, hits)
    pixel = (hit - frame_start).astype(pixel_dtype(n_pixels))
    if most > 1:
        electrons = electrons.astype(np.int64)
        running = np.concatenate([[0], np.cumsum(electrons)])
        count = np.diff(running[frame_ends]).astype(np.uint32)
        return Counted(np.repeat(pixel, electrons), count, n_void)
    return Counted(pixel, hits.astype(np.uint32), n_void)


def _nonzero(flat: NDArray[np.generic]) -> NDArray[np.int64]:
    """Indices of the entries that are not zero, looking at words of 64 bits first.

    Of 100 electrons on 16,384 pixels a word of four pixels holds one in forty times.
    """
    per_word = 8 // flat.dtype.itemsize  # a power of two
    if per_word < 2 or flat.size % per_word:
        return np.flatnonzero(flat != 0)
    word = np.flatnonzero(flat.view(np.uint64) != 0)
    inside = np.flatnonzero(flat.reshape(-1, per_word).take(word, axis=0) != 0)
    shift = per_word.bit_length() - 1
    return np.asarray((word.take(inside >> shift) << shift) + (inside & (per_word - 1)))


@dataclass(frozen=True)
class Dataset4D:
    """A counted 4D-STEM scan, sparse; dense views are made on demand.

    ``pixel[indptr[p]:indptr[p + 1]]`` are the flat pixels hit at scan position ``p`` (row-major in
    the scan), ``multiplicity`` the electrons of each entry (None: one each). A position that is not
    ``valid`` was never recorded, which is not the same as an empty pattern.
    """

    header: ScanHeader
    pixel: UInt
    indptr: NDArray[np.int64]
    valid: NDArray[np.bool_]
    multiplicity: NDArray[np.uint8] | None = None
    source: str = ""
    sha256: str = ""
    masked: NDArray[np.bool_] | None = None
    """Detector pixels (det_y, det_x) to leave out: hot, dead, or declared so by the detector."""
    warnings: tuple[str, ...] = ()
    """What was odd about the file when it was read."""
    vacuum: VacuumProbe | None = None
    """The same illumination without a specimen, where it was measured."""

    @classmethod
    def from_dense(
        cls, counts: NDArray[np.generic], header: ScanHeader, *, source: str = "", sha256: str = ""
    ) -> "Dataset4D":
        """Sparse data set from dense counts (scan_y, scan_x, det_y, det_x)."""
        expected = (*header.scan_shape, *header.frame_shape)
        if counts.shape != expected:
            raise DataError(f"counts have shape {counts.shape}, the header says {expected}")
        pixel, count = events_from_dense(counts.reshape(-1, *header.frame_shape))
        return cls(
            header=header,
            pixel=pixel,
            indptr=np.concatenate([[0], np.cumsum(count, dtype=np.int64)]),
            valid=np.ones(header.n_positions, dtype=bool),
            source=source,
            sha256=sha256,
        )

    @property
    def scan_shape(self) -> tuple[int, int]:
        """(scan_y, scan_x)."""
        return self.header.scan_shape

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(det_y, det_x)."""
        return self.header.frame_shape

    @property
    def n_electrons(self) -> int:
        """All electrons that were counted."""
        if self.multiplicity is None:
            return len(self.pixel)
        return int(self.multiplicity.sum(dtype=np.int64))

    @property
    def electrons_per_pattern(self) -> float:
        """Mean counts of the positions that were recorded."""
        return self.n_electrons / max(int(self.valid.sum()), 1)

    def expanded(self) -> "Dataset4D":
        """Return the same data with one entry per electron (no multiplicity)."""
        if self.multiplicity is None:
            return self
        total = np.concatenate([[0], np.cumsum(self.multiplicity, dtype=np.int64)])
        return replace(
            self,
            pixel=np.repeat(self.pixel, self.multiplicity),
            indptr=total[self.indptr],
            multiplicity=None,
        )

    def virtual_image(self, mask: NDArray[np.generic]) -> NDArray[np.float64]:
        """Sum of counts weighted by ``mask`` (det_y, det_x) at every scan position.

        Returns
        -------
        float64, (scan_y, scan_x); NaN where no frame was recorded.
        """
        if mask.shape != self.frame_shape:
            raise DataError(f"mask has shape {mask.shape}, frames are {self.frame_shape}")
        weight = mask.reshape(-1).astype(np.float64)[self.pixel]
        if self.multiplicity is not None:
            weight *= self.multiplicity
        running = np.concatenate([[0.0], np.cumsum(weight)])
        image = running[self.indptr[1:]] - running[self.indptr[:-1]]
        image[~self.valid] = np.nan
        return image.reshape(self.scan_shape)

    def pattern(self, positions: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Sum the patterns (det_y, det_x) of the chosen ``positions``, bool (scan_y, scan_x)."""
        weights = None if self.multiplicity is None else self.multiplicity.astype(np.float64)
        pixel: NDArray[np.generic] = self.pixel
        if positions is not None:
            chosen = np.repeat(positions.reshape(-1), np.diff(self.indptr))
            pixel = self.pixel[chosen]
            weights = None if weights is None else weights[chosen]
        total = np.bincount(pixel, weights=weights, minlength=self.header.n_pixels)
        return total.astype(np.int64).reshape(self.frame_shape)

    def mean_pattern(self) -> NDArray[np.float64]:
        """Mean counts per recorded pattern, (det_y, det_x)."""
        return self.pattern() / max(int(self.valid.sum()), 1)

    def dense(self, start: int = 0, stop: int | None = None) -> NDArray[np.uint16]:
        """Dense counts of the positions ``start:stop`` (row-major), uint16, (n, det_y, det_x)."""
        stop = self.header.n_positions if stop is None else stop
        first, last = self.indptr[start], self.indptr[stop]
        row = np.repeat(np.arange(stop - start), np.diff(self.indptr[start : stop + 1]))
        index = row * self.header.n_pixels + self.pixel[first:last]
        weights = None if self.multiplicity is None else self.multiplicity[first:last]
        counts = np.bincount(
            index, weights=weights, minlength=(stop - start) * self.header.n_pixels
        )
        if counts.size and counts.max() > np.iinfo(np.uint16).max:
            raise DataError(f"{counts.max():.0f} electrons in one pixel do not fit into uint16")
        return counts.astype(np.uint16).reshape(-1, *self.frame_shape)

    def dense4d(self) -> NDArray[np.uint16]:
        """All counts, uint16, (scan_y, scan_x, det_y, det_x)."""
        return self.dense().reshape(*self.scan_shape, *self.frame_shape)
