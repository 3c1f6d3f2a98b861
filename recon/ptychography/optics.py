"""Probe and propagator: pure functions on FFT grids (zero frequency at [0, 0]).

psi(k) = A(k) exp(-i chi(k)), chi = pi lambda (C10 |k|^2 + C12a (kx^2 - ky^2) + 2 C12b kx ky);
positive defocus is underfocus, C10 = -defocus. Axes (row, col) = (y, x). Beam tilt (row, col) is
the travel of the beam across the specimen per depth: free space over dz with tilt tau is
H(k) = exp(-i pi lambda dz |k|^2 - 2 pi i dz k . tau).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """A square FFT grid: ``n`` pixels of ``sampling_A`` per side, electrons of ``wavelength_A``."""

    n: int
    sampling_A: float
    wavelength_A: float

    def frequencies(self) -> tuple[Tensor, Tensor]:
        """(ky, kx), float32, (n, n), 1/Å."""
        k = torch.fft.fftfreq(self.n, self.sampling_A, dtype=torch.float64)
        ky, kx = torch.meshgrid(k, k, indexing="ij")
        return ky, kx


@dataclass(frozen=True)
class ProbeOptics:
    """The illumination: aperture and aberrations at the entrance surface."""

    k_edge_A: float
    """Semi-angle of the aperture over the wavelength, 1/Å."""
    C10_A: float
    C12a_A: float = 0.0
    C12b_A: float = 0.0
    C30_A: float = 0.0
    centre_row_A: float = 0.0
    """Centre of the aperture, 1/Å: where the beam sits between the pixels."""
    centre_col_A: float = 0.0


def aberration_phase(grid: Grid, optics: ProbeOptics) -> Tensor:
    """chi(k), float64, (n, n), radians."""
    ky, kx = grid.frequencies()
    ky, kx = ky - optics.centre_row_A, kx - optics.centre_col_A
    k2 = ky.square() + kx.square()
    lam = grid.wavelength_A
    quadratic = (
        optics.C10_A * k2
        + optics.C12a_A * (kx.square() - ky.square())
        + 2 * optics.C12b_A * kx * ky
    )
    return torch.pi * lam * quadratic + 0.5 * torch.pi * lam**3 * optics.C30_A * k2.square()


def aperture(grid: Grid, optics: ProbeOptics) -> Tensor:
    """Amplitude of the aperture with an edge one pixel wide, float64, (n, n)."""
    ky, kx = grid.frequencies()
    k = torch.hypot(ky - optics.centre_row_A, kx - optics.centre_col_A)
    pixel = 1 / (grid.n * grid.sampling_A)
    return torch.clamp((optics.k_edge_A - k) / pixel + 0.5, 0, 1).sqrt()


def probe_spectrum(grid: Grid, optics: ProbeOptics, amplitude: Tensor | None = None) -> Tensor:
    """The probe in reciprocal space, complex128, (n, n), normalised to one electron.

    ``amplitude`` is that of a measured aperture, (n, n) or larger by as many pixels on all sides;
    a round one is taken without.
    """
    a = aperture(grid, optics) if amplitude is None else _inner(amplitude, grid.n)
    psi = a * torch.exp(-1j * aberration_phase(grid, optics))
    return psi / psi.abs().square().sum().sqrt()


def _inner(image: Tensor, n: int) -> Tensor:
    """The lowest n x n frequencies of an image in FFT order, float64."""
    k = torch.fft.fftfreq(n, 1 / n).to(torch.int64)
    return image.to(torch.float64)[k][:, k]


def propagation_phase(grid: Grid, distance_A: float, tilt_mrad: tuple[float, float]) -> Tensor:
    """Phase that free space over ``distance_A`` takes from a wave, float64, (n, n), radians."""
    ky, kx = grid.frequencies()
    walk = ky * tilt_mrad[0] + kx * tilt_mrad[1]
    fresnel = torch.pi * grid.wavelength_A * distance_A * (ky.square() + kx.square())
    return fresnel + 2 * torch.pi * 1e-3 * distance_A * walk


def propagator(grid: Grid, distance_A: float, tilt_mrad: tuple[float, float]) -> Tensor:
    """Free space over ``distance_A`` along a tilted beam, complex64, (n, n)."""
    return torch.exp(-1j * propagation_phase(grid, distance_A, tilt_mrad)).to(torch.complex64)


def sub_pixel_ramps(grid: Grid, steps: int) -> Tensor:
    """Phase ramps exp(-2 pi i k . r) to every sub-pixel shift on a ``steps`` x ``steps`` raster.

    Returns
    -------
    Tensor, complex64, (steps * steps, n, n)
        Entry ``i * steps + j`` moves a probe to pixel (n//2 + i / steps, n//2 + j / steps).
    """
    k = torch.fft.fftfreq(grid.n, dtype=torch.float64)
    shift = torch.arange(steps, dtype=torch.float64) / steps + grid.n // 2
    along = torch.exp(-2j * torch.pi * shift[:, None] * k).to(torch.complex64)
    ramps = along[:, None, :, None] * along[None, :, None, :]
    return ramps.reshape(steps * steps, grid.n, grid.n)


def shifted_probes(spectrum: Tensor, grid: Grid, steps: int) -> Tensor:
    """Probes in real space at the shifts of ``sub_pixel_ramps``, complex64, (shift, n, n)."""
    ramps = sub_pixel_ramps(grid, steps)
    return torch.fft.ifft2(spectrum.to(torch.complex64) * ramps, norm="ortho")
