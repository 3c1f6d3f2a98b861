"""How thick: what electrons that no fit has seen say about thicknesses that were not refined.

An object that forms while its thickness is refined adapts to every thickness on the way: what
pulls at the thickness from there on is what the object has not learnt yet, and an unformed one
wants the thinnest specimen. The refinement creeps into too thin a valley and reports it with a
small sigma. So fresh objects are fitted under a few thicknesses, everything else as found, and
judged by the likelihood of held-out electrons,

    L(t) = - log p(held-out counts | object fitted under t) + (t - t_0)^2 / (2 sigma_0^2),

t_0 and sigma_0 being what is known beforehand. The crossover stays where it is from the *middle* of
the specimen, which is what the patterns determine well. A part of the scan suffices: ten thousand
held-out electrons weigh a tenth of the thickness with tens of nats. The patterns must not be
cropped to the bright field: heavy columns on coarse pixels want a thicker crystal (27 nm for 21).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recon.calibration import Measured
from recon.haste import TRIAL_PASSES, chosen_haste, haste_of, headroom_rad
from recon.joint_calibration import Bench, inner_size, low_floor, resized, with_thickness
from recon.params import ReconstructionParams
from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.raster import make_canvas
from recon.ptychography.solver import MultisliceSolver
from recon.ptychography.unknowns import THICKNESS_RANGE, Unknown

LOOK_PASSES, CLOSE_PASSES, MOST_PASSES = 7, 10, 20
"""Passes of a fit: at least, close to the end at least, and at most."""
SETTLED, CLOSELY_SETTLED = 0.01, 0.005
"""Part of all that was gained; fits go on while a pass gains more. Thick objects form slowly."""
LOOK_ELECTRONS, LOOK_PATTERNS, MOST_PATTERNS = 50_000, 700, 1500
"""At least so many fitted electrons and patterns, where there are; but not more patterns."""
COARSE, FINE = 1.5, 1.16
"""Ratios of neighbouring thicknesses, first and last."""
FURTHEST = 1.5
"""Steps by which a lowest point may lie off the middle one of three."""


@dataclass(frozen=True)
class Valley:
    """Where a cost over a positive number is lowest; ``sigma`` if the cost is in nats."""

    at: float
    sigma: float


def lowest(cost: Callable[[float], float], start: float, within: tuple[float, float]) -> Valley:
    """Walk downhill in coarse ratios until the lowest point has two neighbours; then look close.

    ``cost`` is called some seven times; what is far from ``start`` is found as long as the way
    there goes down.
    """
    seen, best = _walked(cost, start, COARSE, within)
    return closest(cost, _vertex(seen, best, COARSE).at, within)


def closest(cost: Callable[[float], float], start: float, within: tuple[float, float]) -> Valley:
    """Look at three thicknesses near ``start``, and at more where the lowest is at the edge."""
    seen, best = _walked(cost, float(np.clip(start, *within)), FINE, within)
    found = _vertex(seen, best, FINE)
    at = float(np.clip(found.at, *within))
    return Valley(at, found.sigma if at == found.at else at)


def _walked(
    cost: Callable[[float], float], start: float, ratio: float, within: tuple[float, float]
) -> tuple[dict[float, float], float]:
    """Costs by thickness, and the one that is lower than both neighbours or at an end."""
    seen: dict[float, float] = {}
    best = start
    while True:
        for at in (best, best / ratio, best * ratio):
            inside = _same(at, start) or within[0] <= at <= within[1]
            if inside and not any(_same(at, other) for other in seen):
                seen[at] = cost(at)
        lower = min(seen, key=lambda at: seen[at])
        if _same(lower, best):
            return seen, best
        best = lower


def _same(one: float, other: float) -> bool:
    return abs(math.log(one / other)) < 1e-6


def _vertex(seen: dict[float, float], best: float, ratio: float) -> Valley:
    """Lowest point of a parabola in ln t through three points; far beyond them it is not known."""
    step = math.log(ratio)
    below, above = (
        next((cost for at, cost in seen.items() if _same(at, best * by)), math.inf)
        for by in (1 / ratio, ratio)
    )
    here = seen[best]
    bend = below + above - 2 * here
    if not (math.isfinite(bend) and bend > 0):
        end = below < here or above < here
        towards = -1.0 if below < above else 1.0
        return Valley(best * math.exp(towards * step if end else 0.0), best)
    off = (below - above) / (2 * bend)
    at = best * math.exp(float(np.clip(off, -FURTHEST, FURTHEST)) * step)
    known = abs(off) <= FURTHEST
    return Valley(at, min(at * step / math.sqrt(bend), at) if known else at)


@dataclass(frozen=True)
class ThicknessLook:
    """Fresh fits of a central part of the scan, judged by electrons held out of them."""

    fitted: Patterns
    held: Patterns
    unknown: Unknown
    stated_A: float
    bench: Bench
    params: ReconstructionParams

    def thickness_A(self, here: Experiment, *, close: bool, haste: float = 1.0) -> Measured:
        """The most likely thickness if all else is as ``here``; ``close``: that is near it."""
        rng_seed = int(self.bench.rng.integers(2**63))
        n = inner_size(here)
        chosen = central(self.fitted, here.scan_shape)
        fitted, held = (part.only(chosen).cropped(n) for part in (self.fitted, self.held))
        here = resized(here, n)
        least = CLOSE_PASSES if close else LOOK_PASSES
        worth = CLOSELY_SETTLED if close else SETTLED

        def cost(thickness_A: float) -> float:
            nonlocal least
            trial = with_thickness(here, thickness_A, self.params)
            solver = _empty(trial, fitted, held, self.bench)
            solver.slices += headroom_rad(haste)
            rng = np.random.default_rng(rng_seed)
            losses: list[float] = []
            while len(losses) < least or (haste == 1 and _goes_on(losses, worth)):
                solver.haste = haste_of(len(losses) + 1, least, haste)
                losses.append(solver.run_pass(rng, self.bench.executor).held_out)
            least = len(losses)  # a pass more or less must not decide between neighbours
            off = (thickness_A - self.stated_A) / self.unknown.prior_sigma
            nats = min(losses) * solver.electrons_held if solver.electrons_held else 0.0
            return nats + off**2 / 2

        low, high = (factor * self.stated_A for factor in THICKNESS_RANGE)
        found = (closest if close else lowest)(cost, here.thickness_A, (low, high))
        at, sigma = self.bench.team.agree([found.at, found.sigma])
        return Measured(at, sigma, "held-out")

    def haste(self, here: Experiment) -> float:
        """Multiple of the usual step that held-out electrons want (``recon.haste``).

        As many batches make a pass over the part of the scan as one over all of it.
        """
        rng_seed = int(self.bench.rng.integers(2**63))
        n = inner_size(here)
        chosen = central(self.fitted, here.scan_shape)
        fitted, held = (part.only(chosen).cropped(n) for part in (self.fitted, self.held))
        settings = self.bench.settings
        batch = max(round(settings.batch * fitted.n_patterns / self.fitted.n_patterns), 1)
        bench = replace(self.bench, settings=replace(settings, batch=batch))

        def losses_with(longest: float) -> list[float]:
            solver = _empty(resized(here, n), fitted, held, bench)
            solver.slices += headroom_rad(longest)
            rng = np.random.default_rng(rng_seed)
            losses = []
            for number in range(1, TRIAL_PASSES + 1):
                solver.haste = haste_of(number, TRIAL_PASSES, longest)
                losses.append(solver.run_pass(rng, bench.executor).held_out)
            return losses

        (chosen_one,) = bench.team.agree([chosen_haste(losses_with)])
        return chosen_one


def _empty(
    experiment: Experiment, fitted: Patterns, held: Patterns, bench: Bench
) -> MultisliceSolver:
    """An empty object under these patterns, with a low floor."""
    grid = experiment.grid
    canvas = make_canvas(experiment.positions_A()[fitted.position], grid.sampling_A, grid.n)
    return MultisliceSolver(
        experiment, canvas, fitted, held, low_floor(bench), bench.device, bench.team
    )


def _goes_on(losses: list[float], worth: float) -> bool:
    gained = losses[-2] - losses[-1]
    return len(losses) < MOST_PASSES and gained > worth * max(losses[0] - losses[-1], 0.0)


def central(patterns: Patterns, scan_shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Patterns in the smallest square about the centre of the scan that is enough, bool, (n,)."""
    row, col = np.divmod(patterns.position, scan_shape[1])
    middle = (np.array(scan_shape) - 1) / 2
    away = np.maximum(np.abs(row - middle[0]), np.abs(col - middle[1]))
    order = np.argsort(away, kind="stable")
    electrons = np.cumsum(np.diff(patterns.indptr)[order])
    enough = int(np.searchsorted(electrons, LOOK_ELECTRONS)) + 1
    count = int(np.clip(enough, LOOK_PATTERNS, MOST_PATTERNS))
    reach = away[order[min(count, len(order)) - 1]]
    inside: NDArray[np.bool_] = away <= reach
    return inside


def thickness_look(
    fitted: Patterns,
    held: Patterns,
    unknowns: tuple[Unknown, ...],
    stated_A: float,
    bench: Bench,
    params: ReconstructionParams,
) -> ThicknessLook | None:
    """Return a look at the thickness, if that is to be refined."""
    for unknown in unknowns:
        if unknown.name == "thickness_A":
            return ThicknessLook(fitted, held, unknown, stated_A, bench, params)
    return None
