"""A picture on its way to a browser: length, JSON header, JPEG, in one message.

Header and picture travel together, so that an overlay never belongs to another picture.
"""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

MOST_PX = 1024
QUALITY = 85
_LENGTH = struct.Struct(">I")

Array = NDArray[np.floating[Any]]


def encode_frame(header: dict[str, Any], jpeg: bytes) -> bytes:
    """4 bytes of length (big-endian), the header as JSON, the picture."""
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    return _LENGTH.pack(len(text)) + text + jpeg


def decode_frame(message: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and picture of a message.

    Raises
    ------
    ValueError
        Shorter than it says.
    """
    if len(message) < _LENGTH.size:
        raise ValueError(f"a frame of {len(message)} bytes has no header")
    (length,) = _LENGTH.unpack_from(message)
    if len(message) < _LENGTH.size + length:
        raise ValueError(f"a header of {length} bytes in a message of {len(message)}")
    header = json.loads(message[_LENGTH.size : _LENGTH.size + length])
    if not isinstance(header, dict):
        raise ValueError("a header that is no object")  # noqa: TRY004  (of the wire)
    return header, message[_LENGTH.size + length :]


def to_bytes(counts: Array, *, log: bool) -> tuple[NDArray[np.uint8], float, float]:
    """8-bit grey values of a picture, and the counts that black and white stand for.

    Parameters
    ----------
    counts
        Electrons, (row, col); what is not finite is black.
    log
        Scale log(1 + counts), as diffraction patterns want it.
    """
    clean = np.where(np.isfinite(counts), counts, 0.0).astype(np.float32)
    shown = np.log1p(np.maximum(clean, 0.0)) if log else clean
    low, high = (0.0, float(np.percentile(_some(shown), 99.95))) if log else _percentiles(shown)
    span = high - low if high > low else 1.0
    grey = np.clip((shown - low) * (255.0 / span), 0.0, 255.0).astype(np.uint8)
    return grey, float(np.expm1(low) if log else low), float(np.expm1(high) if log else high)


def smoothed(counts: Array, sigma_px: float) -> Array:
    """Counts as the eye wants them where a pixel holds a few electrons; for looking only."""
    clean = np.where(np.isfinite(counts), counts, 0.0)
    return np.asarray(ndimage.gaussian_filter(clean, sigma_px), dtype=np.float64)


def to_jpeg(grey: NDArray[np.uint8]) -> bytes:
    """A JPEG of quality 85, longest side at most 1024 px."""
    image = Image.fromarray(np.ascontiguousarray(grey))
    if max(image.size) > MOST_PX:
        image.thumbnail((MOST_PX, MOST_PX))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def _percentiles(values: NDArray[np.float32]) -> tuple[float, float]:
    low, high = np.percentile(_some(values), (0.5, 99.7))
    return float(low), float(high)


def _some(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Enough pixels to tell percentiles from; sorting all of a large picture takes too long."""
    step = max(1, int((values.size / 60_000) ** 0.5))
    return values[::step, ::step]
