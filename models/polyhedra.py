"""Faceted crystals: the thickness that a beam along z passes in a convex polyhedron.

A crystal is the intersection of half spaces ``n_i . r <= d_i``.  Along the beam the ray through
(x, y) enters at the highest of the planes that face it and leaves at the lowest of the others, so

    t(x, y) = max(0,  min_{n_z>0} (d - n_xy . xy)/n_z  -  max_{n_z<0} (d - n_xy . xy)/n_z ),

and t = 0 wherever a plane with n_z = 0 is violated.  Facets, edges, wedges and bevels follow
by themselves, for any habit and any orientation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_CUBE = np.concatenate([np.eye(3), -np.eye(3)])
_OCTAHEDRON = np.array(list(product((-1.0, 1.0), repeat=3))) / np.sqrt(3.0)
_DODECAHEDRON = np.array(
    [v for v in product((-1.0, 0.0, 1.0), repeat=3) if np.count_nonzero(v) == 2]
) / np.sqrt(2.0)
_PARALLEL = 1e-3
"""Facets whose normal has |n_z| below this stand along the beam."""


@dataclass(frozen=True)
class Polyhedron:
    """Half spaces ``normals @ r <= offsets_nm`` about the crystal's centre."""

    normals: NDArray[np.float64]
    """Outward unit normals, (facet, 3) in (x, y, z)."""
    offsets_nm: NDArray[np.float64]
    """Distances of the facets from the centre, (facet,), nm."""

    def thickness_nm(self, x_nm: Floats, y_nm: Floats) -> Floats:
        """Thickness along z at the points of a grid.

        Parameters
        ----------
        x_nm, y_nm
            Columns (nx,) and rows (ny,) relative to the crystal's centre, nm.

        Returns
        -------
        float32, (ny, nx), nm
        """
        top = np.full((y_nm.size, x_nm.size), np.inf, np.float32)
        bottom = np.full_like(top, -np.inf)
        for (a, b, c), d in zip(self.normals, self.offsets_nm, strict=True):
            height = np.float32(d) - np.float32(a) * x_nm[None, :] - np.float32(b) * y_nm[:, None]
            if c > _PARALLEL:
                np.minimum(top, height / np.float32(c), out=top)
            elif c < -_PARALLEL:
                np.maximum(bottom, height / np.float32(c), out=bottom)
            else:
                top[height < 0] = -np.inf
        thickness = np.maximum(top - bottom, 0)
        thickness[~np.isfinite(thickness)] = 0
        return thickness


def draw_polyhedron(
    rng: np.random.Generator, *, lateral_size_nm: float, thickness_nm: float
) -> Polyhedron:
    """Draw a crystal of any habit, scaled to a lateral size and a thickness.

    The habits: cube, octahedron and truncated octahedron (UiO-66), rhombic dodecahedron
    (ZIF-8), hexagonal plate or rod (zeolites, MIL), and irregular polyhedra; turned at random,
    lying on a facet in half of the cases, then stretched to size.

    Parameters
    ----------
    rng
        Source of randomness.
    lateral_size_nm
        Mean diameter of the projection, nm, > 0.
    thickness_nm
        Greatest thickness along the beam, nm, > 0.
    """
    normals, offsets = _habit(rng)
    turn = _lying(rng, normals) if rng.random() < 0.5 else _any_rotation(rng)
    normals = normals @ turn.T
    extent = _half_extent(normals, offsets)
    elongation = np.exp(rng.normal(0.0, 0.25)) if rng.random() < 0.8 else rng.uniform(2.0, 5.0)
    half_lateral = 0.5 * lateral_size_nm
    stretch = np.array(
        [
            half_lateral * np.sqrt(elongation) / extent,
            half_lateral / np.sqrt(elongation) / extent,
            0.5 * thickness_nm / _half_height(normals, offsets),
        ]
    )
    spin = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(spin), np.sin(spin)
    about_beam = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    stretched = (normals / stretch) @ about_beam.T  # n.(S^-1 r) <= d
    length = np.linalg.norm(stretched, axis=1)
    return Polyhedron(stretched / length[:, None], offsets / length)


def _habit(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normals and offsets of a habit of about unit half size."""
    kind = int(rng.integers(6))
    if kind == 0:
        normals, offsets = _CUBE, np.ones(6)
    elif kind == 1:
        normals, offsets = _OCTAHEDRON, np.full(8, 0.65)
    elif kind == 2:  # truncated octahedron
        normals = np.concatenate([_OCTAHEDRON, _CUBE])
        offsets = np.concatenate([np.full(8, 0.65), np.full(6, rng.uniform(0.6, 1.0))])
    elif kind == 3:
        normals, offsets = _DODECAHEDRON, np.full(12, 0.85)
    elif kind == 4:
        sides = int(rng.choice([3, 4, 6, 6, 6, 8]))
        angles = 2 * np.pi * np.arange(sides) / sides
        ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
        normals = np.concatenate([ring, [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]])
        offsets = np.concatenate([np.ones(sides), np.ones(2)])
    else:  # irregular: enough random facets to close the body
        random = rng.normal(size=(int(rng.integers(5, 12)), 3))
        normals = np.concatenate([random / np.linalg.norm(random, axis=1, keepdims=True), _CUBE])
        offsets = np.concatenate([rng.uniform(0.5, 0.95, len(random)), np.ones(6)])
    return normals, offsets * rng.uniform(0.85, 1.15, len(offsets))


def _any_rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    q = rng.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _lying(rng: np.random.Generator, normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation that lays one facet on the film."""
    down = -normals[int(rng.integers(len(normals)))]
    aside = np.cross(down, normals[0] + np.array([0.3, 0.7, 0.1]))
    aside /= max(float(np.linalg.norm(aside)), 1e-9)
    return np.stack([aside, np.cross(down, aside), down])


def _half_extent(normals: NDArray[np.float64], offsets: NDArray[np.float64]) -> float:
    """Mean reach in the plane from the centre, by rays."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rays = np.stack([np.cos(angles), np.sin(angles), 0 * angles])
    return float(np.mean(_reach(normals @ rays, offsets)))


def _half_height(normals: NDArray[np.float64], offsets: NDArray[np.float64]) -> float:
    rays = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, -1.0]])
    return float(np.mean(_reach(normals @ rays, offsets)))


def _reach(along: NDArray[np.float64], offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance from the centre to the surface along each ray, (ray,)."""
    with np.errstate(divide="ignore"):
        distance = np.where(along > 1e-6, offsets[:, None] / np.maximum(along, 1e-6), np.inf)
    return np.minimum(distance.min(axis=0), 10.0)
