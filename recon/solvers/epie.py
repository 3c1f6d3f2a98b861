"""The extended ptychographic iterative engine, multislice: the plain reference, pattern by pattern.

The wave in the detector is given the measured modulus; the difference of the waves at a slice is
shared out over transmission and incoming wave,

    t   += a conj(psi) / max|psi|^2 D,    psi += a conj(t) / max|t|^2 D,

slice by slice from the bottom. Transmissions are complex and free; there is no noise model, so that
at a hundred electrons per pattern it does what it can. The phase of a slice is the angle of t,
between -pi and pi. Sources: Maiden & Rodenburg, Ultramicroscopy 109 (2009) 1256; Maiden,
Humphry & Rodenburg, J. Opt. Soc. Am. A 29 (2012) 1606.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fft import fft2, ifft2

from recon.errors import ReconError
from recon.ptychography.experiment import Experiment
from recon.ptychography.multislice import forward
from recon.ptychography.solver import PassResult
from recon.solvers.likelihood import losses
from recon.solvers.problem import Problem


class SequentialError(ReconError):
    """The engine takes one pattern after the other and cannot share them."""


class EpieSolver:
    """Complex slices, a given probe; same face as the other solvers."""

    def __init__(self, problem: Problem, spectra: Tensor, step: float) -> None:
        if problem.team.size > 1:
            raise SequentialError(
                f"ePIE takes one pattern after the other; {problem.team.size} processes cannot "
                f"share them. Start one process, or choose another solver"
            )
        self.problem, self.step = problem, step
        self.experiment, self.device = problem.experiment, problem.device
        scaled = spectra * problem.per_pattern**0.5
        self.spectra = scaled.to(self.device, torch.complex64)
        shape = (self.experiment.n_slices, *problem.canvas.shape)
        self.transmission = torch.ones(shape, dtype=torch.complex64, device=self.device)
        self.residual: NDArray[np.float32] | None = None

    def all_slices(self) -> Tensor:
        """Angle of every slice, float32, (slice, rows, cols)."""
        return self.transmission.angle()

    def start_from(self, phase: Tensor) -> None:
        """Begin with this projected phase, (rows, cols), dealt to all slices alike."""
        share = phase.to(self.device) / self.experiment.n_slices
        self.transmission.copy_(torch.polar(torch.ones_like(share), share))

    def state(self) -> dict[str, Tensor]:
        """Tensors that the coming passes depend on."""
        return {"transmission": self.transmission}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Be as at the time of ``state``."""
        self.transmission = state["transmission"]

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
        """Show every pattern once, in random order."""
        problem = self.problem
        order = torch.from_numpy(rng.permutation(problem.patterns.n_patterns)).to(self.device)
        table = problem.probe_table(self.spectra)
        fitted = held = 0.0
        for done, which in enumerate(torch.split(order, 1), start=1):
            loss, unseen = self._revise(which, table)
            fitted, held = fitted + loss, held + unseen
            if on_batch is not None and done % 64 == 0:
                on_batch(done / len(order))
        return self.problem.pass_result(fitted, held)

    def _revise(self, which: Tensor, table: Tensor) -> tuple[float, float]:
        """Fit one pattern; losses are those before."""
        problem = self.problem
        slices = problem.gather(self.transmission, which)
        row, col = problem.raster.corner[which[0]].tolist()
        entering = table[problem.raster.shift_index[which]]
        waves = forward(entering, slices, problem.H)
        intensity, counts = waves.intensity(), problem.counts.dense(which)
        loss = float(losses("amplitude", intensity, counts, problem.floor).sum())
        held = 0.0
        if problem.held is not None:
            ratio = problem.electrons_held / problem.electrons
            unseen = problem.held.dense(which)
            held = float(losses("poisson", ratio * intensity, unseen, ratio * problem.floor).sum())
        scale = torch.where(
            problem.measured > 0, (counts / (intensity + 1e-9 * problem.per_pattern)).sqrt(), 1.0
        )
        exit_wave = ifft2(waves.detector * scale[:, None], norm="ortho")
        back = problem.H.conj()
        for s in reversed(range(len(slices))):
            psi = entering if s == 0 else ifft2(fft2(waves.after[s - 1]) * problem.H)
            change = exit_wave - waves.after[s]
            t = slices[s, :, None]
            power = psi.abs().square().sum(dim=1).amax()
            revised = slices[s] + self.step * (psi.conj() * change).sum(dim=1) / power
            self.transmission[s, row : row + problem.n, col : col + problem.n] = revised[0]
            if s:
                psi = psi + self.step * t.conj() * change / t.abs().square().amax()
                exit_wave = ifft2(fft2(psi) * back)
        return loss, held
