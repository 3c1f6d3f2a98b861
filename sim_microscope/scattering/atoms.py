"""The atoms in the beam: a slab cut from a crystal at any orientation, with a film behind it.

Positions are (x, y, z) in Å in the column frame: x = +col, y = +row, z = electron travel, z = 0 at
the entrance surface, x = y = 0 at the centre of the scan field.  Damage and defects act here,
on single atoms, so that the multislice needs to know nothing of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim_microscope.structures.crystal import Structure

Array = NDArray[np.float64]

_CARBON_ATOMS_per_cubic_A = 0.0902


@dataclass(frozen=True, eq=False)
class Atoms:
    """A cloud of atoms; all arrays have the same first length."""

    positions_A: Array
    atomic_number: NDArray[np.int64]
    occupancy: Array
    U_iso_A2: Array

    def select(self, keep: NDArray[np.bool_]) -> Atoms:
        """The atoms where ``keep`` is true."""
        return Atoms(
            self.positions_A[keep],
            self.atomic_number[keep],
            self.occupancy[keep],
            self.U_iso_A2[keep],
        )

    def displaced(self, by_A: Array) -> Atoms:
        """The same atoms moved by ``by_A`` (n, 3)."""
        return replace(self, positions_A=self.positions_A + by_A)

    def joined(self, other: Atoms) -> Atoms:
        """Both clouds together."""
        return Atoms(
            np.concatenate([self.positions_A, other.positions_A]),
            np.concatenate([self.atomic_number, other.atomic_number]),
            np.concatenate([self.occupancy, other.occupancy]),
            np.concatenate([self.U_iso_A2, other.U_iso_A2]),
        )


def crystal_slab(
    structure: Structure,
    orientation: Array,
    *,
    extent_A: tuple[float, float],
    thickness_A: float,
    origin_A: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Atoms:
    """Atoms of the crystal in a box: extent (rows, cols) about x = y = 0, and 0 <= z < thickness.

    The origin of the lattice lies at ``origin_A`` = (x, y, z).
    """
    half = np.array([extent_A[1] / 2, extent_A[0] / 2])
    low = np.array([-half[0], -half[1], 0.0])
    high = np.array([half[0], half[1], thickness_A])
    rows = structure.cell_A @ orientation.T  # a, b, c in the column frame
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1)
    fractional = (corners.reshape(-1, 3) - origin_A) @ np.linalg.inv(rows)
    first = np.floor(fractional.min(axis=0)).astype(int) - 1
    last = np.ceil(fractional.max(axis=0)).astype(int) + 1
    grid = np.meshgrid(*(np.arange(a, b) for a, b in zip(first, last, strict=True)), indexing="ij")
    cells = np.stack(grid, axis=-1).reshape(-1, 3)
    # a cell whose centre is farther than its radius from the box holds no atom of it
    radius = 0.5 * np.linalg.norm(np.abs(rows).sum(axis=0))
    centres = (cells + 0.5) @ rows + origin_A
    cells = cells[((centres > low - radius) & (centres < high + radius)).all(axis=1)]
    everywhere = (cells[:, None, :] + structure.fractional[None, :, :]).reshape(-1, 3)
    positions = everywhere @ rows + origin_A
    inside = ((positions >= low) & (positions < high)).all(axis=1)
    index = np.flatnonzero(inside) % len(structure.fractional)
    return Atoms(
        positions[inside],
        structure.atomic_number[index],
        structure.occupancy[index],
        structure.U_iso_A2[index],
    )


def carbon_film(
    rng: np.random.Generator,
    *,
    extent_A: tuple[float, float],
    z_A: tuple[float, float],
) -> Atoms:
    """Amorphous carbon of 1.8 g/cm³ between two depths: atoms at random, no short-range order."""
    volume = extent_A[0] * extent_A[1] * (z_A[1] - z_A[0])
    n = int(rng.poisson(volume * _CARBON_ATOMS_per_cubic_A))
    box = np.array([extent_A[1], extent_A[0], z_A[1] - z_A[0]])
    positions = rng.random((n, 3)) * box + [-extent_A[1] / 2, -extent_A[0] / 2, z_A[0]]
    return Atoms(positions, np.full(n, 6), np.ones(n), np.full(n, 0.02))
