"""Dense frames of the computational frame, written block by block."""

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.dataset import Dataset4D
from recon.patterns import Patterns, prepare_patterns
from recon.result import Reconstruction

BLOCK_BYTES = 64 << 20


def framed_patterns(dataset: Dataset4D, result: Reconstruction) -> Patterns:
    """The patterns with the flips and the beam centre that the reconstruction used."""
    calibration = result.calibration
    return prepare_patterns(dataset, calibration.centre_px, mirrored=calibration.mirrored)


def write_dense(
    group: h5py.Group, name: str, patterns: Patterns, scan_shape: tuple[int, int], *, flat: bool
) -> h5py.Dataset:
    """Write counts, zero angle at [n//2, n//2], gzip, (scan_y, scan_x, n, n) or (positions, n, n).

    Positions without a frame and pixels that were not measured hold zeros.
    """
    n, n_positions = patterns.n, scan_shape[0] * scan_shape[1]
    shape = (n_positions, n, n) if flat else (*scan_shape, n, n)
    dtype = _dtype(patterns)
    chunks = (1, n, n) if flat else (1, 1, n, n)
    data = group.create_dataset(name, shape, dtype, chunks=chunks, compression="gzip",
                                compression_opts=1, shuffle=True)  # fmt: skip
    row, col = np.divmod(patterns.pixel, n)
    pixel = ((row + n // 2) % n) * n + (col + n // 2) % n
    lines = max(BLOCK_BYTES // (scan_shape[1] * n * n * 8), 1)
    for first in range(0, scan_shape[0], lines):
        last = min(first + lines, scan_shape[0])
        block = _block(patterns, pixel, first * scan_shape[1], last * scan_shape[1]).astype(dtype)
        if flat:
            data[first * scan_shape[1] : last * scan_shape[1]] = block
        else:
            data[first:last] = block.reshape(last - first, scan_shape[1], n, n)
    return data


def _block(
    patterns: Patterns, pixel: NDArray[np.int64], start: int, stop: int
) -> NDArray[np.int64]:
    a, b = np.searchsorted(patterns.position, [start, stop])
    events = slice(int(patterns.indptr[a]), int(patterns.indptr[b]))
    frame = np.repeat(patterns.position[a:b] - start, np.diff(patterns.indptr[a : b + 1]))
    n2 = patterns.n**2
    counts = np.bincount(frame * n2 + pixel[events], minlength=(stop - start) * n2)
    return counts.reshape(stop - start, patterns.n, patterns.n)


def _dtype(patterns: Patterns) -> type[np.unsignedinteger]:
    """The smallest unsigned type that no pixel can overflow."""
    most = int(np.diff(patterns.indptr).max(initial=0))
    return np.uint8 if most < 256 else np.uint16 if most < 65536 else np.uint32
