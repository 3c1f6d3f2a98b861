"""Stream V1 (legacy, port 9999): JSON and binary parts in ZeroMQ multipart messages.

``dheader-1.0`` when a series is armed, its settings as a second part or as a message of their
own; per image four parts: ``dimage-1.0`` (number), ``dimage_d-1.0`` (type, shape, encoding), the
blob, times; ``dseries_end-1.0`` at the end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.backends.detectors.dectris.compression import decompress
from controller.backends.detectors.dectris.messages import (
    DetectorSettingsSaid,
    Message,
    SeriesEnd,
    SeriesImage,
    SeriesStart,
)
from controller.hardware.errors import ProtocolError

MAX_JSON_BYTES = 1 << 22
MAX_SAID_CHARACTERS = 200
_ENCODING = re.compile(r"(?:bs(8|16|32)-)?(lz4)?([<>])")
_TYPES = {"uint8": "u1", "uint16": "u2", "uint32": "u4"}


def parse_v1(parts: Sequence[bytes | memoryview]) -> Message:
    """One message.

    Raises
    ------
    ProtocolError
        It is no message of Stream V1.
    """
    head = _json(parts[0] if parts else b"")
    kind = str(head.get("htype", ""))
    try:
        if kind.startswith("dimage-"):
            return SeriesImage(int(head["series"]), int(head["frame"]), partial(_image, parts))
        if kind.startswith("dheader-"):
            settings = _json(parts[1]) if len(parts) > 1 else {}
            said = _settings(settings)
            return SeriesStart(
                int(head["series"]), said.frame_shape, said.n_images, (), _said(head | settings)
            )
        if kind.startswith("dseries_end-"):
            return SeriesEnd(int(head["series"]))
        if "htype" not in head:
            return _settings(head)
    except (KeyError, TypeError, ValueError) as problem:
        raise ProtocolError(
            f"a {kind or 'settings'} message of Stream V1 lacks or spoils {problem}; what came "
            f"before is kept. Check the version of the detector's software."
        ) from problem
    raise ProtocolError(
        f"a message of Stream V1 calls itself {kind[:60]!r}, which is not known; what came before "
        f"is kept. Check `stream` in the configuration."
    )


def _settings(settings: Mapping[str, Any]) -> DetectorSettingsSaid:
    """What settings say about a series; a shape only if both sides are there."""
    shape = None
    if {"x_pixels_in_detector", "y_pixels_in_detector"} <= settings.keys():
        shape = (int(settings["y_pixels_in_detector"]), int(settings["x_pixels_in_detector"]))
    n_images = None
    if {"nimages", "ntrigger"} <= settings.keys():
        n_images = int(settings["nimages"]) * int(settings["ntrigger"])
    return DetectorSettingsSaid(shape, n_images, _said(settings))


def _image(parts: Sequence[bytes | memoryview]) -> NDArray[np.unsignedinteger]:
    """Counts (rows, columns) of an image message."""
    if len(parts) < 3:
        raise ProtocolError(
            f"an image of Stream V1 came in {len(parts)} parts instead of 4; what came before is "
            f"kept. Look for errors of the network."
        )
    about, blob = _json(parts[1]), parts[2]
    encoding = _ENCODING.fullmatch(str(about.get("encoding")))
    letter = _TYPES.get(str(about.get("type")))
    shape = _shape(about.get("shape"))
    if encoding is None or letter is None or shape is None:
        raise ProtocolError(
            f"an image of Stream V1 is described as {str(about)[:200]}, which is not known; what "
            f"came before is kept. Check the version of the detector's software."
        )
    shuffled, packed, order = encoding.groups()
    dtype = np.dtype(order + letter)
    rows, columns = shape
    if packed and order == "<":
        return decompress(blob, "bslz4" if shuffled else "lz4", (rows, columns), dtype)
    if packed or shuffled or len(blob) != rows * columns * dtype.itemsize:
        raise ProtocolError(
            f"an image of {columns} x {rows} {dtype} came as {encoding[0]} in {len(blob)} bytes; "
            f"what came before is kept. Set the detector's compression to bslz4, lz4 or none."
        )
    return np.frombuffer(blob, dtype).reshape(rows, columns)


def _shape(said: object) -> tuple[int, int] | None:
    """(rows, columns) of a shape, which V1 gives as [columns, rows]."""
    if not isinstance(said, list) or len(said) < 2:
        return None
    columns, rows = said[:2]
    if not (isinstance(rows, int) and isinstance(columns, int)):
        return None
    return (rows, columns) if min(rows, columns) >= 1 and max(rows, columns) <= 1 << 14 else None


def _json(part: bytes | memoryview) -> dict[str, Any]:
    if len(part) <= MAX_JSON_BYTES:
        try:
            said = json.loads(bytes(part))
        except (ValueError, RecursionError):
            said = None
        if isinstance(said, dict):
            return said
    raise ProtocolError(
        f"a part of {len(part)} bytes that begins with {bytes(part[:24])!r} is no JSON of Stream "
        f"V1; what came before is kept. Check `stream` in the configuration."
    )


def _said(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings in words; tables (flat field, pixel mask) are left out."""
    words = {str(key): str(value) for key, value in settings.items()}
    return {key: text for key, text in words.items() if len(text) <= MAX_SAID_CHARACTERS}
