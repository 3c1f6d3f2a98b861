"""Which crystal next: accepted scans that an hour with each may be expected to give.  Pure.

    yield = P(accepted) / (seconds for it + travel),

    P(accepted) = sigmoid(w0 + w1 logit(score) + w2 ln(radius / 150 nm)),
    seconds     = P * seconds of one that is scanned + (1 - P) * seconds of one that is not.

Before the night the picker's score is believed as it stands (w = 0, 1, 0); every crystal that is
done with moves the weights and the times (`Experience` in belief).  Where all that is left in the
queue fits into the hours that are left, the order only decides what comes first; where it does not,
it decides what is gone without.  Nothing is ever left out that there is time for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from controller.decision.belief import Belief, Target
from controller.decision.logistic import Weights, learnt
from controller.hardware.values import Axis
from controller.record.events import Pick

Order = Literal["yield", "score", "survey"]

PRIOR_WEIGHTS = (0.0, 1.0, 0.0)
PRIOR_SIGMA = (1.0, 0.5, 0.7)
USUAL_RADIUS_NM = 150.0
SCANNED_S, LEFT_S = 105.0, 75.0
"""On a crystal that is scanned and on one that is not, before the night has shown any."""
PRIOR_WEIGHT = 3.0
"""How many crystals that counts for."""
SLOWEST_UM_S = 1.0
"""Where a stage does not say how fast it moves."""


@dataclass(frozen=True, eq=False)
class Outlook:
    """What the night has taught of its crystals."""

    weights: Weights
    scanned_s: float
    left_s: float
    seen: int
    """Crystals that taught it."""

    def seconds(self, probability: float) -> float:
        """That a crystal may be expected to take, once it is under the beam."""
        return probability * self.scanned_s + (1 - probability) * self.left_s


@dataclass(frozen=True)
class Prospect:
    """A crystal of the queue, as a choice."""

    target: Target
    probability: float
    seconds: float
    travel_s: float

    @property
    def per_hour(self) -> float:
        """Accepted scans that an hour with it may be expected to give."""
        return 3600.0 * self.probability / (self.seconds + self.travel_s)


def features(pick: Pick) -> tuple[float, float, float]:
    """What is known of a crystal before it is gone to."""
    score = min(max(pick.score, 0.01), 0.99)
    radius = max(pick.radius_nm, 1.0)
    return 1.0, math.log(score / (1 - score)), math.log(radius / USUAL_RADIUS_NM)


def outlook(targets: Iterable[Target]) -> Outlook:
    """What the crystals that are done with have taught."""
    known = [t for t in targets if t.experience is not None and t.status != "queued"]
    judged = [t for t in known if t.status in ("done", "failed", "skipped")]
    scanned = [t.experience.seconds for t in known if t.experience and _is_scanned(t)]
    left = [t.experience.seconds for t in known if t.experience and not _is_scanned(t)]
    return Outlook(
        weights=learnt(
            PRIOR_WEIGHTS,
            PRIOR_SIGMA,
            [features(t.pick) for t in judged],
            [t.status == "done" for t in judged],
        ),
        scanned_s=_mean(scanned, SCANNED_S),
        left_s=_mean(left, LEFT_S),
        seen=len(judged),
    )


def prospects(belief: Belief, by: Order = "yield") -> list[Prospect]:
    """The crystals of the queue in the order in which they will be gone to, as it stands now.

    What people, or an interruption, put first or last comes there whatever is to be expected.
    """
    known = outlook(belief.targets.values())
    queued = [target for target in belief.targets.values() if target.status == "queued"]
    likely = known.weights.probabilities([features(target.pick) for target in queued])
    found = [
        Prospect(target, p, known.seconds(p), travel_s(belief, target))
        for target, p in zip(queued, likely.tolist(), strict=True)
    ]
    if by == "yield":
        found.sort(key=lambda p: -p.per_hour)
    elif by == "survey":
        found.sort(key=lambda p: (p.target.pick.frame, p.target.pick.y_px))
    names = list(belief.targets)
    return sorted(found, key=lambda p: _asked(belief, p.target.name, names))


def _asked(belief: Belief, name: str, names: list[str]) -> tuple[int, int]:
    if name in belief.put_first:
        return 0, names.index(name)
    return (2, names.index(name)) if name in belief.put_last else (1, 0)


def travel_s(belief: Belief, target: Target) -> float:
    """Time of the stage to a crystal from where it stands."""
    if belief.pose is None or belief.started is None:
        return 0.0
    axes = belief.started.capabilities.axes
    ways = (
        (Axis.X, target.x_um - belief.pose.x_um),
        (Axis.Y, target.y_um - belief.pose.y_um),
    )
    return max(
        abs(way_um) / (axes[axis].speed_per_s if axis in axes else SLOWEST_UM_S)
        for axis, way_um in ways
    )


def in_words(best: Prospect, others: Sequence[Prospect], seen: int) -> str:
    """Why this one."""
    taught = f"{seen} crystals of this night" if seen else "the picker's word"
    text = (
        f"{best.per_hour:.1f} accepted scans per hour to be expected: {best.probability:.0%} "
        f"likely by {taught} (score {best.target.pick.score:.2f}, radius "
        f"{best.target.pick.radius_nm:.0f} nm), in {best.seconds:.0f} s and "
        f"{best.travel_s:.0f} s of travel"
    )
    if others:
        text += f"; next best {others[0].target.name} with {others[0].per_hour:.1f}"
    return text


def _is_scanned(target: Target) -> bool:
    return target.experience is not None and target.experience.fluence_e_per_A2 is not None


def _mean(seconds: Sequence[float], usual_s: float) -> float:
    return (PRIOR_WEIGHT * usual_s + sum(seconds)) / (PRIOR_WEIGHT + len(seconds))
