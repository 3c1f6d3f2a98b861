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

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from recon.execution import Alone, Team
from recon.patterns import Patterns
from recon.ptychography.chunks import Chunk, Illumination, look
from recon.ptychography.counts import CountStore, Hits
from recon.ptychography.experiment import Experiment
from recon.ptychography.likelihood import sparse_losses
from recon.ptychography.optics import sub_pixel_ramps
from recon.ptychography.patches import add_patches
from recon.ptychography.pulls import Pulls
from recon.ptychography.raster import SUB_PIXEL_STEPS, Canvas, place
from recon.ptychography.variation import variation_gradient

CHUNK = 32
"""Patterns of 64 x 64 pixels per worker call: their waves fit a processor cache."""


def chunk_size(n: int) -> int:
    """Patterns of n x n pixels per worker call."""
    return max(1, CHUNK * 64**2 // n**2)


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


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """PyTorch on the calling thread alone: on a busy machine its threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def worker_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that each run PyTorch single-threaded: no barrier stalls on a shared machine."""
    with (
        one_torch_thread(),
        ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as executor,
    ):
        yield executor


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
        self.held_out = held_out
        self.counts = CountStore(fitted, self.device, held_out)
        self.electrons = fitted.n_electrons
        self.electrons_held = 0 if held_out is None else held_out.n_electrons
        self.per_pattern = fitted.n_electrons / fitted.n_patterns
        self.floor = settings.floor_fraction * self.per_pattern / fitted.n**2
        self.measured = torch.from_numpy(fitted.measured).to(self.device, torch.float32)
        self.blind = torch.from_numpy(np.flatnonzero(~fitted.measured)).to(self.device)
        shares = [1.0] if held_out is None else [1.0, held_out.n_electrons / max(self.electrons, 1)]
        self.shares = torch.tensor(shares, dtype=torch.float64, device=self.device)
        self.ramps = sub_pixel_ramps(experiment.grid, SUB_PIXEL_STEPS).to(self.device)
        self.tied = settings.coupling == 0
        self.haste = 1.0
        """Multiple of the step that is taken; ``recon.haste`` knows which."""
        shape = (1 if self.tied else experiment.n_slices, *canvas.shape)
        self.slices = torch.zeros(shape, device=self.device)
        self.velocity = torch.zeros(shape, device=self.device)
        self.recalibrate(experiment)

    def start_from(self, phase: Tensor) -> None:
        """Begin with this projected phase, (rows, cols), dealt to all slices alike."""
        self.slices.copy_(phase / self.experiment.n_slices)

    def take(self, slices: Tensor) -> None:
        """Go on from these slices, (slice, rows, cols), at rest."""
        self.slices = slices[: len(self.slices)].clone()
        self.velocity = torch.zeros_like(self.slices)

    def freed(self) -> "MultisliceSolver":
        """Another solver of the same counts and object, at rest, with free slices."""
        free = MultisliceSolver(
            self.experiment, self.canvas, self.patterns, self.held_out,
            replace(self.settings, coupling=1.0), self.device, self.team,
        )  # fmt: skip
        free.take(self.all_slices())
        return free

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
        raster = place(positions, experiment.grid.sampling_A, self.patterns.n, self.canvas)
        spectrum = (experiment.probe_spectrum() * self.per_pattern**0.5).to(self.ramps)
        self.lit = Illumination(
            raster=raster.to(self.device),
            probes=torch.fft.ifft2(spectrum * self.ramps, norm="ortho"),
            H=experiment.propagator().to(self.device),
            n_slices=experiment.n_slices,
            blind=self.blind,
        )
        if reweigh:
            self.preconditioner = self._preconditioner()

    def reslice(self, n_slices: int) -> None:
        """Share the phase out among another number of equal slices."""
        ratio = self.experiment.n_slices / n_slices
        self.slices, self.velocity = self.slices * ratio, self.velocity * ratio
        self.recalibrate(replace(self.experiment, n_slices=n_slices))

    def _preconditioner(self) -> Tensor:
        """1 / (2 S electrons per object pixel), float32, (rows, cols)."""
        illumination = torch.zeros((1, *self.canvas.shape), device=self.device)
        density = self.lit.probes.real.square() + self.lit.probes.imag.square()
        size = self._chunk_size()
        for first in range(0, self.patterns.n_patterns, size):
            raster = self.lit.raster.part(first, first + size)
            lit = density.index_select(0, raster.shift_index)
            add_patches(illumination, raster.corner, lit[None])
        smallest = self.settings.illumination_floor * illumination.max()
        self.illumination = illumination[0]
        return 1 / (2 * self.experiment.n_slices * (self.illumination + smallest))

    def all_slices(self) -> Tensor:
        """Phase of every slice, float32, (slice, rows, cols), a copy."""
        return self.slices.expand(self.experiment.n_slices, -1, -1).clone()

    def transmission(self) -> Tensor:
        """t_s = exp(i V_s), complex64, (slice or 1, rows, cols)."""
        # several times faster than torch.polar
        return torch.complex(self.slices.cos(), self.slices.sin())

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
        order = torch.from_numpy(rng.permutation(self.patterns.n_patterns))
        batches = [self.team.share(batch) for batch in torch.split(order, self.settings.batch)]
        losses = torch.zeros_like(self.shares)
        hits = self.counts.hits(batches[0])
        for number, batch in enumerate(batches):
            size = min(self.settings.batch, len(order) - number * self.settings.batch)
            share = size / len(order)
            # the next batch is made ready while this one is looked at
            coming = executor.submit(self.counts.hits, batches[(number + 1) % len(batches)])
            pulls, of_batch = self.look(batch, executor, hits, with_pulls=on_pulls is not None)
            hits = coming.result()
            losses += of_batch
            self.team.add_up(pulls.gradient)
            if on_pulls is not None:
                self.team.add_up(pulls.aperture, pulls.propagator, pulls.lever)
                on_pulls(pulls, share)
            self._step(pulls.gradient, share)
            if on_batch is not None:
                on_batch((number * self.settings.batch + size) / len(order))
        self.team.add_up(losses)
        fitted, *held = losses.tolist()
        return PassResult(
            fitted=fitted / max(self.electrons, 1),
            held_out=held[0] / self.electrons_held if self.electrons_held else float("nan"),
        )

    def look(
        self,
        which: Tensor,
        executor: ThreadPoolExecutor,
        hits: Hits | None = None,
        *,
        with_pulls: bool,
    ) -> tuple[Pulls, Tensor]:
        """Sums over the patterns ``which``: gradient, pulls if asked for, losses float64 (set,)."""
        hits = self.counts.hits(which) if hits is None else hits
        raster = self.lit.raster.of(which.to(self.device))
        gradient = torch.zeros_like(self.slices)
        flat = torch.zeros_like(self.measured)
        lever = torch.zeros((2 if with_pulls else 0, *self.slices.shape), device=self.device)
        pulls = Pulls(flat, flat.clone(), lever, gradient)
        see = partial(
            look, self.lit, transmission=self.transmission(), floor=self.floor,
            with_pulls=with_pulls,
        )  # fmt: skip
        size, n_patterns = self._chunk_size(), len(which)
        parts = [(i, min(i + size, n_patterns)) for i in range(0, n_patterns, size)]
        rasters = [raster.part(*part) for part in parts]
        some = [hits.part(*part, self.patterns.n**2) for part in parts]
        intensity, unseen = [torch.zeros(0, device=self.device)], torch.zeros_like(self.shares[0])
        # one after the other as they come: the same sum every time, while others are computed
        for chunk in executor.map(see, rasters, some):
            intensity.append(chunk.intensity)
            unseen += chunk.unseen
            add_patches(gradient, chunk.raster.corner, chunk.gradient)
            if with_pulls:
                _add_pulls(pulls, chunk)
        losses = sparse_losses(
            torch.cat(intensity),
            hits,
            expected=n_patterns * self.per_pattern - unseen,
            floor=self.floor,
            shares=self.shares,
            pixels=n_patterns * self.patterns.n**2,
        )
        return pulls, losses

    def _chunk_size(self) -> int:
        """Patterns per worker call: few on a processor, as many as come on a GPU."""
        return chunk_size(self.patterns.n) if self.device.type == "cpu" else 1 << 20

    def expected(self, which: Tensor, transmission: Tensor) -> Tensor:
        """Expected electrons of some patterns, float32, (batch, n, n)."""
        _, waves = self.lit.send(self.lit.raster.of(which), transmission)
        return waves.intensity() * self.measured

    def _step(self, gradient: Tensor, share: float) -> None:
        if self.settings.variation:
            gradient = gradient + share * self.settings.variation * variation_gradient(self.slices)
        if not self.tied:
            total = gradient.sum(dim=0, keepdim=True)
            apart = self.experiment.n_slices * gradient - total
            gradient = total + self.settings.coupling * apart
        self.velocity.mul_(self.settings.momentum)
        eta = self.haste * self.settings.step / self.experiment.n_slices
        self.velocity.addcmul_(gradient, self.preconditioner, value=-eta)
        self.slices.add_(self.velocity)
        if self.settings.positivity:
            self.slices.clamp_(min=0)


def _add_pulls(pulls: Pulls, chunk: Chunk) -> None:
    """Take in what a chunk says besides its gradient."""
    if chunk.lever is None or chunk.aperture is None or chunk.propagator is None:
        raise ValueError("the chunk was looked at without pulls")
    pulls.aperture += chunk.aperture
    pulls.propagator += chunk.propagator
    for image, arm in zip(pulls.lever, chunk.lever, strict=True):
        add_patches(image, chunk.raster.corner, arm)
