"""Camera constant and elliptical distortion from the rings of a polycrystalline standard.

A ring of known g is |M (p - c)| = g, with p a pixel, c the centre, and M symmetric, (2, 2), in 1/A
per pixel: the camera constant is sqrt(det M), the ratio of its eigenvalues the ellipticity.  Rings
are located sector by sector, so that spots of single grains, a beam stop or a neighbouring
crystal spoil a few points and not the fit, which is robust.  Errors come from leaving out one
twelfth of the azimuth after the other (jackknife): they hold for spotty rings too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, optimize

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FINE, _COARSE = 60, 24
"""Sectors; the coarse ones for faint rings."""
_GROUPS = 12
_SCALE_SEARCH = 0.12
_FEWEST_POINTS = 40
_SYSTEMATIC = 2e-4
"""Relative floor of the camera constant: background under the rings, lattice of the standard."""
_FEWEST_GROUPS = 8
_SIGNIFICANT = 4.0


class RingError(ValueError):
    """The pattern shows no rings of the standard; nothing was measured."""


@dataclass(frozen=True)
class Standard:
    """Rings of a standard: radii and strengths."""

    name: str
    g_inv_A: Array
    """Radii, ascending, 1/A, (n,)."""
    strength: Array
    """Relative intensity of each whole ring, (n,)."""


@dataclass(frozen=True)
class RingFit:
    """What the rings say about the camera; each sigma is one standard deviation."""

    inv_A_per_px: float
    inv_A_per_px_sigma: float
    ellipticity: float
    """Long over short axis of a ring on the detector, less one."""
    ellipticity_sigma: float
    azimuth_deg: float
    """Of the long axis, from +x (column) towards +y (row), in -90 .. 90."""
    azimuth_sigma_deg: float
    centre_px: tuple[float, float]
    """(x, y)."""
    centre_sigma_px: float
    rings_used: int
    points_used: int
    residual_px: float
    """Median distance of a sector's ring from the fit."""


def fit_rings(
    counts: ArrayLike,
    standard: Standard,
    *,
    inv_A_per_px: float,
    centre_px: tuple[float, float] | None = None,
    valid: Mask | None = None,
) -> RingFit:
    """Measure camera constant, ellipse and centre from one ring pattern.

    Parameters
    ----------
    counts
        Electrons per pixel, (row, col).
    standard
        Radii of the rings that can be there.
    inv_A_per_px
        Nominal camera constant, good to 12 %.
    centre_px
        (x, y) of the direct beam where it is known, e.g. behind a beam stop.
    valid
        False on pixels that are no measurement, (row, col).

    Raises
    ------
    RingError
        Too few rings, or rings that do not fit the standard.
    """
    image, good = _checked(counts, valid)
    centre = np.array(centre_px) if centre_px is not None else _first_centre(image, good)
    scale = _coarse_scale(image, good, centre, standard, inv_A_per_px)
    start = _Model(centre, scale * np.eye(2))
    try:
        return _refined(image, good, standard, start, _FINE)
    except RingError:
        return _refined(image, good, standard, start, _COARSE)


def _refined(image: Array, good: Mask, standard: Standard, model: _Model, sectors: int) -> RingFit:
    points = _Points.none()
    for half_width in (5.0, 4.0, 3.5, 3.5):
        points = _locate(image, good, standard, model, half_width, sectors)
        _require(points, standard)
        model = _Model(*_fit(points, model))
    return _with_errors(points, model)


def correct_ellipse(fit_ellipticity: float, azimuth_deg: float) -> Array:
    """(2, 2) that takes distorted detector vectors (x, y) to round ones, area kept."""
    turn = np.deg2rad(azimuth_deg)
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    root = np.sqrt(1.0 + fit_ellipticity)
    return np.asarray(axes @ np.diag([1.0 / root, root]) @ axes.T, dtype=float)


