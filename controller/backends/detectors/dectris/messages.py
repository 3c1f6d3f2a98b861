"""What a DECTRIS stream says, whichever version of it: a series starts, has images, ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SeriesStart:
    """A series was armed; what is None was not said."""

    series: int
    frame_shape: tuple[int, int] | None = None
    n_images: int | None = None
    channels: tuple[str, ...] = ()
    said: Mapping[str, str] = field(default_factory=dict)
    """The message in words, for the scan file; long tables left out."""


class SeriesImage(NamedTuple):
    """One image; it is decoded only when somebody wants it."""

    series: int
    number: int
    decode: Callable[[], NDArray[np.unsignedinteger]]


@dataclass(frozen=True)
class SeriesEnd:
    """The series is over."""

    series: int


@dataclass(frozen=True)
class DetectorSettingsSaid:
    """The settings that Stream V1 may send in a message of their own after the start."""

    frame_shape: tuple[int, int] | None
    n_images: int | None
    said: Mapping[str, str]


Message = SeriesStart | SeriesImage | SeriesEnd | DetectorSettingsSaid
