"""Paint diffraction spots on a detector: Gaussians integrated over the pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[np.float64]


def paint_spots(
    shape: tuple[int, int], rows: Array, cols: Array, weights: Array, sigma_px: float
) -> Array:
    """Sum of spots of unit volume times ``weights`` at sub-pixel (row, col), float64 ``shape``.

    Each Gaussian is integrated over the pixel area and cut off at five sigma; a spot off the
    detector contributes what falls on it.
    """
    reach = int(np.ceil(5 * sigma_px)) + 1
    ny, nx = shape
    near = (rows > -reach) & (rows < ny - 1 + reach) & (cols > -reach) & (cols < nx - 1 + reach)
    rows, cols, weights = rows[near], cols[near], weights[near]
    offset = np.arange(-reach, reach + 1)
    r0, c0 = np.rint(rows).astype(int), np.rint(cols).astype(int)
    profile_r = _pixel_fractions(offset[None, :] - (rows - r0)[:, None], sigma_px)
    profile_c = _pixel_fractions(offset[None, :] - (cols - c0)[:, None], sigma_px)
    padded = np.zeros((ny + 4 * reach) * (nx + 4 * reach))
    width = nx + 4 * reach
    index = ((r0 + 2 * reach)[:, None] + offset)[:, :, None] * width
    index = index + ((c0 + 2 * reach)[:, None] + offset)[:, None, :]
    value = (weights[:, None] * profile_r)[:, :, None] * profile_c[:, None, :]
    padded += np.bincount(index.ravel(), value.ravel(), minlength=padded.size)
    whole = padded.reshape(ny + 4 * reach, width)
    return np.ascontiguousarray(whole[2 * reach : 2 * reach + ny, 2 * reach : 2 * reach + nx])


def _pixel_fractions(x: Array, sigma: float) -> Array:
    edge = np.sqrt(2) * max(sigma, 1e-3)
    return np.asarray(0.5 * (erf((x + 0.5) / edge) - erf((x - 0.5) / edge)))
