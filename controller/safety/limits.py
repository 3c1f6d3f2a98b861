"""What must not be exceeded: the reachable box of the stage, and the dose budgets.

A target outside the box is refused, never clamped: a clamped stage is a wrong position that
looks like a right one.  All comparisons are written so that NaN is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from controller.hardware.errors import LimitError, UnsupportedError
from controller.hardware.values import (
    Axis,
    Capabilities,
    Frozen,
    PartialPose,
    Positive,
    Purpose,
    StageLimits,
)


@dataclass(frozen=True)
class Envelope:
    """The box of each authority; their intersection is what the stage may do."""

    vendor: StageLimits
    holder: StageLimits
    site: StageLimits | None = None
    plan: StageLimits | None = None

    def parts(self) -> dict[str, StageLimits]:
        """The boxes by the name of who set them."""
        named = {"vendor": self.vendor, "holder": self.holder, "site": self.site, "plan": self.plan}
        return {name: box for name, box in named.items() if box is not None}

    def box(self) -> StageLimits:
        """Vendor, holder, site and plan intersected; only axes that the vendor has.

        Raises
        ------
        LimitError
            Two authorities leave nothing of an axis.
        """
        ranges = dict(self.vendor.ranges)
        owner = dict.fromkeys(ranges, "vendor")
        for name, part in self.parts().items():
            for axis, (low, high) in part.ranges.items():
                if axis not in ranges:
                    continue
                old_low, old_high = ranges[axis]
                new = (max(low, old_low), min(high, old_high))
                if not new[0] <= new[1]:
                    raise LimitError(
                        f"{axis.value}: the {name} limits {low:g} .. {high:g} and the "
                        f"{owner[axis]} limits {old_low:g} .. {old_high:g} have nothing in common; "
                        f"nothing moved. Correct one of them before the session starts."
                    )
                if new != ranges[axis]:
                    owner[axis] = name
                ranges[axis] = new
        return StageLimits(ranges=ranges)

    def check(self, target: PartialPose) -> None:
        """Refuse a target outside the box.

        Raises
        ------
        LimitError
            With axis, value, range and who set it. Nothing has moved.
        UnsupportedError
            The stage has no such axis. Nothing has moved.
        """
        box = self.box()
        missing = [axis.value for axis in target.targets() if axis not in box.ranges]
        if missing:
            raise UnsupportedError(
                f"this stage has no axis {', '.join(missing)} (it has "
                f"{', '.join(axis.value for axis in box.ranges)}); nothing moved, the beam stays "
                f"blanked. A person has to move it by hand, or the plan has to do without."
            )
        violation = box.violation(target)
        if violation is None:
            return
        owners = [name for name, part in self.parts().items() if _violates(part, target)]
        raise LimitError(
            f"{violation} (limits of: {', '.join(owners) or 'vendor'}); nothing moved, the beam "
            f"stays blanked. Choose a target inside the limits, or have them changed by whoever "
            f"set them."
        )


def _violates(part: StageLimits, target: PartialPose) -> bool:
    named = {axis: value for axis, value in target.targets().items() if axis in part.ranges}
    return any(not part.ranges[axis][0] <= v <= part.ranges[axis][1] for axis, v in named.items())


def vendor_limits(capabilities: Capabilities) -> StageLimits:
    """The ranges that the instrument itself states."""
    return StageLimits(
        ranges={axis: (info.low, info.high) for axis, info in capabilities.axes.items()}
    )


def checked_target(**axes: float) -> PartialPose:
    """A `PartialPose` from numbers that come from a computation.

    Raises
    ------
    LimitError
        A value is NaN or infinite. Nothing has moved.
    """
    try:
        return PartialPose.model_validate({Axis(name).value: value for name, value in axes.items()})
    except ValidationError:
        listed = ", ".join(f"{name} = {value:g}" for name, value in axes.items())
        raise LimitError(
            f"a stage target must be finite, got {listed}; nothing moved. "
            f"Measure again: the number that led here is not one."
        ) from None


AreaBudget = Annotated[dict[Purpose, Positive], Field(default_factory=dict)]


class DoseLimits(Frozen):
    """Upper limits of the fluence in e/A2, for every cell of the specimen.

    The ledger compares *upper bounds* with them, so what a cell truly received is lower.
    """

    specimen_e_per_A2: Positive
    """All purposes together."""
    before_scan_e_per_A2: Positive
    """Everything but DATA: survey, tracking, focus, alignment."""
    data_e_per_A2: Positive
    """DATA alone."""
    area_e_per_A2: AreaBudget
    """Optional, by purpose: the sum over all exposures booked on one ``Exposure.area``."""

    @model_validator(mode="after")
    def _parts_fit_into_the_whole(self) -> Self:
        for name in ("before_scan_e_per_A2", "data_e_per_A2"):
            part = getattr(self, name)
            if not part <= self.specimen_e_per_A2:
                raise ValueError(
                    f"{name} = {part:g} e/Å² is above specimen_e_per_A2 = "
                    f"{self.specimen_e_per_A2:g} e/Å², so it could never be used up; "
                    f"lower it or raise the limit of the specimen"
                )
        return self

    def within(self, other: DoseLimits) -> DoseLimits:
        """What both allow."""
        areas = dict(other.area_e_per_A2) | {
            purpose: min(limit, other.area_e_per_A2.get(purpose, limit))
            for purpose, limit in self.area_e_per_A2.items()
        }
        return DoseLimits(
            specimen_e_per_A2=min(self.specimen_e_per_A2, other.specimen_e_per_A2),
            before_scan_e_per_A2=min(self.before_scan_e_per_A2, other.before_scan_e_per_A2),
            data_e_per_A2=min(self.data_e_per_A2, other.data_e_per_A2),
            area_e_per_A2=areas,
        )

    def budgets(self) -> dict[str, tuple[float, frozenset[Purpose]]]:
        """Each budget by its field: the limit in e/A2, and the purposes that count against it."""
        return {
            "specimen_e_per_A2": (self.specimen_e_per_A2, frozenset(Purpose)),
            "before_scan_e_per_A2": (
                self.before_scan_e_per_A2,
                frozenset(Purpose) - {Purpose.DATA},
            ),
            "data_e_per_A2": (self.data_e_per_A2, frozenset({Purpose.DATA})),
        }
