"""How far an electron goes before it loses energy or is scattered out of an aperture."""

from __future__ import annotations

import math

import numpy as np

from sim_microscope.scattering.electron import lorentz_factor, wavelength_A
from sim_microscope.scattering.scattering_factors import scattering_factor_A
from sim_microscope.structures.crystal import Structure

CARBON_DENSITY_g_per_cm3 = 1.8
CARBON_ATOMS_per_cubic_A = CARBON_DENSITY_g_per_cm3 * 1e-24 / (12.011 * 1.66053907e-24)


def inelastic_mean_free_path_nm(density_g_per_cm3: float, energy_keV: float) -> float:
    """Mean free path for energy loss into all angles, nm.

    Iakoubovskii, Mitsuishi, Nakayama and Furuya, Microsc. Res. Tech. 71 (2008) 626, eq. 9, in the
    limit of a large collection angle: 1/L = 11 rho^0.3 / (200 F E) * 2 ln(20 mrad / theta_E).
    """
    e = energy_keV
    relativity = (1 + e / 1022) / (1 + e / 511) ** 2
    theta_e = 5.5 * density_g_per_cm3**0.3 / (relativity * e)
    rate = 11 * density_g_per_cm3**0.3 / (200 * relativity * e) * 2 * math.log(20 / theta_e)
    return 1 / rate


def elastic_mean_free_path_nm(
    atoms_per_cubic_A: dict[int, float], energy_keV: float, *, beyond_mrad: float = 0.0
) -> float:
    """Mean free path for elastic scattering by single atoms beyond an angle, nm.

    sigma = 2 pi gamma² lambda² / lambda² ∫ f² theta dtheta, in k: gamma² lambda² 2 pi ∫ f² k dk.
    """
    lam = wavelength_A(energy_keV)
    k = np.geomspace(max(beyond_mrad * 1e-3 / lam, 1e-3), 12.0, 400)
    per_A = 0.0
    for z, density in atoms_per_cubic_A.items():
        f2 = np.square(scattering_factor_A(z, k))
        sigma = 2 * np.pi * (lorentz_factor(energy_keV) * lam) ** 2 * np.trapezoid(f2 * k, k)
        per_A += density * float(sigma)
    return 0.1 / per_A


def mean_free_path_nm(
    structure: Structure, energy_keV: float, *, aperture_mrad: float = 10.0
) -> float:
    """Attenuation length of a bright-field image: elastic beyond the aperture, or inelastic.

    Of the inelastic electrons some 15 % leave a 10 mrad aperture or the focus; the rest counts
    as bright field.
    """
    density = {z: n / structure.volume_cubic_A for z, n in structure.composition.items()}
    elastic = elastic_mean_free_path_nm(density, energy_keV, beyond_mrad=aperture_mrad)
    inelastic = inelastic_mean_free_path_nm(structure.density_g_per_cm3, energy_keV)
    return 1 / (1 / elastic + 0.15 / inelastic)


def carbon_mean_free_path_nm(energy_keV: float, *, aperture_mrad: float = 10.0) -> float:
    """The same for amorphous carbon of 1.8 g/cm³."""
    elastic = elastic_mean_free_path_nm(
        {6: CARBON_ATOMS_per_cubic_A}, energy_keV, beyond_mrad=aperture_mrad
    )
    inelastic = inelastic_mean_free_path_nm(CARBON_DENSITY_g_per_cm3, energy_keV)
    return 1 / (1 / elastic + 0.15 / inelastic)


def annulus_mean_free_path_nm(
    structure: Structure, energy_keV: float, inner_semiangle_mrad: float
) -> float:
    """Elastic mean free path for scattering beyond the inner edge of an annular detector."""
    density = {z: n / structure.volume_cubic_A for z, n in structure.composition.items()}
    return elastic_mean_free_path_nm(density, energy_keV, beyond_mrad=inner_semiangle_mrad)


def carbon_annulus_mean_free_path_nm(energy_keV: float, inner_semiangle_mrad: float) -> float:
    """The same for amorphous carbon."""
    return elastic_mean_free_path_nm(
        {6: CARBON_ATOMS_per_cubic_A}, energy_keV, beyond_mrad=inner_semiangle_mrad
    )
