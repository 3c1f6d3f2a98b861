"""The fast electron: relativistic wavelength and mass factor (CODATA 2018).

lambda = h c / sqrt(E (E + 2 m c^2)), gamma = 1 + E / (m c^2).  The phase that an atom gives to
the wave has the Fourier transform gamma lambda f_e(k), f_e the first Born amplitude in Å
(Kirkland, Advanced Computing in Electron Microscopy, 2010, eq. 5.16-5.18).
"""

from __future__ import annotations

import math

REST_ENERGY_keV = 510.99895
_H_C_keV_A = 12.398419843


def wavelength_A(energy_keV: float) -> float:
    """De Broglie wavelength in Å."""
    return _H_C_keV_A / math.sqrt(energy_keV * (energy_keV + 2 * REST_ENERGY_keV))


def lorentz_factor(energy_keV: float) -> float:
    """Relativistic mass over rest mass."""
    return 1.0 + energy_keV / REST_ENERGY_keV
