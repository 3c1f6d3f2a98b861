"""Electrons at predicted places: one small aperture per node, empty or not.

An aperture is a disc of pixels around the pixel nearest to the node.  It holds n counts, b of
them expected from the background, and the fraction f of the spot's electrons, which follows from
spot width and subpixel position.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from controller.perception.alignment.background import radii_px
from controller.perception.alignment.pattern import Pattern

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

_SUBPIXELS = 11


@dataclass(frozen=True, eq=False)
class Plate:
    """A pattern prepared for apertures."""

    counts: Array
    """(row, col), zero where not good."""
    background: Array
    """(row, col), zero where not good."""
    good: Array
    """1.0 where good and clear of the direct beam, (row, col)."""
    offsets: Integers
    """Pixels of the aperture relative to its middle (row, col), (n, 2)."""
    fractions: Array
    """f by subpixel position of the node (row, col), (11, 11)."""
    sigma_px: float


def make_plate(
    pattern: Pattern,
    background: Array,
    sigma_px: float,
    centre_px: tuple[float, float],
    *,
    spacing_px: float,
) -> Plate:
    """Prepare a pattern: aperture from the spot width and the distance between nodes."""
    radius = float(np.clip(2.1 * sigma_px + 0.35, 1.5, max(1.5, 0.55 * spacing_px)))
    n = int(np.ceil(radius))
    y, x = np.mgrid[-n : n + 1, -n : n + 1]
    inside = np.hypot(x, y) <= radius
    offsets = np.stack([y[inside], x[inside]], 1).astype(np.int64)
    clear = radii_px(pattern.shape, centre_px) > 3.2 * sigma_px + 0.5
    good = pattern.good & clear
    return Plate(
        np.where(good, pattern.counts, 0.0),
        np.where(good, background, 0.0),
        good.astype(float),
        offsets,
        _fractions(offsets, sigma_px),
        sigma_px,
    )


def _fractions(offsets: Integers, sigma: float) -> Array:
    shifts = np.linspace(-0.5, 0.5, _SUBPIXELS)

    def along(positions: Array) -> Array:
        d = positions[:, None] - shifts[None]
        low, high = (d - 0.5) / (sigma * np.sqrt(2)), (d + 0.5) / (sigma * np.sqrt(2))
        return np.asarray(0.5 * (erf(high) - erf(low)), dtype=float)

    rows, cols = along(offsets[:, 0].astype(float)), along(offsets[:, 1].astype(float))
    return np.asarray(np.einsum("ai,aj->ij", rows, cols), dtype=float)


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def read_apertures(
    x: Array,
    y: Array,
    counts: Array,
    background: Array,
    good: Array,
    offsets: Integers,
    fractions: Array,
) -> tuple[Array, Array, Array]:
    """Counts n, background b and fraction f at places (x, y) in px; f = 0 where not seen."""
    m = x.shape[0]
    rows, cols = counts.shape
    n, b, f = np.zeros(m), np.zeros(m), np.zeros(m)
    need = 0.8 * offsets.shape[0]
    for i in range(m):
        row, col = int(np.floor(y[i] + 0.5)), int(np.floor(x[i] + 0.5))
        if row < 1 or col < 1 or row >= rows - 1 or col >= cols - 1:
            continue
        seen = 0.0
        for a in range(offsets.shape[0]):
            r, c = row + offsets[a, 0], col + offsets[a, 1]
            if r < 0 or c < 0 or r >= rows or c >= cols:
                continue
            seen += good[r, c]
            n[i] += counts[r, c]
            b[i] += background[r, c]
        if seen < need:
            n[i] = 0.0
            b[i] = 0.0
            continue
        u = int((y[i] - row + 0.5) * (fractions.shape[0] - 1) + 0.5)
        v = int((x[i] - col + 0.5) * (fractions.shape[0] - 1) + 0.5)
        f[i] = fractions[u, v] * seen / offsets.shape[0]
    return n, b, f
