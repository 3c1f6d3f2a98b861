"""Phase gratings of thin slices of atoms, on a periodic grid, exact in Fourier space.

phi(k) = gamma lambda sum_n o_n f_n(k) exp(-2 pi² U_n k²) exp(-2 pi i k . r_n).  The sums are
non-uniform Fourier transforms: atoms are spread with a Kaiser-Bessel window over 6 x 6
pixels and the window is divided out afterwards (Fessler and Sutton, IEEE TSP 51 (2003) 560).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sim_microscope.scattering.atoms import Atoms
from sim_microscope.scattering.electron import lorentz_factor, wavelength_A
from sim_microscope.scattering.scattering_factors import scattering_factor_A

Array = NDArray[np.float64]

_WIDTH = 6
_BETA = 12.25
_POINTS_AT_ONCE = 50_000
BAND_LIMIT = 0.46
"""Highest spatial frequency kept, in cycles per pixel."""


def slice_edges_A(thickness_A: float, slice_thickness_A: float) -> Array:
    """Edges of equal slices no thicker than asked for, (n_slice + 1,)."""
    n = max(1, int(np.ceil(thickness_A / slice_thickness_A - 1e-9)))
    return np.linspace(0.0, thickness_A, n + 1)


def slice_phases(
    atoms: Atoms,
    edges_A: Array,
    *,
    shape: tuple[int, int],
    sampling_A: tuple[float, float],
    energy_keV: float,
    smear_thermally: bool,
) -> Iterator[NDArray[np.float32]]:
    """Projected phase in radian of each slice, float32 ``shape``, from entrance to exit.

    Pixel (shape // 2) is x = y = 0.  Atoms before the first or behind the last edge count to
    the first or last slice.  ``smear_thermally`` applies the Debye-Waller factor; leave it out
    when the atoms carry frozen displacements.
    """
    ky = fft.fftfreq(shape[0], sampling_A[0])[:, None]
    kx = fft.rfftfreq(shape[1], sampling_A[1])[None, :]
    k = np.hypot(ky, kx)
    window = _window_transform(fft.fftfreq(shape[0]))[:, None]
    window = window * _window_transform(fft.rfftfreq(shape[1]))[None, :]
    cut = np.hypot(ky * sampling_A[0], kx * sampling_A[1]) <= BAND_LIMIT
    scale = lorentz_factor(energy_keV) * wavelength_A(energy_keV) / (sampling_A[0] * sampling_A[1])
    kernels = []
    u = np.round(atoms.U_iso_A2, 6) if smear_thermally else np.zeros(len(atoms.U_iso_A2))
    kinds, kind = np.unique(np.stack([atoms.atomic_number, u], axis=1), axis=0, return_inverse=True)
    for z, u_iso in kinds:
        f = scattering_factor_A(int(z), k) * np.exp(-2 * np.pi**2 * u_iso * k**2)
        kernels.append((scale * f * cut / window).astype(np.float32))
    depth = np.clip(
        np.searchsorted(edges_A, atoms.positions_A[:, 2], "right") - 1, 0, len(edges_A) - 2
    )
    pixel_y = atoms.positions_A[:, 1] / sampling_A[0] + shape[0] // 2
    pixel_x = atoms.positions_A[:, 0] / sampling_A[1] + shape[1] // 2
    for n in range(len(edges_A) - 1):
        spectrum = np.zeros((shape[0], shape[1] // 2 + 1), dtype=np.complex64)
        for i, kernel in enumerate(kernels):
            own = np.flatnonzero((depth == n) & (kind.reshape(-1) == i))
            if len(own):
                cloud = _spread(pixel_y[own], pixel_x[own], atoms.occupancy[own], shape)
                spectrum += kernel * fft.rfft2(cloud)
        yield fft.irfft2(spectrum, shape)


def _spread(y: Array, x: Array, weight: Array, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Spread points on a periodic grid with the Kaiser-Bessel window."""
    offset = np.arange(_WIDTH) - _WIDTH // 2 + 1
    cloud = np.zeros(shape[0] * shape[1])
    for first in range(0, len(y), _POINTS_AT_ONCE):
        part = slice(first, first + _POINTS_AT_ONCE)
        y0, x0 = np.floor(y[part]).astype(int), np.floor(x[part]).astype(int)
        wy = _window(offset[None, :] - (y[part] - y0)[:, None]) * weight[part, None]
        wx = _window(offset[None, :] - (x[part] - x0)[:, None])
        rows = (y0[:, None] + offset) % shape[0]
        cols = (x0[:, None] + offset) % shape[1]
        index = rows[:, :, None] * shape[1] + cols[:, None, :]
        value = wy[:, :, None] * wx[:, None, :]
        cloud += np.bincount(index.ravel(), value.ravel(), minlength=cloud.size)
    return cloud.reshape(shape).astype(np.float32)


def _window(u: Array) -> Array:
    inside = np.maximum(1 - np.square(2 * u / _WIDTH), 0)
    return np.asarray(np.i0(_BETA * np.sqrt(inside)) * (np.abs(u) <= _WIDTH / 2))


def _window_transform(frequency: Array) -> Array:
    """Fourier transform of the window at ``frequency`` in cycles per pixel."""
    z = np.sqrt(_BETA**2 - np.square(np.pi * _WIDTH * frequency) + 0j)
    return np.asarray((_WIDTH * np.sinh(z) / z).real)
