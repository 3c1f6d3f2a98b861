"""The forward model and its adjoint, written by hand.

    psi_{s+1} = F^-1[H F[t_s psi_s]],   t_s = exp(i V_s),   I = |F[t_S psi_S]|^2

For a real loss L with dL/dI = f, the gradient with respect to the conjugate wave in the detector is
f Psi; each step back multiplies with the conjugate of what the step forward multiplied with, and

    dL/dV_s = 2 Im(g_s conj(t_s psi_s)),   g_s = dL/d(t_s psi_s)*.

Per pattern 2S - 1 FFTs forward and as many back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fft import fft2, ifft2


@dataclass
class Waves:
    """What the adjoint needs to remember: waves after each slice, and the wave in the detector."""

    after: list[Tensor]
    """t_s psi_s of every slice, complex64, (batch, mode, n, n)."""
    detector: Tensor
    """Psi, complex64, (batch, mode, n, n)."""
    arriving: list[Tensor]
    """H F[t_s psi_s] at every slice but the first, if they were to be kept."""

    def intensity(self) -> Tensor:
        """Expected electrons per pixel, float32, (batch, n, n)."""
        return (self.detector.real.square() + self.detector.imag.square()).sum(dim=1)


def overlap(g_hat: Tensor, psi_hat: Tensor) -> Tensor:
    """(2 / n^2) sum Im(conj(g_hat) psi_hat) over patterns and modes, float32 (n, n).

    The derivative of the loss by a phase phi(k) where the wave is exp(-i phi) psi_hat.
    """
    n = g_hat.shape[-1]
    product = g_hat.real * psi_hat.imag - g_hat.imag * psi_hat.real
    return product.sum(dim=(0, 1)) * (2 / n**2)


def forward(probes: Tensor, slices: Tensor, H: Tensor, *, keep_spectra: bool = False) -> Waves:
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
    """
    psi = probes
    after: list[Tensor] = []
    arriving: list[Tensor] = []
    for s in range(len(slices)):
        if s:
            spectrum = fft2(after[-1]).mul_(H)
            if keep_spectra:
                arriving.append(spectrum)
            psi = ifft2(spectrum)
        after.append(psi * slices[s, :, None])
    return Waves(after, fft2(after[-1], norm="ortho"), arriving)


def backward(
    waves: Waves,
    slices: Tensor,
    H: Tensor,
    factor: Tensor,
    *,
    tied: bool = False,
    propagator_pull: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient of the loss by the phase of every slice, and by the conjugate entrance wave.

    Parameters
    ----------
    factor
        f = dL/dI, float32, (batch, n, n).
    tied
        The slices are one and the same phase: return the sum over slices.
    propagator_pull
        If given, float32 (n, n): dL/d phase of the propagator is added to it; needs the spectra.

    Returns
    -------
    Tensor, float32, (slice or 1, batch, n, n); Tensor, complex64, (batch, mode, n, n)
    """
    count = len(waves.after)
    gradient = torch.zeros((1 if tied else count, *waves.detector.shape), dtype=H.dtype)
    gradient = gradient.to(slices.device)
    unique = slices[:1] if tied else slices
    conjugate = unique.conj().resolve_conj().expand(count, -1, -1, -1)
    back = H.conj().resolve_conj()
    g = ifft2(waves.detector * factor[:, None], norm="ortho")
    for s in reversed(range(count)):
        gradient[0 if tied else s].addcmul_(g, waves.after[s].conj())
        g = g * conjugate[s, :, None]
        if s:
            g_hat = fft2(g)
            if propagator_pull is not None:
                propagator_pull += overlap(g_hat, waves.arriving[s - 1])
            g = ifft2(g_hat.mul_(back))
    return gradient.sum(dim=2).imag * 2, g
