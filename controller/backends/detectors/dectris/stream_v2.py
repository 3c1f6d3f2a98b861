"""Stream V2 (since release 2022.1, port 31001): one CBOR map per ZeroMQ message.

Images are multi-dimensional arrays (tag 40, RFC 8746) of typed arrays (tags 64-87), whose bytes
may be packed (tag 56500).  The tags are read here and nothing else is built from the network:
no hook runs inside the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import cbor2
import numpy as np
from numpy.typing import NDArray

from controller.backends.detectors.dectris.compression import decompress
from controller.backends.detectors.dectris.messages import (
    Message,
    SeriesEnd,
    SeriesImage,
    SeriesStart,
)
from controller.hardware.errors import ProtocolError

SELF_DESCRIBED = 55799
ARRAY = 40
PACKED = 56500
_LETTERS = {64: "u1", 65: ">u2", 66: ">u4", 67: ">u8", 68: "u1", 69: "<u2", 70: "<u4", 71: "<u8"}
UNSIGNED = {tag: np.dtype(letters) for tag, letters in _LETTERS.items()}
MAX_SAID_CHARACTERS = 200
MAX_SIDE = 1 << 14


def parse_v2(message: bytes | memoryview, channel: str | None = None) -> Message:
    """One message; of an image with several channels, the one called `channel`.

    Raises
    ------
    ProtocolError
        It is no message of Stream V2.
    """
    content = _content(message)
    kind = content.get("type")
    try:
        if kind == "image":
            pick = partial(_image, content["data"], channel)
            return SeriesImage(int(content["series_id"]), int(content["image_id"]), pick)
        if kind == "start":
            return SeriesStart(
                series=int(content["series_id"]),
                frame_shape=(int(content["image_size_y"]), int(content["image_size_x"])),
                n_images=int(content["number_of_images"]),
                channels=tuple(str(name) for name in content["channels"]),
                said=_said(content),
            )
        if kind == "end":
            return SeriesEnd(int(content["series_id"]))
    except (KeyError, TypeError, ValueError) as problem:
        raise ProtocolError(
            f"a message {kind!r} of Stream V2 lacks or spoils {problem}; what came before is kept. "
            f"Check the version of the detector's software."
        ) from problem
    raise ProtocolError(
        f"a message of Stream V2 calls itself {str(kind)[:60]!r}, which is not known; what came "
        f"before is kept. Check `stream` in the configuration."
    )


def _content(message: bytes | memoryview) -> Mapping[str, Any]:
    try:
        content = cbor2.loads(message)
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError) as problem:
        raise ProtocolError(
            f"a message of {len(message)} bytes that begins {bytes(message[:16])!r} is no CBOR "
            f"({problem}); what came before is kept. Check `stream` in the configuration."
        ) from problem
    if isinstance(content, cbor2.CBORTag) and content.tag == SELF_DESCRIBED:
        content = content.value
    if type(content) is not dict and not isinstance(content, Mapping):
        raise ProtocolError(
            f"a message of Stream V2 is a {type(content).__name__} and no map; what came before is "
            f"kept. Check `stream` in the configuration."
        )
    return content


def _image(data: object, channel: str | None) -> NDArray[np.unsignedinteger]:
    """Counts (rows, columns) of one channel."""
    if not isinstance(data, Mapping) or not data:
        raise _odd("no map of channels")
    name = next(iter(data)) if channel is None else channel
    if name not in data:
        raise _odd(f"no channel {channel!r}; there are {sorted(map(str, data))}")
    inside = _tagged(data[name], ARRAY, 2)
    if inside is None:
        raise _odd("no array with dimensions (tag 40)")
    shape, typed = inside
    if not _is_shape(shape):
        raise _odd(f"the dimensions {shape!r}")
    if not (isinstance(typed, cbor2.CBORTag) and typed.tag in UNSIGNED):
        raise _odd(f"no typed array of unsigned integers ({getattr(typed, 'tag', None)})")
    return _typed(typed.value, (shape[0], shape[1]), UNSIGNED[typed.tag])


def _typed(
    stored: object, shape: tuple[int, int], dtype: np.dtype[np.unsignedinteger]
) -> NDArray[np.unsignedinteger]:
    if isinstance(stored, bytes):
        if len(stored) != shape[0] * shape[1] * dtype.itemsize:
            raise _odd(f"{len(stored)} bytes for {shape[0]} x {shape[1]} {dtype}")
        return np.frombuffer(stored, dtype).reshape(shape)
    inside = _tagged(stored, PACKED, 3)
    if inside is not None:
        algorithm, item, payload = inside
        known = algorithm == "lz4" or (algorithm == "bslz4" and item == dtype.itemsize)
        if known and isinstance(payload, bytes) and dtype.str[0] != ">":
            return decompress(payload, algorithm, shape, dtype)
        raise _odd(f"bytes packed as {algorithm!r} in items of {item!r} bytes")
    raise _odd(f"a {type(stored).__name__} instead of bytes")


def _tagged(item: object, tag: int, length: int) -> Sequence[Any] | None:
    """What stands under `tag`, if it is a list of that length."""
    if not (isinstance(item, cbor2.CBORTag) and item.tag == tag):
        return None
    inside = item.value
    return inside if isinstance(inside, list | tuple) and len(inside) == length else None


def _is_shape(shape: object) -> bool:
    if not isinstance(shape, list | tuple) or len(shape) != 2:
        return False
    rows, columns = shape
    if not (isinstance(rows, int) and isinstance(columns, int)):
        return False
    return min(rows, columns) >= 1 and max(rows, columns) <= MAX_SIDE


def _odd(what: str) -> ProtocolError:
    return ProtocolError(
        f"an image of Stream V2 holds {what}; what came before is kept. Check `channel` and the "
        f"version of the detector's software."
    )


def _said(content: Mapping[str, Any]) -> dict[str, str]:
    """The start message in words; tables (flat field, pixel mask) are left out."""
    words = {str(key): str(value) for key, value in content.items()
             if not isinstance(value, cbor2.CBORTag | bytes)}  # fmt: skip
    return {key: text for key, text in words.items() if len(text) <= MAX_SAID_CHARACTERS}
