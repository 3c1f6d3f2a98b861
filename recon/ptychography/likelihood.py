"""Poisson likelihood of counted electrons with a background floor.

    L = sum_pixels m I - y log(I + b),   dL/dI = m - y / (I + b)

with y electrons where I + b are expected and m = 1 where the detector measures. The floor b stands
for what the model cannot explain (diffuse and inelastic background); it bounds the gradient of an
electron where the model expects none. Likelihoods are comparable at one floor only.

A specimen of pure phases loses no electron: the sum of I is known, and with it all that the pixels
without an electron say. ``sparse_losses`` and ``missing_wave`` look at the hits only, and at the
pixels where nothing was measured.
"""

import torch
from torch import Tensor

from recon.ptychography.counts import Hits


def poisson_loss(intensity: Tensor, counts: Tensor, floor: float) -> Tensor:
    """Negative log-likelihood without the constant log(y!), summed over all pixels, scalar.

    ``intensity`` and ``counts`` are float32 (batch, n, n) electrons per pixel; ``floor`` is above
    zero, so that the logarithm is finite.
    """
    expected = intensity + floor
    return (expected - counts * torch.log(expected)).sum(dtype=torch.float64)


def poisson_factor(intensity: Tensor, counts: Tensor, measured: Tensor, floor: float) -> Tensor:
    """dL/dI, float32, (batch, n, n); ``measured`` is float32 (n, n), one where pixels look."""
    return measured - counts / (intensity + floor)


def sparse_losses(
    intensity: Tensor, hits: Hits, *, expected: Tensor, floor: float, shares: Tensor, pixels: int
) -> Tensor:
    """``poisson_loss`` of both sets of electrons from what lies under them, float64, (set,).

    Parameters
    ----------
    intensity
        I at the hits, float32, in fitted electrons.
    expected
        Sum of I over all patterns and pixels that measure.
    shares
        Electrons of each set per fitted one, float64, (set,): 1 and that of the held-out ones.
    pixels
        Pixels of all patterns together, each of which expects the floor.
    """
    electrons = hits.electrons.double()
    explained = electrons @ torch.log(intensity + floor).double()
    explained += electrons.sum(dim=1) * torch.log(shares)
    return shares * (expected + pixels * floor) - explained


def missing_wave(
    detector: Tensor, hits: Hits, blind: Tensor, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What ``multislice.backward`` takes, and the intensities that were needed for it.

    Parameters
    ----------
    detector
        Psi of one mode, complex64, (batch, n, n); its memory is used for the first result.
    blind
        Flat indices (n, n) of the pixels that do not measure.

    Returns
    -------
    Tensor, complex64, (batch, n, n)
        conj(-2 (dL/dI - 1) Psi): zero but at the hits and where nothing is measured.
    Tensor, float32, (hit,)
        I at the hits.
    Tensor, scalar
        Electrons expected where nothing is measured.
    """
    flat = detector.view(len(detector), -1)
    under = flat.view(-1).index_select(0, hits.index)
    intensity = under.abs().square_()
    weight = hits.electrons[0] / (intensity + floor)
    lacking = under.conj_physical_().mul_(weight.mul_(2))
    outside = flat[:, blind] if len(blind) else None
    missing = detector.zero_()
    missing.view(-1).scatter_(0, hits.index, lacking)
    if outside is None:
        return missing, intensity, weight.new_zeros(())
    flat[:, blind] = 2 * outside.conj()
    return missing, intensity, outside.abs().square_().sum()
