"""Maximum likelihood with curvature-scaled steps and momentum (in the spirit of LSQ-ML).

For weak phases the curvature of the Poisson likelihood at an object pixel is twice the electrons
that pass through it, so that D = 1 / (2 S N_e(r)) turns the gradient of one of S slices into a
Newton step: no learning rate to tune. Batches and a momentum of 0.9 do the rest;

    v <- mu v - eta D grad,   V <- max(V + v, 0).

``coupling`` chooses between slices that are the same (0) and free (1): the deviations of the slice
gradients from their mean are scaled by it. The likelihood of the held-out electrons is
taken on the fly, before a batch is used, and costs nothing.
Sources: Odstrcil et al., Opt. Express 26 (2018) 3108; Thibault & Guizar-Sicairos, New J. Phys.
14 (2012) 063004.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from recon.execution import Alone, Team
from recon.patterns import Patterns
from recon.ptychography.counts import CountStore
from recon.ptychography.experiment import Experiment
from recon.ptychography.likelihood import poisson_factor, poisson_loss
from recon.ptychography.multislice import Waves, backward, forward, overlap
from recon.ptychography.optics import shifted_probes
from recon.ptychography.pulls import Pulls
from recon.ptychography.raster import SUB_PIXEL_STEPS, Canvas, place
from recon.ptychography.variation import variation_gradient

CHUNK = 64
"""Patterns per worker call: the waves of one chunk fit a processor cache."""


@dataclass(frozen=True)
class SolverSettings:
    """How to climb; lengths and counts, no units to tune."""

    step: float = 0.5
    momentum: float = 0.9
    batch: int = 128
    coupling: float = 0.0
    floor_fraction: float = 0.2
    """Background floor as a part of the mean counts per pixel."""
    positivity: bool = True
    variation: float = 0.0
    """Weight of the total variation of a slice, nats per radian."""
    illumination_floor: float = 0.05
    """Object pixels with less than this part of the largest illumination are held back."""
    threads: int = 1


@dataclass(frozen=True)
class PassResult:
    """Negative log-likelihood per electron of the pass, fitted and held out (NaN: none held)."""

    fitted: float
    held_out: float


@dataclass(frozen=True)
class Chunk:
    """What a worker found out about some patterns."""

    which: Tensor
    window: Tensor
    gradient: Tensor
    loss: float
    held: float
    aperture: Tensor
    """dL/d phase of the aperture and of the propagator; zeros where they were not asked for."""
    propagator: Tensor


@contextmanager
def worker_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each run PyTorch single-threaded: no barrier stalls on a shared machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(
            count, initializer=torch.set_num_threads, initargs=(1,)
        ) as executor:
            yield executor
    finally:
        torch.set_num_threads(before)


class MultisliceSolver:
    """One object being fitted to one set of counts.

    Parameters
    ----------
    experiment
        Calibration; may be replaced between passes with ``recalibrate``.
    canvas
        Object array; positions must fit into it.
    fitted, held_out
        Independent counts of the same positions; only ``fitted`` moves the object.
    """

    def __init__(
        self,
        experiment: Experiment,
        canvas: Canvas,
        fitted: Patterns,
        held_out: Patterns | None,
        settings: SolverSettings,
        device: torch.device | None = None,
        team: Team | None = None,
    ) -> None:
        self.team: Team = team or Alone()
        self.device = device or torch.device("cpu")
        self.canvas = canvas
        self.settings = settings
        self.patterns = fitted
        self.counts = CountStore(fitted, self.device)
        self.held = None if held_out is None else CountStore(held_out, self.device)
        self.electrons = fitted.n_electrons
        self.electrons_held = 0 if held_out is None else held_out.n_electrons
        self.per_pattern = fitted.n_electrons / fitted.n_patterns
        self.floor = settings.floor_fraction * self.per_pattern / fitted.n**2
        self.measured = torch.from_numpy(fitted.measured).to(self.device, torch.float32)
        self.tied = settings.coupling == 0
        shape = (1 if self.tied else experiment.n_slices, *canvas.shape)
        self.slices = torch.zeros(shape, device=self.device)
        self.velocity = torch.zeros(shape, device=self.device)
        self.recalibrate(experiment)

    def start_from(self, phase: Tensor) -> None:
        """Begin with this projected phase, (rows, cols), dealt to all slices alike."""
        self.slices.copy_(phase / self.experiment.n_slices)

    def state(self) -> dict[str, Tensor]:
        """Tensors that the coming passes depend on, besides the experiment."""
        return {"slices": self.slices, "velocity": self.velocity}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Be as at the time of ``state``."""
        self.slices, self.velocity = state["slices"], state["velocity"]

    def recalibrate(self, experiment: Experiment, *, reweigh: bool = True) -> None:
        """Use another calibration from now on; the object stays.

        ``reweigh`` also sums up the illumination anew; small corrections need it once a pass.
        """
        self.experiment = experiment
        positions = experiment.positions_A()[self.patterns.position]
        sampling = experiment.grid.sampling_A
        raster = place(positions, sampling, self.patterns.n, self.canvas)
        self.raster = type(raster)(
            raster.corner.to(self.device), raster.shift_index.to(self.device)
        )
        spectrum = experiment.probe_spectrum() * self.per_pattern**0.5
        probes = shifted_probes(spectrum, experiment.grid, SUB_PIXEL_STEPS)
        self.probes = probes.to(self.device)
        self.H = experiment.propagator().to(self.device)
        if reweigh:
            self.preconditioner = self._preconditioner()

    def reslice(self, n_slices: int) -> None:
        """Share the phase out among another number of equal slices."""
        ratio = self.experiment.n_slices / n_slices
        self.slices, self.velocity = self.slices * ratio, self.velocity * ratio
        self.recalibrate(replace(self.experiment, n_slices=n_slices))

    def _preconditioner(self) -> Tensor:
        """1 / (2 S electrons per object pixel), float32, (rows, cols)."""
        illumination = torch.zeros(self.canvas.shape, device=self.device).view(-1)
        density = self.probes.abs().square()
        everyone = torch.arange(self.patterns.n_patterns, device=self.device)
        for which in torch.split(everyone, 512):
            window = self.raster.window(which, self.patterns.n, self.canvas.shape[1])
            illumination.index_add_(
                0, window.view(-1), density[self.raster.shift_index[which]].view(-1)
            )
        smallest = self.settings.illumination_floor * illumination.max()
        scaled = 1 / (2 * self.experiment.n_slices * (illumination + smallest))
        self.illumination = illumination.view(self.canvas.shape)
        return scaled.view(self.canvas.shape)

    def all_slices(self) -> Tensor:
        """Phase of every slice, float32, (slice, rows, cols), a copy."""
        return self.slices.expand(self.experiment.n_slices, -1, -1).clone()

    def transmission(self) -> Tensor:
        """t_s = exp(i V_s), complex64, (slice or 1, rows, cols)."""
        return torch.polar(torch.ones_like(self.slices), self.slices)

    def run_pass(
        self,
        rng: np.random.Generator,
        executor: ThreadPoolExecutor,
        *,
        on_batch: Callable[[float], None] | None = None,
        on_pulls: Callable[[Pulls, float], None] | None = None,
    ) -> PassResult:
        """Show every pattern once, in random order. ``on_batch`` hears the part that is done.

        ``on_pulls`` gets what each batch says about the global parameters and the part of the
        patterns that it holds; it may recalibrate this solver.
        """
        order = torch.from_numpy(rng.permutation(self.patterns.n_patterns)).to(self.device)
        loss = held = 0.0
        done = 0
        for batch in torch.split(order, self.settings.batch):
            transmission = self.transmission()
            size = CHUNK if self.device.type == "cpu" else len(batch)
            look = partial(
                self.chunk_of, transmission=transmission, with_pulls=on_pulls is not None
            )
            mine = self.team.share(batch)
            parts = list(executor.map(look, torch.split(mine, size) if len(mine) else ()))
            loss += sum(part.loss for part in parts)
            held += sum(part.held for part in parts)
            gradient = self._gradient_of(parts)
            self.team.add_up(gradient)
            if on_pulls is not None:
                pulls = self.pulls_of(parts, gradient)
                self.team.add_up(pulls.aperture, pulls.propagator, pulls.lever)
                on_pulls(pulls, len(batch) / len(order))
            self._step(gradient, len(batch) / len(order))
            done += len(batch)
            if on_batch is not None:
                on_batch(done / len(order))
        sums = torch.tensor([loss, held], dtype=torch.float64, device=self.device)
        self.team.add_up(sums)
        loss, held = sums.tolist()
        return PassResult(
            fitted=loss / max(self.electrons, 1),
            held_out=held / self.electrons_held if self.electrons_held else float("nan"),
        )

    def _gradient_of(self, parts: Sequence["Chunk"]) -> Tensor:
        gradient = torch.zeros_like(self.slices)
        for part in parts:
            gradient.view(len(gradient), -1).index_add_(1, part.window, part.gradient)
        return gradient

    def pulls_of(self, parts: Sequence["Chunk"], gradient: Tensor | None = None) -> Pulls:
        """Sum what chunks say about the global parameters."""
        n = self.patterns.n
        lever = torch.zeros((2, *self.slices.shape), device=self.device)
        aperture, propagator = torch.zeros_like(self.measured), torch.zeros_like(self.measured)
        along = torch.arange(n, device=self.device, dtype=torch.float32) - n // 2
        for part in parts:
            aperture += part.aperture
            propagator += part.propagator
            index = self.raster.shift_index[part.which]
            below = (index // SUB_PIXEL_STEPS / SUB_PIXEL_STEPS)[:, None]
            right = (index % SUB_PIXEL_STEPS / SUB_PIXEL_STEPS)[:, None]
            patches = part.gradient.view(-1, len(part.which), n, n)
            arms = (along - below)[:, :, None], (along - right)[:, None, :]
            for image, arm in zip(lever, arms, strict=True):
                weighted = (patches * arm).reshape(len(patches), -1)
                image.view(len(patches), -1).index_add_(1, part.window, weighted)
        full = self._gradient_of(parts) if gradient is None else gradient
        return Pulls(aperture, propagator, lever, full)

    def _send(
        self, which: Tensor, transmission: Tensor, *, keep_spectra: bool
    ) -> tuple[Tensor, Tensor, Tensor, Waves]:
        """Windows, probes, transmission functions and waves of some patterns."""
        n = self.patterns.n
        window = self.raster.window(which, n, self.canvas.shape[1]).view(-1)
        flat = transmission.view(len(transmission), -1)
        slices = torch.stack([layer.index_select(0, window) for layer in flat])
        slices = slices.view(-1, len(which), n, n)
        slices = slices.expand(self.experiment.n_slices, -1, -1, -1)
        probes = self.probes[self.raster.shift_index[which]][:, None]
        return window, probes, slices, forward(probes, slices, self.H, keep_spectra=keep_spectra)

    def expected(self, which: Tensor, transmission: Tensor) -> Tensor:
        """Expected electrons of some patterns, float32, (batch, n, n)."""
        waves = self._send(which, transmission, keep_spectra=False)[3]
        return waves.intensity() * self.measured

    def chunk_of(self, which: Tensor, transmission: Tensor, *, with_pulls: bool) -> "Chunk":
        """Likelihood and gradients of some patterns with the object as it is."""
        window, probes, slices, waves = self._send(which, transmission, keep_spectra=with_pulls)
        intensity = waves.intensity()
        counts = self.counts.dense(which)
        factor = poisson_factor(intensity, counts, self.measured, self.floor)
        loss = poisson_loss(intensity * self.measured, counts, self.floor)
        held = 0.0
        if self.held is not None:
            ratio = self.electrons_held / self.electrons
            expected = ratio * intensity * self.measured
            held = float(poisson_loss(expected, self.held.dense(which), ratio * self.floor))
        propagator, aperture = torch.zeros_like(self.measured), torch.zeros_like(self.measured)
        gradient, entering = backward(
            waves, slices, self.H, factor, tied=self.tied,
            propagator_pull=propagator if with_pulls else None,
        )  # fmt: skip
        if with_pulls:
            aperture = overlap(torch.fft.fft2(entering), torch.fft.fft2(probes))
        gradient = gradient.reshape(len(gradient), -1)
        return Chunk(which, window, gradient, float(loss), held, aperture, propagator)

    def _step(self, gradient: Tensor, share: float) -> None:
        if self.settings.variation:
            gradient = gradient + share * self.settings.variation * variation_gradient(self.slices)
        mean = gradient.sum(dim=0, keepdim=True) / self.experiment.n_slices
        coupled = mean if self.tied else mean + self.settings.coupling * (gradient - mean)
        self.velocity.mul_(self.settings.momentum)
        self.velocity.sub_(coupled * (self.settings.step * self.preconditioner))
        self.slices.add_(self.velocity)
        if self.settings.positivity:
            self.slices.clamp_(min=0)
