"""The rule by which a field is looked at again, until the picker is sure or more would not help.

A survey frame costs little and a visit to the wrong place much, so a field is first exposed
briefly; as long as the best pick is not sure, more frames of it are summed.  The rule looks at the
calibrated probability of the picker.  What it gains against fixed doses: `benchmarks/regions.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from models.picker import SURE


class Scored(Protocol):
    """A pick with the probability of being right."""

    @property
    def score(self) -> float:
        """Calibrated."""
        ...


class Judged(Protocol):
    """What the rule looks at: a :class:`~models.picker.RegionResult`, or one like it."""

    @property
    def picks(self) -> Sequence[Scored]:
        """In any order."""
        ...

    @property
    def out_of_distribution(self) -> bool:
        """Whether the image is foreign."""
        ...

    @property
    def electrons_per_px_wanted(self) -> float | None:
        """Dose at which a surer answer may be expected; None if more would not help."""
        ...


@dataclass(frozen=True)
class ExposureRule:
    """When a field has been looked at enough.

    All doses are mean detected electrons per pixel, of all frames together.
    """

    sure: float = SURE
    """The best pick is right with this probability: stop."""
    most_e_per_px: float = 12.8
    growth: float = 4.0
    """A further look is at most so many times the dose before."""

    def __post_init__(self) -> None:
        if not (0 < self.sure <= 1 and self.most_e_per_px > 0):
            raise ValueError(
                f"sure is {self.sure:g} and the most {self.most_e_per_px:g} e/px; wanted "
                f"0 < sure <= 1 and a positive dose"
            )
        if not self.growth > 1:
            raise ValueError(f"growth is {self.growth:g}; a further look must add dose (above 1)")

    def further(self, result: Judged, taken_e_per_px: float) -> tuple[float, str]:
        """How many more electrons per pixel to take, 0 to stop, and why.

        Parameters
        ----------
        result
            What the picker said of all frames so far.
        taken_e_per_px
            Their dose.
        """
        best = max((p.score for p in result.picks), default=0.0)
        if result.out_of_distribution:
            return 0.0, "the image is foreign: more of it does not help"
        if best >= self.sure:
            return 0.0, f"the best pick is right with probability {best:.2f}"
        if taken_e_per_px >= 0.999 * self.most_e_per_px:
            return 0.0, f"the most that may be spent here, {self.most_e_per_px:g} e/px, is spent"
        wanted = result.electrons_per_px_wanted
        if wanted is None:
            return 0.0, (
                f"at {taken_e_per_px:.3g} e/px a crystal would be seen; more electrons would not "
                f"make the best pick ({best:.2f}) surer"
            )
        goal = min(max(wanted, 2 * taken_e_per_px), self.growth * taken_e_per_px)
        goal = min(goal, self.most_e_per_px)
        return goal - taken_e_per_px, f"the best pick is right with probability {best:.2f} only"
