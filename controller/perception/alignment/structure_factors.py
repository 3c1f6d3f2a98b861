"""Electron structure factors on the reciprocal lattice, computed once per structure.

F_g = sum_j o_j f_j(g) exp(-2 pi^2 U_j g^2) exp(2 pi i g.r_j), in A, with f_j = gemmi's c4322
(five Gaussians, International Tables C, table 4.3.2.2).  The coupling of the Bloch equations is
U_g = gamma F_g / (pi V), in 1/A^2.
"""

from dataclasses import dataclass
from functools import lru_cache

import gemmi
import numba
import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.structure import CrystalStructure, StructureError

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Complex = NDArray[np.complex128]

_FAINTEST = 1e-3
"""Reflections below this part of the strongest |F| are taken as absent."""


@dataclass(frozen=True, eq=False)
class StructureFactors:
    """F on a dense block of indices."""

    table: Complex
    """(2H+1, 2K+1, 2L+1), index offset (H, K, L)."""
    half: tuple[int, int, int]
    g_max: float
    """Zero beyond, in 1/A."""

    def at(self, hkl: Integers) -> Complex:
        """F in A for indices (..., 3); zero outside the table."""
        half = np.asarray(self.half)
        inside = np.asarray((np.abs(hkl) <= half).all(-1), dtype=bool)
        h = np.where(inside[..., None], hkl, 0) + half
        return np.where(inside, self.table[h[..., 0], h[..., 1], h[..., 2]], 0.0)


@dataclass(frozen=True, eq=False)
class Reflections:
    """Reflections present up to a resolution, (000) excluded."""

    hkl: Integers
    """(n, 3)."""
    g: Array
    """Cartesian, crystal frame, 1/A, (n, 3)."""
    strength: Array
    """|F|^2 in A^2, (n,)."""


@lru_cache(maxsize=16)
def structure_factors(structure: CrystalStructure, g_max: float) -> StructureFactors:
    """Table of F up to ``g_max`` (1/A); cached per structure."""
    half = _index_limits(structure, g_max)
    species = sorted(
        {
            (e, float(u))
            for e, u in zip(structure.elements, np.round(structure.u_iso_A2, 5), strict=True)
        }
    )
    kinds = np.array(
        [
            species.index((e, float(u)))
            for e, u in zip(structure.elements, np.round(structure.u_iso_A2, 5), strict=True)
        ],
        dtype=np.int64,
    )
    coefficients = np.array([_gaussians(e) for e, _ in species])
    table = _fill(
        np.asarray(half, dtype=np.int64),
        structure.reciprocal,
        structure.fractional,
        structure.occupancy,
        kinds,
        coefficients,
        np.array([u for _, u in species]),
        g_max,
    )
    return StructureFactors(table, half, g_max)


@lru_cache(maxsize=32)
def reflections(structure: CrystalStructure, g_max: float) -> Reflections:
    """All reflections with 0 < g <= g_max that are not absent; cached per structure."""
    factors = structure_factors(structure, max(g_max, 1.0))
    half = _index_limits(structure, g_max)
    axes = [np.arange(-m, m + 1) for m in half]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    g = hkl @ structure.reciprocal
    length2 = (g**2).sum(1)
    keep = (length2 <= g_max**2) & (length2 > 0)
    hkl, g = hkl[keep], g[keep]
    strength = np.abs(factors.at(hkl)) ** 2
    keep = strength > _FAINTEST**2 * strength.max(initial=0.0)
    return Reflections(hkl[keep], g[keep], strength[keep])


def _index_limits(structure: CrystalStructure, g_max: float) -> tuple[int, int, int]:
    edges = np.linalg.norm(structure.direct, axis=1)
    h, k, m = (int(np.ceil(g_max * e)) for e in edges)
    return h, k, m


def _gaussians(element: str) -> Array:
    coefficients = gemmi.Element(element).c4322
    if coefficients is None:
        raise StructureError(f"no electron scattering factor for '{element}'")
    return np.array([coefficients.a, coefficients.b], dtype=float)


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _fill(
    half: Integers,
    reciprocal: Array,
    fractional: Array,
    occupancy: Array,
    kinds: Integers,
    coefficients: Array,
    u_iso: Array,
    g_max: float,
) -> Complex:
    n_atoms = fractional.shape[0]
    n_kinds = u_iso.shape[0]
    n_h, n_k, n_l = half[0], half[1], half[2]
    table = np.zeros((2 * n_h + 1, 2 * n_k + 1, 2 * n_l + 1), dtype=np.complex128)
    ez = np.exp(2j * np.pi * np.outer(np.arange(-n_l, n_l + 1), fractional[:, 2]))
    scatter = np.zeros(n_kinds)
    for h in range(n_h + 1):
        for k in range(-n_k, n_k + 1):
            in_plane = np.exp(2j * np.pi * (h * fractional[:, 0] + k * fractional[:, 1]))
            for m in range(-n_l, n_l + 1):
                if h == 0 and (k < 0 or (k == 0 and m < 0)):
                    continue
                g2 = 0.0
                for i in range(3):
                    gi = h * reciprocal[0, i] + k * reciprocal[1, i] + m * reciprocal[2, i]
                    g2 += gi * gi
                if g2 > g_max * g_max:
                    continue
                for q in range(n_kinds):
                    f = 0.0
                    for i in range(coefficients.shape[2]):
                        f += coefficients[q, 0, i] * np.exp(-coefficients[q, 1, i] * g2 / 4)
                    scatter[q] = f * np.exp(-2 * np.pi**2 * u_iso[q] * g2)
                total = 0.0j
                for a in range(n_atoms):
                    total += scatter[kinds[a]] * occupancy[a] * in_plane[a] * ez[m + n_l, a]
                table[n_h + h, n_k + k, n_l + m] = total
                table[n_h - h, n_k - k, n_l - m] = np.conj(total)
    return table
