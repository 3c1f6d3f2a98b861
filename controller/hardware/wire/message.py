"""One message: a JSON header of a known version, then raw arrays with their checksums.

A message is a list of byte strings.  The first is the header; each further one holds the bytes of
one C-contiguous array, described in ``header.parts``.  Whatever is malformed, oversized, of
another version or damaged on the way is refused as a whole.  Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from controller.hardware.errors import ProtocolError
from controller.hardware.values import Frozen
from controller.hardware.wire.failure import Failure

PROTOCOL = 1
MAX_HEADER_BYTES = 1 << 18
MAX_PARTS = 4
MAX_PART_BYTES = 1 << 30

Array = NDArray[np.generic]


class Part(Frozen):
    """How the bytes of one array are to be read."""

    dtype: Annotated[str, Field(pattern=r"^([|]?b1|[|]?[iu]1|[<>=]?[iu][248]|[<>=]?f[248])$")]
    shape: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=4)]
    crc32: Annotated[int, Field(ge=0, lt=1 << 32)]

    @property
    def n_bytes(self) -> int:
        """Length that the bytes must have."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Request(Frozen):
    """What a client asks for."""

    v: Literal[1] = 1
    id: UUID
    """Correlates the reply; the same id again is the same request again."""
    verb: Annotated[str, Field(pattern=r"^[a-z_]{1,32}(\.[a-z_]{1,32})?$")]
    args: dict[str, Any] = Field(default_factory=dict)
    session: Annotated[str, Field(max_length=64)] = ""
    """Given by the server's ``hello``; ties the message to one connection of one client."""
    seq: Annotated[int, Field(ge=0)] = 0
    """Counts up within a session and lane: an old message is known by it."""
    epoch: Annotated[int, Field(ge=0)] | None = None
    """Of the drive lease, where the verb needs one."""
    parts: Annotated[tuple[Part, ...], Field(max_length=MAX_PARTS)] = ()


class Reply(Frozen):
    """What came of a request."""

    v: Literal[1] = 1
    id: UUID
    ok: bool
    result: Any = None
    error: Failure | None = None
    parts: Annotated[tuple[Part, ...], Field(max_length=MAX_PARTS)] = ()


class Notice(Frozen):
    """What the server publishes without being asked."""

    v: Literal[1] = 1
    topic: Annotated[str, Field(pattern=r"^[a-z]{1,16}$")]
    seq: Annotated[int, Field(ge=0)]
    """Counts up by one per topic: a gap is a lost notice."""
    utc: str
    body: dict[str, Any] = Field(default_factory=dict)
    parts: Annotated[tuple[Part, ...], Field(max_length=MAX_PARTS)] = ()


Header = TypeVar("Header", Request, Reply, Notice)
_FREE = frozenset({"args", "result", "body"})
"""Fields of any JSON; pydantic would quietly write a NaN in them as null."""


def encode(header: Header, arrays: Sequence[Array] = ()) -> list[bytes]:
    """The message as byte strings, header first.

    Raises
    ------
    ProtocolError
        A number that is not finite, or something that is no JSON.
    """
    raw: list[bytes] = [array.tobytes() for array in arrays]
    described = tuple(
        Part(dtype=array.dtype.str, shape=array.shape, crc32=zlib.crc32(data))
        for array, data in zip(arrays, raw, strict=True)
    )
    fields = header.replace(parts=described).model_dump(mode="json", exclude={*_FREE})
    fields |= {name: getattr(header, name) for name in _FREE & type(header).model_fields.keys()}
    try:
        text = json.dumps(fields, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:  # NaN would arrive as "not given"
        raise ProtocolError(f"a message that cannot be sent: {error}") from error
    if len(text) > MAX_HEADER_BYTES:
        raise ProtocolError(
            f"a message of {len(text)} bytes cannot be sent (at most {MAX_HEADER_BYTES}); ask for "
            f"less at a time"
        )
    return [text.encode(), *raw]


def decode(kind: type[Header], frames: Sequence[bytes]) -> tuple[Header, list[Array]]:
    """Header and arrays of a message.

    Returns
    -------
    The arrays are read-only views of `frames`.

    Raises
    ------
    ProtocolError
        Empty, oversized, not JSON, another version, unknown keys, wrong length or checksum.
    """
    if not frames or len(frames) > 1 + MAX_PARTS:
        raise ProtocolError(
            f"a message of {len(frames)} parts; 1 to {1 + MAX_PARTS} are understood"
        )
    if len(frames[0]) > MAX_HEADER_BYTES:
        raise ProtocolError(
            f"a header of {len(frames[0])} bytes; at most {MAX_HEADER_BYTES} are understood"
        )
    header = _header(kind, frames[0])
    if len(header.parts) != len(frames) - 1:
        raise ProtocolError(
            f"the header describes {len(header.parts)} arrays, {len(frames) - 1} came"
        )
    try:
        arrays = [_array(part, raw) for part, raw in zip(header.parts, frames[1:], strict=True)]
    except (TypeError, ValueError, OverflowError) as error:  # a type or a shape that numpy has not
        raise ProtocolError(f"an array that cannot be read: {error}") from error
    return header, arrays


def _header(kind: type[Header], raw: bytes) -> Header:
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "header"
        raise ProtocolError(
            f"a {kind.__name__.lower()} that is not understood: {where}: {first['msg']}. "
            f"Both sides must speak protocol {PROTOCOL}"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, ValueError) as error:
        raise ProtocolError(f"a header that is no JSON ({type(error).__name__})") from error


def _array(part: Part, raw: bytes) -> Array:
    if part.n_bytes != len(raw) or len(raw) > MAX_PART_BYTES:
        raise ProtocolError(
            f"an array of {part.dtype} {part.shape} is {part.n_bytes} bytes; {len(raw)} came "
            f"(at most {MAX_PART_BYTES})"
        )
    if zlib.crc32(raw) != part.crc32:
        raise ProtocolError("an array was damaged on the way: its checksum does not match")
    return np.frombuffer(raw, dtype=np.dtype(part.dtype)).reshape(part.shape)
