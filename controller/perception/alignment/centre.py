"""Where the direct beam is: on which spot, or where behind a beam stop.

The diffuse halo is round about the direct beam, whatever the crystal does: a strongly diffracting
one may leave less in the direct beam than in ten of its reflections.  Candidates are therefore
ranked by the Poisson likelihood of the pixels between the spots under a halo that is constant on
rings about them,

    log L = sum over rings N log(N / A),

with N counts on A pixels of a ring, and the best of these again under a halo that is robust against
spots too faint to be found; brightness, and nearness to the middle of the frame or to the
deepest point of a shadow, count little beside it.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.background import radial_background
from controller.perception.alignment.pattern import Pattern

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

ALLOWED_OFF = 0.12
"""How far the direct beam may be from the middle of the frame, in its sides (a soft limit)."""
_RING_PX = 4.0
_OVERDISPERSION = 10.0
"""Spots too faint to be found make the halo rougher than Poisson: its word is divided by this."""
_STOP_PX, _WRONG_STOP = 2.0, 1e-3
"""How well the disc of a stop is placed, in pixels of a frame of 256; when it is no stop at all."""
_FEW = 12
_MOST = 15.0
"""Most that the halo may say against a place: dense patterns leave little of it to see."""
_POSSIBLE = 60.0
"""Log-likelihood behind the best up to which another place is worth a search."""


def halo_likelihood(pattern: Pattern, masked: Mask, places_px: Array) -> Array:
    """Log-likelihood of a round halo about each place, up to a constant.

    Parameters
    ----------
    pattern
        A checked pattern.
    masked
        Pixels of known spots, left out, (row, col).
    places_px
        (x, y) of each candidate, (n, 2).
    """
    use = pattern.good & ~masked
    rows, cols = (side // 2 for side in pattern.shape)

    def binned(image: Array) -> Array:
        cut = image[: 2 * rows, : 2 * cols].reshape(rows, 2, cols, 2)
        return np.asarray(cut.sum(axis=(1, 3)), dtype=float)

    counts = binned(np.where(use, pattern.counts, 0.0))
    area = binned(use.astype(float))
    places = 0.5 * np.asarray(places_px, dtype=float).reshape(-1, 2) - 0.25
    return np.asarray(_ring_likelihood(counts, area, places, 0.5 * _RING_PX), dtype=float)


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _ring_likelihood(counts: Array, area: Array, places: Array, width: float) -> Array:
    rows, cols = counts.shape
    n_rings = int(np.sqrt(4.0 * rows * rows + 4.0 * cols * cols) / width) + 2
    out = np.empty(places.shape[0])
    for k in range(places.shape[0]):
        n, a = np.zeros(n_rings), np.zeros(n_rings)
        for r in range(rows):
            dy = r - places[k, 1]
            for c in range(cols):
                if area[r, c] > 0.0:
                    dx = c - places[k, 0]
                    ring = min(int(np.sqrt(dx * dx + dy * dy) / width), n_rings - 1)
                    n[ring] += counts[r, c]
                    a[ring] += area[r, c]
        total = 0.0
        for ring in range(n_rings):
            if n[ring] > 0.0:
                total += n[ring] * np.log(n[ring] / a[ring])
        out[k] = total
    return out


def rank_direct_beams(
    pattern: Pattern, masked: Mask, x: Array, y: Array, counts: Array
) -> list[int]:
    """Spots that could be the direct beam, likeliest first.

    Only what is not much worse than the best is returned, at most five.
    """
    off = _off_middle(pattern, np.stack([x, y], 1))
    near = np.flatnonzero((counts >= 0.01 * counts.max()) & (off < 2.0))
    candidates = near[:40] if len(near) else np.array([0])
    if len(candidates) == 1:
        return [int(candidates[0])]
    places = np.stack([x[candidates], y[candidates]], 1)
    rest = 6.0 * np.log(counts[candidates]) - 0.5 * off[candidates] ** 2
    order, score = _ranked(pattern, masked, places, rest)
    ranked = [int(candidates[k]) for k in order[:9] if score[k] > score[order[0]] - _POSSIBLE]
    # a dense pattern leaves no halo between its spots: never without the brightest
    for brightest in (int(k) for k in candidates[np.argsort(-counts[candidates])][:2]):
        if brightest in ranked[2:]:
            ranked.remove(brightest)
        if brightest not in ranked:
            ranked.insert(min(1, len(ranked)), brightest)
    return ranked


def rank_hidden(pattern: Pattern, masked: Mask, places_px: Array) -> tuple[NDArray[np.intp], Array]:
    """Places behind a beam stop by how likely the direct beam is there.

    Parameters
    ----------
    pattern, masked
        As in `halo_likelihood`.
    places_px
        (x, y), (n, 2): nodes of the lattice, or points of a grid.

    Returns
    -------
    order
        Indices of the places that can be, likeliest first, (m,).
    score
        Log-probability up to a constant, (m,), in that order.
    """
    places = np.asarray(places_px, dtype=float).reshape(-1, 2)
    rows, cols = pattern.shape
    off = _off_middle(pattern, places)
    score = np.where(off < 2.0, -0.5 * off**2, -np.inf)
    if pattern.stop_px is not None:
        beside = np.hypot(*(places - np.array(pattern.stop_px)).T)
        near = np.exp(-0.5 * (beside / (_STOP_PX * max(rows, cols) / 256.0)) ** 2)
        score += np.log(near + _WRONG_STOP)
    order, score = _ranked(pattern, masked, places, score)
    return order, score[order]


def _ranked(
    pattern: Pattern, masked: Mask, places: Array, rest: Array
) -> tuple[NDArray[np.intp], Array]:
    """Order and score of places: the rings choose a few, the robust halo ranks these."""
    score = np.full(len(places), -np.inf)
    can = np.flatnonzero(np.isfinite(rest))
    rough = halo_likelihood(pattern, masked, places[can]) / _OVERDISPERSION + rest[can]
    few = can[np.argsort(-rough, kind="stable")[:_FEW]]
    use = pattern.good & ~masked
    n = pattern.counts[use]
    for k in few:
        b = radial_background(pattern, (float(places[k, 0]), float(places[k, 1])), masked)[use]
        score[k] = float((n * np.log(b) - b).sum()) / _OVERDISPERSION
    score[few] = np.maximum(score[few] - score[few].max(initial=-np.inf), -_MOST) + rest[few]
    return few[np.argsort(-score[few], kind="stable")], score


def _off_middle(pattern: Pattern, places: Array) -> Array:
    rows, cols = pattern.shape
    d = places - np.array([0.5 * (cols - 1), 0.5 * (rows - 1)])
    return np.asarray(np.hypot(d[:, 0], d[:, 1]) / (ALLOWED_OFF * min(rows, cols)), dtype=float)
