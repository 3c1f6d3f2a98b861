"""Where the crystal went: normalised cross-correlation of low-dose pictures.

The crystal and its surroundings in the reference picture are the template, smoothed to the
noise; the peak of the normalised correlation (Lewis 1995) tells the shift, its height whether
to believe it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

Image = NDArray[np.float32]


@dataclass(frozen=True)
class ShiftEstimate:
    """Displacement of the template in the new picture, pixels (columns, rows)."""

    dx_px: float
    dy_px: float
    correlation: float
    """Peak of the normalised cross-correlation, -1 .. 1."""


def locate_template(
    reference: Image,
    centre_px: tuple[float, float],
    radius_px: float,
    image: Image,
    expected_px: tuple[float, float],
    *,
    search_px: float,
    smoothing_px: float | None = None,
) -> ShiftEstimate:
    """Find in `image` what lies around `centre_px` in `reference`.

    Parameters
    ----------
    reference, image
        Electrons per pixel, (row, col), of the same pixel size.
    centre_px, radius_px
        Template: the square of half-width `radius_px` around (x, y), cut at the border.
    expected_px
        Where the template's centre is expected in `image`, (x, y).
    search_px
        How far from there to look.
    smoothing_px
        Gaussian sigma applied to both; by default a twentieth of the template, at least 2:
        the noise of single pixels says nothing about a crystal a hundred pixels wide.

    Returns
    -------
    ShiftEstimate
        Found minus expected position; zero shift and correlation where nothing overlaps.
    """
    sigma = max(2.0, radius_px / 20) if smoothing_px is None else smoothing_px
    ref = ndimage.gaussian_filter(without_outliers(reference), sigma)
    new = ndimage.gaussian_filter(without_outliers(image), sigma)
    template, anchor = _crop(ref, centre_px, radius_px)
    window, corner = _crop(new, expected_px, radius_px + search_px)
    if min(template.shape) < 8 or any(
        w < t for w, t in zip(window.shape, template.shape, strict=True)
    ):
        return ShiftEstimate(0.0, 0.0, 0.0)
    ncc = _normalised_correlation(window, template)
    row, col = np.unravel_index(int(np.argmax(ncc)), ncc.shape)
    peak_row, peak_col = _refine(ncc, int(row), int(col))
    # the template's own centre inside the template
    inside_x, inside_y = centre_px[0] - anchor[0], centre_px[1] - anchor[1]
    found_x = corner[0] + peak_col + inside_x
    found_y = corner[1] + peak_row + inside_y
    return ShiftEstimate(found_x - expected_px[0], found_y - expected_px[1], float(ncc[row, col]))


def without_outliers(image: Image) -> NDArray[np.float64]:
    """The picture with NaN, hot and dead pixels replaced by the median of their neighbours.

    An outlier is six standard deviations of the whole picture from that median: such a pixel
    stays where it is while the specimen moves, and would be followed instead.
    """
    values = np.asarray(image, dtype=np.float64)
    bad = ~np.isfinite(values)
    values = np.where(bad, np.nanmean(values), values)
    local = ndimage.median_filter(values, size=3)
    bad |= np.abs(values - local) > 6 * values.std()
    cleaned: NDArray[np.float64] = np.where(bad, local, values)
    return cleaned


def _crop(
    image: NDArray[np.float64], centre: tuple[float, float], half: float
) -> tuple[NDArray[np.float64], tuple[int, int]]:
    rows, cols = image.shape
    x0, x1 = max(0, round(centre[0] - half)), min(cols, round(centre[0] + half) + 1)
    y0, y1 = max(0, round(centre[1] - half)), min(rows, round(centre[1] + half) + 1)
    return image[y0 : max(y0, y1), x0 : max(x0, x1)], (x0, y0)


def _normalised_correlation(
    window: NDArray[np.float64], template: NDArray[np.float64]
) -> NDArray[np.float64]:
    t = template - template.mean()
    norm_t = float(np.sqrt((t**2).sum()))
    window = window - window.mean()
    ones = np.ones_like(template)
    overlap = signal.fftconvolve(window, t[::-1, ::-1], mode="valid")
    total = signal.fftconvolve(window, ones, mode="valid")
    squares = signal.fftconvolve(window**2, ones, mode="valid")
    variance = np.maximum(squares - total**2 / template.size, 1e-12)
    ncc: NDArray[np.float64] = overlap / (norm_t * np.sqrt(variance) + 1e-12)
    return ncc


def _refine(ncc: NDArray[np.float64], row: int, col: int) -> tuple[float, float]:
    """Parabola through the peak and its neighbours, on each axis."""

    def vertex(left: float, middle: float, right: float) -> float:
        bend = left - 2 * middle + right
        return 0.0 if bend >= 0 else float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5))

    dr = dc = 0.0
    if 0 < row < ncc.shape[0] - 1:
        dr = vertex(ncc[row - 1, col], ncc[row, col], ncc[row + 1, col])
    if 0 < col < ncc.shape[1] - 1:
        dc = vertex(ncc[row, col - 1], ncc[row, col], ncc[row, col + 1])
    return row + dr, col + dc
