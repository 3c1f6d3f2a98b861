"""What a few patterns tell about the global parameters: Fisher information by differences.

On a random subset of the patterns the forward model is run once as it is and once per parameter
with that parameter nudged, the object following its frame:  F_ij = sum dI_i dI_j / (I + b).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.ptychography.counts import CountStore
from recon.ptychography.experiment import Experiment
from recon.ptychography.frame import FrameChange, slopes
from recon.ptychography.likelihood import poisson_factor
from recon.ptychography.multislice import forward
from recon.ptychography.raster import Canvas
from recon.ptychography.unknowns import Unknown, nudged

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Fitted:
    """The object and its data, as the joint step needs them.

    ``slices`` is (1, rows, cols) where all slices are the same.
    """

    experiment: Experiment
    canvas: Canvas
    slices: Tensor
    counts: CountStore
    position: NDArray[np.int64]
    measured: Tensor
    per_pattern: float
    floor: float


@dataclass(frozen=True)
class _Windows:
    """Object patches of some patterns, their slopes, and the pixels about the probe's centre."""

    patches: Tensor
    slope: tuple[Tensor, Tensor]
    arm: tuple[Tensor, Tensor]
    probes_part_A: Tensor

    def moved(self, change: FrameChange) -> Tensor:
        """First-order change of the patches in a frame that turns about each probe."""
        if not (change.strain.any() or change.shift_px.any()):
            return self.patches
        (a, b), (c, d) = change.strain.tolist()
        ty, tx = change.shift_px.tolist()
        y, x = self.arm
        out = self.patches - self.slope[0] * (a * y + b * x + ty)
        return out - self.slope[1] * (c * y + d * x + tx)


def _windows(fit: Fitted, which: Tensor, slope: tuple[Tensor, Tensor]) -> _Windows:
    n, sampling = fit.experiment.grid.n, fit.experiment.grid.sampling_A
    device = fit.slices.device
    chosen = fit.position[which.cpu().numpy()]
    corner = fit.experiment.positions_A()[chosen] / sampling
    corner += np.array(fit.canvas.scan_centre_px) - n // 2
    last = np.array(fit.canvas.shape) - n
    whole = np.clip(np.floor(corner).astype(np.int64), 0, last)
    part = torch.from_numpy(corner - whole).to(device, torch.float32)
    start = torch.from_numpy(whole).to(device)
    along = torch.arange(n, device=device)
    rows = (start[:, 0, None] + along) * fit.canvas.shape[1]
    window = (rows[:, :, None] + (start[:, 1, None] + along)[:, None, :]).view(-1)

    def cut(image: Tensor) -> Tensor:
        return image.reshape(len(image), -1)[:, window].view(-1, len(which), n, n)

    reach = along.to(torch.float32) - n // 2
    arm = (reach - part[:, 0, None])[:, :, None], (reach - part[:, 1, None])[:, None, :]
    return _Windows(
        cut(fit.slices), (cut(slope[0]), cut(slope[1])), arm, (part + n // 2) * sampling
    )


def predict(fit: Fitted, windows: _Windows, experiment: Experiment) -> Tensor:
    """Expected electrons, (batch, n, n), at exact (unrounded) positions, were ``experiment`` true.

    The object follows its frame; turning everything about the probe instead of the centre of the
    scan changes no intensity and keeps the first order small.
    """
    device = fit.slices.device
    ky, kx = (k.to(device, torch.float32) for k in experiment.grid.frequencies())
    part = windows.probes_part_A
    walk = part[:, 0, None, None] * ky + part[:, 1, None, None] * kx
    spectrum = (experiment.probe_spectrum() * fit.per_pattern**0.5).to(device, torch.complex64)
    probes = torch.fft.ifft2(spectrum * torch.exp(-2j * torch.pi * walk), norm="ortho")
    patches = windows.moved(FrameChange.between(fit.experiment, experiment))
    transmission = torch.polar(torch.ones_like(patches), patches)
    transmission = transmission.expand(experiment.n_slices, -1, -1, -1)
    return forward(probes[:, None], transmission, experiment.propagator().to(device)).intensity()


def information(
    fit: Fitted, unknowns: tuple[Unknown, ...], which: Tensor, executor: ThreadPoolExecutor
) -> tuple[Float, Float]:
    """Gradient and Fisher information summed over the patterns ``which``."""
    trials = [nudged(fit.experiment, u.name, u.nudge) for u in unknowns]
    slope = slopes(fit.slices)

    def of_chunk(chunk: Tensor) -> tuple[Float, Float]:
        windows = _windows(fit, chunk, slope)
        base = predict(fit, windows, fit.experiment)
        counts = fit.counts.dense(chunk)
        residual = poisson_factor(base, counts, fit.measured, fit.floor).view(-1)
        weight = (fit.measured / (base + fit.floor)).view(-1)
        changes = torch.stack(
            [
                (predict(fit, windows, trial) - base).view(-1) / unknown.nudge
                for trial, unknown in zip(trials, unknowns, strict=True)
            ]
        )
        gradient = (changes @ residual).cpu().double().numpy()
        return gradient, ((changes * weight) @ changes.T).cpu().double().numpy()

    parts = list(executor.map(of_chunk, torch.split(which, 32)))
    gradient: Float = np.sum([part[0] for part in parts], axis=0)
    fisher: Float = np.sum([part[1] for part in parts], axis=0)
    return gradient, fisher
