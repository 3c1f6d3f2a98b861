"""A frame on the wire: its readings in the header, its pixels and their validity as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np

from controller.hardware.errors import ProtocolError
from controller.hardware.values import Finite, Frame, Frozen, OpticsState, Positive, StagePose
from controller.hardware.wire.message import Array


class PictureHeader(Frozen):
    """`values.Frame` without its arrays."""

    exposure_id: UUID
    sequence: int
    gain: Positive
    offset: Finite
    exposure_s: Finite
    utc: str
    pose: StagePose
    optics: OpticsState
    charged_e_per_A2: Finite


def picture_out(frame: Frame) -> tuple[dict[str, Any], list[Array]]:
    """Header (JSON-able) and arrays of a frame."""
    fields = {name: getattr(frame, name) for name in PictureHeader.model_fields}
    header = PictureHeader.model_validate(fields).model_dump(mode="json")
    arrays: list[Array] = [frame.data]
    if frame.valid is not None:
        arrays.append(frame.valid)
    return header, arrays


def picture_in(header: Any, arrays: Sequence[Array]) -> Frame:  # noqa: ANN401  (from the wire)
    """The frame again; its arrays cannot be written to.

    Raises
    ------
    ProtocolError
        No frame, or arrays that do not belong to one.
    """
    try:
        read = PictureHeader.model_validate(header)
    except ValueError as error:
        raise ProtocolError(f"an answer that is no frame: {error}") from error
    if not 1 <= len(arrays) <= 2 or arrays[0].ndim != 2:
        raise ProtocolError(f"a frame with {len(arrays)} arrays; one picture was expected")
    valid = None
    if len(arrays) == 2:
        if arrays[1].shape != arrays[0].shape or arrays[1].dtype != np.bool_:
            raise ProtocolError("the map of valid pixels does not fit its picture")
        valid = arrays[1].astype(np.bool_)
    fields = {name: getattr(read, name) for name in PictureHeader.model_fields}
    return Frame(data=arrays[0], valid=valid, **fields)
