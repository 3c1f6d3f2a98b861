"""Where the middle of a crystal is, from its dark outline in one low-dose picture.

The picker says where to look; its circle may lie a hundred nanometres off a small crystal's
middle.  Around it the smoothed picture is split into dark and bright (Otsu 1979); of the dark
patches the one with the largest inscribed circle nearby is the crystal, and its middle the mean
of its points weighted by the squared distance from the rim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.perception.tracking import Image, without_outliers

SMOOTHING_PX = 4.0
LEAST_SIGMAS = 4.0
"""How many sigmas of the smoothed noise dark and bright must lie apart: half of pure noise lies
1.6 from the other half."""
LARGEST_SHARE = 0.6
"""Of the window: a dark patch that fills more of it is no crystal with a rim."""


@dataclass(frozen=True)
class Outline:
    """A dark patch, pixels (column, row)."""

    x_px: float
    y_px: float
    radius_px: float
    """Of its largest inscribed circle."""
    clearance_px: float
    """Distance of the place that was asked about from the rim; 0 outside."""
    contrast: float
    """Mean inside over mean outside."""


def find_outline(image: Image, near_px: tuple[float, float], reach_px: float) -> Outline | None:
    """The dark patch around or beside `near_px`.

    Parameters
    ----------
    image
        Electrons per pixel, (row, col).
    near_px
        Where it should be, (x, y).
    reach_px
        Half-width of the window that is looked at.

    Returns
    -------
    Outline or None
        None where nothing stands out, or what does has no rim within the window.
    """
    smooth = ndimage.gaussian_filter(without_outliers(image), SMOOTHING_PX)
    rows, cols = smooth.shape
    x0, x1 = max(0, round(near_px[0] - reach_px)), min(cols, round(near_px[0] + reach_px) + 1)
    y0, y1 = max(0, round(near_px[1] - reach_px)), min(rows, round(near_px[1] + reach_px) + 1)
    if x1 - x0 < 16 or y1 - y0 < 16:
        return None
    window = smooth[y0:y1, x0:x1]
    dark = window < _otsu(window)
    labels, count = ndimage.label(dark)
    if count == 0 or dark.all():
        return None
    depth = ndimage.distance_transform_edt(np.pad(dark, 1))[1:-1, 1:-1]
    y, x = np.indices(window.shape)
    away = np.hypot(x + x0 - near_px[0], y + y0 - near_px[1])
    index = np.arange(1, count + 1)
    inscribed = ndimage.maximum(depth, labels, index)
    distance = ndimage.minimum(away, labels, index)
    chosen = labels == index[int(np.argmax(inscribed - distance / 2))]
    contrast = float(window[chosen].mean() / window[~dark].mean())
    electrons = max(float(window.mean()), 1e-6) * 4 * np.pi * SMOOTHING_PX**2
    if 1 - contrast < LEAST_SIGMAS / np.sqrt(electrons) or chosen.mean() > LARGEST_SHARE:
        return None
    weight = np.where(chosen, depth, 0.0) ** 2
    col, row = round(near_px[0]) - x0, round(near_px[1]) - y0
    inside = 0 <= row < chosen.shape[0] and 0 <= col < chosen.shape[1] and chosen[row, col]
    return Outline(
        x_px=float((weight * x).sum() / weight.sum()) + x0,
        y_px=float((weight * y).sum() / weight.sum()) + y0,
        radius_px=float(depth[chosen].max()),
        clearance_px=float(depth[row, col]) if inside else 0.0,
        contrast=contrast,
    )


def _otsu(values: NDArray[np.float64]) -> float:
    """The threshold with the largest variance between the two classes."""
    counts, edges = np.histogram(values, bins=64)
    middle = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * middle)
    above = counts.sum() - below
    between = (sums[-1] * below / counts.sum() - sums[:-1]) ** 2 / np.maximum(below * above, 1)
    return float(middle[int(np.argmax(between))])
