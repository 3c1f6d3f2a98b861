"""With what fluence the next scan is taken: as its reconstructions have shown.  Pure.

Resolution d against the fluence F, up to the damage that F itself does, is taken as

    ln d = m + s ln(E / E0),   E = F exp(-F / (2 D)),

E what is left of F under damage with the critical dose D (half of the scan's dose on average), E0
the same of the planned fluence; s = -1/4, as for counting noise of a phase, is only known to 0.1.
Every reconstruction of the night moves m and s.  Of the fluences between the planned one and
`agent.most_fluence_share` of it, within the dose budget, the one is taken with the largest

    P(d <= accept_resolution_A) - 0.1 ln(F / F0):

so much more probability must each e-fold of fluence bring.  The planned fluence is never undercut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.decision.belief import Belief, Target
from controller.decision.forecast import BOUND_OVER_PLANNED
from controller.plan.run import RunPlan

PRIOR_SHARE_OF_LIMIT = 0.6
"""Resolution that is expected at the planned fluence, of what the plan accepts."""
PRIOR_SIGMA = (0.5, 0.1)
SLOPE = -0.25
SCATTER = 0.25
"""Of ln d between crystals of the same night."""
UNREADABLE = 1.4
"""A scan without a lattice counts as one with so many times the resolution that is accepted."""
WORTH = 0.1
STEPS = 9


@dataclass(frozen=True, eq=False)
class Resolution:
    """What is known of m and s: mean, (2,), covariance, (2, 2)."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    seen: int

    def probability(self, log_limit: float, log_effect: float) -> float:
        """That ln d is at most `log_limit` at ln(E / E0) = `log_effect`."""
        x = np.array([1.0, log_effect])
        spread = math.sqrt(SCATTER**2 + float(x @ self.covariance @ x))
        z = (log_limit - float(x @ self.mean)) / spread
        return 0.5 * math.erfc(-z / math.sqrt(2))


def fluence(plan: RunPlan, belief: Belief, target: Target) -> tuple[float, str]:
    """Fluence of the scan of a crystal, e/A2, and why in words (empty: as planned)."""
    planned = plan.scan.fluence_e_per_A2
    most = planned * plan.agent.most_fluence_share
    limit = plan.budget.specimen_e_per_A2
    if limit is not None:
        most = min(most, (limit - plan.alignment.budget_e_per_A2) / BOUND_OVER_PLANNED)
    if target.fits_e_per_A2 is not None:
        most = min(most, target.fits_e_per_A2)
    if most < planned:
        return most, f"with the {most:.3g} e/A2 that its neighbours' scans have left"
    if not plan.agent.adapt_fluence or not plan.reconstruction.enabled or most == planned:
        return planned, ""
    known = resolution(plan, belief.targets.values())
    goal = math.log(plan.reconstruction.accept_resolution_A)

    def accepted(F: float) -> float:  # noqa: N803  the symbol of the docstring
        return known.probability(goal, _log_effect(plan, F))

    choices = np.geomspace(planned, most, STEPS)
    worth = [accepted(F) - WORTH * math.log(F / planned) for F in choices]
    best = float(choices[int(np.argmax(worth))])
    if best == planned:
        return planned, ""
    return best, (
        f"with {best:.3g} instead of {planned:.3g} e/A2: {accepted(best):.0%} instead of "
        f"{accepted(planned):.0%} likely to be accepted, by {known.seen} reconstructions"
    )


def resolution(plan: RunPlan, targets: Iterable[Target]) -> Resolution:
    """What the scans so far have taught."""
    limit = plan.reconstruction.accept_resolution_A
    precision = np.diag([sigma**-2 for sigma in PRIOR_SIGMA])
    load = precision @ np.array([math.log(PRIOR_SHARE_OF_LIMIT * limit), SLOPE])
    seen = 0
    for target in targets:
        learnt = target.experience
        if learnt is None or learnt.fluence_e_per_A2 is None or target.status == "scanned":
            continue
        d = learnt.resolution_A if target.status == "done" else None
        if d is None:
            d = max(learnt.resolution_A or 0.0, UNREADABLE * limit)
        x = np.array([1.0, _log_effect(plan, learnt.fluence_e_per_A2)])
        precision = precision + np.outer(x, x) / SCATTER**2
        load = load + x * math.log(d) / SCATTER**2
        seen += 1
    covariance = np.linalg.inv(precision)
    return Resolution(covariance @ load, covariance, seen)


def _log_effect(plan: RunPlan, F: float) -> float:  # noqa: N803
    """ln(E / E0) of the docstring."""
    planned = plan.scan.fluence_e_per_A2
    critical = plan.sample.critical_dose_e_per_A2
    damage = 0.0 if critical is None else (F - planned) / (2 * critical)
    return math.log(F / planned) - damage
