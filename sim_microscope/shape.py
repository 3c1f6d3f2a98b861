"""Faceted crystals as intersections of half spaces, and the thickness a tilted beam meets.

A crystal is ``n_i . r <= d_i`` about its centre.  Along the beam (Z of the column, after the holder
has tilted the normals) a ray enters at the highest of the planes that face the source and leaves at
the lowest of the others, so the projection is exact at every tilt and tapers at the edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_STANDING = 1e-3
"""Planes whose normal has |n_z| below this stand along the beam."""


@dataclass(frozen=True, eq=False)
class Shape:
    """Half spaces about the centre, in the holder frame."""

    normals: Array
    """Outward unit normals, (facet, 3)."""
    offsets_nm: Array
    """Distances from the centre, (facet,)."""

    def thickness_nm(self, x_nm: Array, y_nm: Array, tilt: Array) -> Array:
        """Length of the ray through column offsets (x, y) from the centre.

        Parameters
        ----------
        x_nm, y_nm
            Offsets in the column frame, any common shape.
        tilt
            R(alpha, beta), (3, 3).

        Returns
        -------
        float64, the common shape, nm; 0 outside.
        """
        entrance, exit_ = self.faces_nm(x_nm, y_nm, tilt)
        return np.asarray(np.clip(exit_ - entrance, 0.0, None))

    def faces_nm(self, x_nm: Array, y_nm: Array, tilt: Array) -> tuple[Array, Array]:
        """Heights (along Z, from the centre) at which the rays enter and leave.

        Where a ray misses the crystal the entrance lies below the exit.
        """
        above = np.full(np.broadcast(x_nm, y_nm).shape, -np.inf)
        below = np.full_like(above, np.inf)
        for (a, b, c), d in zip(self.normals @ tilt.T, self.offsets_nm, strict=True):
            height = d - a * x_nm - b * y_nm
            if c > _STANDING:
                np.minimum(below, height / c, out=below)
            elif c < -_STANDING:
                np.maximum(above, height / c, out=above)
            else:
                below[height < 0] = -np.inf
        return above, below

    def outline_nm(self, directions: int = 72) -> Array:
        """Points of the untilted outline, (directions, 2), found along rays from the middle."""
        span = np.linspace(0.0, self.reach_nm(), 200)
        angle = np.linspace(0, 2 * np.pi, directions, endpoint=False)
        x = np.cos(angle)[:, None] * span
        y = np.sin(angle)[:, None] * span
        inside = self.thickness_nm(x, y, np.eye(3)) > 0
        radius = span[np.argmin(np.concatenate([inside, np.zeros((directions, 1))], 1), axis=1) - 1]
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    @cached_property
    def _reach_nm(self) -> float:
        return float(np.linalg.norm(self._vertices(), axis=1).max())

    def reach_nm(self) -> float:
        """Radius about the centre beyond which no ray meets the crystal, at any tilt."""
        return self._reach_nm

    def _vertices(self) -> Array:
        count = len(self.offsets_nm)
        triples = np.array(
            [(i, j, k) for i in range(count) for j in range(i) for k in range(j)], dtype=int
        )
        matrices = self.normals[triples]
        solvable = np.abs(np.linalg.det(matrices)) > 1e-6
        points = np.linalg.solve(matrices[solvable], self.offsets_nm[triples[solvable]][..., None])[
            ..., 0
        ]
        inside = (points @ self.normals.T <= self.offsets_nm + 1e-6).all(axis=1)
        return np.asarray(points[inside])


def grow(
    habit: tuple[Array, Array],
    *,
    width_nm: float,
    thickness_nm: float | None,
    lies_along: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Faces of one crystal in its own frame, unevenly grown.

    Parameters
    ----------
    habit
        Outward unit normals (m, 3) and relative distances (m,).
    width_nm
        Diameter of the circle with the area of the outline seen along `lies_along`.
    thickness_nm
        Distance of the flat faces across `lies_along`; None keeps the bare habit.
    lies_along
        Unit vector in the crystal frame.

    Returns
    -------
    Normals (n, 3) and distances in nm (n,).
    """
    from sim_microscope.geometry import carry_onto_z

    normals, relative = habit
    relative = relative * rng.uniform(0.85, 1.2, size=relative.shape)
    upright = carry_onto_z(lies_along)
    scale = width_nm / 2
    offsets = relative * scale
    for _ in range(4):
        offsets = relative * scale
        grown = Shape(normals @ upright.T, offsets)
        faces = (
            grown
            if thickness_nm is None
            else Shape(
                np.concatenate([grown.normals, [[0, 0, 1], [0, 0, -1]]]),
                np.concatenate([offsets, [thickness_nm / 2] * 2]),
            )
        )
        scale *= width_nm / _equal_area_diameter(faces)
    if thickness_nm is None:
        return normals, offsets
    flat = np.stack([lies_along, -lies_along])
    return (
        np.concatenate([normals, flat]),
        np.concatenate([offsets, [thickness_nm / 2] * 2]),
    )


def _equal_area_diameter(shape: Shape) -> float:
    reach = shape.reach_nm()
    grid = np.linspace(-reach, reach, 61)
    inside = shape.thickness_nm(grid[None, :], grid[:, None], np.eye(3)) > 0
    area = inside.sum() * (grid[1] - grid[0]) ** 2
    return float(2 * np.sqrt(max(area, 1.0) / np.pi))
