"""A Merlin frame on the wire: the ``MQ1`` header of a `.mib` file and the counters behind it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from controller.backends.detectors.arrivals import FrameArrived
from controller.hardware.errors import ProtocolError
from recon.errors import DataError
from recon.importers.merlin_header import UNSIGNED, MibHeader, decode_raw, read_mib_header

MAX_HEADER_BYTES = 4096


@dataclass
class FrameReader:
    """Reads the frames of one acquisition; all have the header of the first but for its number."""

    first_number: int = 1
    """Merlin counts the frames of an acquisition from 1."""
    _like: MibHeader | None = None
    _fixed: tuple[bytes, ...] = ()

    def read(self, body: bytes) -> FrameArrived:
        """The frame in one message.

        Raises
        ------
        ProtocolError
            No frame, not of the announced length, or unlike the first one.
        """
        kind, number, *fixed = [*body[:64].split(b",", 7)[:7], b""]
        if self._like is None:
            self._like = _header(body)
            self._fixed = tuple(fixed)
        elif tuple(fixed) != self._fixed or kind != b"MQ1":
            raise ProtocolError(
                f"a Merlin frame began with {body[:48]!r}, the first one of this acquisition was "
                f"{','.join(map(bytes.decode, self._fixed))}; what came before is kept. Somebody "
                f"changed the detector during the scan."
            )
        like = self._like
        if len(body) != like.header_bytes + like.data_bytes or not number.isdigit():
            raise ProtocolError(
                f"a Merlin frame has {len(body)} bytes, its header says {like.header_bytes} + "
                f"{like.data_bytes}; what came before is kept. Arm the detector again."
            )
        return FrameArrived(int(number) - self.first_number, partial(_decode, body, like))


def _header(body: bytes) -> MibHeader:
    try:
        header = read_mib_header(body[:MAX_HEADER_BYTES], "the stream of Merlin")
    except (DataError, ValueError) as problem:
        raise ProtocolError(
            f"Merlin sent no frame that can be read: {problem}; nothing was written. Check its "
            f"settings and arm again."
        ) from problem
    if not 0 < header.header_bytes <= MAX_HEADER_BYTES:
        raise ProtocolError(
            f"Merlin sent a header of {header.header_bytes} bytes (at most {MAX_HEADER_BYTES}); "
            f"nothing was written. Arm the detector again."
        )
    return header


def _decode(body: bytes, header: MibHeader) -> NDArray[np.unsignedinteger]:
    """Counts (det_y, det_x)."""
    image: NDArray[np.unsignedinteger]
    try:
        data = np.frombuffer(body, np.uint8, header.data_bytes, header.header_bytes)
        if header.kind == "R64":
            image = decode_raw(data[None], header)[0]
        else:
            image = data.view(UNSIGNED[header.kind]).reshape(header.frame_shape)
    except ValueError as problem:
        raise ProtocolError(
            f"a Merlin frame of {len(body)} bytes does not hold {header.frame_shape} pixels of "
            f"{header.kind}: {problem}; what came before is kept. Arm the detector again."
        ) from problem
    return image
