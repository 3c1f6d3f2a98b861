"""How good an image is: Fourier ring correlation, lattice limit, correlation with a known object.

Two reconstructions of independent halves of the electrons give the ring correlation C(q). Half the
electrons carry half the signal-to-noise ratio, so that C = 0.143 between halves stands for 0.5
between the full reconstruction and the truth (Rosenthal & Henderson, J. Mol. Biol. 333 (2003) 721).
For a crystal the signal sits in few spots per ring: numerator and denominators are summed
over a band wider than the spacing of the spots before they are divided.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Float = NDArray[np.float64]
BAND_A = 0.06
"""Half width, 1/Å, of the band that a ring is averaged over."""


MIN_SPOTS = 3
COARSEST_A = 6.0


@dataclass(frozen=True)
class RingCorrelation:
    """C(q) between two images; ``pixels`` counts the independent coefficients of each ring."""

    frequency_A: Float
    correlation: Float
    pixels: Float

    def resolution_A(self, threshold: float | Float) -> float:
        """1 / q where C falls below the threshold; NaN if it is below from the start.

        The coarsest rings, beyond ``COARSEST_A``, hold few coefficients and what the window leaves
        of the mean: they may lie below without ending the curve.
        """
        below = ~(self.correlation >= threshold)
        first = int(np.argmin(below))
        if below.all() or (first and self.frequency_A[first] > 1 / COARSEST_A):
            return float("nan")
        if not below[first:].any():
            return float(1 / self.frequency_A[-1])
        i = first + int(np.argmax(below[first:]))
        level = np.broadcast_to(threshold, self.correlation.shape)
        over = self.correlation[i - 1] - level[i - 1]
        under = level[i] - self.correlation[i]
        part = over / (over + under) if over + under > 0 else 0.0
        q = self.frequency_A[i - 1] + part * (self.frequency_A[i] - self.frequency_A[i - 1])
        return float(1 / q)

    def without_shared(self, part: float) -> "RingCorrelation":
        """What is left of C where a ``part`` of all that is not noise-free agreement is shared.

        (C - part) / (1 - part): two images that agree on nothing but what they share come out at 0.
        """
        return replace(self, correlation=(self.correlation - part) / (1 - part))

    def half_bit_threshold(self) -> Float:
        """Half-bit curve of van Heel & Schatz, J. Struct. Biol. 151 (2005) 250."""
        root = np.sqrt(np.maximum(self.pixels, 1.0) / 2)
        return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


def without_plane(image: Float) -> Float:
    """Subtract mean and least-squares plane."""
    rows, cols = np.indices(image.shape)
    design = np.stack([np.ones(image.size), rows.ravel(), cols.ravel()], axis=1)
    coefficients, *_ = np.linalg.lstsq(design, image.ravel(), rcond=None)
    return image - (design @ coefficients).reshape(image.shape)


def windowed(image: Float) -> Float:
    """Plane removed, then faded to zero at the borders (Hann), so that edges make no streaks."""
    rows, cols = (np.hanning(n + 2)[1:-1] for n in image.shape)
    return without_plane(image.astype(np.float64)) * rows[:, None] * cols[None]


def ring_correlation(a: Float, b: Float, sampling_A: float) -> RingCorrelation:
    """Fourier ring correlation of two images of the same field, pixels of ``sampling_A``."""
    fa, fb = np.fft.fft2(windowed(a)), np.fft.fft2(windowed(b))
    q = np.hypot(
        np.fft.fftfreq(a.shape[0], sampling_A)[:, None], np.fft.fftfreq(a.shape[1], sampling_A)
    )
    spacing = 1 / (min(a.shape) * sampling_A)
    rings = int(0.5 / sampling_A / spacing)
    label = np.minimum((q / spacing + 0.5).astype(int), rings + 1).ravel()
    reach = round(BAND_A / spacing)
    kernel = np.ones(2 * reach + 1)

    def banded(weights: Float) -> Float:
        ring = np.bincount(label, weights=weights.ravel(), minlength=rings + 2)[1 : rings + 1]
        return np.convolve(ring, kernel, mode="full")[reach : reach + rings]

    cross, pixels = banded((fa * fb.conj()).real), banded(np.ones(q.shape))
    power_a, power_b = banded(np.abs(fa) ** 2), banded(np.abs(fb) ** 2)
    norm = np.sqrt(power_a * power_b)
    correlation = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    return RingCorrelation((np.arange(rings) + 1) * spacing, correlation, pixels)


@dataclass(frozen=True)
class Spot:
    """A peak of the power spectrum at ``q_A`` (row, col), 1/Å, so many times its surroundings."""

    q_A: tuple[float, float]
    contrast: float

    @property
    def spacing_A(self) -> float:
        """Lattice spacing."""
        return float(1 / np.hypot(*self.q_A))


def lattice_limit_A(spots: Sequence[Spot]) -> float:
    """Spacing that at least three independent spots reach; NaN with fewer.

    The finest spot alone would be a matter of luck, and of artefacts.
    """
    if len(spots) < MIN_SPOTS:
        return float("nan")
    return sorted(spot.spacing_A for spot in spots)[MIN_SPOTS - 1]


def lattice_spots(
    image: Float,
    sampling_A: float,
    *,
    raster: Float | None = None,
    other: Float | None = None,
    least_noise_A2: float = 0.0,
) -> list[Spot]:
    """Peaks that noise alone would not make, coarse to fine, one of each Friedel pair.

    The power of noise is exponentially distributed about the mean of its ring (from the median);
    a peak counts if chance would give one such in a thousand images. A fit that does not follow
    the noise at high frequencies leaves rings there that are quieter than the electrons can
    be, and fine spots that its model made in both halves alike: they do not count.

    Parameters
    ----------
    image, other
        Phase, or the phases of two independent halves: then the cross-spectrum is searched, where
        noise averages to zero.
    raster
        Scan matrix (2, 2), Å per step. Peaks at its reciprocal lattice are artefacts of
        the scan and left out.
    least_noise_A2
        Noise power that no image of these electrons can be below, rad² Å² (per 1/Å²).
    """
    spectrum = np.fft.fft2(windowed(image))
    mate = spectrum if other is None else np.fft.fft2(windowed(other))
    power = (spectrum * mate.conj()).real
    scale = np.abs(spectrum) * np.abs(mate)
    rows = np.fft.fftfreq(image.shape[0], sampling_A).astype(np.float64)
    cols = np.fft.fftfreq(image.shape[1], sampling_A).astype(np.float64)
    q = np.hypot(rows[:, None], cols[None])
    spacing = 1 / (min(image.shape) * sampling_A)
    seen = (np.hanning(image.shape[0] + 2) ** 2).sum() * (np.hanning(image.shape[1] + 2) ** 2).sum()
    background = np.maximum(
        _ring_level(scale, q, spacing), least_noise_A2 / sampling_A**2 * float(seen)
    )
    contrast = np.divide(power, background, out=np.zeros_like(power), where=background > 0)
    contrast[(q < 3 * spacing) | (q > 0.5 / sampling_A)] = 0
    if raster is not None:
        contrast[_near_raster(rows, cols, raster, 2 * spacing)] = 0
    threshold = np.log(power.size) + 7
    neighbours = np.stack(
        [np.roll(contrast, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    )
    peak = (contrast > threshold) & (contrast >= neighbours.max(axis=0))
    half = (rows[:, None] > 0) | ((rows[:, None] == 0) & (cols[None] > 0))
    found = [
        Spot((float(rows[i]), float(cols[j])), float(contrast[i, j]))
        for i, j in zip(*np.nonzero(peak & half), strict=True)
    ]
    return sorted(found, key=lambda spot: -spot.spacing_A)


def _ring_level(power: Float, q: Float, spacing: float) -> Float:
    """Mean noise power at every pixel, from the median of a ring three pixels wide."""
    label = (q / spacing + 0.5).astype(int)
    order = np.argsort(label, axis=None, kind="stable")
    first = np.searchsorted(label.ravel()[order], np.arange(label.max() + 2))
    level = np.zeros(label.max() + 1)
    for ring in range(len(level)):
        members = order[first[max(ring - 1, 0)] : first[min(ring + 2, len(first) - 1)]]
        level[ring] = np.median(power.ravel()[members]) / np.log(2) if len(members) else 0.0
    return level[label]


def _near_raster(rows: Float, cols: Float, raster: Float, reach: float) -> NDArray[np.bool_]:
    """Frequencies within ``reach`` of the reciprocal lattice of the scan."""
    u, v = (np.asarray(rows[:, None] * raster[0, i] + cols[None] * raster[1, i]) for i in range(2))
    u, v = u - np.round(u), v - np.round(v)
    inverse = np.linalg.inv(raster)
    return (
        np.hypot(inverse[0, 0] * u + inverse[1, 0] * v, inverse[0, 1] * u + inverse[1, 1] * v)
        < reach
    )


def registered_correlation(a: Float, b: Float, border_px: int = 0) -> float:
    """Pearson correlation of ``a`` with ``b`` moved to fit best (sub-pixel), planes removed.

    The shift is found by cross-correlation to a pixel and then refined; ``border_px`` is left out
    of the comparison on all sides.
    """
    a, b = without_plane(a.astype(np.float64)), without_plane(b.astype(np.float64))
    cross = np.fft.ifft2(np.fft.fft2(windowed(a)) * np.fft.fft2(windowed(b)).conj()).real
    start = np.array(
        [
            (p + n // 2) % n - n // 2
            for p, n in zip(np.unravel_index(np.argmax(cross), a.shape), a.shape, strict=True)
        ],
        dtype=np.float64,
    )
    rows, cols = np.fft.fftfreq(a.shape[0])[:, None], np.fft.fftfreq(a.shape[1])[None]
    spectrum = np.fft.fft2(b)
    cut = tuple(slice(border_px, n - border_px) for n in a.shape)
    fixed = without_plane(a[cut]).ravel()

    def loss(shift: Float) -> float:
        ramp = np.exp(-2j * np.pi * (rows * shift[0] + cols * shift[1]))
        moved = without_plane(np.fft.ifft2(spectrum * ramp).real[cut]).ravel()
        norm = float(np.linalg.norm(fixed) * np.linalg.norm(moved))
        return -float(fixed @ moved) / norm if norm > 0 else 0.0

    simplex = start + np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]])
    options = {"xatol": 0.01, "fatol": 1e-5, "maxiter": 80, "initial_simplex": simplex}
    return -float(minimize(loss, start, method="Nelder-Mead", options=options).fun)
