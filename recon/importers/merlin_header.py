"""The header of a Merlin frame, and the raw counters behind it.

``MQ1,frame,header bytes,chips,width,height,type,layout,time,exposure,...``; type U08, U16, U32
(finished images of the 1, 6, 12 and 24-bit counters) or R64 (the counters as the chip sends them;
their depth is the last entry). R64 comes in 64-bit words: within each, pixels run backwards (1-bit
from the least significant bit up, 6-bit one byte and 12-bit two bytes per pixel); 24-bit is two
12-bit images, the high one first. A 2x2 assembly in R64 stores rows of the four chips side by
side, fourth first; the third and fourth stand on their head.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.errors import DataError

UNSIGNED = {"U08": ">u1", "U16": ">u2", "U32": ">u4"}
RAW_BYTES = {1: 1 / 8, 6: 1, 12: 2, 24: 4}


@dataclass(frozen=True)
class MibHeader:
    """The first header of a file; ``width`` and ``height`` as stored."""

    number: int
    header_bytes: int
    chips: int
    width: int
    height: int
    kind: str
    layout: str
    depth: int
    start_time: str
    exposure_s: float
    text: str

    @property
    def data_bytes(self) -> int:
        """Bytes of the pixels of a frame."""
        if self.kind in UNSIGNED:
            return self.width * self.height * np.dtype(UNSIGNED[self.kind]).itemsize
        width = self.width // 2 if self.depth == 24 else self.width
        return int(width * self.height * RAW_BYTES[self.depth])

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(rows, cols) of a finished image."""
        width = self.width // 2 if self.kind == "R64" and self.depth == 24 else self.width
        if self.kind == "R64" and self.chips > 1:
            return 2 * self.height, width // 2
        return self.height, width


def read_mib_header(text: bytes, name: str) -> MibHeader:
    """Parse the header at the start of ``text``.

    Raises
    ------
    DataError
        No such header, or a kind of image that is not known.
    """
    parts = text[:384].decode("ascii", errors="replace").split(",")
    if parts[0] != "MQ1" or len(parts) < 8:
        raise DataError(f"{name} does not start with a Merlin header (MQ1,...): no .mib file")
    try:
        number, length, chips, width, height = (int(part) for part in parts[1:6])
    except ValueError as problem:
        raise DataError(
            f"{name}: damaged Merlin header ({problem}); copy the file again"
        ) from problem
    whole = text[:length].decode("ascii", errors="replace").rstrip("\0\n ")
    entries = [part.strip() for part in whole.split(",") if part.strip("\0\n ")]
    kind, layout = parts[6].strip(), parts[7].strip().rstrip("G")
    depth = int(entries[-1]) if entries and entries[-1].isdigit() else 0
    if kind not in UNSIGNED and not (kind == "R64" and depth in RAW_BYTES):
        raise DataError(
            f"{name}: pixels of type {kind} with {depth} bits are not known (known are "
            f"{', '.join(UNSIGNED)} and R64 with 1, 6, 12 or 24 bits)"
        )
    if kind == "R64" and (chips not in (1, 4) or (chips == 4 and (layout != "2x2" or depth == 24))):
        raise DataError(
            f"{name}: raw counters of {chips} chips in a {layout} assembly with {depth} bits are "
            f"not read; convert them to U16 or U32 with the Merlin software"
        )
    return MibHeader(
        number, length, chips, width, height, kind, layout, depth,
        parts[8 + 1].strip() if len(parts) > 9 else "",
        float(parts[10]) if len(parts) > 10 and _is_number(parts[10]) else 0.0,
        whole,
    )  # fmt: skip


def decode_raw(words: NDArray[np.uint8], header: MibHeader) -> NDArray[np.unsignedinteger]:
    """Finished images (n, rows, cols) of R64 frames, uint8 (n, data bytes)."""
    n = len(words)
    flat: NDArray[np.unsignedinteger]
    if header.depth == 1:
        flat = np.unpackbits(words.reshape(-1, 8)[:, ::-1], axis=1, bitorder="little")
    elif header.depth == 6:
        flat = words.reshape(-1, 8)[:, ::-1]
    else:
        flat = words.view(">u2").reshape(-1, 4)[:, ::-1]
    if header.depth == 24:
        high, low = np.moveaxis(flat.reshape(n, 2, *header.frame_shape), 1, 0)
        return (high.astype(np.uint32) << 12) + low
    if header.chips == 1:
        return flat.reshape(n, *header.frame_shape)
    side = header.width // 4
    chips = flat.reshape(n, header.height, 4, side)
    above = np.concatenate([chips[:, :, 3], chips[:, :, 2]], axis=2)
    below = np.concatenate([chips[:, ::-1, 1, ::-1], chips[:, ::-1, 0, ::-1]], axis=2)
    return np.concatenate([above, below], axis=1)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\s*[-+0-9.eE]+\s*", text) is not None
