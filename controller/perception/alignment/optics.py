"""The electron: wavelength, wavenumber and relativistic factor."""

import numpy as np

_REST_ENERGY_KEV = 510.99895
_HC_KEV_A = 12.398419843  # Planck's constant times the speed of light


def wavelength_A(energy_keV: float) -> float:
    """Relativistic de Broglie wavelength: h c / sqrt(E^2 + 2 E m c^2)."""
    if not (np.isfinite(energy_keV) and energy_keV > 0):
        raise ValueError(f"the beam energy must be positive, got {energy_keV} keV")
    return float(_HC_KEV_A / np.sqrt(energy_keV**2 + 2 * energy_keV * _REST_ENERGY_KEV))


def wavenumber_inv_A(energy_keV: float) -> float:
    """K = 1/wavelength: 39.9 /A at 200 keV, 50.8 /A at 300 keV."""
    return 1.0 / wavelength_A(energy_keV)


def relativistic_factor(energy_keV: float) -> float:
    """Gamma: mass of the electron in units of its rest mass."""
    return 1.0 + energy_keV / _REST_ENERGY_KEV
