"""The six classes of a survey image and the rules that make a pick right."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal, TypeAlias

Mode: TypeAlias = Literal["BF", "HAADF"]
"""Imaging mode: bright field (TEM or STEM), or annular dark field."""


class RegionClass(IntEnum):
    """What a pixel shows; the values are those of ``/labels`` in ``regions.h5``."""

    VACUUM = 0
    SUPPORT = 1
    CRYSTAL = 2
    THICK_OR_OVERLAP = 3
    CONTAMINATION = 4
    BAR = 5


CLASS_NAMES = tuple(c.name.lower() for c in RegionClass)
N_CLASSES = len(CLASS_NAMES)
DISTANCE_UNIT_NM = 100.0
"""The network speaks of distances in units of this."""
THICK_LIMIT_MFP = 0.8
"""A crystal is thin where its own thickness is at most this many mean free paths."""
NEIGHBOUR_GAP_NM = 60.0
"""A crystal is single if the next one is at least this far from its outline."""
LEAST_RADIUS_NM = 50.0
"""Least radius of the disc of a pick."""
LEAST_USABLE_FRACTION = 0.8
"""Least part of the disc of a pick that lies in the usable area of its crystal."""
