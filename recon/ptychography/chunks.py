"""What a few patterns say: their likelihood, its gradient by the object, and by-products of that.

The by-products are sums over patterns from which the derivatives by every global parameter follow
(``recon.ptychography.pulls``).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.ptychography.counts import Hits
from recon.ptychography.likelihood import missing_wave
from recon.ptychography.multislice import Waves, backward, forward
from recon.ptychography.patches import cut_patches
from recon.ptychography.raster import SUB_PIXEL_STEPS, Raster


@dataclass(frozen=True)
class Illumination:
    """How every pattern was taken: a calibration, as the kernel needs it."""

    raster: Raster
    probes: Tensor
    """At every sub-pixel shift, complex64, (shift, n, n), normalised to the electrons."""
    H: Tensor
    n_slices: int
    blind: Tensor
    """Flat indices of the pixels that do not measure."""

    @property
    def n(self) -> int:
        """Pixels along a side of a pattern."""
        return len(self.H)

    def send(
        self, raster: Raster, transmission: Tensor, *, keep_spectra: bool = False
    ) -> tuple[Tensor, Waves]:
        """Transmission functions in the windows, (slice, batch, n, n), and the waves behind them.

        ``raster`` is a part of the whole; ``transmission`` is complex64 (slice, rows, cols), or
        (1, rows, cols) for equal slices.
        """
        windows = cut_patches(transmission, raster.corner, self.n)
        windows = windows.expand(self.n_slices, -1, -1, -1)
        probes = self.probes.index_select(0, raster.shift_index)[:, None]
        waves = forward(probes, windows, self.H, keep_spectra=keep_spectra, consume=True)
        return windows, waves


@dataclass(frozen=True)
class Chunk:
    """What a worker found out about some patterns."""

    raster: Raster
    gradient: Tensor
    """dL/dV in the windows, float32, (layer, batch, n, n)."""
    intensity: Tensor
    """Expected electrons at the hits, float32, (hit,)."""
    unseen: Tensor
    """Electrons expected where nothing is measured."""
    lever: tuple[Tensor, Tensor] | None = None
    """dL/dV times the way (row, col) from the probe's centre, pixels."""
    aperture: Tensor | None = None
    """dL/d phase of the aperture, float32 (n, n)."""
    propagator: Tensor | None = None
    """dL/d phase of the free space between slices, float32 (n, n)."""


def look(
    lit: Illumination,
    raster: Raster,
    hits: Hits,
    transmission: Tensor,
    *,
    floor: float,
    with_pulls: bool,
) -> Chunk:
    """Likelihood and gradients of some patterns with the object as it is."""
    windows, waves = lit.send(raster, transmission, keep_spectra=with_pulls)
    missing, intensity, unseen = missing_wave(waves.detector[:, 0], hits, lit.blind, floor)
    propagator = torch.zeros_like(lit.H.real) if with_pulls else None
    gradient, entering = backward(
        waves, windows, lit.H, missing[:, None], tied=len(transmission) == 1, to_probe=with_pulls,
        propagator_pull=propagator,
    )  # fmt: skip
    if not with_pulls:
        return Chunk(raster, gradient, intensity, unseen)
    down, right = _arms(raster.shift_index, lit.n)
    return Chunk(
        raster,
        gradient,
        intensity,
        unseen,
        lever=(gradient * down, gradient * right),
        aperture=_aperture_pull(entering[:, 0], lit.probes.index_select(0, raster.shift_index)),
        propagator=propagator,
    )


def _aperture_pull(entering: Tensor, probes: Tensor) -> Tensor:
    """dL/d phase of the aperture, float32 (n, n), from what the entrance waves lack."""
    return -(torch.fft.ifft2(entering) * torch.fft.fft2(probes)).sum(dim=0).imag


def _arms(shift: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Way of each pixel from the centre of its probe, (batch, n, 1) rows and (batch, 1, n) cols."""
    along = torch.arange(n, device=shift.device, dtype=torch.float32) - n // 2
    below = (shift // SUB_PIXEL_STEPS / SUB_PIXEL_STEPS)[:, None]
    right = (shift % SUB_PIXEL_STEPS / SUB_PIXEL_STEPS)[:, None]
    return (along - below)[:, :, None], (along - right)[:, None, :]
