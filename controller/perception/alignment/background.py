"""What lies under the spots: a smooth, radial background, estimated without them.

The background is radial on purpose.  A locally flexible one would swallow spots that no
orientation explains, and so let wrong orientations win.
"""

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.perception.alignment.pattern import Pattern

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SECTORS = 10


def radii_px(shape: tuple[int, int], centre_px: tuple[float, float]) -> Array:
    """Distance of every pixel from (centre_x, centre_y), in pixels, (row, col)."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(x - centre_px[0], y - centre_px[1])


def radial_background(pattern: Pattern, centre_px: tuple[float, float], spots: Mask) -> Array:
    """Expected counts per pixel without spots, (row, col).

    Rings two pixels wide near the centre and wider outside, over good pixels outside the known
    spots.  Each ring is cut into sectors, and its level is the smaller of the mean and the median
    over sectors: an arc of undetected spots fills some sectors, a halo fills all.  Levels are
    smoothed over rings, so that they stay usable at a hundredth of an electron per pixel.
    """
    rows, cols = pattern.shape
    reach = np.hypot(
        max(centre_px[0], cols - 1 - centre_px[0]), max(centre_px[1], rows - 1 - centre_px[1])
    )
    edges = _ring_edges(float(reach))
    use = pattern.good & ~spots
    counts = np.ascontiguousarray(pattern.counts, dtype=float)
    total, weight = _sector_sums(counts, use, centre_px[0], centre_px[1], edges)
    total = ndimage.gaussian_filter1d(total, 1.0, axis=0, mode="nearest")
    weight = ndimage.gaussian_filter1d(weight, 1.0, axis=0, mode="nearest")
    known = weight.sum(1) > 3
    if not known.any():
        return np.full(pattern.shape, pattern.electrons / max(int(pattern.good.sum()), 1))
    total, weight = total[known], weight[known]
    mean = total.sum(1) / weight.sum(1)
    # the median of a Poisson variable lies a third of a count below its mean
    share = np.where(weight > 1.0, (total + 0.33) / np.maximum(weight, 1.0), np.nan)
    enough = (weight > 1.0).sum(1) >= _SECTORS // 2
    level = mean.copy()
    level[enough] = np.minimum(mean[enough], np.nanmedian(share[enough], axis=1))
    middle = 0.5 * (edges[1:] + edges[:-1])[known]
    floor = 0.1 / max(float(weight.sum()), 1.0)
    profile = np.maximum(level, floor)
    return np.asarray(_on_rings(rows, cols, centre_px[0], centre_px[1], middle, profile))


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _sector_sums(counts: Array, use: Mask, x: float, y: float, edges: Array) -> tuple[Array, Array]:
    """Counts, and pixels, in each sector of each ring about (x, y), (rings, sectors) each."""
    rings = edges.shape[0] - 1
    total, weight = np.zeros((rings, _SECTORS)), np.zeros((rings, _SECTORS))
    angles = np.pi * (2.0 * np.arange(1, _SECTORS) / _SECTORS - 1.0)
    cos = np.cos(angles) / (np.abs(np.cos(angles)) + np.abs(np.sin(angles)))
    bounds = np.where(angles >= 0.0, 1.0 - cos, cos - 1.0)
    for row in range(counts.shape[0]):
        ring = 0
        for col in range(counts.shape[1]):
            if not use[row, col]:
                continue
            dx, dy = col - x, row - y
            radius = np.sqrt(dx * dx + dy * dy)
            # along a row the radius changes little from one pixel to the next
            while ring < rings - 1 and radius >= edges[ring + 1]:
                ring += 1
            while ring > 0 and radius < edges[ring]:
                ring -= 1
            # grows with the angle as arctan2 does, at a fraction of its cost
            size = abs(dx) + abs(dy)
            turn = (1.0 - dx / size if dy >= 0 else dx / size - 1.0) if size > 0.0 else 0.0
            sector = 0
            while sector < _SECTORS - 1 and turn >= bounds[sector]:
                sector += 1
            total[ring, sector] += counts[row, col]
            weight[ring, sector] += 1.0
    return total, weight


@numba.njit(cache=True)  # type: ignore[untyped-decorator, unused-ignore]
def _on_rings(rows: int, cols: int, x: float, y: float, radii: Array, level: Array) -> Array:
    """The level at every pixel, linear between the radii at which it is known, (row, col)."""
    out = np.empty((rows, cols))
    last = radii.shape[0] - 1
    for row in range(rows):
        k = 0
        for col in range(cols):
            radius = np.sqrt((col - x) ** 2 + (row - y) ** 2)
            while k < last and radius >= radii[k + 1]:
                k += 1
            while k > 0 and radius < radii[k]:
                k -= 1
            if radius <= radii[0] or last == 0:
                out[row, col] = level[0]
            elif k == last:
                out[row, col] = level[last]
            else:
                part = (radius - radii[k]) / (radii[k + 1] - radii[k])
                out[row, col] = level[k] + part * (level[k + 1] - level[k])
    return out


def _ring_edges(largest: float) -> Array:
    edges = [0.0]
    while edges[-1] <= largest:
        edges.append(edges[-1] + max(2.0, 0.06 * edges[-1]))
    return np.array(edges)
