"""Tilt without a structure: lattice first, then the Laue circle on its nodes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.perception.alignment.lattice import Lattice, fit_lattice
from controller.perception.alignment.laue_circle import (
    TiltPosterior,
    laue_posterior,
    weighted_laue_circle,
)
from controller.perception.alignment.pattern import Pattern
from controller.perception.alignment.spots import Spots, disc_kernel

Array = NDArray[np.float64]

LARGEST_TILT_DEG = 6.0
"""Beyond this one pattern shows too short an arc for its radius to be told."""
_MOST_PAIRS = 220


@dataclass(frozen=True)
class StructureFreeFit:
    """Lattice, circle and posterior of one pattern, or the reason why there is none."""

    reason: str
    lattice: Lattice | None = None
    circle_mrad: tuple[float, float] | None = None
    """The plain weighted circle."""
    posterior: TiltPosterior | None = None
    node_px: Array | None = None
    """Nodes looked at, (n, 2)."""
    node_counts: Array | None = None
    """Electrons above background at each, (n,)."""


def fit_structure_free(
    pattern: Pattern, spots: Spots, wavenumber: float, inv_A_per_px: float
) -> StructureFreeFit:
    """Lattice fit and Laue circle of one pattern."""
    lattice = fit_lattice(
        spots.x_px, spots.y_px, spots.counts, spots.centre_px,
        centre_is_node=spots.direct is not None,
    )  # fmt: skip
    if lattice is None:
        return StructureFreeFit(f"{len(spots)} spots show no two-dimensional lattice")
    on = int(lattice.used.sum())
    if on < 6 or lattice.score < 15.0:
        return StructureFreeFit(
            f"only {on} of {len(spots)} spots lie on a common lattice (score {lattice.score:.0f}, "
            f"needed 15)",
            lattice,
        )
    if on < 0.6 * len(spots):
        return StructureFreeFit(
            f"{len(spots) - on} of {len(spots)} spots lie off the lattice: more than one crystal, "
            f"or a tilt at which higher-order Laue zones overlap",
            lattice,
        )
    node_px, g, counts, seen = _pairs(pattern, spots, lattice, inv_A_per_px)
    if len(g) < 4:
        return StructureFreeFit(
            f"only {len(g)} Friedel pairs of nodes are inside the frame", lattice
        )
    weights = np.maximum(counts, 0.0) * seen
    circle = weighted_laue_circle(
        np.concatenate([g[:, 0], -g[:, 0]]),
        np.concatenate([g[:, 1], -g[:, 1]]),
        np.concatenate([weights[:, 0], weights[:, 1]]) + 1e-6,
        wavenumber,
    )
    posterior = laue_posterior(g, counts, seen, wavenumber, reach_deg=LARGEST_TILT_DEG)
    return StructureFreeFit("", lattice, circle, posterior, node_px, counts.T.ravel())


def _pairs(
    pattern: Pattern, spots: Spots, lattice: Lattice, inv_A_per_px: float
) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    """Nodes as Friedel pairs: positions (2n, 2), g (n, 2), counts (n, 2), seen (n, 2)."""
    rows, cols = pattern.shape
    origin = np.array(lattice.origin_px)
    outermost = np.hypot(spots.x_px - origin[0], spots.y_px - origin[1]).max() * 1.15
    shortest = float(np.hypot(*lattice.basis_px[0]))
    m = int(np.ceil(outermost / max(shortest * 0.8, 1.0)))
    i, j = (v.ravel() for v in np.meshgrid(np.arange(-m, m + 1), np.arange(-m, m + 1)))
    half = (j > 0) | ((j == 0) & (i > 0))
    d = np.stack([i[half], j[half]], 1) @ lattice.basis_px
    radius = np.hypot(d[:, 0], d[:, 1])
    d = d[radius <= outermost]
    order = np.argsort(np.hypot(d[:, 0], d[:, 1]))[:_MOST_PAIRS]
    d = d[order]
    kernel = disc_kernel(max(1.5, 1.7 * spots.sigma_px))
    signal = np.where(pattern.good, pattern.counts - spots.background, 0.0)
    summed = ndimage.convolve(signal, kernel, mode="constant")
    area = ndimage.convolve(pattern.good.astype(float), kernel, mode="constant")
    counts = np.zeros((len(d), 2))
    seen = np.zeros((len(d), 2), dtype=bool)
    for side, sign in enumerate((1.0, -1.0)):
        at = origin + sign * d
        col, row = np.round(at[:, 0]).astype(int), np.round(at[:, 1]).astype(int)
        inside = (row >= 1) & (row < rows - 1) & (col >= 1) & (col < cols - 1)
        counts[inside, side] = summed[row[inside], col[inside]]
        seen[inside, side] = area[row[inside], col[inside]] > 0.85 * kernel.sum()
    keep = seen.any(1)
    d, counts, seen = d[keep], counts[keep], seen[keep]
    return np.concatenate([origin + d, origin - d]), d * inv_A_per_px, counts, seen
