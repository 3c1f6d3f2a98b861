"""Frames being gathered: as they are, or counted at once.

A scan is kept as lists of electrons. Its frames go through one block of memory that is used again
and again, small enough to stay in the processor's cache: fresh memory for every batch costs as
much time as counting does.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from controller.hardware.values import CountedBatch, FrameBatch, ScanBatch
from recon.dataset.events import count_electrons

Frame = NDArray[np.unsignedinteger]

BATCH_BYTES = 1 << 22
"""A batch holds no more, whatever the configuration says, but at least one frame or block."""
BLOCK_BYTES = 1 << 20
"""Frames that are counted together."""


class Keeping(Protocol):
    """Consecutive frames of one shape and type."""

    dtype: np.dtype[np.unsignedinteger] | None
    """Of the first frame, as sent; None before it."""

    is_full: bool
    """Whether what is kept has to be taken before the next frame."""

    def add(self, frame: Frame) -> int:
        """Keep a copy of `frame`; returns how many are kept."""

    def __len__(self) -> int:
        """How many frames are kept."""

    def take(self, job_id: UUID, first: int) -> tuple[ScanBatch, int]:
        """What is kept, as a batch that begins with the frame `first`; none is kept any more.

        Returns the batch and how many pixels had no value; they are 0 in the batch.
        """


class KeptFrames:
    """Dense frames, for a single picture: it may hold more electrons than can be listed."""

    def __init__(self, shape: tuple[int, int], most_frames: int, *, top_is_void: bool) -> None:
        self.dtype: np.dtype[np.unsignedinteger] | None = None
        self.is_full = False
        self._shape = shape
        self._most = most_frames
        self._top_is_void = top_is_void
        self._data: Frame | None = None
        self._count = 0

    def add(self, frame: Frame) -> int:
        """See `Keeping.add`."""
        if self._data is None:
            self.dtype = frame.dtype
            room = min(self._most, max(1, BATCH_BYTES // frame.nbytes))
            self._data = np.empty((room, *self._shape), frame.dtype.newbyteorder("="))
        self._data[self._count] = frame
        self._count += 1
        self.is_full = self._count == len(self._data)
        return self._count

    def __len__(self) -> int:
        """See `Keeping.__len__`."""
        return self._count

    def take(self, job_id: UUID, first: int) -> tuple[FrameBatch, int]:
        """See `Keeping.take`; the next frames go into a new array."""
        if self._data is None:
            return FrameBatch(job_id, first, np.empty((0, *self._shape), np.uint16)), 0
        data, self._data, self._count = self._data[: self._count], None, 0
        self.is_full = False
        n_void = 0
        top = np.iinfo(data.dtype).max
        if self._top_is_void and data.max() == top:
            void = data == top
            n_void = int(np.count_nonzero(void))
            data[void] = 0
        return FrameBatch(job_id, first, data), n_void


class KeptElectrons:
    """Lists of electrons, for a scan."""

    def __init__(self, shape: tuple[int, int], most_frames: int, *, top_is_void: bool) -> None:
        self.dtype: np.dtype[np.unsignedinteger] | None = None
        self.is_full = False
        self._shape = shape
        self._most = most_frames
        self._top_is_void = top_is_void
        self._block: Frame | None = None
        self._in_block = 0
        self._count = 0
        self._bytes = 0
        self._n_void = 0
        self._pixels: list[NDArray[np.unsignedinteger]] = []
        self._counts: list[NDArray[np.uint32]] = []

    def add(self, frame: Frame) -> int:
        """See `Keeping.add`."""
        if self._block is None:
            self.dtype = frame.dtype
            room = min(self._most, max(1, BLOCK_BYTES // frame.nbytes))
            self._block = np.empty((room, *self._shape), frame.dtype.newbyteorder("="))
        self._block[self._in_block] = frame
        self._in_block += 1
        self._count += 1
        if self._in_block == len(self._block):
            self._count_block()
            self.is_full = self._bytes >= BATCH_BYTES
        self.is_full = self.is_full or self._count == self._most
        return self._count

    def __len__(self) -> int:
        """See `Keeping.__len__`."""
        return self._count

    def take(self, job_id: UUID, first: int) -> tuple[CountedBatch, int]:
        """See `Keeping.take`."""
        self._count_block()
        pixel = np.concatenate(self._pixels)
        count = np.concatenate(self._counts)
        n_void = self._n_void
        self._count = self._bytes = self._n_void = 0
        self.is_full = False
        self._pixels, self._counts = [], []
        return CountedBatch(job_id, first, self._shape, pixel, count), n_void

    def _count_block(self) -> None:
        if self._block is None or not self._in_block:
            return
        frames, self._in_block = self._block[: self._in_block], 0
        void = int(np.iinfo(frames.dtype).max) if self._top_is_void else None
        counted = count_electrons(frames, void=void)
        self._pixels.append(counted.pixel)
        self._counts.append(counted.count)
        self._bytes += counted.pixel.nbytes
        self._n_void += counted.n_void
