"""Electron scattering factors of neutral atoms, hydrogen to lawrencium.

I. Lobato and D. Van Dyck, Acta Cryst. A70 (2014) 636-649:
f_e(g) = sum_i a_i (2 + b_i g²) / (1 + b_i g²)², five terms, g = 2 sin(theta) / lambda in 1/Å,
f_e in Å for an electron at rest (multiply by gamma).  The reconstruction and the controller
use another table on purpose; a law test holds the two together.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

_TABLE = "lobato_van_dyck_2014.csv"


@lru_cache(maxsize=1)
def _coefficients() -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    text = Path(__file__).with_name(_TABLE).read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in text if not line.startswith("#"))
    return {
        int(row["Z"]): (
            np.array([float(row[f"a{i}"]) for i in range(1, 6)]),
            np.array([float(row[f"b{i}"]) for i in range(1, 6)]),
        )
        for row in rows
    }


def scattering_factor_A(atomic_number: int, g_per_A: ArrayLike) -> NDArray[np.float64]:
    """First Born amplitude f_e(g) in Å; same shape as ``g_per_A``.

    Raises
    ------
    ValueError
        No coefficients for this element.
    """
    try:
        a, b = _coefficients()[int(atomic_number)]
    except KeyError:
        raise ValueError(
            f"no electron scattering factor for atomic number {atomic_number}; the table holds "
            f"1 to {max(_coefficients())}. Replace the atom in the structure file"
        ) from None
    g2 = np.square(np.asarray(g_per_A, dtype=float))
    f = np.zeros_like(g2)
    for ai, bi in zip(a, b, strict=True):
        x = bi * g2
        f += ai * (2 + x) / np.square(1 + x)
    return f
