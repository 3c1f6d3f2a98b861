"""A crystal structure as the simulator uses it: every atom of one unit cell, and its faces.

The crystal's Cartesian frame has ``a`` along x and ``b`` in the xy plane, so ``cell_A`` holds
a, b, c as rows and a direction [uvw] is ``uvw @ cell_A``.  A rotation R takes a vector of
this frame into the column: v_column = R @ v_crystal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_ATOMIC_MASS_G = 1.66053907e-24


@dataclass(frozen=True)
class Facet:
    """One face of a crystal: hkl and its distance from the centre relative to the other faces."""

    hkl: tuple[int, int, int]
    relative_distance: float


@dataclass(frozen=True, eq=False)
class Structure:
    """One unit cell of a crystal.

    Attributes
    ----------
    cell_A
        Rows a, b, c in the crystal's Cartesian frame, ångström, (3, 3).
    fractional
        Fractional coordinates, each in [0, 1), (n, 3).
    atomic_number, occupancy, U_iso_A2
        Per atom, (n,); U in Å².
    facets
        Faces of the usual habit, all symmetry equivalents written out.
    flat_faces
        Families of faces such a crystal comes to lie on, most likely first.
    """

    name: str
    cell_A: Array
    fractional: Array
    atomic_number: NDArray[np.int64]
    occupancy: Array
    U_iso_A2: Array
    atomic_mass: Array
    space_group: str
    facets: tuple[Facet, ...]
    flat_faces: tuple[tuple[int, int, int], ...]

    @cached_property
    def positions_A(self) -> Array:
        """Cartesian positions in the crystal frame, Å, (n, 3)."""
        return self.fractional @ self.cell_A

    @cached_property
    def volume_cubic_A(self) -> float:
        """Volume of the unit cell, Å³."""
        return float(abs(np.linalg.det(self.cell_A)))

    @cached_property
    def reciprocal_per_A(self) -> Array:
        """Rows a*, b*, c* without 2 pi, 1/Å; g = hkl @ this, (3, 3)."""
        return np.asarray(np.linalg.inv(self.cell_A).T)

    @cached_property
    def density_g_per_cm3(self) -> float:
        """Mass density of the framework alone, g/cm³."""
        mass = float((self.atomic_mass * self.occupancy).sum())
        return mass * _ATOMIC_MASS_G / (self.volume_cubic_A * 1e-24)

    @cached_property
    def composition(self) -> dict[int, float]:
        """Atoms per unit cell by atomic number."""
        return {
            int(z): float(self.occupancy[self.atomic_number == z].sum())
            for z in np.unique(self.atomic_number)
        }

    def direction(self, uvw: ArrayLike) -> Array:
        """Unit vector(s) along the lattice direction [uvw], crystal frame, (..., 3)."""
        v = np.asarray(uvw, dtype=float) @ self.cell_A
        return np.asarray(v / np.linalg.norm(v, axis=-1, keepdims=True))

    def plane_normal(self, hkl: ArrayLike) -> Array:
        """Unit normal(s) of the planes (hkl), crystal frame, (..., 3)."""
        g = np.asarray(hkl, dtype=float) @ self.reciprocal_per_A
        return np.asarray(g / np.linalg.norm(g, axis=-1, keepdims=True))

    def habit(self) -> tuple[Array, Array]:
        """Outward unit normals (m, 3) and relative distances (m,) of the faces."""
        normals = self.plane_normal([f.hkl for f in self.facets])
        return normals, np.array([f.relative_distance for f in self.facets])