def made_round(
    counts: Array, centre_px: tuple[float, float], ellipticity: float, azimuth_deg: float
) -> Array:
    """A pattern resampled as a camera without the ellipse would show it, (row, col).

    Linear interpolation: for bright patterns, whose counting statistics matter little.
    """
    back = np.linalg.inv(correct_ellipse(ellipticity, azimuth_deg))
    rows, cols = np.indices(counts.shape)
    arm = np.stack([cols - centre_px[0], rows - centre_px[1]]).reshape(2, -1)
    x, y = back @ arm + np.array(centre_px)[:, None]
    places = np.stack([y.reshape(counts.shape), x.reshape(counts.shape)])
    return np.asarray(ndimage.map_coordinates(counts, places, order=1), dtype=float)


@dataclass(frozen=True)
class _Model:
    centre: Array
    matrix: Array

    def radius_px(self, g: float, azimuth: Array) -> Array:
        """Distance from the centre where a ring lies in some directions."""
        unit = np.stack([np.cos(azimuth), np.sin(azimuth)])
        return np.asarray(g / np.linalg.norm(self.matrix @ unit, axis=0))


@dataclass(frozen=True)
class _Points:
    """Places on rings: x, y in px, the g of their ring, their error in px, their azimuth."""

    x: Array
    y: Array
    g: Array
    sigma: Array
    azimuth: Array

    @classmethod
    def none(cls) -> _Points:
        empty = np.empty(0)
        return cls(empty, empty, empty, empty, empty)

    def only(self, keep: Mask) -> _Points:
        return _Points(
            self.x[keep], self.y[keep], self.g[keep], self.sigma[keep], self.azimuth[keep]
        )


def _checked(counts: ArrayLike, valid: Mask | None) -> tuple[Array, Mask]:
    image = np.asarray(counts, dtype=float)
    if image.ndim != 2 or min(image.shape) < 64:
        raise RingError(f"a ring pattern is an image of at least 64 x 64 px, got {image.shape}")
    good = np.isfinite(image) if valid is None else np.isfinite(image) & valid
    image = np.where(good, image, 0.0)
    around = ndimage.median_filter(image, 5)
    # single grains light several pixels, a hot pixel one
    sharp = image - ndimage.uniform_filter(image, 3)
    hot = (image > 8 * (around + 3)) & (sharp > 0.75 * image)
    good &= ~hot
    return np.where(good, image, 0.0), good


def _first_centre(image: Array, good: Mask) -> Array:
    """The brightest place; where it is no beam but a ring, the point of symmetry."""
    smooth = ndimage.gaussian_filter(image, 1.5)
    row, col = np.unravel_index(int(np.argmax(smooth)), smooth.shape)
    start = np.array([float(col), float(row)])
    middle = np.array(image.shape[::-1]) / 2
    if np.hypot(*(start - middle)) < 0.15 * min(image.shape):
        return start
    root = np.sqrt(image) - np.sqrt(image[good]).mean()
    shape = [2 * n for n in image.shape]
    self_fit = np.fft.irfft2(np.fft.rfft2(root, shape) ** 2, shape)
    row, col = np.unravel_index(int(np.argmax(self_fit)), self_fit.shape)
    return np.array([col / 2.0, row / 2.0])


def _coarse_scale(
    image: Array, good: Mask, centre: Array, standard: Standard, nominal: float
) -> float:
    """Camera constant by laying the standard's radii over the azimuthal mean."""
    rows, cols = image.shape
    y, x = np.ogrid[:rows, :cols]
    radius = np.hypot(x - centre[0], y - centre[1])
    bins = (2 * radius).astype(int)
    seen = np.bincount(bins[good])
    mean = np.bincount(bins[good], weights=image[good]) / np.maximum(seen, 1)
    mean = np.sqrt(np.maximum(mean, 0))
    mean = np.where(
        seen > 0, mean, np.interp(np.arange(len(mean)), np.flatnonzero(seen), mean[seen > 0])
    )
    contrast = ndimage.gaussian_filter1d(mean, 2.0) - ndimage.median_filter(mean, 25)
    contrast /= ndimage.gaussian_filter1d(np.abs(contrast), 30) + 1e-9
    largest = 0.5 * min(rows, cols)
    scales = nominal * np.exp(np.linspace(-_SCALE_SEARCH, _SCALE_SEARCH, 481))
    weight = np.sqrt(standard.strength / standard.strength.max())
    scores = []
    for scale in scales:
        at = standard.g_inv_A / scale
        inside = (at > 8) & (at < largest)
        if inside.sum() < 2:
            scores.append(-np.inf)
            continue
        sample = np.interp(2 * at[inside] + 0.5, np.arange(len(contrast)), contrast)
        scores.append(float((weight[inside] * np.clip(sample, -1, 3)).sum() / weight[inside].sum()))
    best = int(np.argmax(scores))
    if not scores[best] > 0.5:
        raise RingError(
            f"no rings of {standard.name} between {scales[0]:.5f} and {scales[-1]:.5f} 1/A per px "
            f"(contrast {scores[best]:.2f}, needed 0.5); nothing was measured. Check the standard "
            f"and the nominal camera constant, or expose longer"
        )
    return float(scales[best])


