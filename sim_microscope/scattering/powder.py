"""Diffraction of a fine-grained polycrystalline film: rings made of the spots of many grains.

Of grains in all orientations a share dP = (m/2) dtheta reflects on a family of multiplicity m
within dtheta of its Bragg angle.  Integrated over the excitation error, a family scatters the part

    J = m pi² t / (2 g xi²),        1/xi = gamma lambda |F| / (pi V),

of the beam in a film of thickness t (kinematical; De Graef, *Introduction to Conventional TEM*,
ch. 9).  Many families share the beam, so that 1 - exp(-sum J) leaves it.  How many grains make up a
ring follows from the illuminated volume; few grains make a spotty one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sim_microscope.scattering.electron import lorentz_factor, wavelength_A
from sim_microscope.scattering.structure_factors import structure_factors
from sim_microscope.structures.crystal import Structure

Array = NDArray[np.float64]

_G_MAX_PER_A = 2.2
_SCHERRER = 0.9
_MOST_SPOTS = 1500


@dataclass(frozen=True, eq=False)
class Rings:
    """Families of reflections, smallest g first."""

    g_per_A: Array
    """(n,)."""
    share: Array
    """Part of the incident beam in each ring, (n,)."""
    multiplicity: NDArray[np.int64]

    @property
    def direct(self) -> float:
        """What stays in the direct beam."""
        return float(1 - self.share.sum())


@lru_cache(maxsize=8)
def powder_rings(structure: Structure, thickness_nm: float, energy_keV: float) -> Rings:
    """Radii and intensities of the rings of a film of randomly oriented grains."""
    _, g, factor = structure_factors(structure).reflections
    length = np.linalg.norm(g, axis=1)
    near = (length > 0) & (length < _G_MAX_PER_A)
    radius, index, count = np.unique(
        np.round(length[near], 6), return_inverse=True, return_counts=True
    )
    mean_square = np.bincount(index.reshape(-1), np.abs(factor[near]) ** 2) / count
    lam, gamma = wavelength_A(energy_keV), lorentz_factor(energy_keV)
    inverse_xi2 = (gamma * lam / (np.pi * structure.volume_cubic_A)) ** 2 * mean_square
    single = count * np.pi**2 * 10 * thickness_nm * inverse_xi2 / (2 * radius)
    total = float(single.sum())
    return Rings(radius, single * (1 - np.exp(-total)) / total, count.astype(np.int64))


def powder_spots(
    rings: Rings,
    *,
    grains: float,
    grain_nm: float,
    wavelength_A: float,
    rng: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """Spots of one illuminated area: angle in mrad (n, 2), share of the beam (n,), 1/A width.

    Parameters
    ----------
    grains
        Number of grains in the beam.
    grain_nm
        Their size: it sets the width of the rings and how many grains reflect.
    rng
        Draws the orientations; the same area must get the same ones.

    Returns
    -------
    angle_mrad, share, sigma_inv_A
        The direct beam comes first.  Each spot is a Gaussian of ``sigma_inv_A`` (one axis).
    """
    sigma_inv_A = _SCHERRER / (10 * grain_nm) / 2.355
    angles: list[Array] = [np.zeros((1, 2))]
    shares: list[Array] = [np.array([rings.direct])]
    for g, share, count in zip(rings.g_per_A, rings.share, rings.multiplicity, strict=True):
        reflecting = grains * 0.5 * count * (1 / (10 * grain_nm)) / g
        n = int(min(max(rng.poisson(reflecting), 1), _MOST_SPOTS))
        azimuth = rng.uniform(0, 2 * np.pi, n)
        # how well a grain meets the Bragg condition varies from grain to grain
        weight = rng.gamma(1.0, size=n)
        arm = g * wavelength_A * 1e3
        angles.append(np.stack([arm * np.cos(azimuth), arm * np.sin(azimuth)], axis=1))
        shares.append(share * weight / weight.sum())
    return np.concatenate(angles), np.concatenate(shares), np.array(sigma_inv_A)
