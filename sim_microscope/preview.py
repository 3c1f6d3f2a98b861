"""Greyscale PNGs to look at, with nothing but the standard library."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_png(path: Path, image: NDArray[np.generic], *, logarithmic: bool = False) -> None:
    """Write a 2-D array, stretched between its 0.3 and 99.8 percentiles, as 8-bit PNG."""
    values = np.log1p(np.maximum(image.astype(float), 0)) if logarithmic else image.astype(float)
    low, high = np.percentile(values, [0.3, 100 if logarithmic else 99.8])
    grey = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255
    rows = np.rint(grey).astype(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(raw, 6))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
