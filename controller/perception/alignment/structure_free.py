"""Tilt without a structure: lattice first, then the Laue circle on its nodes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.perception.alignment.centre import rank_hidden
from controller.perception.alignment.lattice import Lattice, fit_lattice
from controller.perception.alignment.laue_circle import weighted_laue_circle
from controller.perception.alignment.laue_posterior import (
    LatticeNodes,
    TiltPosterior,
    laue_posterior,
)
from controller.perception.alignment.pattern import Pattern
from controller.perception.alignment.spots import Spots, disc_kernel, spot_mask

Array = NDArray[np.float64]

REACH_DEG = 6.0
"""Beyond this one pattern shows too short an arc for its radius to be told."""
_MOST_NODES = 700
_LEAST_LATTICE_SCORE = 12.0
_ALLOWED_OFF = 0.12
_LEAST_ON_LATTICE = 0.6


@dataclass(frozen=True)
class StructureFreeFit:
    """Lattice, circle and posterior of one pattern, or the reason why there is none."""

    reason: str
    lattice: Lattice | None = None
    centre_px: tuple[float, float] | None = None
    circle_mrad: tuple[float, float] | None = None
    """The plain weighted circle."""
    posterior: TiltPosterior | None = None
    node_px: Array | None = None
    """Nodes looked at, (n, 2)."""
    node_counts: Array | None = None
    """Electrons above background at each, (n,)."""
    centre_gap: float = 99.0
    """Log-likelihood of the next best place of the direct beam below the one taken."""


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
    if on < 6 or lattice.score < _LEAST_LATTICE_SCORE:
        return StructureFreeFit(
            f"only {on} of {len(spots)} spots lie on a common lattice (score {lattice.score:.0f}, "
            f"needed {_LEAST_LATTICE_SCORE:.0f})",
            lattice,
        )
    weight = np.minimum(spots.counts, 30.0)
    if weight[lattice.used].sum() < _LEAST_ON_LATTICE * weight.sum():
        return StructureFreeFit(
            f"{len(spots) - on} of {len(spots)} spots lie off the lattice: more than one crystal, "
            f"or a tilt at which higher-order Laue zones overlap",
            lattice,
        )
    images = _node_images(pattern, spots, lattice)
    place, gap = _centre(pattern, spots, lattice)
    at, nodes = _nodes(pattern, spots, lattice, place, images, inv_A_per_px)
    if len(nodes.counts) < 8 or nodes.counts.sum() <= 0:
        return StructureFreeFit("fewer than 8 nodes of the lattice are inside the frame", lattice)
    circle = weighted_laue_circle(
        nodes.g_inv_A[:, 0], nodes.g_inv_A[:, 1], nodes.counts + 1e-6, wavenumber
    )
    posterior = laue_posterior(nodes, wavenumber, reach_deg=REACH_DEG)
    return StructureFreeFit(
        "", lattice, (float(place[0]), float(place[1])), circle, posterior, at, nodes.counts, gap
    )


def _centre(pattern: Pattern, spots: Spots, lattice: Lattice) -> tuple[Array, float]:
    """The node (x, y) of the direct beam, and the log-probability of the next best below it."""
    if spots.direct is not None:
        x, y = spots.x_px, spots.y_px
        rows, cols = pattern.shape
        off = np.hypot(x - 0.5 * (cols - 1), y - 0.5 * (rows - 1))
        near = off < _ALLOWED_OFF * min(rows, cols)
        brighter = float(spots.counts[near].max(initial=0.0) / spots.counts[spots.direct])
        place = np.array([x[spots.direct], y[spots.direct]])
        # the halo spoke for this one; a far brighter one at its side speaks against it
        return _on_node(place, lattice), 12.0 - 4.0 * float(np.log(max(brighter, 1.0)))
    i, j = (v.ravel() for v in np.meshgrid(np.arange(-12, 13), np.arange(-12, 13)))
    nodes = np.array(lattice.origin_px) + np.stack([i, j], 1) @ lattice.basis_px
    order, score = rank_hidden(pattern, spot_mask(pattern.shape, spots), nodes)
    if len(order) == 0:
        return np.array(lattice.origin_px), 0.0
    return nodes[order[0]], float(score[0] - score[1]) if len(order) > 1 else 99.0


def _on_node(place: Array, lattice: Lattice) -> Array:
    """The node at a spot, or the spot itself where no node is near."""
    origin = np.array(lattice.origin_px)
    steps = np.round((place - origin) @ np.linalg.inv(lattice.basis_px))
    node = origin + steps @ lattice.basis_px
    return np.asarray(node if np.hypot(*(node - place)) < 1.5 else place, dtype=float)


def _node_images(
    pattern: Pattern, spots: Spots, lattice: Lattice
) -> tuple[Array, NDArray[np.bool_]]:
    """Electrons above background in a disc about each pixel, and whether the disc is seen."""
    shortest = float(np.hypot(*lattice.basis_px[0]))
    kernel = disc_kernel(max(1.0, min(1.7 * spots.sigma_px, 0.45 * shortest)))
    signal = np.where(pattern.good, pattern.counts - spots.background, 0.0)
    summed = ndimage.convolve(signal, kernel, mode="constant")
    area = ndimage.convolve(pattern.good.astype(float), kernel, mode="constant")
    return summed, area > 0.85 * kernel.sum()


def _nodes(
    pattern: Pattern,
    spots: Spots,
    lattice: Lattice,
    origin: Array,
    images: tuple[Array, NDArray[np.bool_]],
    inv_A_per_px: float,
) -> tuple[Array, LatticeNodes]:
    """Nodes about one place of the direct beam: positions (n, 2) in px, and what they hold."""
    summed, seen = images
    rows, cols = pattern.shape
    outermost = np.hypot(spots.x_px - origin[0], spots.y_px - origin[1]).max() * 1.2
    shortest = float(np.hypot(*lattice.basis_px[0]))
    m = int(np.ceil(outermost / max(shortest * 0.8, 1.0)))
    i, j = (v.ravel() for v in np.meshgrid(np.arange(-m, m + 1), np.arange(-m, m + 1)))
    index = np.stack([i, j], 1)[(i != 0) | (j != 0)]
    d = index @ lattice.basis_px
    radius = np.hypot(d[:, 0], d[:, 1])
    order = np.argsort(radius, kind="stable")[: int((radius <= outermost).sum())][:_MOST_NODES]
    index, d = index[order], d[order]
    at = origin + d
    col, row = np.round(at[:, 0]).astype(int), np.round(at[:, 1]).astype(int)
    inside = (row >= 1) & (row < rows - 1) & (col >= 1) & (col < cols - 1)
    inside[inside] = seen[row[inside], col[inside]]
    counts = np.maximum(summed[row[inside], col[inside]], 0.0)
    return at[inside], LatticeNodes(
        d[inside] * inv_A_per_px, index[inside], counts, lattice.basis_px
    )
