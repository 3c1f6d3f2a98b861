"""How many electrons the next pattern gets: as few in total as reach the wanted sigma.

A pattern of N electrons on the crystal tells the tilt to (radius of 68 %)

    sigma² = a² / N + (f0² + (f1 theta)²),

a counting part and a floor that grows with the tilt theta.  Far from the axis a pattern has only
to bring the crystal within reach of the beam tilt, so it gets the few electrons with which it can
be read at all; the one on the axis gets what the wanted sigma asks for.  A pattern near the axis
corrects a for its crystal: thin or small ones tell less per electron.  A pattern that gives no
answer asks for more, and its counts are added to the next.  Fluence is electrons over illuminated
area.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from controller.record.events import TiltFitted

COUNTING_DEG = 1.25
"""a: for UiO-66 within 1 degree of the axis, 30 - 70 nm thick (docs/closed-loop.md)."""
FLOOR_DEG, FLOOR_PER_DEG = 0.009, 0.003
NEAR_DEG = 2.0
LEAST_RATIO, MOST_RATIO = 0.7, 2.5
"""How far a crystal's own a may lie from the usual one: a single reading does not tell more."""
MORE_AFTER_SILENCE = 3.0


@dataclass(frozen=True)
class SigmaLaw:
    """sigma(N, theta) of one crystal."""

    counting_deg: float = COUNTING_DEG

    def sigma_deg(self, electrons: float, off_deg: float = 0.0) -> float:
        """Radius of 68 % that a pattern of so many electrons will have."""
        return math.hypot(self.counting_deg / math.sqrt(electrons), _floor(off_deg))

    def electrons_for(self, sigma_deg: float, off_deg: float = 0.0) -> float:
        """Electrons that reach `sigma_deg`; infinite below the floor."""
        left = sigma_deg**2 - _floor(off_deg) ** 2
        return self.counting_deg**2 / left if left > 0 else math.inf


def law_of(fits: Sequence[TiltFitted]) -> SigmaLaw:
    """The law as this crystal's own patterns near the axis show it; the usual one before the first.

    Patterns far from the axis hold other spots and tell nothing of a.
    """
    seen = []
    for fit in fits:
        if fit.misorientation_deg > NEAR_DEG:
            continue
        counted = math.degrees(fit.sigma_mrad * 1e-3) ** 2 - _floor(fit.misorientation_deg) ** 2
        if fit.answered and fit.electrons > 0 and counted > 0:
            seen.append(math.sqrt(counted * fit.electrons))
    if not seen:
        return SigmaLaw()
    ratio = seen[-1] / COUNTING_DEG
    return SigmaLaw(COUNTING_DEG * min(max(ratio, LEAST_RATIO), MOST_RATIO))


def next_electrons(
    fits: Sequence[TiltFitted],
    again: TiltFitted | None,
    *,
    expected_off_deg: float | None,
    near_deg: float,
    coarse: float,
    most: float,
    wanted_sigma_deg: float,
) -> float:
    """Electrons for the next pattern.

    Parameters
    ----------
    fits
        Patterns of this crystal so far.
    again
        The newest of them, if it gave no answer or a doubtful one: its counts are not lost but
        added to the next one.
    expected_off_deg
        Largest likely angle from the axis; None where nothing is known.
    near_deg
        Below this the pattern is to be the last one.
    coarse, most
        Electrons of a pattern far from the axis; the most that any pattern gets.
    wanted_sigma_deg
        Of the last pattern.
    """
    if again is not None:
        wanted = again.electrons_wanted or MORE_AFTER_SILENCE * max(again.electrons, coarse)
        return min(max(wanted - again.electrons, coarse), most)
    if expected_off_deg is None or expected_off_deg > near_deg:
        return min(coarse, most)
    return min(max(law_of(fits).electrons_for(wanted_sigma_deg), coarse), most)


def fluence_e_per_A2(electrons: float, diameter_nm: float) -> float:
    """Of so many electrons on a disc."""
    return electrons / (math.pi * (5.0 * diameter_nm) ** 2)


def _floor(off_deg: float) -> float:
    return math.hypot(FLOOR_DEG, FLOOR_PER_DEG * off_deg)
