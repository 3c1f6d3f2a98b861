"""Units of PyJEM, which "may vary depending on the model": nothing moves before they are confirmed.

The manual gives nanometres for x, y, z and degrees for the tilts, and says of each that it may be
otherwise.  A supervised calibration (a small move of every axis, watched at low magnification)
finds scale and sign; who did it confirms so in the options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from controller.hardware.values import Axis, Frozen, Positive, StagePose

ORDER = (Axis.X, Axis.Y, Axis.Z, Axis.ALPHA, Axis.BETA)
"""Of the five values that the stage reports."""


class StageScale(Frozen):
    """What one unit of PyJEM is, as found by a supervised calibration."""

    nm_per_unit_xy: Positive
    nm_per_unit_z: Positive
    deg_per_unit: Positive
    confirmed_by: str = Field(min_length=1)
    """Who has seen every axis move as far, and in the direction, that this scale says."""

    def per_unit(self, axis: Axis) -> float:
        """Um or deg per unit."""
        if axis in (Axis.ALPHA, Axis.BETA):
            return self.deg_per_unit
        return (self.nm_per_unit_z if axis is Axis.Z else self.nm_per_unit_xy) / 1000


def raw_from_ours(axis: Axis, value: float, scale: StageScale, sign: int) -> float:
    """PyJEM's value for um or deg."""
    return sign * value / scale.per_unit(axis)


def ours_from_raw(axis: Axis, raw: float, scale: StageScale, sign: int) -> float:
    """Um or deg for PyJEM's value."""
    return sign * raw * scale.per_unit(axis)


def pose_from_raw(
    position: Sequence[float], scale: StageScale, signs: Mapping[Axis, int]
) -> StagePose:
    """A pose from the five values; axes without a sign are not there."""
    values = {
        axis.value: ours_from_raw(axis, raw, scale, signs[axis])
        for axis, raw in zip(ORDER, position, strict=True)
        if axis in signs
    }
    return StagePose(x_um=0.0, y_um=0.0, z_um=0.0, alpha_deg=0.0).replace(**values)


def camera_length_mm(value: float, unit: str) -> float | None:
    """Camera length from what `GetMagValue` says; None for a unit that is none of a length."""
    per_unit = {"mm": 1.0, "cm": 10.0, "m": 1000.0}.get(unit.strip().lower())
    return None if per_unit is None else value * per_unit