def _isolated(standard: Standard, scale: float, half_width: float, largest: float) -> Array:
    """Radii in 1/A of the rings that no other comes near, strong enough to matter."""
    at = standard.g_inv_A / scale
    strong = standard.strength > 0.02 * standard.strength.max()
    others = np.abs(at[:, None] - at[strong][None])
    apart = (np.where(others == 0, np.inf, others) > half_width + 1.5).all(axis=1)
    return np.asarray(standard.g_inv_A[strong & apart & (at > 12) & (at < largest)])


def _locate(
    image: Array, good: Mask, standard: Standard, model: _Model, half_width: float, sectors: int
) -> _Points:
    """Where each isolated ring lies in each sector."""
    rows, cols = image.shape
    y, x = np.mgrid[:rows, :cols]
    dx, dy = x - model.centre[0], y - model.centre[1]
    radius, azimuth = np.hypot(dx, dy), np.arctan2(dy, dx)
    reach = float(np.max([model.centre.max(), (np.array([cols, rows]) - model.centre).max()]))
    scale = float(np.sqrt(np.linalg.det(model.matrix)))
    found: list[tuple[float, float, float, float, float]] = []
    for g in _isolated(standard, scale, half_width, 1.3 * reach):
        offset = radius - model.radius_px(g, azimuth.ravel()).reshape(radius.shape)
        near = good & (np.abs(offset) < half_width)
        sector = ((azimuth[near] / (2 * np.pi) + 0.5) * sectors).astype(int) % sectors
        values, away, angle = image[near], offset[near], azimuth[near]
        for j in range(sectors):
            own = sector == j
            place = _ring_offset(values[own], away[own], half_width)
            if place is None:
                continue
            shift, sigma = place
            weight = np.maximum(values[own], 0) * (np.abs(away[own] - shift) < 2) + 1e-9
            mean = np.arctan2(
                (weight * np.sin(angle[own])).sum(), (weight * np.cos(angle[own])).sum()
            )
            r = float(model.radius_px(g, np.array([mean]))[0]) + shift
            found.append(
                (
                    float(model.centre[0] + r * np.cos(mean)),
                    float(model.centre[1] + r * np.sin(mean)),
                    float(g),
                    sigma,
                    float(mean),
                )
            )
    return _Points(*np.array(found).reshape(-1, 5).T)


def _ring_offset(values: Array, away: Array, half_width: float) -> tuple[float, float] | None:
    """Offset of a ring from where it was expected, in px, with its error; None if not seen."""
    if len(values) < 12 or values.sum() < 10:
        return None
    inner = np.abs(away) < 0.6 * half_width
    edge = ~inner
    if edge.sum() < 4 or inner.sum() < 4:
        return None
    slope, level = np.polyfit(away[edge], values[edge], 1)
    shift, total, noise2 = 0.0, 0.0, 1.0
    for _ in range(4):
        window = np.exp(-0.5 * ((away - shift) / 1.4) ** 2)
        excess = values - level - slope * away
        total = float((window * excess).sum())
        noise2 = float((window**2 * np.maximum(values, level) + 0.1 * window**2).sum())
        if not total > _SIGNIFICANT * np.sqrt(noise2):
            return None
        # the window narrows the ring: a step of the centroid is made up for by its width
        step = float((window * excess * (away - shift)).sum()) / total
        shift = float(np.clip(shift + 1.6 * step, -half_width, half_width))
    if abs(shift) > 0.7 * half_width:
        return None
    sigma = 1.2 * np.sqrt(noise2) / total
    return shift, float(np.hypot(sigma, 0.03))


