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


def radii_px(shape: tuple[int, int], centre_px: tuple[float, float]) -> Array:
    """Distance of every pixel from (centre_x, centre_y), in pixels, (row, col)."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(x - centre_px[0], y - centre_px[1])


def radial_background(pattern: Pattern, centre_px: tuple[float, float], spots: Mask) -> Array:
    """Expected counts per pixel without spots, (row, col).

    Rings two pixels wide near the centre and wider outside; means over good pixels outside the
    spots, smoothed over rings, so that it stays unbiased at a hundredth of an electron per pixel.
    """
    radius = radii_px(pattern.shape, centre_px)
    edges = _ring_edges(float(radius.max()))
    ring = np.digitize(radius.ravel(), edges) - 1
    use = (pattern.good & ~spots).ravel()
    n = len(edges) - 1
    ring = np.clip(ring, 0, n - 1)
    weight = np.bincount(ring[use], minlength=n).astype(float)
    total = np.bincount(ring[use], weights=pattern.counts.ravel()[use], minlength=n)
    smooth_total = ndimage.gaussian_filter1d(total, 1.0, mode="nearest")
    smooth_weight = ndimage.gaussian_filter1d(weight, 1.0, mode="nearest")
    middle = 0.5 * (edges[1:] + edges[:-1])
    known = smooth_weight > 3
    if not known.any():
        return np.full(pattern.shape, pattern.electrons / max(int(pattern.good.sum()), 1))
    level = smooth_total[known] / smooth_weight[known]
    floor = 0.1 / max(float(weight.sum()), 1.0)
    profile = np.maximum(np.interp(radius.ravel(), middle[known], level), floor)
    return np.asarray(profile.reshape(pattern.shape), dtype=float)


def _ring_edges(largest: float) -> Array:
    edges = [0.0]
    while edges[-1] <= largest:
        edges.append(edges[-1] + max(2.0, 0.06 * edges[-1]))
    return np.array(edges)
