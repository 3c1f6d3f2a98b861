"""Camera constant and rotation from the lattice itself, where the plane of the zone is in view.

Within a few degrees of the zone axis the spots lie on the zero-order plane of the reciprocal
lattice, foreshortened by less than half a percent.  The reduced basis of the spots then equals a
pair of known vectors up to a rotation and one factor: the true camera constant over the nominal
one.  This is more certain than any matching of single spots, whose errors pull each other along.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.lattice import Lattice
from controller.perception.alignment.structure import CrystalStructure

Array = NDArray[np.float64]

REACH = 0.035
"""How far the nominal camera constant may be off."""
_AGREEMENT = 0.006
"""Relative mismatch of basis vectors at which a pair is the one that is seen."""
_LEAST_SCORE = 30.0
_LEAST_USED = 0.55
_FEWEST_SPOTS = 9


@dataclass(frozen=True, eq=False)
class LatticeMatch:
    """What the basis of the spots is in the crystal."""

    factor: float
    """True camera constant over the nominal one."""
    first: Array
    """Crystal vectors that the first basis vector may be, 1/A, (n, 3)."""
    second: Array
    """The second basis vector of each, (n, 3)."""
    azimuth_rad: float
    """Of the first basis vector on the detector."""

    def rotations_rad(self, frame: Array) -> Array:
        """In-plane rotations that carry a zone frame (zone on z, (3, 3)) onto the spots."""
        a, b = self.first @ frame.T, self.second @ frame.T
        # the basis of the spots is right-handed on the detector
        right = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] > 0) & (np.abs(a[:, 2]) < 1e-6)
        angle = self.azimuth_rad - np.arctan2(a[right, 1], a[right, 0])
        return np.unique(np.round(np.mod(angle, 2 * np.pi), 4))


def match_lattice(
    lattice: Lattice, structure: CrystalStructure, uvw: tuple[int, int, int], inv_A_per_px: float
) -> LatticeMatch | None:
    """What the spots' lattice is, or None where that is not decided.

    Parameters
    ----------
    lattice
        Of the spots, origin at the direct beam.
    structure, uvw
        The crystal, and the zone whose plane may be in view (any member of the family will do).
    inv_A_per_px
        Nominal camera constant.
    """
    if (
        lattice.score < _LEAST_SCORE
        or lattice.used.mean() < _LEAST_USED
        or lattice.used.sum() < _FEWEST_SPOTS
    ):
        return None
    seen = lattice.basis_px * inv_A_per_px
    gram = _invariants(seen)
    plane = _zone_plane(structure, uvw, 1.1 * float(np.sqrt(max(gram[0], gram[1]))))
    if len(plane) < 2:
        return None
    i, j = (k.ravel() for k in np.meshgrid(np.arange(len(plane)), np.arange(len(plane))))
    a2 = (plane[i] ** 2).sum(1)
    b2 = (plane[j] ** 2).sum(1)
    ab = (plane[i] * plane[j]).sum(1)
    # known = factor^2 * seen for the three invariants of a basis: lengths and their product
    factor2 = (a2 + b2) / (gram[0] + gram[1])
    size = factor2 * np.sqrt(gram[0] * gram[1])
    miss = np.sqrt(
        (a2 - factor2 * gram[0]) ** 2 + (b2 - factor2 * gram[1]) ** 2
        + 2.0 * (ab - factor2 * gram[2]) ** 2
    ) / (2.0 * size)  # fmt: skip
    factor = np.sqrt(factor2)
    good = (miss < _AGREEMENT) & (np.abs(factor - 1.0) < REACH)
    if not good.any():
        return None
    found = factor[good]
    if np.ptp(found) > 2.0 * _AGREEMENT:
        return None
    return LatticeMatch(
        factor=float(found[np.argmin(miss[good])]),
        first=plane[i[good]],
        second=plane[j[good]],
        azimuth_rad=float(np.arctan2(seen[0, 1], seen[0, 0])),
    )


def _invariants(basis: Array) -> tuple[float, float, float]:
    """a.a, b.b and a.b of a 2-D basis (rows)."""
    a, b = basis
    return float(a @ a), float(b @ b), float(a @ b)


def _zone_plane(structure: CrystalStructure, uvw: tuple[int, int, int], longest: float) -> Array:
    """All reciprocal vectors of the zero-order plane up to a length, (n, 3), 1/A."""
    edges = np.linalg.norm(structure.direct, axis=1)
    most = [int(np.ceil(longest * e)) for e in edges]
    axes = [np.arange(-m, m + 1) for m in most]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    hkl = hkl[(hkl @ np.asarray(uvw) == 0) & (hkl != 0).any(1)]
    g = hkl @ structure.reciprocal
    return np.asarray(g[np.linalg.norm(g, axis=1) <= longest], dtype=float)