def _require(points: _Points, standard: Standard) -> None:
    groups = len(np.unique(_group(points.azimuth))) if len(points.x) else 0
    rings = len(np.unique(points.g))
    if len(points.x) < _FEWEST_POINTS or groups < _FEWEST_GROUPS:
        raise RingError(
            f"{len(points.x)} sectors of {rings} isolated rings of {standard.name} are visible, "
            f"over {groups} of {_GROUPS} parts of the azimuth (needed {_FEWEST_POINTS} and "
            f"{_FEWEST_GROUPS}); nothing was measured. Expose longer, or take more of the ring "
            f"onto the camera"
        )


def _group(azimuth: Array) -> NDArray[np.int64]:
    return ((azimuth / (2 * np.pi) + 0.5) * _GROUPS).astype(np.int64) % _GROUPS


def _fit(points: _Points, start: _Model) -> tuple[Array, Array]:
    """Centre and matrix by robust least squares, in pixels."""
    scale = float(np.sqrt(np.linalg.det(start.matrix)))

    def residual(p: Array) -> Array:
        matrix = scale * np.array([[p[2], p[4]], [p[4], p[3]]])
        at = matrix @ np.stack([points.x - p[0], points.y - p[1]])
        return np.asarray((np.linalg.norm(at, axis=0) - points.g) / scale / points.sigma)

    first = [*start.centre, *(start.matrix / scale)[[0, 1, 0], [0, 1, 1]]]
    solved = optimize.least_squares(residual, first, loss="soft_l1", f_scale=2.0)
    p = solved.x
    return p[:2], scale * np.array([[p[2], p[4]], [p[4], p[3]]])


def _with_errors(points: _Points, model: _Model) -> RingFit:
    """Parameters of the fit, and their scatter when parts of the azimuth are left out."""
    best = _parameters(*_fit(points, model))
    group = _group(points.azimuth)
    parts = [n for n in range(_GROUPS) if (group == n).any()]
    left_out = np.array([_parameters(*_fit(points.only(group != n), model)) for n in parts])
    spread = left_out - left_out.mean(axis=0)
    count = len(parts)
    sigma = np.sqrt((count - 1) / count * (spread**2).sum(axis=0))
    scale, across, along, cx, cy = best
    ellipticity = float(np.hypot(across, along))
    sigma_e = float(np.hypot(sigma[1], sigma[2]) / np.sqrt(2))
    centre, matrix = _fit(points, model)
    at = matrix @ np.stack([points.x - centre[0], points.y - centre[1]])
    off = np.abs(np.linalg.norm(at, axis=0) - points.g) / scale
    return RingFit(
        inv_A_per_px=float(scale),
        inv_A_per_px_sigma=float(np.hypot(sigma[0], _SYSTEMATIC * scale)),
        ellipticity=ellipticity,
        ellipticity_sigma=sigma_e,
        azimuth_deg=float(np.rad2deg(0.5 * np.arctan2(along, across))),
        azimuth_sigma_deg=float(min(np.rad2deg(0.5 * sigma_e / max(ellipticity, 1e-9)), 90.0)),
        centre_px=(float(cx), float(cy)),
        centre_sigma_px=float(np.hypot(sigma[3], sigma[4]) / np.sqrt(2)),
        rings_used=len(np.unique(points.g)),
        points_used=len(points.x),
        residual_px=float(np.median(off)),
    )


def _parameters(centre: Array, matrix: Array) -> tuple[float, ...]:
    """Scale, ellipticity times cos and sin of twice its azimuth, centre: all of them regular."""
    scale = float(np.sqrt(np.linalg.det(matrix)))
    values, vectors = np.linalg.eigh(matrix)
    # the small eigenvalue belongs to the long axis of the ring
    ellipticity = float(values[1] / values[0] - 1.0)
    twice = 2.0 * float(np.arctan2(vectors[1, 0], vectors[0, 0]))
    return (
        scale,
        ellipticity * float(np.cos(twice)),
        ellipticity * float(np.sin(twice)),
        float(centre[0]),
        float(centre[1]),
    )
