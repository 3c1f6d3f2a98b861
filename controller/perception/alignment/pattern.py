"""A diffraction pattern that can be trusted: checked, with its unusable pixels masked.

Whatever cannot be a measurement is refused here (`PatternError`), or masked: dead rows and
columns, saturated plateaus, a beam stop's shadow, pixels that fired alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from controller.perception.alignment.beam_stop import find_beam_stop

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SMALLEST_SIDE = 32
_SATURATED_PLATEAU_FRACTION = 0.01
_WIDE = 0.3
"""Share of a spot that falls beside its brightest pixel, where spots are known to be wide."""


class PatternError(ValueError):
    """The pattern cannot be measured at all; nothing was estimated."""


@dataclass(frozen=True)
class Pattern:
    """Counts and which of them count."""

    counts: Array
    """Electrons per pixel, float64, (row, col); zero where not `good`."""
    good: Mask
    """True where the pixel is a measurement, (row, col)."""
    hot_px: tuple[tuple[int, int], ...]
    """(row, col) of pixels that fired alone and were masked."""
    saturated_fraction: float
    """Part of the counts that lies on a flat top."""
    shadow: Mask
    """True under a beam stop and on its rim, (row, col)."""
    stop_px: tuple[float, float] | None = None
    """(x, y) of the disc of the beam stop, where one was found."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.counts.shape[0]), int(self.counts.shape[1])

    @property
    def electrons(self) -> float:
        """Sum of the good counts."""
        return float(self.counts.sum())


def check_pattern(image: ArrayLike, *, beam_stop: bool = False) -> Pattern:
    """Refuse what is no pattern, mask what is no pixel.

    Parameters
    ----------
    image
        Electron counts, any real dtype, (row, col), at least 32 x 32.
    beam_stop
        A shadow is expected: its pixels are masked instead of read as "nothing scattered here".

    Raises
    ------
    PatternError
        Wrong shape, NaN or infinite values, negative total.
    """
    counts = np.array(image, dtype=float)
    if counts.ndim != 2 or min(counts.shape) < _SMALLEST_SIDE:
        raise PatternError(
            f"a pattern is a 2-D image of at least {_SMALLEST_SIDE} x {_SMALLEST_SIDE} pixels, "
            f"got shape {counts.shape}; nothing was estimated"
        )
    bad = int(counts.size - np.isfinite(counts).sum())
    if bad:
        raise PatternError(
            f"{bad} of {counts.size} pixels are NaN or infinite; nothing was estimated. "
            f"Mask them as zero rows or columns, or read the file again"
        )
    if counts.sum() < 0:
        raise PatternError(
            f"the counts add up to {counts.sum():.4g}, below zero; nothing was estimated. "
            f"Subtract the camera's offset, not more"
        )
    counts = np.maximum(counts, 0.0)
    good = np.ones(counts.shape, dtype=bool)
    if counts.sum() > 0:
        good &= ~_dead_lines(counts)
    saturated = _flat_top(counts)
    stop = find_beam_stop(counts) if beam_stop else None
    shadow = np.zeros(counts.shape, dtype=bool) if stop is None else stop.shadow
    good &= ~shadow
    hot = _lonely_pixels(counts, good)
    good &= ~hot
    fraction = float(counts[saturated].sum() / max(counts.sum(), 1.0))
    places = tuple((int(r), int(c)) for r, c in np.argwhere(hot))
    return Pattern(
        np.where(good, counts, 0.0),
        good,
        places,
        fraction,
        shadow,
        stop.centre_px if stop else None,
    )


def is_saturated(pattern: Pattern) -> bool:
    """Whether a flat top holds so much that intensities mean nothing."""
    return pattern.saturated_fraction > 0.5


def _dead_lines(counts: Array) -> Mask:
    """Rows and columns without a single count between lines that have many."""
    dead = np.zeros(counts.shape, dtype=bool)
    for axis in (0, 1):
        profile = counts.sum(axis=1 - axis)
        around = ndimage.median_filter(profile, size=9, mode="nearest")
        lines = (profile == 0) & (around > 12)
        if axis == 0:
            dead[lines, :] = True
        else:
            dead[:, lines] = True
    return dead


def _flat_top(counts: Array) -> Mask:
    """Pixels at a maximum shared by so many neighbours that it can only be the detector's limit."""
    top = counts.max()
    if top <= 0:
        return np.zeros(counts.shape, dtype=bool)
    flat: Mask = counts == top
    many = int(flat.sum())
    if many < 4 or (many < _SATURATED_PLATEAU_FRACTION * counts.size and top < 200):
        return np.zeros(counts.shape, dtype=bool)
    return flat


def _lonely_pixels(counts: Array, good: Mask) -> Mask:
    """Hot pixels: bright alone, where the pattern's own spots are wider than a pixel.

    The sharpness of a peak is its share of the 3 x 3 sum around it.  A spot of the pattern
    shares with its neighbours; a hot pixel does not.  Where the spots themselves are as sharp
    as a pixel the two cannot be told apart, and nothing is masked; in a sparse pattern most peaks
    may be hot pixels, and one wide spot then tells.
    """
    around = ndimage.uniform_filter(counts, 3) * 9 - counts
    floor = ndimage.median_filter(counts, 5)
    excess = counts - floor
    peak = (excess >= 12) & (counts >= ndimage.maximum_filter(counts, 3)) & good
    if not peak.any():
        return np.zeros(counts.shape, dtype=bool)
    neighbours = np.maximum(around - 8 * floor, 0.0)
    sharpness = excess / np.maximum(excess + neighbours, 1e-9)
    spread = (1 - sharpness[peak]) * np.minimum(excess[peak], 200)
    typical = float(spread.sum() / np.minimum(excess[peak], 200).sum())
    wide = _has_wide_spot(counts, good)
    typical = max(typical, _WIDE) if wide else typical
    # neighbours that the typical spot shape would have put there, against those that came
    expected = excess * max(typical, 0.05) / max(1 - typical, 0.05)
    lonely = neighbours + 3 * np.sqrt(neighbours + 1) < 0.5 * expected
    sharp_spots = np.median(sharpness[peak]) > 0.85 and not wide
    isolated = sharpness > 0.93
    nothing = np.zeros(counts.shape, dtype=bool)
    return nothing if sharp_spots else peak & lonely & isolated


def _has_wide_spot(counts: Array, good: Mask) -> bool:
    """Whether something stands out of its surroundings that no single pixel holds half of."""
    total = 9.0 * ndimage.uniform_filter(counts, 3)
    around = np.maximum(9.0 * ndimage.uniform_filter(counts, 15), 0.0)
    wide = ndimage.maximum_filter(counts, 3) < 0.5 * total
    stands_out = total > around + 6.0 * np.sqrt(around) + 15.0
    return bool((wide & stands_out & good).any())
