"""The two-dimensional lattice under the spots, and how sure it is.

A candidate lattice is scored against "spots anywhere": a spot at distance d from its nearest
node contributes log[(1 - e) A N(d; s) + e] with A the area of the cell, N a Gaussian of the
position error s and e the share of strays.  Dense lattices explain everything and gain nothing
by it, since A is in the score.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

_STRAYS = 0.1
_MOST_SPOTS = 40
_MOST_CLUSTERS = 60


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
    scores = _scores(top, origin, np.array(pairs), position_error)
    best: tuple[float, Array, Array] | None = None
    for i in np.argsort(-scores)[:6]:
        o, basis = _refine(points, counts, origin, pairs[i], fixed=centre_is_node)
        score = float(_scores(top, o, basis[None], position_error)[0])
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


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def reduce_basis(basis: Array) -> Array:
    """Shortest basis of the same lattice (Gauss), right-handed on the detector, (2, 2)."""
    ax, ay, bx, by = basis[0, 0], basis[0, 1], basis[1, 0], basis[1, 1]
    for _ in range(100):
        if ax * ax + ay * ay > bx * bx + by * by:
            ax, ay, bx, by = bx, by, ax, ay
        if ax == 0.0 and ay == 0.0:
            break
        steps = np.round((ax * bx + ay * by) / (ax * ax + ay * ay))
        if steps == 0.0:
            break
        bx, by = bx - steps * ax, by - steps * ay
    if ax * by - ay * bx < 0:
        bx, by = -bx, -by
    return np.array([[ax, ay], [bx, by]])


def _candidate_bases(points: Array) -> list[Array]:
    """Reduced bases from the short differences between spots."""
    i, j = np.triu_indices(len(points), 1)
    d = points[j] - points[i]
    d[(d[:, 1] < 0) | ((d[:, 1] == 0) & (d[:, 0] < 0))] *= -1
    length = np.hypot(d[:, 0], d[:, 1])
    d = d[length > 3.0]
    length = length[length > 3.0]
    means, votes = _clustered(d[np.argsort(length, kind="stable")[:250]])
    by_votes = np.argsort(-votes, kind="stable")[:24]
    short = np.argsort(np.hypot(means[:, 0], means[:, 1]), kind="stable")[:12]
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


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _clustered(vectors: Array) -> tuple[Array, Integers]:
    """Means of vectors that agree to 1.5 px, (k, 2), and how many each holds, (k,)."""
    total, votes = np.zeros((_MOST_CLUSTERS, 2)), np.zeros(_MOST_CLUSTERS, dtype=np.int64)
    used = 0
    for i in range(vectors.shape[0]):
        x, y = vectors[i, 0], vectors[i, 1]
        found = False
        for k in range(used):
            dx, dy = total[k, 0] / votes[k] - x, total[k, 1] / votes[k] - y
            if dx * dx + dy * dy < 2.25:
                found = True
                break
        if not found:
            if used == _MOST_CLUSTERS:
                continue
            k = used
            used += 1
        total[k, 0] += x
        total[k, 1] += y
        votes[k] += 1
    return total[:used] / votes[:used].reshape(-1, 1), votes[:used]


def _nearest(points: Array, origin: Array, basis: Array) -> tuple[Integers, Array]:
    fractional = (points - origin) @ np.linalg.inv(basis)
    index = np.round(fractional)
    distance = np.linalg.norm((fractional - index) @ basis, axis=1)
    return index.astype(np.int64), distance


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _scores(points: Array, origin: Array, bases: Array, position_error: float) -> Array:
    """Log-likelihood of the points on each lattice over points anywhere, (n,)."""
    out = np.zeros(bases.shape[0])
    for k in range(bases.shape[0]):
        ax, ay, bx, by = bases[k, 0, 0], bases[k, 0, 1], bases[k, 1, 0], bases[k, 1, 1]
        area = ax * by - ay * bx
        for i in range(points.shape[0]):
            x, y = points[i, 0] - origin[0], points[i, 1] - origin[1]
            u, v = (x * by - y * bx) / area, (y * ax - x * ay) / area
            u, v = u - np.round(u), v - np.round(v)
            off2 = (u * ax + v * bx) ** 2 + (u * ay + v * by) ** 2
            # far nodes may be off by the error of the basis itself: the tolerance grows slowly
            s2 = position_error**2 + 0.006**2 * (x * x + y * y)
            density = np.exp(-0.5 * off2 / s2) / (2 * np.pi * s2)
            out[k] += np.log((1 - _STRAYS) * abs(area) * density + _STRAYS)
    return out


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
