"""Between passes: refine the calibration on a few patterns and let the object follow."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from recon.ptychography.experiment import agreed
from recon.ptychography.joint import Fitted, Unknown, joint_step, warped
from recon.ptychography.solver import MultisliceSolver

SLOWEST = 0.3


class Refiner:
    """Steps of ever smaller relaxation, so that the noise of the subsets averages out."""

    def __init__(
        self, solver: MultisliceSolver, unknowns: tuple[Unknown, ...], patterns_per_step: int
    ) -> None:
        self.solver = solver
        self.unknowns = unknowns
        self.start = solver.experiment
        self.patterns_per_step = patterns_per_step
        self.sigma: dict[str, float] = {}
        self._steps = 0

    def state(self) -> dict[str, Any]:
        """What the coming steps depend on, JSON-ready."""
        return {"steps": self._steps, "sigma": self.sigma}

    def restore(self, state: dict[str, Any]) -> None:
        """Be as at the time of ``state``."""
        self._steps, self.sigma = state["steps"], dict(state["sigma"])

    def step(
        self, pass_number: int, rng: np.random.Generator, executor: ThreadPoolExecutor
    ) -> None:
        """Take one joint step on a fresh random subset, if this pass has anything to refine."""
        unknowns = tuple(u for u in self.unknowns if pass_number >= u.first_pass)
        if not unknowns:
            return
        solver = self.solver
        fit = Fitted(
            experiment=solver.experiment,
            canvas=solver.canvas,
            slices=solver.slices,
            counts=solver.counts,
            position=solver.patterns.position,
            measured=solver.measured,
            per_pattern=solver.per_pattern,
            floor=solver.floor,
        )
        count = min(self.patterns_per_step, solver.patterns.n_patterns)
        chosen = rng.choice(solver.patterns.n_patterns, count, replace=False)
        result = joint_step(
            fit,
            unknowns,
            self.start,
            torch.from_numpy(chosen).to(solver.device),
            executor,
            relaxation=max(1 / (1 + 0.25 * self._steps), SLOWEST),
        )
        self._steps += 1
        # The Fisher sigma holds the object fixed; the last step says how far from rest it still is
        self.sigma = {
            name: float(np.hypot(sigma, result.step[name])) for name, sigma in result.sigma.items()
        }
        before = solver.experiment
        solver.slices = warped(solver.slices, solver.canvas, before, result.experiment)
        solver.velocity = warped(solver.velocity, solver.canvas, before, result.experiment)
        solver.recalibrate(agreed(result.experiment, solver.team))
