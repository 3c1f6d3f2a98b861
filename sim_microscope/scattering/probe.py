"""The focused probe: aperture, aberrations, sub-pixel position, incoherent spread.

psi(k) = A(k) exp(-i chi(k)), theta = lambda k, in Krivanek's polar notation

    chi = 2 pi / lambda [ C10 theta² / 2 + C12 theta² cos 2(phi - phi12) / 2
                          + C21 theta³ cos(phi - phi21) / 3 + C30 theta⁴ / 4 ],

C10 = -defocus, phi from +x (col) towards +y (row).  Positive defocus is
underfocus: the crossover lies downstream of the entrance surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim_microscope.scattering.atom_lottery import identify, normal, uniform
from sim_microscope.scattering.electron import wavelength_A

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ProbeOptics:
    """The illumination of a 4D-STEM scan.

    ``source_fwhm_A`` is the demagnified source, ``focal_spread_nm`` the standard deviation of the
    focus (C_c dE / E); both act through the sampled incoherent points of the scan.
    """

    energy_keV: float
    convergence_semiangle_mrad: float
    defocus_nm: float = 0.0
    C12_A: float = 0.0
    phi12_rad: float = 0.0
    C21_A: float = 0.0
    phi21_rad: float = 0.0
    C30_A: float = 0.0
    source_fwhm_A: float = 0.0
    focal_spread_nm: float = 0.0

    def diameter_A(self, thickness_A: float) -> float:
        """Widest geometrical diameter of the beam between entrance and exit, plus the Airy disc."""
        alpha = self.convergence_semiangle_mrad * 1e-3
        focus = 10 * self.defocus_nm
        blur = max(abs(focus), abs(thickness_A - focus))
        blur += abs(self.C12_A) + abs(self.C21_A) * alpha + abs(self.C30_A) * alpha**2
        return 2 * alpha * blur + 2.5 * wavelength_A(self.energy_keV) / alpha


def aberration_phase_rad(
    optics: ProbeOptics, ky_per_A: NDArray[np.floating], kx_per_A: NDArray[np.floating]
) -> Array:
    """Aberration function chi at the spatial frequencies, radian; broadcast shape of ky and kx."""
    lam = wavelength_A(optics.energy_keV)
    theta = lam * np.hypot(ky_per_A, kx_per_A)
    phi = np.arctan2(ky_per_A, kx_per_A)
    path = -10 * optics.defocus_nm * theta**2 / 2
    path = path + optics.C12_A * theta**2 * np.cos(2 * (phi - optics.phi12_rad)) / 2
    path = path + optics.C21_A * theta**3 * np.cos(phi - optics.phi21_rad) / 3
    path = path + optics.C30_A * theta**4 / 4
    return np.asarray(2 * np.pi / lam * path)


def probe_spectrum(
    optics: ProbeOptics, shape: tuple[int, int], k_step_per_A: tuple[float, float]
) -> NDArray[np.complex128]:
    """psi(k) with zero frequency at [0, 0], sum of squared moduli one; (ny, nx).

    The edge of the aperture is one pixel wide, so that its area is right on a coarse grid.
    """
    lam = wavelength_A(optics.energy_keV)
    ky = np.fft.fftfreq(shape[0], 1 / (shape[0] * k_step_per_A[0]))[:, None]
    kx = np.fft.fftfreq(shape[1], 1 / (shape[1] * k_step_per_A[1]))[None, :]
    edge = optics.convergence_semiangle_mrad * 1e-3 / lam
    aperture = np.clip((edge - np.hypot(ky, kx)) / max(k_step_per_A) + 0.5, 0, 1)
    psi = np.sqrt(aperture) * np.exp(-1j * aberration_phase_rad(optics, ky, kx))
    return np.asarray(psi / np.sqrt(np.square(np.abs(psi)).sum()))


def incoherent_points(
    optics: ProbeOptics, count: int, positions_A: Array, *, seed: int
) -> tuple[Array, Array]:
    """Offsets in Å (count, positions, 2) as (row, col), and focus changes in nm (count,).

    The points of each position lie on a ring of radius sqrt(2) sigma at a random angle of its
    own, evenly spaced: the second moments of the Gaussian source are exact from two points on
    (three for isotropy).  A single point is a random draw.
    """
    sigma = optics.source_fwhm_A / 2.3548
    who = identify(*np.rint(1e4 * positions_A).astype(np.int64).T)
    if count == 1:
        draw = [normal(who, seed=seed, stream=70 + axis) for axis in range(2)]
        return sigma * np.stack(draw, axis=-1)[None], np.zeros(1)
    turn = uniform(who, seed=seed, stream=72)
    angle = 2 * np.pi * (np.arange(count)[:, None] / count + turn[None, :])
    ring = np.sqrt(2) * sigma * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    level = (np.arange(count) + 0.5) / count - 0.5
    spread = level / np.sqrt(np.square(level).mean())
    return ring, optics.focal_spread_nm * np.roll(spread[::-1], count // 2)
