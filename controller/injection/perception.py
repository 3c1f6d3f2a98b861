"""Eyes that see nothing, too much, nonsense, or the wrong way round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from controller.hardware.faults import FaultSource
from controller.hardware.values import DetectorInfo, OpticsState
from controller.perception.protocols import (
    Aligner,
    Picker,
    RegionPick,
    RegionsSeen,
    TiltHint,
    TiltReading,
    Zone,
)

SHIFT_PX = 40.0


class FaultyPicker:
    """A `Picker` round another: faults ``regions-empty``, ``-everywhere``, ``-nan``, ``-shifted``.

    Two at once: the first in this order.
    """

    def __init__(self, inner: Picker, faults: FaultSource) -> None:
        self._inner = inner
        self._faults = faults

    @property
    def model_hash(self) -> str:
        """Of the inner picker."""
        return self._inner.model_hash

    def pick(
        self,
        frames: Sequence[NDArray[np.generic]],
        *,
        detector: DetectorInfo,
        pixel_size_nm: float,
        incident_electrons_per_px: float,
    ) -> RegionsSeen:
        """What the inner picker sees, spoilt if a fault is due."""
        seen = self._inner.pick(
            frames,
            detector=detector,
            pixel_size_nm=pixel_size_nm,
            incident_electrons_per_px=incident_electrons_per_px,
        )
        rows, cols = frames[0].shape
        if self._faults.strikes("regions-empty"):
            return replace(seen, picks=(), labels=np.zeros_like(seen.labels))
        if self._faults.strikes("regions-everywhere"):
            width_nm = max(rows, cols) * pixel_size_nm
            whole = RegionPick(cols / 2, rows / 2, width_nm, 1.0, 2 * width_nm, "injected")
            return replace(seen, picks=(whole,), labels=np.ones_like(seen.labels))
        if self._faults.strikes("regions-nan"):
            return replace(seen, picks=_nonsense(seen.picks))
        if self._faults.strikes("regions-shifted"):
            moved = (replace(pick, x_px=pick.x_px + SHIFT_PX) for pick in seen.picks)
            return replace(seen, picks=tuple(moved))
        return seen


def _nonsense(picks: tuple[RegionPick, ...]) -> tuple[RegionPick, ...]:
    """Places, sizes and scores in turn made not a number or infinite."""
    spoilt = [RegionPick(math.nan, math.inf, math.nan, math.nan, math.inf, "injected")]
    for number, pick in enumerate(picks):
        match number % 3:
            case 0:
                spoilt.append(replace(pick, x_px=math.nan))
            case 1:
                spoilt.append(replace(pick, radius_nm=math.inf))
            case _:
                spoilt.append(replace(pick, score=math.nan))
    return tuple(spoilt)


class FaultyAligner:
    """An `Aligner` round another: faults ``circle-inverted`` and ``circle-ambiguous``."""

    def __init__(self, inner: Aligner, faults: FaultSource) -> None:
        self._inner = inner
        self._faults = faults

    def read(
        self,
        counts: NDArray[np.float32],
        *,
        optics: OpticsState,
        zones: Sequence[Zone],
        hint: TiltHint | None = None,
    ) -> TiltReading:
        """What the inner aligner reads, spoilt if a fault is due."""
        reading = self._inner.read(counts, optics=optics, zones=zones, hint=hint)
        if self._faults.strikes("circle-ambiguous"):
            return replace(
                reading,
                answered=False,
                reason="two circles fit equally well (injected)",
                zone_uvw=None,
                orientation=None,
                axes=(),
            )
        if self._faults.strikes("circle-inverted"):
            x, y = reading.tilt_mrad
            axes = tuple(
                replace(axis, direction=(-axis.direction[0], -axis.direction[1], axis.direction[2]))
                for axis in reading.axes
            )
            return replace(reading, tilt_mrad=(-x, -y), axes=axes)
        return reading
