"""``MPX,<10 digits>,<body>``: how Merlin wraps everything it sends, on both connections.

The number counts the bytes that follow it, its own comma included.  TCP keeps the order and cuts
anywhere, so a body may come in any number of pieces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from controller.hardware.errors import ProtocolError

PREFIX_BYTES = 15
_PREFIX = re.compile(rb"MPX,(\d{10}),")
_ACQUISITION = re.compile(rb"MPX,\d{10},HDR,")
_LONGEST_START = 19


def wrap(body: bytes) -> bytes:
    """The bytes that carry `body`."""
    return b"MPX,%010d," % (len(body) + 1) + body


class MpxReader:
    """Cuts a stream of bytes into bodies.

    Parameters
    ----------
    max_body_bytes
        Longest body that is believed; a longer one is an error, not a reservation of memory.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._buffer = bytearray()

    def feed(self, chunk: bytes | memoryview) -> None:
        """Add what was received."""
        self._buffer += chunk

    def clear(self) -> int:
        """Forget what is there; returns how many bytes that were."""
        thrown_away = len(self._buffer)
        self._buffer.clear()
        return thrown_away

    def skip_to_acquisition(self) -> bool:
        """Throw away everything before the next acquisition header; whether one has begun."""
        found = _ACQUISITION.search(self._buffer)
        keep_from = found.start() if found else max(0, len(self._buffer) - _LONGEST_START)
        del self._buffer[:keep_from]
        return found is not None

    def take(self) -> bytes | None:
        """The next body, or None while it is not whole.

        Raises
        ------
        ProtocolError
            What follows is no ``MPX,`` frame or claims to be too long.
        """
        if len(self._buffer) < PREFIX_BYTES:
            return None
        end = PREFIX_BYTES + self._body_bytes()
        if len(self._buffer) < end:
            return None
        body = bytes(memoryview(self._buffer)[PREFIX_BYTES:end])
        del self._buffer[:end]
        return body

    def bodies(self) -> Iterator[bytes]:
        """Yield the whole bodies that have come, in order; raises like `take`."""
        while (body := self.take()) is not None:
            yield body

    def _body_bytes(self) -> int:
        prefix = bytes(self._buffer[:PREFIX_BYTES])
        found = _PREFIX.fullmatch(prefix)
        length = int(found[1]) - 1 if found else -1
        if not 0 <= length <= self._max_body_bytes:
            raise ProtocolError(
                f"{prefix!r} is no start of a Merlin message of at most {self._max_body_bytes} "
                f"bytes; the frames before it are kept. Arm the detector again, and look whether "
                f"`shape` and `counter_depth` fit."
            )
        return length
