"""Write a scan while the detector runs, so that a crash at any instant loses no committed batch.

HDF5 in single-writer-multiple-reader mode, each batch flushed in the order payload -> counts ->
``committed_frames``. A reader believes nothing beyond that scalar, so a kill between two flushes
leaves at most an unused tail.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from recon.dataset.events import events_from_dense, pixel_dtype
from recon.dataset.header import ScanHeader
from recon.dataset.layout import EVENTS, write_header
from recon.errors import ScanFileError

CHUNK_ENTRIES = 1 << 16


class ScanFileWriter:
    """One native scan file being written; use as a context manager.

    Frames arrive in scan order (row-major). The file can be read (``open_scan``) at any time,
    also from another process and also after this one was killed.

    Parameters
    ----------
    path
        File to create. An existing file is never overwritten.
    header
        How the scan is made.
    multiplicity
        Store one entry per hit pixel with its electrons (uint8) instead of one entry per electron.

    Raises
    ------
    FileExistsError
        ``path`` exists. It was not touched.
    """

    def __init__(self, path: str | Path, header: ScanHeader, *, multiplicity: bool = False) -> None:
        self.path = Path(path)
        self.header = header
        self._with_multiplicity = multiplicity
        self._committed = 0
        self._entries = 0
        self._log_bytes = 0
        if self.path.exists():
            raise FileExistsError(
                f"{self.path} exists and was not touched; choose another name or move it away"
            )
        self._file = h5py.File(self.path, "x", libver="latest")
        write_header(self._file, header)
        self._create_events()
        # looking a data set up by name takes longer than writing a batch into it
        self._events = dict(self._file[EVENTS].items())
        self._file.flush()
        self._file.swmr_mode = True

    def _create_events(self) -> None:
        group = self._file[EVENTS]
        n = self.header.n_positions
        dtype = pixel_dtype(self.header.n_pixels)
        chunk = (CHUNK_ENTRIES,)
        group.create_dataset("pixel", (0,), dtype, maxshape=(None,), chunks=chunk)
        if self._with_multiplicity:
            group.create_dataset("multiplicity", (0,), np.uint8, maxshape=(None,), chunks=chunk)
        group.create_dataset("count", data=np.zeros(n, np.uint32), chunks=(min(n, 4096),))
        group.create_dataset("valid", data=np.zeros(n, np.uint8), chunks=(min(n, 4096),))
        group.create_dataset("committed_frames", data=np.uint64(0))
        log = self._file["entry/log"]
        log.create_dataset("json_lines", (0,), np.uint8, maxshape=(None,), chunks=(4096,))

    @property
    def committed_frames(self) -> int:
        """Positions that survive a crash at this moment."""
        return self._committed

    def append_dense(
        self, frames: NDArray[np.generic], valid: NDArray[np.generic] | None = None
    ) -> None:
        """Append dense counts (n, det_y, det_x); ``valid`` (n,) marks the frames that exist."""
        if frames.ndim != 3 or frames.shape[1:] != self.header.frame_shape:
            raise ScanFileError(
                f"{self.path}: frames have shape {frames.shape}, expected "
                f"(n, {self.header.frame_shape[0]}, {self.header.frame_shape[1]}); "
                f"nothing was written, {self._committed} frames are committed"
            )
        pixel, count = events_from_dense(frames)
        self.append_events(pixel, count, valid)

    def append_events(
        self, pixel: ArrayLike, count: ArrayLike, valid: ArrayLike | None = None
    ) -> None:
        """Append counted frames: one flat pixel index per electron, electrons per frame.

        Parameters
        ----------
        pixel
            ``row * width + column`` of every electron, frame after frame.
        count
            Electrons of each frame, (n,).
        valid
            (n,), zero for a frame that was lost; it must then have no electrons.

        Raises
        ------
        ScanFileError
            The arrays contradict each other or the scan. Nothing was written.
        """
        pixel = np.asarray(pixel)
        count = np.asarray(count, dtype=np.uint32)
        flags = np.ones(len(count), np.uint8) if valid is None else np.asarray(valid, np.uint8)
        self._check(pixel, count, flags)
        entries, per_frame, multiplicity = pixel, count, None
        if self._with_multiplicity:
            entries, per_frame, multiplicity = _gather(pixel, count, self.header.n_pixels)
        self._commit(entries, per_frame, multiplicity, flags)

    def append_missing(self, n_frames: int) -> None:
        """Mark the next ``n_frames`` positions as never recorded."""
        zeros = np.zeros(n_frames, np.uint32)
        self.append_events(np.empty(0, np.uint32), zeros, zeros)

    def log(self, json_line: str) -> None:
        """Append one line to ``/entry/log`` (decisions, dose per region)."""
        line = np.frombuffer(json_line.strip().encode() + b"\n", dtype=np.uint8)
        lines = self._open_file()["entry/log/json_lines"]
        lines.resize((self._log_bytes + len(line),))
        lines[self._log_bytes :] = line
        self._log_bytes += len(line)
        lines.flush()

    def close(self) -> None:
        """Close the file; the positions not written stay marked as missing."""
        if self._file:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_file(self) -> h5py.File:
        if not self._file:
            raise ScanFileError(
                f"{self.path} is closed with {self._committed} frames; nothing was added"
            )
        return self._file

    def _check(
        self, pixel: NDArray[np.generic], count: NDArray[np.uint32], valid: NDArray[np.uint8]
    ) -> None:
        state = f"; nothing was written, {self._committed} frames are committed"
        room = self.header.n_positions - self._committed
        if len(count) > room:
            raise ScanFileError(
                f"{self.path}: {len(count)} frames for the {room} positions left of a scan of "
                f"{self.header.scan_shape[0]} x {self.header.scan_shape[1]}{state}"
            )
        if len(pixel) != int(count.sum()):
            raise ScanFileError(
                f"{self.path}: {len(pixel)} pixels but counts add up to {count.sum()}{state}"
            )
        if len(pixel) and not (pixel.min() >= 0 and pixel.max() < self.header.n_pixels):
            raise ScanFileError(
                f"{self.path}: pixel indices {pixel.min()} .. {pixel.max()} leave a frame of "
                f"{self.header.n_pixels} pixels{state}"
            )
        if len(valid) != len(count) or count[valid == 0].any():
            raise ScanFileError(
                f"{self.path}: `valid` must have one flag per frame, and a missing frame "
                f"no electrons{state}"
            )

    def _commit(
        self,
        pixel: NDArray[np.generic],
        count: NDArray[np.uint32],
        multiplicity: NDArray[np.uint8] | None,
        valid: NDArray[np.uint8],
    ) -> None:
        self._open_file()
        events = self._events
        end = self._entries + len(pixel)
        payload = {"pixel": pixel} | (
            {} if multiplicity is None else {"multiplicity": multiplicity}
        )
        for name, values in payload.items():
            events[name].resize((end,))
            events[name][self._entries : end] = values
            events[name].flush()
        last = self._committed + len(count)
        events["count"][self._committed : last] = count
        events["valid"][self._committed : last] = valid
        events["count"].flush()
        events["valid"].flush()
        events["committed_frames"][()] = last
        events["committed_frames"].flush()
        self._entries, self._committed = end, last

    def sync(self) -> None:
        """Force what is committed to the disk itself (survives a power cut, slow)."""
        self._open_file().flush()
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _gather(
    pixel: NDArray[np.generic], count: NDArray[np.uint32], n_pixels: int
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint8]]:
    """Merge equal pixels of a frame into entries with a multiplicity of at most 255."""
    frame = np.repeat(np.arange(len(count), dtype=np.int64), count)
    key, electrons = np.unique(frame * n_pixels + pixel.astype(np.int64), return_counts=True)
    copies = -(-electrons // 255)
    key = np.repeat(key, copies)
    last = np.cumsum(copies) - 1
    multiplicity = np.full(len(key), 255, np.uint8)
    multiplicity[last] = electrons - 255 * (copies - 1)
    per_frame = np.bincount(key // n_pixels, minlength=len(count)).astype(np.uint32)
    return key % n_pixels, per_frame, multiplicity
