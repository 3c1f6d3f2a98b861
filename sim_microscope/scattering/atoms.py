"""The atoms in the beam: a slab cut from a crystal at any orientation, and amorphous film.

Positions are (x, y, z) in Å in the column frame: x = +col, y = +row, z = electron travel, z = 0 at
the entrance surface, x = y = 0 at the centre of the scan.  A box is given by its low and high
corner.  What is inside does not depend on the box: neighbouring boxes fit together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim_microscope.scattering.atom_lottery import Identity, identify, normal, uniform
from sim_microscope.scattering.mean_free_path import CARBON_ATOMS_per_cubic_A
from sim_microscope.structures.crystal import Structure

Array = NDArray[np.float64]

_CARBON_TILE_A = 16.0


@dataclass(frozen=True, eq=False)
class Atoms:
    """A cloud of atoms; all arrays have the same first length.

    ``identity`` tells atoms apart, ``cell`` (n,) the unit cells they came from.
    """

    positions_A: Array
    atomic_number: NDArray[np.int64]
    occupancy: Array
    U_iso_A2: Array
    identity: Identity
    cell: Identity

    def select(self, keep: NDArray[np.bool_]) -> Atoms:
        """The atoms where ``keep`` is true."""
        return Atoms(
            self.positions_A[keep],
            self.atomic_number[keep],
            self.occupancy[keep],
            self.U_iso_A2[keep],
            self.identity[keep],
            self.cell[keep],
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
            np.concatenate([self.identity, other.identity]),
            np.concatenate([self.cell, other.cell]),
        )


def crystal_slab(
    structure: Structure,
    orientation: Array,
    *,
    low_A: Array,
    high_A: Array,
    origin_A: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Atoms:
    """Atoms of the crystal with low <= (x, y, z) < high; its lattice's origin at ``origin_A``."""
    rows = structure.cell_A @ orientation.T  # a, b, c in the column frame
    corners = np.stack(np.meshgrid(*zip(low_A, high_A, strict=True), indexing="ij"), axis=-1)
    fractional = (corners.reshape(-1, 3) - origin_A) @ np.linalg.inv(rows)
    first = np.floor(fractional.min(axis=0)).astype(int) - 1
    last = np.ceil(fractional.max(axis=0)).astype(int) + 1
    grid = np.meshgrid(*(np.arange(a, b) for a, b in zip(first, last, strict=True)), indexing="ij")
    cells = np.stack(grid, axis=-1).reshape(-1, 3)
    # a cell whose centre is farther than its radius from the box holds no atom of it
    radius = 0.5 * np.linalg.norm(np.abs(rows).sum(axis=0))
    centres = (cells + 0.5) @ rows + origin_A
    cells = cells[((centres > low_A - radius) & (centres < high_A + radius)).all(axis=1)]
    everywhere = (cells[:, None, :] + structure.fractional[None, :, :]).reshape(-1, 3)
    positions = everywhere @ rows + origin_A
    inside = np.flatnonzero(((positions >= low_A) & (positions < high_A)).all(axis=1))
    cell, atom = np.divmod(inside, len(structure.fractional))
    cell_identity = identify(*cells[cell].T)
    return Atoms(
        positions[inside],
        structure.atomic_number[atom],
        structure.occupancy[atom],
        structure.U_iso_A2[atom],
        identity=cell_identity ^ identify(atom),
        cell=cell_identity,
    )


def carbon_film(*, low_A: Array, high_A: Array, seed: int) -> Atoms:
    """Amorphous carbon of 1.8 g/cm³ in a box: atoms at random, without short-range order."""
    first = np.floor(low_A / _CARBON_TILE_A).astype(int)
    last = np.floor(high_A / _CARBON_TILE_A).astype(int) + 1
    grid = np.meshgrid(*(np.arange(a, b) for a, b in zip(first, last, strict=True)), indexing="ij")
    tiles = np.stack(grid, axis=-1).reshape(-1, 3)
    mean = CARBON_ATOMS_per_cubic_A * _CARBON_TILE_A**3
    tile_identity = identify(*tiles.T)
    chance = normal(tile_identity, seed=seed, stream=60)
    counts = np.rint(mean + np.sqrt(mean) * chance).astype(int)
    tile = np.repeat(np.arange(len(tiles)), counts)
    order = np.arange(len(tile)) - np.repeat(np.cumsum(counts) - counts, counts)
    identity = tile_identity[tile] ^ identify(order, np.full(len(order), 6))
    within = np.stack([uniform(identity, seed=seed, stream=61 + i) for i in range(3)], axis=1)
    positions = (tiles[tile] + within) * _CARBON_TILE_A
    inside = ((positions >= low_A) & (positions < high_A)).all(axis=1)
    n = int(inside.sum())
    return Atoms(
        positions[inside],
        np.full(n, 6),
        np.ones(n),
        np.full(n, 0.02),
        identity[inside],
        tile_identity[tile][inside],
    )
