"""Where a beam stop hides the direct beam, and which pixels it hides.

A stop is a dark disc in the brightest part of the halo.  Discs of some radii are tried everywhere
near the middle: the fewer counts a disc holds against the ring about it, the likelier the stop.
The ring is read by sectors, and its lower third counts: the arm darkens a sector or two, spots
brighten some.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import fftconvolve
from scipy.special import gammaincc

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_RADII = (4.5, 6.5, 9.0)
"""Of the discs tried, in pixels of a frame of 256."""
_GAP, _WIDTH = 1.5, 10.0
"""Between disc and ring, and of the ring, likewise."""
_SECTORS = 10
_LOWER = 0.3
_BRIGHTEST = 3.0
"""Times the local mean to which single pixels count in a ring: spots must not make it."""
_OFF_MIDDLE = 0.1
"""Standard deviation of the place of the direct beam, in sides of the frame."""
_SURE = 4.0
"""Log-likelihood of "dark" over "as bright as its ring" from which a disc is taken for a stop."""


@dataclass(frozen=True)
class BeamStop:
    """The shadow of a beam stop."""

    centre_px: tuple[float, float]
    """(x, y) of its disc; good to a pixel or two."""
    shadow: Mask
    """Disc, arm and rim, (row, col)."""


def find_beam_stop(counts: Array) -> BeamStop | None:
    """The stop in a pattern that is said to have one; None where no place is dark enough to tell.

    Parameters
    ----------
    counts
        Electron counts, (row, col).
    """
    darkness, radius, cell = _darkness(counts)
    rows, cols = darkness.shape
    y, x = np.ogrid[:rows, :cols]
    off = np.hypot(y - 0.5 * (rows - 1), x - 0.5 * (cols - 1)) / (_OFF_MIDDLE * max(rows, cols))
    score = np.where(off < 3.0, darkness - 0.5 * off**2, -np.inf)
    best = int(np.argmax(score))
    if not darkness.flat[best] >= _SURE:
        return None
    labels, _ = ndimage.label(score > score.flat[best] - 1.0)
    where = np.argwhere(labels == labels.flat[best]).mean(axis=0)
    centre = (float((where[1] + 0.5) * cell - 0.5), float((where[0] + 0.5) * cell - 0.5))
    return BeamStop(centre, _shadow(counts, centre, float(radius.flat[best])))


def _darkness(counts: Array) -> tuple[Array, Array, int]:
    """Log-likelihood ratio of the darkest disc at each place, its radius (px), and the binning."""
    side = max(counts.shape)
    cell = max(round(side / 128), 1)
    rows, cols = (n // cell for n in counts.shape)
    image = counts[: rows * cell, : cols * cell].reshape(rows, cell, cols, cell).sum(axis=(1, 3))
    local = ndimage.uniform_filter(image, 9)
    flat = np.minimum(image, _BRIGHTEST * np.maximum(local, 0.25))
    unit = side / 256.0 / cell
    best, radius = np.zeros(image.shape), np.zeros(image.shape)
    for r in _RADII:
        reach = (r + _GAP + _WIDTH) * unit
        n = int(np.ceil(reach))
        y, x = np.mgrid[-n : n + 1, -n : n + 1]
        distance = np.hypot(x, y)
        disc = (distance <= r * unit).astype(float)
        ring = (distance > (r + _GAP) * unit) & (distance <= reach)
        sector = ((np.arctan2(y, x) / (2 * np.pi) + 0.5) * _SECTORS).astype(int) % _SECTORS
        rates = [_mean_over(flat, ring & (sector == k)) for k in range(_SECTORS)]
        expected = np.quantile(rates, _LOWER, axis=0) * disc.sum()
        held = np.maximum(fftconvolve(image, disc, mode="same"), 1e-9)
        ratio = expected - held + held * np.log(held / np.maximum(expected, 1e-9))
        darker = np.where(held < expected, ratio, 0.0)
        radius = np.where(darker > best, r * side / 256.0, radius)
        best = np.maximum(best, darker)
    return best, radius, cell


def _mean_over(image: Array, where: Mask) -> Array:
    """Mean of an image over a neighbourhood of each pixel, given as seen from it."""
    kernel = where.astype(float)[::-1, ::-1]
    mean = np.maximum(fftconvolve(image, kernel, mode="same"), 0.0) / kernel.sum()
    return np.asarray(mean, dtype=float)


def _shadow(counts: Array, centre: tuple[float, float], radius: float) -> Mask:
    """Disc, and what is connected with it and dark against a halo about it: the arm; with a rim."""
    halo = _falling_halo(counts, centre)
    expected = ndimage.uniform_filter(halo, 5, mode="nearest") * 25
    seen = ndimage.uniform_filter(counts, 5, mode="nearest") * 25
    # an eighth of what the rings promise at most, and by more than Poisson noise explains
    dark = (seen <= 0.12 * expected) & (gammaincc(np.rint(seen) + 1.0, expected) < 0.02)
    y, x = np.ogrid[: counts.shape[0], : counts.shape[1]]
    disc = np.hypot(y - centre[1], x - centre[0]) <= radius
    labels, _ = ndimage.label(dark | disc)
    shadow = labels == labels[round(centre[1]), round(centre[0])]
    return np.asarray(ndimage.binary_dilation(shadow, iterations=4), dtype=bool)


def _falling_halo(counts: Array, centre: tuple[float, float]) -> Array:
    """Counts per pixel of the diffuse part about a centre, (row, col).

    Rings, robustly over sectors, made to fall outwards, so that rings which the stop hides
    altogether are continued from outside.
    """
    rows, cols = counts.shape
    y, x = np.ogrid[:rows, :cols]
    dy, dx = y - centre[1], x - centre[0]
    ring = (np.hypot(dy, dx) / 4.0).astype(np.int64)
    sector = ((np.arctan2(dy, dx) / (2 * np.pi) + 0.5) * 12).astype(np.int64) % 12
    n = int(ring.max()) + 1
    place = (ring * 12 + sector).ravel()
    area = np.bincount(place, minlength=12 * n).reshape(n, 12)
    total = np.bincount(place, weights=counts.ravel(), minlength=12 * n).reshape(n, 12)
    total = ndimage.gaussian_filter1d(total, 1.0, axis=0, mode="nearest")
    weight = ndimage.gaussian_filter1d(area.astype(float), 1.0, axis=0, mode="nearest")
    share = np.where(area > 0, (total + 0.05) / np.maximum(weight, 1.0), np.nan)
    level = np.nanmedian(share, axis=1)
    level = np.maximum.accumulate(level[::-1])[::-1]
    return np.asarray(level[ring], dtype=float)
