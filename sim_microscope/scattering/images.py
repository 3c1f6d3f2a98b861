"""Images at low magnification: bright field and dark field from projected thickness.

Bright field: exp(-t_crystal / L - t_carbon / L_c) times the fraction of the Bragg intensity that is
left in the direct beam at this orientation and thickness.  HAADF: incoherent, proportional to
the probability of scattering into the annulus, 1 - exp(-t / L_annulus).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim_microscope.scattering.bloch import Fade, beam_intensities, importance
from sim_microscope.scattering.electron import wavelength_A
from sim_microscope.scattering.ewald import beams_near_sphere
from sim_microscope.scattering.mean_free_path import (
    annulus_mean_free_path_nm,
    carbon_annulus_mean_free_path_nm,
    carbon_mean_free_path_nm,
    mean_free_path_nm,
)
from sim_microscope.scattering.structure_factors import structure_factors
from sim_microscope.structures.crystal import Structure

Array = NDArray[np.float64]


def direct_beam_fraction(
    structure: Structure,
    orientation: Array,
    thicknesses_nm: Array,
    *,
    energy_keV: float,
    fade: Fade | None = None,
    beams: int = 60,
) -> Array:
    """Part of the Bragg intensity left in the direct beam at each thickness, (n,) in 0..1."""
    factors = structure_factors(structure)
    near = beams_near_sphere(
        factors,
        orientation,
        wavelength_A=wavelength_A(energy_keV),
        g_max_per_A=1.2,
        s_max_per_A=0.02,
    )
    t = np.maximum(10 * np.atleast_1d(np.asarray(thicknesses_nm, dtype=float)), 0.0)
    weight = importance(factors, near, max(float(t.max()), 1.0), energy_keV=energy_keV)
    near = near.take(np.argsort(-weight, kind="stable")[:beams])
    intensity = beam_intensities(factors, near, t, energy_keV=energy_keV, strong=beams, fade=fade)
    return intensity[:, 0]


def bright_field(
    structure: Structure,
    orientation: Array,
    thickness_nm: Array,
    *,
    energy_keV: float,
    carbon_nm: Array | float = 0.0,
    fade: Fade | None = None,
    aperture_mrad: float = 10.0,
) -> Array:
    """Bright-field intensity per incident electron, like ``thickness_nm`` (any shape).

    Bragg beams inside the aperture count as lost; with frameworks of large cells that is
    the usual choice of a small aperture.
    """
    t = np.asarray(thickness_nm, dtype=float)
    knots = np.linspace(0.0, max(float(t.max()), 1.0), 120)
    left = direct_beam_fraction(structure, orientation, knots, energy_keV=energy_keV, fade=fade)
    contrast = np.interp(t, knots, left)
    straight = np.exp(-t / mean_free_path_nm(structure, energy_keV, aperture_mrad=aperture_mrad))
    film = np.exp(
        -np.asarray(carbon_nm) / carbon_mean_free_path_nm(energy_keV, aperture_mrad=aperture_mrad)
    )
    return np.asarray(contrast * straight * film)


def dark_field(
    structure: Structure,
    thickness_nm: Array,
    *,
    energy_keV: float,
    carbon_nm: Array | float = 0.0,
    inner_semiangle_mrad: float = 60.0,
) -> Array:
    """Fraction of the electrons beyond ``inner_semiangle_mrad``, like ``thickness_nm``."""
    own = annulus_mean_free_path_nm(structure, energy_keV, inner_semiangle_mrad)
    film = carbon_annulus_mean_free_path_nm(energy_keV, inner_semiangle_mrad)
    path = np.asarray(thickness_nm, dtype=float) / own + np.asarray(carbon_nm) / film
    return np.asarray(-np.expm1(-path))
