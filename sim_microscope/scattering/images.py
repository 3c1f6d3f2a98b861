"""Images at low magnification: bright field and dark field from projected thickness.

Bright field: exp(-t_crystal / L - t_carbon / L_c) times the fraction of the Bragg intensity that is
left in the direct beam at this orientation and thickness.  HAADF: incoherent, proportional to
the probability of scattering into the annulus, 1 - exp(-t / L_annulus).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from sim_microscope.scattering.bloch import Fade, beam_intensities, importance
from sim_microscope.scattering.electron import lorentz_factor, wavelength_A
from sim_microscope.scattering.ewald import beams_near_sphere
from sim_microscope.scattering.mean_free_path import (
    CARBON_ATOMS_per_cubic_A,
    annulus_mean_free_path_nm,
    carbon_annulus_mean_free_path_nm,
    carbon_mean_free_path_nm,
    mean_free_path_nm,
)
from sim_microscope.scattering.scattering_factors import scattering_factor_A
from sim_microscope.scattering.structure_factors import structure_factors
from sim_microscope.structures.crystal import Structure
from sim_microscope.structures.orientation import rotation_by_vector

Array = NDArray[np.float64]

_BEND_STEP_mrad = 0.7
_FOCAL_SPREAD_A = 40.0


@dataclass(frozen=True, eq=False)
class Bend:
    """How a crystal bends: the local extra tilt of its zone axes, and where to.

    ``tilt_mrad`` has the shape of the thickness map; ``azimuth_rad`` is the direction on the
    detector in which the axes lean for a positive tilt, from +col towards +row.
    """

    tilt_mrad: Array
    azimuth_rad: float


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
    bend: Bend | None = None,
    aperture_mrad: float = 10.0,
) -> Array:
    """Bright-field intensity per incident electron, like ``thickness_nm`` (any shape).

    Only the direct beam counts: Bragg beams are taken as stopped by the aperture, whose size
    matters for the incoherent part alone.  With ``bend`` the contrast follows the local tilt.
    """
    t = np.asarray(thickness_nm, dtype=float)
    knots = np.linspace(0.0, max(float(t.max()), 1.0), 120)
    if bend is None:
        left = direct_beam_fraction(structure, orientation, knots, energy_keV=energy_keV, fade=fade)
        contrast = np.interp(t, knots, left)
    else:
        contrast = _bend_contours(
            structure, orientation, t, bend, knots, energy_keV=energy_keV, fade=fade
        )
    straight = np.exp(-t / mean_free_path_nm(structure, energy_keV, aperture_mrad=aperture_mrad))
    film = np.exp(
        -np.asarray(carbon_nm) / carbon_mean_free_path_nm(energy_keV, aperture_mrad=aperture_mrad)
    )
    return np.asarray(contrast * straight * film)


def _bend_contours(
    structure: Structure,
    orientation: Array,
    thickness_nm: Array,
    bend: Bend,
    knots_nm: Array,
    *,
    energy_keV: float,
    fade: Fade | None,
) -> Array:
    """Direct-beam fraction interpolated in thickness and local tilt."""
    low, high = float(bend.tilt_mrad.min()), float(bend.tilt_mrad.max())
    tilts = np.linspace(low, high, 2 + int(min(60.0, (high - low) / _BEND_STEP_mrad)))
    axis = np.array([-np.sin(bend.azimuth_rad), np.cos(bend.azimuth_rad), 0.0])
    table = np.array(
        [
            direct_beam_fraction(
                structure,
                rotation_by_vector(axis * tilt * 1e-3) @ orientation,
                knots_nm,
                energy_keV=energy_keV,
                fade=fade,
            )
            for tilt in tilts
        ]
    )
    column = thickness_nm / knots_nm[-1] * (len(knots_nm) - 1)
    row = (bend.tilt_mrad - low) / max(high - low, 1e-9) * (len(tilts) - 1)
    return np.asarray(map_coordinates(table, [row, column], order=1, mode="nearest"))


def carbon_grain(
    shape: tuple[int, int],
    *,
    pixel_size_nm: float,
    carbon_nm: float,
    energy_keV: float,
    defocus_nm: float,
    rng: np.random.Generator,
) -> Array:
    """Phase contrast of an amorphous film as a factor on the bright field, mean one; ``shape``.

    A weak phase object of independent atoms, S(k) = n t (gamma lambda f_C(k))², seen through
    -2 sin(chi), chi = -pi lambda defocus k², with focal and pixel envelopes.
    """
    lam = wavelength_A(energy_keV)
    step = 10 * pixel_size_nm
    ky = np.fft.fftfreq(shape[0], step)[:, None]
    kx = np.fft.rfftfreq(shape[1], step)[None, :]
    k = np.hypot(ky, kx)
    born = lorentz_factor(energy_keV) * lam * scattering_factor_A(6, k)
    power = CARBON_ATOMS_per_cubic_A * 10 * carbon_nm * born**2 / step**2
    transfer = -2 * np.sin(-np.pi * lam * 10 * defocus_nm * k**2)
    envelope = np.exp(-0.5 * (np.pi * lam * _FOCAL_SPREAD_A * k**2) ** 2)
    envelope = envelope * np.sinc(ky * step) * np.sinc(kx * step)
    noise = np.fft.rfft2(rng.standard_normal(shape))
    return np.asarray(1 + np.fft.irfft2(noise * np.sqrt(power) * transfer * envelope, shape))


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
