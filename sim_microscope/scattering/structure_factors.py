"""Structure factors of every reflection within a sphere, computed once per structure.

F(hkl) = sum_n o_n f_n(g) exp(-2 pi² U_n g²) exp(-2 pi i hkl . x_n) in Å, without gamma, so that
the potential is V(r) = sum_g F_g exp(+2 pi i g . r) / volume (in units of h²/2 pi m e).
The phase factors are separable in h, k and l, which makes the table one matrix product
per kind of atom.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from sim_microscope.scattering.scattering_factors import scattering_factor_A
from sim_microscope.structures.crystal import Structure

_USUAL_TABLE = 1_300_000
_MAX_TABLE = 8_000_000


@dataclass(frozen=True, eq=False)
class StructureFactors:
    """Table of F and of the reflections themselves.

    ``table`` is complex64 (2H+1, 2K+1, 2L+1) with (h, k, l) = (0, 0, 0) in the middle and zero
    beyond ``g_max_per_A``.
    """

    structure: Structure
    g_max_per_A: float
    table: NDArray[np.complex64]

    @property
    def half(self) -> NDArray[np.int64]:
        """H, K, L: the largest index on each axis."""
        return (np.array(self.table.shape) - 1) // 2

    @cached_property
    def reflections(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.complex64]]:
        """Indices hkl (n, 3), g in the crystal frame (n, 3), F (n,); extinct ones left out."""
        flat = self.table.reshape(-1)
        strength = np.abs(flat)
        keep = np.flatnonzero(strength > 1e-4 * strength.max())
        hkl = np.stack(np.unravel_index(keep, self.table.shape), axis=1) - self.half
        g = hkl @ self.structure.reciprocal_per_A
        return hkl.astype(np.int64), g, flat[keep]

    def differences(
        self, to: NDArray[np.int64], source: NDArray[np.int64]
    ) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
        """F and |g| at to_i - source_j, (len(to), len(source)) each; F = 0 outside the table."""
        index = np.zeros((len(to), len(source)), dtype=np.int32)
        inside = np.ones(index.shape, dtype=bool)
        for axis, (size, half) in enumerate(zip(self.table.shape, self.half, strict=True)):
            rows, cols = to[:, axis].astype(np.int32), source[:, axis].astype(np.int32)
            step = rows[:, None] - cols[None, :] + np.int32(half)
            inside &= (step >= 0) & (step < size)
            index *= np.int32(size)
            index += step
        # the corner of the table lies beyond the sphere: F = 0
        index *= inside
        return self.table.reshape(-1).take(index), self._lengths.take(index)

    @cached_property
    def _lengths(self) -> NDArray[np.float32]:
        """|g| of every entry of the table, flat."""
        axes = [np.arange(-n, n + 1) for n in self.half]
        hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        g = hkl.astype(np.float32) @ self.structure.reciprocal_per_A.astype(np.float32)
        return np.sqrt(np.square(g).sum(axis=1))

    def mean_square(self, g_per_A: NDArray[np.float64]) -> NDArray[np.float64]:
        """Wilson's mean of F², sum_n o_n f_n² exp(-4 pi² U_n g²), in Å²; like ``g_per_A``."""
        total = np.zeros_like(g_per_A)
        for z, u, count in self._kinds:
            f2 = np.square(scattering_factor_A(int(z), g_per_A))
            total += count * f2 * np.exp(-4 * np.pi**2 * u * g_per_A**2)
        return total

    @cached_property
    def _kinds(self) -> list[tuple[float, float, float]]:
        """(Z, U, atoms per cell) of each kind of atom."""
        s = self.structure
        pairs = np.stack([s.atomic_number, np.round(s.U_iso_A2, 8)], axis=1)
        kinds, kind = np.unique(pairs, axis=0, return_inverse=True)
        counts = np.bincount(kind.reshape(-1), s.occupancy)
        return [(float(z), float(u), float(n)) for (z, u), n in zip(kinds, counts, strict=True)]

    @cached_property
    def strongest_A(self) -> float:
        """Largest |F| but F(000)."""
        strength = np.sort(np.abs(self.table).reshape(-1))
        return float(strength[-2])

    @cached_property
    def is_real(self) -> bool:
        """True if every F is real: the origin is a centre of symmetry."""
        return bool(np.abs(self.table.imag).max() < 1e-3 * np.abs(self.table).max())


@lru_cache(maxsize=8)
def structure_factors(structure: Structure, g_max_per_A: float | None = None) -> StructureFactors:
    """Compute (once) F of every reflection with |g| <= ``g_max_per_A``.

    By default the sphere holds what a pattern may need: up to 6 1/Å for small cells, 2.5 1/Å for
    large ones, whose reflections fade sooner.
    """
    if g_max_per_A is None:
        g_max_per_A = float(np.clip(np.cbrt(_USUAL_TABLE / 8 / structure.volume_cubic_A), 2.5, 6.0))
    half = np.floor(g_max_per_A * np.linalg.norm(structure.cell_A, axis=1)).astype(int)
    shape = tuple(int(n) for n in 2 * half + 1)
    if np.prod(shape) > _MAX_TABLE:
        raise ValueError(
            f"{structure.name}: {np.prod(shape)} reflections within {g_max_per_A:g} 1/Å exceed "
            f"the table of {_MAX_TABLE}; nothing was computed. Take a smaller angular range"
        )
    h, k, l = (np.arange(-n, n + 1) for n in half)  # noqa: E741
    g = (
        h[:, None, None, None] * structure.reciprocal_per_A[0]
        + k[None, :, None, None] * structure.reciprocal_per_A[1]
        + l[None, None, :, None] * structure.reciprocal_per_A[2]
    )
    g_length = np.linalg.norm(g, axis=-1)
    table = np.zeros(shape, dtype=np.complex128)
    kinds = np.unique(
        np.stack([structure.atomic_number, np.round(structure.U_iso_A2, 8)], axis=1), axis=0
    )
    for z, u in kinds:
        own = (structure.atomic_number == z) & np.isclose(structure.U_iso_A2, u, atol=1e-8)
        x, y, w = structure.fractional[own].T
        along = [np.exp(-2j * np.pi * np.outer(n, p)) for n, p in ((h, x), (k, y), (l, w))]
        in_plane = (along[0][:, None, :] * along[1][None, :, :]).astype(np.complex64)
        last = (along[2] * structure.occupancy[own]).astype(np.complex64)
        phases = (in_plane.reshape(-1, own.sum()) @ last.T).reshape(shape)
        table += phases * (
            scattering_factor_A(int(z), g_length) * np.exp(-2 * np.pi**2 * u * g_length**2)
        )
    table[g_length > g_max_per_A] = 0
    return StructureFactors(structure, g_max_per_A, table.astype(np.complex64))
