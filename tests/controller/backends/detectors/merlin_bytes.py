"""What a Merlin sends: acquisition headers and frames of every counter depth, as bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.backends.detectors.merlin.framing import wrap

KIND = {1: "U08", 6: "U08", 12: "U16", 24: "U32"}
DTYPE = {"U08": ">u1", "U16": ">u2", "U32": ">u4"}


def acquisition(n_frames: int, depth: int = 12) -> bytes:
    return wrap(
        f"HDR,\t\nFrames in Acquisition (Number):\t{n_frames}\n"
        f"Counter Depth (number):\t{depth}\nEnd\t".encode()
    )


def header(number: int, width: int, height: int, kind: str, depth: int) -> bytes:
    text = (
        f"MQ1,{number:06d},00384,01,{width:04d},{height:04d},{kind},   1x1,01,"
        f"2026-01-01 00:00:00.000000,0.001000,0,0,0,1.2E+2,5.11E+2,3RX,"
        f"MQ1A,2026-01-01T00:00:00.000000000Z,1000000ns,{depth}"
    )
    return text.encode().ljust(384)


def frame(number: int, counts: NDArray[np.generic], depth: int = 12) -> bytes:
    """A finished image, wrapped; `number` counts from 1 as Merlin does."""
    kind = KIND[depth]
    height, width = counts.shape
    return wrap(header(number, width, height, kind, depth) + counts.astype(DTYPE[kind]).tobytes())


def raw_frame(number: int, counts: NDArray[np.generic], depth: int) -> bytes:
    """The counters of one chip as it sends them: in each 64-bit word pixels run backwards."""
    height, width = counts.shape
    flat = counts.reshape(-1)
    if depth == 1:
        words = np.packbits(flat.reshape(-1, 64).astype(np.uint8), axis=1, bitorder="little")
        stored = words[:, ::-1].tobytes()
    elif depth == 6:
        stored = flat.astype("u1").reshape(-1, 8)[:, ::-1].tobytes()
    elif depth == 12:
        stored = flat.astype(">u2").reshape(-1, 4)[:, ::-1].tobytes()
    else:
        halves = np.concatenate([flat >> 12, flat & 0xFFF]).astype(">u2")
        stored, width = halves.reshape(-1, 4)[:, ::-1].tobytes(), 2 * width
    return wrap(header(number, width, height, "R64", depth) + stored)
