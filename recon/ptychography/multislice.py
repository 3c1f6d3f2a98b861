"""The forward model and its adjoint, written by hand.

    psi_{s+1} = F^-1[H F[t_s psi_s]],   t_s = exp(i V_s),   I = |F[t_S psi_S]|^2

For a real loss L with dL/dI = f, the wave that the detector misses is r = -2 f Psi; each step back
multiplies with the conjugate of what the step forward multiplied with, and

    dL/dV_s = -Im(r_s conj(t_s psi_s)),   r_s: what is missing after slice s.

The adjoint carries c = conj(r): the conjugate of F^-1[H* F[r]] is F[H F^-1[c]], so that no
transmission function, propagator or wave has to be conjugated, and dL/dV_s = Im(c_s t_s psi_s).
Where f is the same in all pixels nothing is missing: a constant may be left out of f, for no
phase changes the number of electrons. Per pattern 2S - 1 FFTs forward and as many back.

Between FFTs the memory is what counts: whatever can is done in place, so that the waves of a few
patterns stay in a processor cache, and 1 / n^2 of the inverse FFT is left to H.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fft import fft2, ifft2


@dataclass
class Waves:
    """What the adjoint needs to remember, and uses up, and the wave in the detector."""

    after: list[Tensor]
    """t_s psi_s of every slice, complex64, (batch, mode, n, n)."""
    detector: Tensor
    """Psi, complex64, (batch, mode, n, n)."""
    arriving: list[Tensor]
    """H F[t_s psi_s] at every slice but the first, if they were to be kept."""

    def intensity(self) -> Tensor:
        """Expected electrons per pixel, float32, (batch, n, n)."""
        return (self.detector.real.square() + self.detector.imag.square()).sum(dim=1)


def forward(
    probes: Tensor,
    slices: Tensor,
    H: Tensor,
    *,
    keep_spectra: bool = False,
    consume: bool = False,
) -> Waves:
    """Send a batch of probes through the specimen.

    Parameters
    ----------
    probes
        Entrance waves, complex64, (batch, mode, n, n), normalised to the electrons per pattern.
    slices
        Transmission functions, complex64, (slice, batch, n, n).
    H
        Propagator between slices, complex64, (n, n), zero frequency at [0, 0].
    keep_spectra
        Also keep what ``backward`` needs for the derivative by the propagator.
    consume
        The probes' memory may be used.
    """
    H = _unscaled(H)
    first, *lower = slices.unsqueeze(2)
    after = [probes.mul_(first) if consume else probes * first]
    arriving: list[Tensor] = []
    for t in lower:
        spectrum = fft2(after[-1]).mul_(H)
        if keep_spectra:
            arriving.append(spectrum)
        after.append(ifft2(spectrum, norm="forward").mul_(t))
    return Waves(after, fft2(after[-1], norm="ortho"), arriving)


def backward(
    waves: Waves,
    slices: Tensor,
    H: Tensor,
    missing: Tensor,
    *,
    tied: bool = False,
    to_probe: bool = True,
    propagator_pull: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient of the loss by the phase of every slice, and what the entrance wave lacks.

    Uses up what the waves remember: ``after`` holds no waves any more.

    Parameters
    ----------
    missing
        c in the detector, conj(-2 f Psi), complex64, (batch, mode, n, n).
    tied
        The slices are one and the same phase: return the sum over slices.
    to_probe
        Take the last step, too; without it the second tensor means nothing.
    propagator_pull
        If given, float32 (n, n): dL/d phase of the propagator is added to it; needs the spectra.

    Returns
    -------
    Tensor, float32, (slice or 1, batch, n, n); Tensor, complex64, (batch, mode, n, n)
        The second is c at the entrance: -2 times the conjugate of dL/d psi*.
    """
    H = _unscaled(H)
    c = fft2(missing, norm="ortho")
    products: list[Tensor] = []
    overlap: Tensor | None = None
    for s, t in reversed(list(enumerate(slices.unsqueeze(2)))):
        after = waves.after.pop()
        if tied and products:
            products[0].addcmul_(c, after)
        else:
            products.append(after.mul_(c))
        if s or to_probe:
            c.mul_(t)
        if s:
            c = ifft2(c, norm="forward")
            if propagator_pull is not None:
                arriving = waves.arriving.pop().mul_(c)
                overlap = arriving if overlap is None else overlap.add_(arriving)
            c = fft2(c.mul_(H))
    if propagator_pull is not None and overlap is not None:
        propagator_pull -= overlap.sum(dim=(0, 1)).imag
    gradients = [_over_modes(product).imag for product in reversed(products)]
    return torch.stack(gradients) if len(gradients) > 1 else gradients[0][None], c


def _unscaled(H: Tensor) -> Tensor:
    """H for inverse FFTs that do not divide by the number of pixels."""
    return H * (1 / H.numel())


def _over_modes(product: Tensor) -> Tensor:
    """Sum over the modes, (batch, n, n); one mode is not copied."""
    return product.sum(dim=1) if product.shape[1] > 1 else product[:, 0]
