"""Read a structure from a CIF, shipped or the user's own, and write out its symmetry.

Source of the coordinates: the first line of each CIF.  Habits are the textbook ones:
UiO-66 octahedra {111}, ZIF-8 rhombic dodecahedra {110}, MFI coffins {010}, {100}, {101},
NU-1000 hexagonal rods {100}, {001}; cubes or parallelepipeds otherwise.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim_microscope.structures.crystal import Facet, Structure

SHIPPED_STRUCTURES = ("UiO-66", "ZIF-8", "MFI", "NU-1000", "SrTiO3", "Au")

if TYPE_CHECKING:
    import gemmi

_DEFAULT_U_A2 = 0.01

_Habit = tuple[tuple[tuple[int, int, int], float], ...]
_BLOCK: _Habit = (((1, 0, 0), 1.0), ((0, 1, 0), 1.0), ((0, 0, 1), 1.0))
_HABITS: dict[str, _Habit] = {
    "UiO-66": (((1, 1, 1), 1.0),),
    "ZIF-8": (((1, 1, 0), 1.0),),
    "MFI": (((0, 1, 0), 0.35), ((1, 0, 0), 0.8), ((1, 0, 1), 1.2)),
    "NU-1000": (((1, 0, 0), 0.3), ((0, 0, 1), 1.0)),
    "SrTiO3": (((1, 0, 0), 1.0),),
    "Au": (((1, 1, 1), 1.0), ((1, 0, 0), 1.1)),
}
_LIES_ON: dict[str, tuple[tuple[int, int, int], ...]] = {
    "MFI": ((0, 1, 0), (1, 0, 0)),
    "NU-1000": ((1, 0, 0),),
}


def load_structure(name_or_path: str | Path) -> Structure:
    """Load a shipped structure by name, or any CIF by its path (a name that ends in .cif).

    Raises
    ------
    ValueError
        Unknown name, unreadable file, or a file without cell, symmetry or atoms.
        The message names the file and what to do.
    """
    if str(name_or_path).lower().endswith(".cif"):
        return _read(Path(name_or_path), Path(name_or_path).stem)
    if name_or_path not in SHIPPED_STRUCTURES:
        raise ValueError(
            f"no structure named {str(name_or_path)!r} is shipped; nothing was loaded. "
            f"Use one of {', '.join(SHIPPED_STRUCTURES)}, or the path of a file that ends in .cif"
        )
    return _shipped(str(name_or_path))


@cache
def _shipped(name: str) -> Structure:
    return _read(Path(__file__).with_name(f"{name}.cif"), name)


def _read(path: Path, name: str) -> Structure:
    import gemmi

    if not path.is_file():
        raise ValueError(
            f"the structure file {path} does not exist; nothing was loaded. "
            f"Give the path of a CIF, or one of {', '.join(SHIPPED_STRUCTURES)}"
        )
    try:
        small: Any = gemmi.read_small_structure(str(path))
    except (RuntimeError, ValueError, IndexError) as problem:
        raise ValueError(
            f"{path} cannot be read as CIF: {problem}; nothing was loaded. "
            f"Correct the file, or export it again from the structure database"
        ) from problem
    _require_crystal(small, path)
    sites = small.get_all_unit_cell_sites()
    elements = [site.element for site in sites]
    u = np.array([site.u_iso for site in sites], dtype=float)
    return Structure(
        name=name,
        cell_A=np.array(small.cell.orth.mat.tolist(), dtype=float).T,
        fractional=np.array([[s.fract.x, s.fract.y, s.fract.z] for s in sites]) % 1.0,
        atomic_number=np.array([e.atomic_number for e in elements], dtype=np.int64),
        occupancy=np.array([site.occ for site in sites], dtype=float),
        U_iso_A2=np.where(u > 0, u, _DEFAULT_U_A2),
        atomic_mass=np.array([e.weight for e in elements], dtype=float),
        space_group=small.spacegroup.hm,
        facets=_all_faces(_HABITS.get(name, _BLOCK), small.spacegroup),
        flat_faces=_LIES_ON.get(name, tuple(hkl for hkl, _ in _HABITS.get(name, _BLOCK))),
    )


def _require_crystal(small: gemmi.SmallStructure, path: Path) -> None:
    """Refuse a file that lacks what a diffraction pattern needs."""
    remedy = "nothing was loaded. Complete the file from its source"
    if not small.cell.is_crystal():
        raise ValueError(f"{path} gives no unit cell (_cell_length_a ...); {remedy}")
    if len(small.sites) == 0:
        raise ValueError(f"{path} gives no atoms (_atom_site_fract_x ...); {remedy}")
    if small.spacegroup is None:
        raise ValueError(
            f"{path} gives no space group that can be understood "
            f"(found {small.spacegroup_hm!r}); {remedy}"
        )
    for site in small.sites:
        if site.element.atomic_number == 0:
            raise ValueError(
                f"{path}: atom {site.label!r} has no known element ({site.type_symbol!r}); {remedy}"
            )
        if not 0 < site.occ <= 1:
            raise ValueError(
                f"{path}: atom {site.label!r} has occupancy {site.occ:g}, outside (0, 1]; {remedy}"
            )


def _all_faces(habit: _Habit, space_group: gemmi.SpaceGroup) -> tuple[Facet, ...]:
    """Every face of each family, by the point group with inversion added."""
    found: dict[tuple[int, int, int], float] = {}
    for hkl, distance in habit:
        for operation in space_group.operations():
            h, k, l = operation.apply_to_hkl(list(hkl))  # noqa: E741
            found.setdefault((h, k, l), distance)
            found.setdefault((-h, -k, -l), distance)
    return tuple(Facet(hkl, distance) for hkl, distance in sorted(found.items()))
