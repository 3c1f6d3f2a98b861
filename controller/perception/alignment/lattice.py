"""The two-dimensional lattice under the spots, and how sure it is.

A candidate lattice is scored against "spots anywhere": a spot at distance d from its nearest
node contributes log[(1 - e) A N(d; s) + e] with A the area of the cell, N a Gaussian of the
position error s and e the share of strays.  Dense lattices explain everything and gain nothing
by it, since A is in the score.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

_STRAYS = 0.1
_MOST_SPOTS = 40


@dataclass(frozen=True)
class Lattice:
    """Nodes at origin + m a + n b, in pixels (x, y)."""

    origin_px: tuple[float, float]
    basis_px: Array
    """Rows a and b, reduced, (2, 2)."""
    score: float
    """Log-likelihood gained over "spots anywhere"."""
    used: NDArray[np.bool_]
    """Which spots lie on nodes, (n,)."""
    index: Integers
    """Nearest node (m, n) of each spot, (n, 2)."""

    @property
    def cell_area_px2(self) -> float:
        """Area of the cell, in square pixels."""
        return float(abs(np.linalg.det(self.basis_px)))


def fit_lattice(
    x: Array, y: Array, counts: Array, centre_px: tuple[float, float], *, centre_is_node: bool
) -> Lattice | None:
    """Find and refine the lattice of spots (brightest first); None where nothing repeats.

    Parameters
    ----------
    x, y, counts
        Spots, brightest first, (n,) each.
    centre_px
        (x, y) of the direct beam, or a guess of it.
    centre_is_node
        The centre is the measured direct beam and therefore a node.  Otherwise the origin becomes
        the node nearest to the guess.
    """
    if len(x) < 4:
        return None
    points = np.stack([x, y], 1)
    top = points[:_MOST_SPOTS]
    origin = np.array(centre_px) if centre_is_node else top[0]
    pairs = _candidate_bases(top)
    if len(pairs) == 0:
        return None
    position_error = 0.7
    scores = np.array([_score(top, origin, basis, position_error) for basis in pairs])
    best: tuple[float, Array, Array] | None = None
    for i in np.argsort(-scores)[:6]:
        o, basis = _refine(points, counts, origin, pairs[i], fixed=centre_is_node)
        score = _score(top, o, basis, position_error)
        if best is None or score > best[0]:
            best = (score, o, basis)
    if best is None:
        return None
    score, origin, basis = best
    basis = reduce_basis(basis)
    if not centre_is_node:
        steps = np.round((np.array(centre_px) - origin) @ np.linalg.inv(basis))
        origin = origin + steps @ basis
    index, distance = _nearest(points, origin, basis)
    used = distance < 2.2 * position_error
    return Lattice((float(origin[0]), float(origin[1])), basis, score, used, index)


def reduce_basis(basis: Array) -> Array:
    """Shortest basis of the same lattice (Gauss), right-handed on the detector, (2, 2)."""
    a, b = np.array(basis[0], dtype=float), np.array(basis[1], dtype=float)
    for _ in range(100):
        if a @ a > b @ b:
            a, b = b, a
        if a @ a == 0:
            break
        steps = np.round((a @ b) / (a @ a))
        if steps == 0:
            break
        b = b - steps * a
    if a[0] * b[1] - a[1] * b[0] < 0:
        b = -b
    return np.stack([a, b])


def _candidate_bases(points: Array) -> list[Array]:
    """Reduced bases from the short differences between spots."""
    i, j = np.triu_indices(len(points), 1)
    d = points[j] - points[i]
    d[(d[:, 1] < 0) | ((d[:, 1] == 0) & (d[:, 0] < 0))] *= -1
    length = np.hypot(d[:, 0], d[:, 1])
    d = d[length > 3.0]
    length = length[length > 3.0]
    vectors: list[Array] = []
    votes: list[int] = []
    for k in np.argsort(length, kind="stable")[:250]:
        for n, v in enumerate(vectors):
            if np.hypot(*(v / max(votes[n], 1) - d[k])) < 1.5:
                vectors[n] = v + d[k]
                votes[n] += 1
                break
        else:
            if len(vectors) < 60:
                vectors.append(d[k].copy())
                votes.append(1)
    means = [v / n for v, n in zip(vectors, votes, strict=True)]
    by_votes = np.argsort([-n for n in votes], kind="stable")[:24]
    short = np.argsort([np.hypot(*v) for v in means], kind="stable")[:12]
    chosen = sorted({int(k) for k in by_votes} | {int(k) for k in short})
    bases = []
    for p, k in enumerate(chosen):
        for m in chosen[p + 1 :]:
            basis = reduce_basis(np.stack([means[k], means[m]]))
            area = abs(basis[0, 0] * basis[1, 1] - basis[0, 1] * basis[1, 0])
            shortest = np.hypot(*basis[0])
            if shortest > 3.0 and area > 0.3 * shortest * np.hypot(*basis[1]):
                bases.append(basis)
    return bases


def _nearest(points: Array, origin: Array, basis: Array) -> tuple[Integers, Array]:
    fractional = (points - origin) @ np.linalg.inv(basis)
    index = np.round(fractional)
    distance = np.linalg.norm((fractional - index) @ basis, axis=1)
    return index.astype(np.int64), distance


def _score(points: Array, origin: Array, basis: Array, position_error: float) -> float:
    _, distance = _nearest(points, origin, basis)
    # far nodes may be off by the error of the basis itself: let the tolerance grow slowly
    reach = np.linalg.norm(points - origin, axis=1)
    s2 = position_error**2 + (0.006 * reach) ** 2
    density = np.exp(-0.5 * distance**2 / s2) / (2 * np.pi * s2)
    area = abs(np.linalg.det(basis))
    return float(np.log((1 - _STRAYS) * area * density + _STRAYS).sum())


def _refine(
    points: Array, counts: Array, origin: Array, basis: Array, *, fixed: bool
) -> tuple[Array, Array]:
    """Weighted least squares on integer nodes, from the inside out."""
    o, b = origin.astype(float), basis.astype(float)
    reach = np.linalg.norm(points - o, axis=1)
    weight = 1.0 / (0.05 + 1.0 / np.maximum(counts, 1.0))
    largest = float(np.hypot(*b[0]) + np.hypot(*b[1])) * 2.0
    while True:
        index, distance = _nearest(points, o, b)
        near = (reach <= largest) & (distance < 0.3 * np.hypot(*b[0])) & (distance < 2.5)
        columns = index[near].astype(float)
        if len(np.unique(columns, axis=0)) >= 4 and np.linalg.matrix_rank(columns) == 2:
            w = np.sqrt(weight[near])[:, None]
            if fixed:
                b = np.linalg.lstsq(columns * w, (points[near] - o) * w, rcond=None)[0]
            else:
                design = np.column_stack([columns, np.ones(len(columns))])
                solved = np.linalg.lstsq(design * w, points[near] * w, rcond=None)[0]
                b, o = solved[:2], solved[2]
        if largest > reach.max():
            return o, b
        largest *= 1.6
