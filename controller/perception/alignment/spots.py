"""Spots in a counted pattern: matched filter with an exact Poisson threshold.

A spot is a local maximum of the counts summed over a small disc whose Poisson probability under
the radial background alone is below one false alarm per pattern.  This works from a few thousand
electrons per pattern, where four electrons in nine pixels are a reflection.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import gammainc

from controller.perception.alignment.background import radial_background, radii_px
from controller.perception.alignment.centre import rank_direct_beams
from controller.perception.alignment.pattern import Pattern

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

FALSE_ALARM_PROBABILITY = 1e-5
"""Per pixel; neighbouring discs overlap, so about 0.2 false spots on 256 x 256 pixels."""
SURE_PROBABILITY = 1e-9
"""Of a spot that the background is estimated without."""


@dataclass(frozen=True)
class Spots:
    """Everything found in one pattern, brightest first."""

    x_px: Array
    y_px: Array
    counts: Array
    """Electrons above background in each spot."""
    sigma_px: float
    """Gaussian width of a spot (one axis)."""
    background: Array
    """Expected counts per pixel without spots, (row, col)."""
    direct: int | None
    """Index of the direct beam, or None where it is hidden or not to be told."""
    centre_px: tuple[float, float]
    """(x, y): the direct beam, or the best guess behind a beam stop."""
    rivals: tuple[int, ...] = ()
    """Other spots bright enough to be the direct beam, likeliest first."""

    def __len__(self) -> int:
        return len(self.counts)


def disc_kernel(radius_px: float) -> Array:
    """Ones within a radius, (2n+1, 2n+1)."""
    n = int(np.ceil(radius_px))
    y, x = np.mgrid[-n : n + 1, -n : n + 1]
    return np.asarray(np.hypot(x, y) <= radius_px + 1e-9, dtype=float)


def find_spots(
    pattern: Pattern,
    *,
    beam_stop: bool = False,
    centre_px: tuple[float, float] | None = None,
) -> Spots:
    """Find spots, direct beam, spot width and background together, in three passes.

    Parameters
    ----------
    pattern
        A checked pattern.
    beam_stop
        The direct beam is hidden; the centre is then guessed from its shadow.
    centre_px
        (x, y) where the centre is known; it replaces the guess.
    """
    centre = centre_px or _first_centre(pattern, beam_stop)
    sigma = 1.0
    masked: Mask = radii_px(pattern.shape, centre) < 4
    background = radial_background(pattern, centre, masked)
    x, y, counts = (np.empty(0),) * 3
    direct: int | None = None
    rivals: tuple[int, ...] = ()
    for last in (False, False, True):
        x, y, counts, sure = _detect(pattern, background, sigma)
        if len(x) == 0:
            break
        sigma = _spot_sigma(pattern, background, x, y, counts)
        # only the sure ones: masking what may be noise lowers the background, and finds more noise
        masked = _disks(pattern.shape, x[sure], y[sure], 3.0 * sigma + 1.0)
        if centre_px is not None:
            direct = _spot_at(x, y, centre_px)
        elif not beam_stop:
            direct = _spot_at(x, y, centre)
            if last or direct is None:
                ranked = rank_direct_beams(pattern, masked, x, y, counts)
                direct, rivals = ranked[0], tuple(ranked[1:])
            centre = (float(x[direct]), float(y[direct]))
        background = radial_background(pattern, centre, masked)
    return Spots(x, y, counts, sigma, background, direct, centre, rivals)


def _first_centre(pattern: Pattern, beam_stop: bool) -> tuple[float, float]:
    """The brightest compact place; behind a beam stop its shadow, or the middle of the frame."""
    middle = 0.5 * (pattern.shape[1] - 1), 0.5 * (pattern.shape[0] - 1)
    if beam_stop:
        return pattern.stop_px or middle
    # often the brightest place is a reflection, and a background that is radial about a
    # reflection turns the halo into hundreds of spots
    blurred = ndimage.gaussian_filter(pattern.counts, 1.0)
    peak = (blurred >= ndimage.maximum_filter(blurred, 7)) & (blurred > 0)
    rows, cols = np.nonzero(peak)
    if len(rows) == 0:
        return middle
    order = np.argsort(-blurred[rows, cols], kind="stable")[:40]
    x, y = cols[order].astype(float), rows[order].astype(float)
    masked = _disks(pattern.shape, x, y, 4.0)
    best = rank_direct_beams(pattern, masked, x, y, blurred[peak][order])[0]
    return float(x[best]), float(y[best])


def _detect(
    pattern: Pattern, background: Array, sigma: float
) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    """Significant local maxima of the disc sums: x, y (centroids, px), excess counts, surety."""
    kernel = disc_kernel(max(1.5, 1.7 * sigma))
    summed = ndimage.convolve(pattern.counts, kernel, mode="constant")
    expected = ndimage.convolve(np.where(pattern.good, background, 0.0), kernel, mode="constant")
    # a narrow filter and window: nodes of a 40 A cell lie three pixels apart
    smooth = ndimage.gaussian_filter(pattern.counts, 0.8 * sigma, mode="constant")
    peak = (smooth >= ndimage.maximum_filter(smooth, 3)) & (summed >= 3) & pattern.good
    rows, cols = np.nonzero(peak)
    # P(N >= n | b) of a Poisson variable; counts may be scaled, so n need not be an integer
    chance = gammainc(summed[rows, cols], np.maximum(expected[rows, cols], 1e-9))
    likely = chance < FALSE_ALARM_PROBABILITY
    rows, cols, chance = rows[likely], cols[likely], chance[likely]
    x, y = _centroids(pattern.counts - background, rows, cols, sigma)
    counts = (summed - expected)[rows, cols]
    order = np.argsort(-counts, kind="stable")
    order = order[_not_doubled(x[order], y[order], 1.6 * sigma + 0.7)]
    return x[order], y[order], counts[order], chance[order] < SURE_PROBABILITY


def _centroids(
    excess: Array, rows: NDArray[np.intp], cols: NDArray[np.intp], sigma: float
) -> tuple[Array, Array]:
    """Centroids under a Gaussian window, three fixed-point steps, (n,) each."""
    n = int(np.ceil(2.0 * sigma)) + 1
    padded = np.pad(excess, n)
    dy, dx = np.mgrid[-n : n + 1, -n : n + 1]
    windows = np.stack(
        [padded[r : r + 2 * n + 1, c : c + 2 * n + 1] for r, c in zip(rows, cols, strict=True)]
        or [np.zeros((2 * n + 1, 2 * n + 1))]
    )
    x, y = np.zeros(len(windows)), np.zeros(len(windows))
    for _ in range(4):
        weight = np.exp(
            -((dx - x[:, None, None]) ** 2 + (dy - y[:, None, None]) ** 2) / (4 * sigma**2)
        )
        mass = np.maximum((weight * windows).sum((1, 2)), 1e-9)
        # a window as wide as the spot halves the step: the factor 1.5 makes up for it
        x = np.clip(x + 1.5 * ((weight * windows * dx).sum((1, 2)) / mass - x), -n, n)
        y = np.clip(y + 1.5 * ((weight * windows * dy).sum((1, 2)) / mass - y), -n, n)
    return cols + x[: len(cols)], rows + y[: len(rows)]


def _not_doubled(x: Array, y: Array, distance: float) -> NDArray[np.intp]:
    kept: list[int] = []
    for i in range(len(x)):
        if all((x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2 > distance**2 for j in kept):
            kept.append(i)
    return np.array(kept, dtype=np.intp)


def _spot_at(x: Array, y: Array, centre: tuple[float, float]) -> int | None:
    """The spot at a known centre, if one is there."""
    distance = np.hypot(x - centre[0], y - centre[1])
    nearest = int(np.argmin(distance))
    return nearest if distance[nearest] < 3 else None


def _spot_sigma(pattern: Pattern, background: Array, x: Array, y: Array, counts: Array) -> float:
    """Width from the shares of brighter spots in discs of 1.5 and 3.5 px around their centroids."""
    chosen = np.argsort(-counts)[:25]
    excess = pattern.counts - background
    inner = outer = 0.0
    rows, cols = pattern.shape
    for i in chosen:
        r0, c0 = round(y[i]), round(x[i])
        if not (5 <= r0 < rows - 5 and 5 <= c0 < cols - 5):
            continue
        yy, xx = np.mgrid[r0 - 4 : r0 + 5, c0 - 4 : c0 + 5]
        d2 = (xx - x[i]) ** 2 + (yy - y[i]) ** 2
        window = excess[r0 - 4 : r0 + 5, c0 - 4 : c0 + 5]
        # one very bright spot must not decide alone
        weight = 1.0 / np.sqrt(max(counts[i], 1.0))
        inner += weight * float(window[d2 <= 1.5**2].sum())
        outer += weight * float(window[d2 <= 3.5**2].sum())
    if outer <= 0 or inner <= 0:
        return 1.0
    share = min(inner / outer, 0.995)
    sigma2 = 1.5**2 / (-2.0 * np.log(1.0 - share))
    return float(np.clip(np.sqrt(sigma2), 0.4, 3.5))


def spot_mask(shape: tuple[int, int], spots: Spots) -> Mask:
    """Pixels that belong to found spots, (row, col)."""
    return _disks(shape, spots.x_px, spots.y_px, 3.0 * spots.sigma_px + 1.0)


def _disks(shape: tuple[int, int], x: Array, y: Array, radius: float) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    n = int(np.ceil(radius))
    for cx, cy in zip(x, y, strict=True):
        r0, r1 = max(round(cy) - n, 0), min(round(cy) + n + 1, shape[0])
        c0, c1 = max(round(cx) - n, 0), min(round(cx) + n + 1, shape[1])
        yy, xx = np.ogrid[r0:r1, c0:c1]
        mask[r0:r1, c0:c1] |= (xx - cx) ** 2 + (yy - cy) ** 2 <= radius**2
    return mask
