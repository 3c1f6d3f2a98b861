"""Where the electrons go that are in no Bragg beam: thermal, damage, support and energy loss.

Independent atoms, per area of k:

    d tau / d²k = (t / V) sum_n o_n gamma² lambda² f_n²(k) (1 - exp(-4 pi² U_n k²) fade(k)),

which is exactly what the Debye-Waller factor and the fading take from the Bragg beams.
Amorphous carbon adds its own f² times a structure factor with the rings at 2.1 and 1.2 Å.
Electrons that lost energy (1 - exp(-t / L)) follow everything else, spread by a
Lorentzian of the characteristic angle (Egerton, EELS in the EM, 2011, ch. 3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sim_microscope.scattering.bloch import Fade
from sim_microscope.scattering.electron import lorentz_factor, wavelength_A
from sim_microscope.scattering.mean_free_path import (
    CARBON_ATOMS_per_cubic_A,
    CARBON_DENSITY_g_per_cm3,
    inelastic_mean_free_path_nm,
)
from sim_microscope.scattering.scattering_factors import scattering_factor_A
from sim_microscope.structures.crystal import Structure

Array = NDArray[np.float64]

_K_END_PER_A = 6.0


def diffuse_profile(
    structure: Structure,
    k_per_A: Array,
    *,
    thickness_nm: float,
    carbon_nm: float,
    fade: Fade | None,
    energy_keV: float,
) -> Array:
    """Scattering events per electron and area of k, d tau / d²k in Å²; like ``k_per_A``."""
    born = (lorentz_factor(energy_keV) * wavelength_A(energy_keV)) ** 2
    faded = np.ones_like(k_per_A) if fade is None else fade(k_per_A)
    total = np.zeros_like(k_per_A)
    kinds = np.stack([structure.atomic_number, np.round(structure.U_iso_A2, 8)], axis=1)
    for z, u in np.unique(kinds, axis=0):
        own = (kinds == (z, u)).all(axis=1)
        ordered = np.exp(-4 * np.pi**2 * u * k_per_A**2) * faded
        f2 = np.square(scattering_factor_A(int(z), k_per_A))
        total += structure.occupancy[own].sum() * f2 * (1 - ordered)
    total *= 10 * thickness_nm / structure.volume_cubic_A
    total += 10 * carbon_nm * CARBON_ATOMS_per_cubic_A * _carbon_rings(k_per_A)
    return born * total


def _carbon_rings(k: Array) -> Array:
    """f² times an approximate structure factor of amorphous carbon."""
    rings = (
        1 + 0.9 * np.exp(-(((k - 0.48) / 0.09) ** 2)) + 0.5 * np.exp(-(((k - 0.84) / 0.12) ** 2))
    )
    return np.asarray(
        np.square(scattering_factor_A(6, k)) * (1 - np.exp(-((k / 0.4) ** 4))) * rings + 0.02
    )


def add_background(
    bragg: Array,
    structure: Structure,
    *,
    thickness_nm: float,
    carbon_nm: float,
    fade: Fade | None,
    energy_keV: float,
    sampling_mrad: float,
    centre_px: tuple[float, float],
) -> Array:
    """Share each electron between Bragg, diffuse and energy loss; same shape as ``bragg``.

    ``bragg`` sums to the fraction of Bragg intensity on the detector if nothing else happened.
    """
    lam = wavelength_A(energy_keV)

    def density(k: Array) -> Array:
        return diffuse_profile(
            structure,
            k,
            thickness_nm=thickness_nm,
            carbon_nm=carbon_nm,
            fade=fade,
            energy_keV=energy_keV,
        )

    k_line = np.linspace(0, _K_END_PER_A, 1200)
    on_line = density(k_line)
    tau = float(np.trapezoid(2 * np.pi * k_line * on_line, k_line))
    p_diffuse = 1 - np.exp(-tau)
    s = sampling_mrad * 1e-3 / lam
    y, x = np.ogrid[: bragg.shape[0], : bragg.shape[1]]
    k = s * np.hypot(y - centre_px[0], x - centre_px[1])
    elastic = (1 - p_diffuse) * bragg
    if tau > 0:
        elastic = elastic + (p_diffuse / tau * s**2) * np.interp(k, k_line, on_line)
    loss = thickness_nm / inelastic_mean_free_path_nm(structure.density_g_per_cm3, energy_keV)
    loss += carbon_nm / inelastic_mean_free_path_nm(CARBON_DENSITY_g_per_cm3, energy_keV)
    p_loss = 1 - np.exp(-loss)
    angle = 5.5 * structure.density_g_per_cm3**0.3 / _loss_scale(energy_keV)
    return np.asarray((1 - p_loss) * elastic + p_loss * _spread(elastic, angle / sampling_mrad))


def _loss_scale(energy_keV: float) -> float:
    return (1 + energy_keV / 1022) / (1 + energy_keV / 511) ** 2 * energy_keV


def _spread(image: Array, width_px: float) -> Array:
    """Convolve with 1 / (r² + width²) out to half the image, zero outside the detector."""
    shape = [fft.next_fast_len(n + n // 2, real=True) for n in image.shape]
    y = fft.fftfreq(shape[0], 1 / shape[0])[:, None]
    x = fft.fftfreq(shape[1], 1 / shape[1])[None, :]
    kernel = 1 / (y**2 + x**2 + width_px**2 + 0.15)
    kernel /= kernel.sum()
    product = fft.rfft2(kernel.astype(np.float32)) * fft.rfft2(image.astype(np.float32), shape)
    ny, nx = image.shape
    return np.maximum(fft.irfft2(product, shape)[:ny, :nx], 0).astype(float)
