"""Units and signs of Thermo Fisher's scripting, converted here and nowhere else.

Scripting speaks metres and radians; its focus and defocus grow towards *overfocus*.  We speak
micrometres, degrees and nanometres, and positive defocus is *underfocus*.  Signs of stage axes
differ from column to column and come from the site file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from controller.hardware.values import Axis, StagePose

NAMES = {Axis.X: "x", Axis.Y: "y", Axis.Z: "z", Axis.ALPHA: "a", Axis.BETA: "b"}
"""Of the axes in scripting."""

Signs = Mapping[Axis, int]


def si_from_ours(axis: Axis, value: float, sign: int) -> float:
    """Metres or radians of scripting, from um or deg."""
    if axis.value.endswith("_um"):
        return sign * value * 1e-6
    return sign * math.radians(value)


def ours_from_si(axis: Axis, value: float, sign: int) -> float:
    """Um or deg, from metres or radians of scripting."""
    if axis.value.endswith("_um"):
        return sign * value * 1e6
    return sign * math.degrees(value)


def pose_from_si(position: Mapping[str, float], signs: Signs) -> StagePose:
    """A pose from scripting's metres and radians; an axis that is missing reads 0 (beta: None)."""
    values = {
        axis: ours_from_si(axis, float(position[name]), signs[axis])
        for axis, name in NAMES.items()
        if position.get(name) is not None and axis in signs
    }
    return StagePose.model_validate(
        {axis.value: values.get(axis, None if axis is Axis.BETA else 0.0) for axis in Axis}
    )


def range_from_si(axis: Axis, low: float, high: float, sign: int) -> tuple[float, float]:
    """A range in um or deg, in rising order."""
    ends = ours_from_si(axis, low, sign), ours_from_si(axis, high, sign)
    return min(ends), max(ends)


def defocus_nm(overfocus: float, *, metres: float, scale: float) -> float:
    """Our defocus; `metres` is the unit of `overfocus`, `scale` true over indicated."""
    return -overfocus * metres * 1e9 * scale + 0.0


def overfocus(defocus_nm: float, *, metres: float, scale: float) -> float:
    """Scripting's value, in units of `metres`, for our defocus."""
    return -defocus_nm * 1e-9 / (metres * scale) + 0.0
