"""What lies under the spots: a smooth, radial background, estimated without them.

The background is radial on purpose.  A locally flexible one would swallow spots that no
orientation explains, and so let wrong orientations win.
"""

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
    y, x = np.ogrid[:rows, :cols]
    dx, dy = x - centre_px[0], y - centre_px[1]
    radius = np.hypot(dx, dy)
    edges = _ring_edges(float(radius.max()))
    n = len(edges) - 1
    ring = np.clip(np.digitize(radius.ravel(), edges) - 1, 0, n - 1)
    sector = ((np.arctan2(dy, dx) / (2 * np.pi) + 0.5) * _SECTORS).astype(np.int64) % _SECTORS
    use = (pattern.good & ~spots).ravel()
    place = (ring * _SECTORS + sector.ravel())[use]
    size = n * _SECTORS
    weight = np.bincount(place, minlength=size).astype(float).reshape(n, _SECTORS)
    total = np.bincount(place, weights=pattern.counts.ravel()[use], minlength=size)
    total = ndimage.gaussian_filter1d(total.reshape(n, _SECTORS), 1.0, axis=0, mode="nearest")
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
    profile = np.maximum(np.interp(radius.ravel(), middle, level), floor)
    return np.asarray(profile.reshape(pattern.shape), dtype=float)


def _ring_edges(largest: float) -> Array:
    edges = [0.0]
    while edges[-1] <= largest:
        edges.append(edges[-1] + max(2.0, 0.06 * edges[-1]))
    return np.array(edges)
