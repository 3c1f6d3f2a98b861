"""Leaving out the few readings that contradict all others, and saying how many they were.

A pattern is misread now and then with a small error bar.  With more readings than unknowns the
others show it: readings are dropped one by one, each time the one without which the rest agrees
best, until chi squared is credible or a third of them is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from scipy import stats

Reading = TypeVar("Reading")
Result = TypeVar("Result")

WORST_PROBABILITY = 1e-3
"""Of a chi squared that is believed."""


def agreeing(
    readings: Sequence[Reading],
    fit: Callable[[Sequence[Reading]], tuple[Result, float, int] | None],
    *,
    least: int,
) -> tuple[list[Reading], tuple[Result, float, int] | None]:
    """Readings that agree, and the fit to them.

    Parameters
    ----------
    readings
        All of them.
    fit
        Gives result, chi squared and degrees of freedom; None where a set of readings does not
        determine it.
    least
        So many are kept whatever they say.

    Returns
    -------
    kept, fit
        The fit may still be incredible: the caller has to look at its chi squared.
    """
    kept = list(readings)
    best = fit(kept)
    spare = min(len(readings) // 3, len(readings) - least)
    for _ in range(max(spare, 0)):
        if best is not None and credible(best[1], best[2]):
            break
        trials = []
        for n in range(len(kept)):
            rest = kept[:n] + kept[n + 1 :]
            found = fit(rest)
            if found is not None:
                trials.append((found[1], n, found))
        if not trials:
            break
        _, worst, best = min(trials, key=lambda trial: trial[:2])
        del kept[worst]
    return kept, best


def credible(chi_squared: float, degrees_of_freedom: int) -> bool:
    """Whether readings with the stated errors scatter like this."""
    if degrees_of_freedom <= 0:
        return True
    return bool(stats.chi2.sf(chi_squared, degrees_of_freedom) >= WORST_PROBABILITY)
