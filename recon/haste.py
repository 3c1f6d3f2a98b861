"""How long the steps are: electrons that no fit has seen decide, and the last steps are short.

One step size fits all data as long as the curvature is what a weak phase has. Wide probes on thick
crystals see their columns dephase from slice to slice, the curvature of most of what matters is a
fraction of that, and a fit with the usual steps ends far from where it goes: rings in which the
mean defocus has no contrast still have the wrong sign when the held-out likelihood seems to turn,
and both half sets agree on them. Small probes with few patterns per place, on the other hand,
diverge at twice the usual step. Which of both it is, is tried on a part of the scan. Long
steps leave the noise of the last batches in the object; so they end in passes of half the
step and half again, down to the usual one.
"""

from collections.abc import Callable, Sequence

LONG = 4.0
"""Long steps, as a multiple of the usual one."""
TRIAL_PASSES = 12
SETTLED_PASSES = 5
"""Passes with the usual step at the end of a fit whose number of passes is known."""
HEADROOM_RAD = 0.15
"""Phase of every slice that a fit with long steps begins with: phases that may not fall below
zero lose half of a first guess that is right up to a constant. A constant changes no pattern."""
MORE_PASSES = 1.5
"""A fit with long steps may take so many times the passes."""
STALLED = 0.004
"""A pass that gains less than this part of all that was gained gets no further with long steps."""


def haste_of(number: int, passes: int, longest: float) -> float:
    """Multiple of the usual step in pass ``number`` of ``passes`` (from 1).

    >>> [haste_of(number, 9, 4.0) for number in range(1, 10)]
    [4.0, 4.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    left = passes - number
    return max(min(longest, 2.0 ** (left - SETTLED_PASSES + 1)), 1.0)


def next_haste(held_out: Sequence[float], longest: float, most: int) -> float:
    """Multiple of the usual step for the pass after those with these held-out losses.

    Steps are long until a pass gains next to nothing, or until it is time to settle if the
    fit is to end after ``most`` passes; each pass from there on has half the step.
    """
    if longest <= 1:
        return 1.0
    number = len(held_out) + 1
    halvings = 0
    best = first = held_out[0] if held_out else 0.0
    for loss in held_out[1:]:
        stalled = not best - loss > STALLED * (first - best)
        halvings += bool(halvings or stalled)
        best = min(best, loss)
    return max(min(longest / 2**halvings, haste_of(number, most, longest)), 1.0)


def headroom_rad(longest: float) -> float:
    """Phase of every slice that a fit with these longest steps begins with."""
    return HEADROOM_RAD if longest > 1 else 0.0


def chosen_haste(losses_with: Callable[[float], Sequence[float]]) -> float:
    """Multiple of the usual step that unseen electrons want.

    ``losses_with`` returns the held-out losses of a trial, pass by pass; NaN where there are
    none, and the usual step is kept.
    """
    usual, long = losses_with(1.0), losses_with(LONG)
    return LONG if min(long) < min(usual) else 1.0
