"""A crystal structure as electrons see it: lattice, symmetry, structure factors.

Coordinates and symmetry come from a CIF through gemmi; electron scattering factors are gemmi's
c4322 (International Tables C, table 4.3.2.2), with isotropic displacement factors.  The Cartesian
frame of the crystal has a along x and c* along z (gemmi's, and the PDB's).
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


class StructureError(ValueError):
    """The CIF does not describe a crystal that can be computed."""


@dataclass(frozen=True, eq=False)
class CrystalStructure:
    """One crystal structure; made by `structure_from_cif`, compared by identity."""

    name: str
    direct: Array
    """Rows a, b, c in A, Cartesian, (3, 3)."""
    elements: tuple[str, ...]
    """Symbol of each atom in the cell."""
    fractional: Array
    """(atoms, 3)."""
    occupancy: Array
    """(atoms,)."""
    u_iso_A2: Array
    """Mean square displacement, (atoms,)."""
    point_operations: Integers
    """Integer matrices W acting on fractional coordinates, Laue group, (n, 3, 3)."""
    centrosymmetric: bool

    @cached_property
    def reciprocal(self) -> Array:
        """Rows a*, b*, c* in 1/A, (3, 3): g = hkl @ reciprocal."""
        return np.asarray(np.linalg.inv(self.direct).T, dtype=float)

    @cached_property
    def volume(self) -> float:
        """Cell volume in A^3."""
        return float(abs(np.linalg.det(self.direct)))

    @cached_property
    def rotations(self) -> Array:
        """Proper rotations of the Laue group, Cartesian, (n, 3, 3)."""
        to_cartesian = self.direct.T
        cartesian = to_cartesian @ self.point_operations @ np.linalg.inv(to_cartesian)
        return np.asarray(cartesian[np.linalg.det(cartesian) > 0], dtype=float)

    def direction(self, uvw: tuple[int, int, int]) -> Array:
        """Unit vector of the zone axis [uvw], Cartesian."""
        v = np.asarray(uvw, dtype=float) @ self.direct
        length = float(np.linalg.norm(v))
        if length == 0:
            raise StructureError("zone axis [0,0,0] has no direction; give three integers")
        return np.asarray(v / length, dtype=float)

    def zone_family(self, uvw: tuple[int, int, int]) -> Array:
        """Unit vectors of all zone axes equivalent to [uvw], both senses, (n, 3)."""
        members = self.rotations @ self.direction(uvw)
        both = np.concatenate([members, -members])
        _, first = np.unique(np.round(both, 6), axis=0, return_index=True)
        return both[np.sort(first)]


def structure_from_cif(source: Path | str, name: str | None = None) -> CrystalStructure:
    """Read a crystal structure from a CIF file (a path) or from CIF text.

    Raises
    ------
    StructureError
        Not a CIF, no atoms, or no cell.
    """
    text, label = (source, "CIF text") if isinstance(source, str) else (_read(source), source.name)
    return _parse(text, name or label)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as problem:
        raise StructureError(f"{path}: cannot be read ({problem.strerror})") from problem


@lru_cache(maxsize=32)
def _parse(text: str, name: str) -> CrystalStructure:
    try:
        document = gemmi.cif.read_string(text)
        block = next(b for b in document if b.find_value("_cell_length_a") is not None)
        small = gemmi.make_small_structure_from_block(block)
    except (ValueError, RuntimeError, StopIteration) as problem:
        raise StructureError(f"{name}: not a CIF with a crystal structure ({problem})") from problem
    sites = small.get_all_unit_cell_sites()
    if not sites or not small.cell.is_crystal():
        raise StructureError(f"{name}: the CIF holds {len(sites)} atoms and no usable cell")
    group = getattr(small, "spacegroup", None)
    if group is None:
        group = gemmi.SpaceGroup("P 1")
    operations = group.operations()
    rotations = {_matrix(op) for op in operations.sym_ops}
    rotations |= {tuple(-w for w in m) for m in rotations}
    matrices = np.array(sorted(rotations), dtype=np.int64).reshape(-1, 3, 3)
    orthogonal = np.array(small.cell.orth.mat.tolist(), dtype=float)
    return CrystalStructure(
        name=name,
        direct=orthogonal.T.copy(),
        elements=tuple(site.element.name for site in sites),
        fractional=np.array([site.fract.tolist() for site in sites], dtype=float),
        occupancy=np.array([site.occ for site in sites], dtype=float),
        u_iso_A2=np.array([_u_iso(site) for site in sites], dtype=float),
        point_operations=matrices,
        centrosymmetric=bool(operations.is_centrosymmetric()),
    )


def _matrix(operation: gemmi.Op) -> tuple[int, ...]:
    return tuple(int(w) // gemmi.Op.DEN for row in operation.rot for w in row)


def _u_iso(site: gemmi.SmallStructure.Site) -> float:
    if site.aniso.nonzero():
        return float((site.aniso.u11 + site.aniso.u22 + site.aniso.u33) / 3)
    return float(site.u_iso) if site.u_iso > 0 else 0.01
