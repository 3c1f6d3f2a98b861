"""Which rings a polycrystalline standard shows: gold built in, any other from its CIF."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np

from controller.calibration.rings import Standard
from controller.perception.alignment import CrystalStructure, structure_from_cif
from controller.perception.alignment.structure_factors import reflections

_G_MAX_INV_A = 1.6


def gold() -> Standard:
    """Fcc gold, a = 4.0782 A."""
    text = (files("controller.calibration") / "Au.cif").read_text(encoding="utf-8")
    return standard_of(structure_from_cif(text, "Au"))


def standard_from(path: Path | None) -> Standard:
    """The standard of a CIF file; gold if there is none.

    Raises
    ------
    StructureError
        Not a CIF with a crystal structure.
    """
    return gold() if path is None else standard_of(structure_from_cif(path))


def standard_of(structure: CrystalStructure) -> Standard:
    """Radii and kinematical strengths of the rings of a powder: multiplicity |F|^2 / g."""
    present = reflections(structure, _G_MAX_INV_A)
    length = np.linalg.norm(present.g, axis=1)
    radii, index = np.unique(np.round(length, 5), return_inverse=True)
    strength = np.bincount(index.reshape(-1), weights=present.strength) / radii
    keep = strength > 1e-3 * strength.max()
    return Standard(structure.name, radii[keep], strength[keep] / strength.max())
