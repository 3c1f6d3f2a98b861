"""Which reflections the Ewald sphere meets, exactly.

Column frame: z along the electron's travel, k0 = (0, 0, K), K = 1 / lambda.  A reflection of
transverse part g_t leaves with the wave vector (g_t, sqrt(K² - g_t²)); its excitation error is
the distance along z from the reciprocal lattice point to the sphere,

    s_g = sqrt(K² - |g_t|²) - K - g_z,    which is -g_z - g² / 2K to first order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim_microscope.scattering.structure_factors import StructureFactors


@dataclass(frozen=True, eq=False)
class Beams:
    """Reflections near the Ewald sphere; the first one is the direct beam.

    ``hkl`` int64 (n, 3), ``g_per_A`` transverse part in the column frame (n, 2) as (x, y),
    ``s_per_A`` excitation error (n,), ``F_A`` structure factor (n,).
    """

    hkl: NDArray[np.int64]
    g_per_A: NDArray[np.float64]
    s_per_A: NDArray[np.float64]
    F_A: NDArray[np.complex64]

    def take(self, which: NDArray[np.int64]) -> Beams:
        """The beams of these indices, in this order."""
        return Beams(self.hkl[which], self.g_per_A[which], self.s_per_A[which], self.F_A[which])


def beams_near_sphere(
    factors: StructureFactors,
    orientation: NDArray[np.float64],
    *,
    wavelength_A: float,
    g_max_per_A: float,
    s_max_per_A: float,
) -> Beams:
    """Beams of transverse length up to g_max and excitation error up to s_max, direct one first."""
    hkl, g_crystal, amplitude = factors.reflections
    K = 1.0 / wavelength_A
    gz = g_crystal @ orientation[2]
    # cheap first cut with the paraboloid, then the sphere itself
    near = np.flatnonzero(
        np.abs(gz + np.square(g_crystal).sum(axis=1) / (2 * K)) <= 1.1 * s_max_per_A
    )
    g = g_crystal[near] @ orientation.T
    gt2 = np.square(g[:, :2]).sum(axis=1)
    s = np.sqrt(K**2 - gt2) - K - g[:, 2]
    keep = (gt2 <= g_max_per_A**2) & (np.abs(s) <= s_max_per_A)
    near, g, s = near[keep], g[keep], s[keep]
    first = np.argsort(np.any(hkl[near] != 0, axis=1), kind="stable")
    near, g, s = near[first], g[first], s[first]
    return Beams(hkl[near], g[:, :2], s, amplitude[near])
