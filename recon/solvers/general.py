"""One object being fitted by any of the rules, likelihoods, probes and priors of this package."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.errors import ReconError
from recon.ptychography.experiment import Experiment
from recon.ptychography.solver import PassResult
from recon.solvers.positions import correct_positions
from recon.solvers.probe_modes import orthogonal, support
from recon.solvers.problem import Evaluation, Problem
from recon.solvers.regularisers import penalty_gradient, shaped
from recon.solvers.rules import Lbfgs, Rule
from recon.solvers.settings import Regulariser

ILLUMINATION_FLOOR = 0.05
PROBE_FROM_PASS = 3
PROBE_STEP = 0.5
POSITIONS_FROM_PASS = 4
SHRINKS = 12


class DivergenceError(ReconError):
    """The fit left what numbers can hold; nothing was written."""


@dataclass(frozen=True)
class Choices:
    """What may move, and what is believed beforehand."""

    batch: int
    coupling: float
    positivity: bool
    priors: tuple[Regulariser, ...]
    free_probe: bool
    positions: bool


class GeneralSolver:
    """Fits the slices, and if chosen the probe and the positions; same face as the default one."""

    def __init__(self, problem: Problem, spectra: Tensor, rule: Rule, choices: Choices) -> None:
        self.problem, self.rule, self.choices = problem, rule, choices
        self.experiment, self.device = problem.experiment, problem.device
        scaled = spectra * problem.per_pattern**0.5
        self.spectra = scaled.to(self.device, torch.complex64)
        shape = (1 if problem.tied else self.experiment.n_slices, *problem.canvas.shape)
        self.slices = torch.zeros(shape, device=self.device)
        self.residual: NDArray[np.float32] | None = None
        self.passes = 0
        self._support = support(self.experiment).to(self.device)
        self._illuminate()

    def _illuminate(self) -> None:
        self.illumination = self.problem.illumination(self.problem.probe_table(self.spectra))
        smallest = ILLUMINATION_FLOOR * self.illumination.max()
        self.preconditioner = 1 / (2 * self.experiment.n_slices * (self.illumination + smallest))

    def all_slices(self) -> Tensor:
        """Phase of every slice, float32, (slice, rows, cols), a copy."""
        return self.slices.expand(self.experiment.n_slices, -1, -1).clone()

    def start_from(self, phase: Tensor) -> None:
        """Begin with this projected phase, (rows, cols), dealt to all slices alike."""
        self.slices.copy_(phase / self.experiment.n_slices)

    def state(self) -> dict[str, Tensor]:
        """Tensors that the coming passes depend on."""
        memory = {f"rule.{name}": tensor for name, tensor in self.rule.memory.items()}
        return memory | {
            "slices": self.slices,
            "spectra": self.spectra,
            "shift_A": torch.from_numpy(self.problem.shift_A),
            "passes": torch.tensor(self.passes),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Be as at the time of ``state``."""
        self.slices, self.spectra = state["slices"], state["spectra"]
        self.passes = int(state["passes"])
        self.problem.move_positions(state["shift_A"].cpu().numpy())
        self.rule.memory = {
            name.removeprefix("rule."): tensor
            for name, tensor in state.items()
            if name.startswith("rule.")
        }
        self._illuminate()

    def recalibrate(self, experiment: Experiment) -> None:
        """Calibration is fixed here: the same one is taken, another one refused."""
        if experiment != self.experiment:
            raise ValueError("this engine keeps the calibration that it was begun with")

    def run_pass(
        self,
        rng: np.random.Generator,
        executor: ThreadPoolExecutor,
        *,
        on_batch: Callable[[float], None] | None = None,
    ) -> PassResult:
        """Show every pattern once; L-BFGS: one step, every pattern once per trial."""
        self.passes += 1
        order = torch.from_numpy(rng.permutation(self.problem.patterns.n_patterns)).to(self.device)
        tell = on_batch or (lambda part: None)
        climb = self._one_step if self.rule.whole_set else self._batches
        fitted, held = climb(order, executor, tell)
        self.slices, self.residual = shaped(
            self.slices,
            self.choices.priors,
            self.experiment.grid.sampling_A,
            (self.illumination > 0.3 * self.illumination.max()).cpu().numpy(),
        )
        self._positive()
        if self.choices.free_probe and self.passes >= PROBE_FROM_PASS:
            self.spectra = orthogonal(self.spectra)
        if self.choices.positions and self.passes >= POSITIONS_FROM_PASS:
            correct_positions(self.problem, self.slices, self.spectra, executor)
        if not bool(torch.isfinite(self.slices).all()):
            raise DivergenceError(
                f"the phase is not finite after pass {self.passes}; nothing was written. "
                f"Take a smaller step, or the default engine"
            )
        return self.problem.pass_result(fitted, held)

    def _batches(
        self, order: Tensor, executor: ThreadPoolExecutor, tell: Callable[[float], None]
    ) -> tuple[float, float]:
        fitted = held = 0.0
        done = 0
        for batch in torch.split(order, self.choices.batch):
            found = self._evaluate(self.slices, batch, executor)
            fitted, held = fitted + found.fitted, held + found.held_out
            gradient = self._coupled(found.gradient, len(batch) / len(order))
            self.slices = self.slices + self.rule.direction(gradient, self.preconditioner)
            self._positive()
            self._move_probe(found.probe, len(batch))
            done += len(batch)
            tell(done / len(order))
        return fitted, held

    def _one_step(
        self, order: Tensor, executor: ThreadPoolExecutor, tell: Callable[[float], None]
    ) -> tuple[float, float]:
        """One quasi-Newton step with backtracking; losses are those before the step."""
        rule = self.rule
        before = self._evaluate(self.slices, order, executor)
        tell(0.5)
        gradient = self._coupled(before.gradient, 1.0)
        if isinstance(rule, Lbfgs) and "last_slices" in rule.memory:
            move = self.slices - rule.memory.pop("last_slices")
            rule.learn(move, gradient - rule.memory.pop("last_gradient"))
        direction = rule.direction(gradient, self.preconditioner)
        start, length = self.slices, 1.0
        for _ in range(SHRINKS):
            self.slices = start + length * direction
            self._positive()
            if self._loss(order, executor) <= before.fitted:
                break
            length /= 2
        else:
            self.slices = start
        rule.memory |= {"last_slices": start, "last_gradient": gradient}
        self._move_probe(before.probe, len(order))
        tell(1.0)
        return before.fitted, before.held_out

    def _evaluate(self, slices: Tensor, which: Tensor, executor: ThreadPoolExecutor) -> Evaluation:
        free = self.choices.free_probe and self.passes >= PROBE_FROM_PASS
        return self.problem.evaluate(slices, self.spectra, which, executor, with_probe=free)

    def _loss(self, order: Tensor, executor: ThreadPoolExecutor) -> float:
        return self.problem.evaluate(self.slices, self.spectra, order, executor).fitted

    def _coupled(self, gradient: Tensor, share: float) -> Tensor:
        """Add the penalties' share of the batch; scale what tells slices apart."""
        penalty = penalty_gradient(self.slices, self.choices.priors)
        if penalty is not None:
            gradient = gradient + share * penalty
        mean = gradient.sum(dim=0, keepdim=True) / self.experiment.n_slices
        if self.problem.tied:
            return mean
        return mean + self.choices.coupling * (gradient - mean)

    def _positive(self) -> None:
        if self.choices.positivity:
            self.slices = self.slices.clamp(min=0)

    def _move_probe(self, gradient: Tensor | None, patterns: int) -> None:
        """Newton step of a probe whose object is known, inside the aperture; power is kept."""
        if gradient is None:
            return
        changed = self.spectra - PROBE_STEP / patterns * gradient
        changed = changed * self._support
        power = changed.abs().square().sum()
        self.spectra = changed * (self.problem.per_pattern / power).sqrt()
        if self.rule.whole_set:
            self.rule.memory = {}
