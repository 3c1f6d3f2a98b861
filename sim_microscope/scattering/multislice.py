"""Multislice of many probes at once, each in its own window of a larger field.

psi_{n+1} = F^-1[ H F[ exp(i phi_n) psi_n ] ],  H(k) = exp(-i pi lambda dz k²) in the band limit.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fft import fft2, ifft2


def fresnel_propagator(
    shape: tuple[int, int],
    *,
    k_step_per_A: tuple[float, float],
    wavelength_A: float,
    distance_A: float,
    band_limit: float,
) -> Tensor:
    """H, complex64 (ny, nx), zero frequency at [0, 0]; zero beyond ``band_limit`` cycles/pixel."""
    fy = torch.fft.fftfreq(shape[0], dtype=torch.float64)[:, None]
    fx = torch.fft.fftfreq(shape[1], dtype=torch.float64)[None, :]
    k2 = (fy * shape[0] * k_step_per_A[0]) ** 2 + (fx * shape[1] * k_step_per_A[1]) ** 2
    inside = fy**2 + fx**2 <= band_limit**2
    return (torch.exp(-1j * torch.pi * wavelength_A * distance_A * k2) * inside).to(torch.complex64)


def place_probes(spectrum: Tensor, shift_px: Tensor) -> Tensor:
    """Probes in the middle of their windows, moved by a fraction of a pixel.

    ``spectrum`` complex64 (ny, nx), ``shift_px`` float32 (batch, 2) as (row, col). Returns
    complex64 (batch, ny, nx) in real space by the orthonormal transform: sums to one if the
    spectrum does.
    """
    ny, nx = spectrum.shape
    fy = torch.fft.fftfreq(ny, device=spectrum.device)
    fx = torch.fft.fftfreq(nx, device=spectrum.device)
    ramp_y = torch.exp(-2j * torch.pi * fy * (shift_px[:, :1] + ny // 2))
    ramp_x = torch.exp(-2j * torch.pi * fx * (shift_px[:, 1:] + nx // 2))
    return ifft2(spectrum * ramp_y[:, :, None] * ramp_x[:, None, :], norm="ortho")


def propagate(psi: Tensor, gratings: Tensor, corners: Tensor, propagator: Tensor) -> Tensor:
    """Exit waves of probes through their windows of the specimen.

    Parameters
    ----------
    psi
        Entrance waves, complex64 (batch, ny, nx).
    gratings
        exp(i phi) of each slice over the field, complex64 (slice, field_y, field_x).
    corners
        First row and column of each window in the field, int64 (batch, 2).
    propagator
        Between slices, complex64 (ny, nx).

    Returns
    -------
    Tensor, complex64, (batch, ny, nx)
    """
    ny, nx = psi.shape[1:]
    width = gratings.shape[2]
    rows = corners[:, :1] + torch.arange(ny, device=psi.device)
    cols = corners[:, 1:] + torch.arange(nx, device=psi.device)
    index = (rows[:, :, None] * width + cols[:, None, :]).reshape(-1)
    for n, grating in enumerate(gratings):
        window = grating.reshape(-1).index_select(0, index).reshape(psi.shape)
        psi = psi * window
        if n + 1 < len(gratings):
            psi = ifft2(fft2(psi).mul_(propagator))
    return psi
