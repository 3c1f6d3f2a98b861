"""The counts and the forward model as a function of object and probe, with its gradient.

The same multislice model and hand-written adjoint as the default engine, for any likelihood and any
number of incoherent probe modes. Positions may be shifted one by one.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.execution import Team
from recon.patterns import Patterns
from recon.ptychography.counts import CountStore
from recon.ptychography.experiment import Experiment
from recon.ptychography.multislice import backward, forward
from recon.ptychography.optics import sub_pixel_ramps
from recon.ptychography.patches import add_patches, cut_patches
from recon.ptychography.raster import SUB_PIXEL_STEPS, Canvas, Raster, place
from recon.ptychography.solver import PassResult
from recon.solvers.likelihood import Name, losses, slopes

CHUNK, GROUP = 64, 1024
"""Patterns per worker call; and those whose results wait at the same time."""


@dataclass
class Evaluation:
    """Sums over patterns: losses, and gradients by object, probe spectra and positions."""

    fitted: float
    """The likelihood that is climbed."""
    held_out: float
    """Always Poisson, so that likelihoods can be compared."""
    gradient: Tensor
    """By the phase of every slice, or of the one that stands for all, float32."""
    probe: Tensor | None
    """By the conjugate spectra, complex64, (mode, n, n)."""


@dataclass(frozen=True)
class Data:
    """Fitted and held-out counts of the same positions."""

    fitted: Patterns
    held_out: Patterns | None
    likelihood: Name
    floor_fraction: float


class Problem:
    """Everything but the unknowns: object and probe spectra are arguments."""

    def __init__(
        self,
        experiment: Experiment,
        canvas: Canvas,
        data: Data,
        device: torch.device,
        team: Team,
        *,
        tied: bool,
    ) -> None:
        self.experiment, self.canvas, self.device, self.team = experiment, canvas, device, team
        self.patterns, self.likelihood, self.tied = data.fitted, data.likelihood, tied
        self.counts = CountStore(data.fitted, device)
        self.held = None if data.held_out is None else CountStore(data.held_out, device)
        self.electrons = data.fitted.n_electrons
        self.electrons_held = 0 if data.held_out is None else data.held_out.n_electrons
        self.per_pattern = self.electrons / data.fitted.n_patterns
        self.floor = data.floor_fraction * self.per_pattern / data.fitted.n**2
        self.measured = torch.from_numpy(data.fitted.measured).to(device, torch.float32)
        self.H = experiment.propagator().to(device)
        self.shift_A: NDArray[np.float64] = np.zeros((data.fitted.n_patterns, 2))
        self.ramps = sub_pixel_ramps(experiment.grid, SUB_PIXEL_STEPS).to(device)
        self.raster = self._raster()

    @property
    def n(self) -> int:
        """Pixels along a side of a pattern."""
        return self.patterns.n

    def move_positions(self, by_A: NDArray[np.float64]) -> None:
        """Shift every pattern's position, (pattern, 2), Å, from the calibrated raster."""
        self.shift_A = by_A
        self.raster = self._raster()

    def _raster(self) -> Raster:
        positions = self.experiment.positions_A()[self.patterns.position] + self.shift_A
        raster = place(positions, self.experiment.grid.sampling_A, self.n, self.canvas)
        return Raster(raster.corner.to(self.device), raster.shift_index.to(self.device))

    def probe_table(self, spectra: Tensor) -> Tensor:
        """Probes in real space at every sub-pixel shift, complex64, (shift, mode, n, n)."""
        return torch.fft.ifft2(spectra[None] * self.ramps[:, None], norm="ortho")

    def illumination(self, table: Tensor) -> Tensor:
        """Electrons through every object pixel in a pass, float32, (rows, cols)."""
        total = torch.zeros((1, *self.canvas.shape), device=self.device)
        density = table.abs().square().sum(dim=1)
        for which in torch.split(torch.arange(self.patterns.n_patterns, device=self.device), CHUNK):
            lit = density.index_select(0, self.raster.shift_index[which])
            add_patches(total, self.raster.corner[which], lit[None])
        return total[0]

    def evaluate(
        self,
        slices: Tensor,
        spectra: Tensor,
        which: Tensor,
        executor: ThreadPoolExecutor,
        *,
        with_probe: bool = False,
    ) -> Evaluation:
        """Losses and gradients of the patterns ``which``, shared by the team.

        Parameters
        ----------
        slices
            Phase, float32, (slice, rows, cols), or (1, rows, cols) where all are the same.
        spectra
            Probe modes in reciprocal space, complex64, (mode, n, n), whose power is the electrons
            per pattern.
        """
        transmission = torch.polar(torch.ones_like(slices), slices)
        table = self.probe_table(spectra)
        gradient = torch.zeros_like(slices)
        probe = torch.zeros_like(spectra) if with_probe else None
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        mine = self.team.share(which)
        size = CHUNK if self.device.type == "cpu" else 4 * CHUNK
        for group in torch.split(mine, GROUP) if len(mine) else ():
            for part in executor.map(
                lambda chunk: self._chunk(chunk, transmission, table, with_probe),
                torch.split(group, size),
            ):
                add_patches(gradient, part.corner, part.gradient)
                sums += part.losses.to(self.device)
                if probe is not None and part.probe is not None:
                    probe += part.probe
        self.team.add_up(gradient, sums)
        if probe is not None:
            self.team.add_up(torch.view_as_real(probe))
        loss, held = sums.tolist()
        return Evaluation(loss, held, gradient, probe)

    def expected_losses(
        self, slices: Tensor, spectra: Tensor, executor: ThreadPoolExecutor
    ) -> tuple[float, float]:
        """Fitted and held-out loss of all patterns, summed."""
        everyone = torch.arange(self.patterns.n_patterns, device=self.device)
        probe = spectra.to(self.device, torch.complex64)
        found = self.evaluate(slices.to(self.device), probe, everyone, executor)
        return found.fitted, found.held_out

    def pass_result(self, fitted: float, held: float) -> PassResult:
        """Sums of losses over a pass, per electron."""
        return PassResult(
            fitted=fitted / max(self.electrons, 1),
            held_out=held / self.electrons_held if self.electrons_held else float("nan"),
        )

    def gather(self, transmission: Tensor, which: Tensor) -> Tensor:
        """Transmission in the windows, complex (slice, batch, n, n)."""
        slices = cut_patches(transmission, self.raster.corner[which], self.n)
        return slices.expand(self.experiment.n_slices, -1, -1, -1)

    def _chunk(
        self, which: Tensor, transmission: Tensor, table: Tensor, with_probe: bool
    ) -> "_Part":
        slices = self.gather(transmission, which)
        index = self.raster.shift_index[which]
        waves = forward(table[index], slices, self.H)
        intensity = waves.intensity()
        counts = self.counts.dense(which)
        factor = self.measured * slopes(self.likelihood, intensity, counts, self.floor)
        loss = self.measured * losses(self.likelihood, intensity, counts, self.floor)
        held = torch.zeros((), dtype=torch.float64)
        if self.held is not None:
            ratio = self.electrons_held / self.electrons
            unseen = self.held.dense(which)
            poisson = losses("poisson", ratio * intensity, unseen, ratio * self.floor)
            held = (self.measured * poisson).sum(dtype=torch.float64)
        missing = waves.detector.conj() * (-2 * factor[:, None])
        gradient, entering = backward(
            waves, slices, self.H, missing, tied=self.tied, to_probe=with_probe
        )
        probe = None
        if with_probe:
            spectrum = torch.fft.fft2(-entering.conj() / 2, norm="ortho")
            probe = (spectrum * self.ramps[index].conj()[:, None]).sum(dim=0)
        both = torch.stack([loss.sum(dtype=torch.float64), held.to(loss.device)])
        return _Part(self.raster.corner[which], gradient, both, probe)


@dataclass
class _Part:
    """What one worker hands back."""

    corner: Tensor
    gradient: Tensor
    losses: Tensor
    probe: Tensor | None
