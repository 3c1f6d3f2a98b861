"""The specimen as the beam meets it: projected thickness of film, crystals, dirt and bar.

Holder coordinates s = (x, y) in µm name points of the grid.  With the stage at (x0, y0, z0) and
the holder tilted by R = Rx(alpha) Ry(beta), the point s at height h(s) above the tilt axis appears
in the column at R (s_x - x0, s_y - y0, h + z0); the optical axis passes through (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sim_microscope.film import Film, make_film
from sim_microscope.geometry import tilt_matrix
from sim_microscope.layout import Crystal, lay_out
from sim_microscope.randomness import stream
from sim_microscope.scenario import BarSpec, GoldSpec, Scenario

Array = NDArray[np.float64]

_BAR_SOFTNESS_UM = 0.02


@dataclass(frozen=True)
class TruePose:
    """Where the specimen really is; µm and degrees."""

    x_um: float
    y_um: float
    z_um: float
    alpha_deg: float
    beta_deg: float

    def tilt(self) -> Array:
        """R(alpha, beta), (3, 3)."""
        return tilt_matrix(self.alpha_deg, self.beta_deg)


@dataclass(frozen=True, eq=False)
class Grid:
    """A raster of points in the column frame: centre + axes @ (col - middle, row - middle)."""

    shape: tuple[int, int]
    centre_um: tuple[float, float]
    axes_um: Array
    """(2, 2): columns are the steps per column and per row of the picture."""

    def points(self, rows: slice, columns: slice) -> tuple[Array, Array]:
        """Column-frame X and Y of a window, each (rows, columns), µm."""
        ny, nx = self.shape
        v = np.arange(*rows.indices(ny))[:, None] - ny // 2
        u = np.arange(*columns.indices(nx))[None] - nx // 2
        a = self.axes_um
        return (
            self.centre_um[0] + a[0, 0] * u + a[0, 1] * v,
            self.centre_um[1] + a[1, 0] * u + a[1, 1] * v,
        )

    def window(self, x_um: float, y_um: float, radius_um: float) -> tuple[slice, slice] | None:
        """Rows and columns that hold the disc about a column-frame point; None if outside."""
        ny, nx = self.shape
        offset = np.array([x_um - self.centre_um[0], y_um - self.centre_um[1]])
        column, row = np.linalg.solve(self.axes_um, offset) + np.array([nx // 2, ny // 2])
        half = radius_um / np.sqrt(abs(np.linalg.det(self.axes_um))) + 2
        r0, r1 = max(0, int(row - half)), min(ny, int(row + half) + 1)
        c0, c1 = max(0, int(column - half)), min(nx, int(column + half) + 1)
        return (slice(r0, r1), slice(c0, c1)) if r0 < r1 and c0 < c1 else None


@dataclass(frozen=True, eq=False)
class Blob:
    """A patch of dirt: a rough Gaussian hill."""

    centre_um: tuple[float, float]
    radius_um: float
    peak_nm: float
    stretch: float
    angle_rad: float
    roughness: Array
    """Fourier coefficients of the outline, (order, 2)."""

    def thickness_nm(self, x_um: Array, y_um: Array) -> Array:
        """Thickness at holder points, nm."""
        dx, dy = x_um - self.centre_um[0], y_um - self.centre_um[1]
        c, s = np.cos(self.angle_rad), np.sin(self.angle_rad)
        u, v = dx * c + dy * s, (dy * c - dx * s) / self.stretch
        angle = np.arctan2(v, u)
        edge = np.ones_like(angle)
        for order, (a, b) in enumerate(self.roughness, start=1):
            edge += a * np.cos(order * angle) + b * np.sin(order * angle)
        return np.asarray(self.peak_nm * np.exp(-((np.hypot(u, v) / (self.radius_um * edge)) ** 4)))


@dataclass(frozen=True, eq=False)
class Projection:
    """What the beam meets on a grid of column points."""

    film_nm: Array
    """Film and dirt, nm, (rows, columns)."""
    bar: Array
    """Cover by the bar, 0 .. 1, (rows, columns)."""
    crystal_nm: list[tuple[Crystal, slice, slice, Array]] = field(default_factory=list)
    """Crystals in view with their window and thickness."""


class Specimen:
    """A grid square with everything on it."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.crystals: list[Crystal] = lay_out(scenario, seed)
        self.film: Film = make_film(scenario.specimen.film, seed)
        self.bar: BarSpec | None = scenario.specimen.bar
        self.field_um: float = scenario.specimen.field_um
        self.gold: GoldSpec | None = scenario.specimen.gold
        self.seed = seed
        self.dirt: list[Blob] = _dirt(scenario, seed)
        rng = stream(seed, "bar")
        self._bar_phase = rng.uniform(0, 2 * np.pi, 3)

    def to_column(self, x_um: float, y_um: float, pose: TruePose) -> Array:
        """Column position (3,) in µm of the surface point (x, y) of the grid."""
        height = float(self.film.height_um(np.asarray(x_um), np.asarray(y_um)))
        return np.asarray(
            pose.tilt() @ np.array([x_um - pose.x_um, y_um - pose.y_um, height + pose.z_um])
        )

    def to_holder(
        self, column_x_um: Array, column_y_um: Array, pose: TruePose
    ) -> tuple[Array, Array]:
        """Holder points that lie under column points; undoes `to_column` in the plane."""
        R = pose.tilt()
        inverse = np.linalg.inv(R[:2, :2])
        x, y = np.full(np.shape(column_x_um), pose.x_um), np.full(np.shape(column_x_um), pose.y_um)
        for _ in range(4):  # the film's slope is some 0.1, so each turn gains a digit or more
            height = self.film.height_um(x, y) + pose.z_um
            u, v = column_x_um - R[0, 2] * height, column_y_um - R[1, 2] * height
            x = pose.x_um + inverse[0, 0] * u + inverse[0, 1] * v
            y = pose.y_um + inverse[1, 0] * u + inverse[1, 1] * v
        return x, y

    def project(self, grid: Grid, pose: TruePose) -> Projection:
        """Thickness along the beam for each point of `grid`."""
        R = pose.tilt()
        x, y = self._holder_grid(grid, pose)
        # a plane layer is longer by 1/cos of its inclination
        film = self.film.thickness_nm(x, y)
        for blob in self.dirt:
            near = self._window_of(grid, pose, blob.centre_um, 2 * blob.radius_um)
            if near is not None:
                film[near] += blob.thickness_nm(x[near], y[near])
        film /= R[2, 2]
        seen: list[tuple[Crystal, slice, slice, Array]] = []
        for crystal in self.crystals:
            reach = crystal.shape.reach_nm() * 1e-3
            near = self._window_of(grid, pose, crystal.centre_um, reach)
            if near is None:
                continue
            column_x, column_y = grid.points(*near)
            middle = self.to_column(*crystal.centre_um, pose)
            t = crystal.shape.thickness_nm(
                (column_x - middle[0]) * 1e3, (column_y - middle[1]) * 1e3, R
            )
            if t.any():
                seen.append((crystal, *near, t))
        return Projection(film, self.bar_cover(x, y), seen)

    def solid_nm(self, x_um: Array, y_um: Array) -> Array:
        """Thickness of film and dirt at holder points, along the holder's normal, nm."""
        return np.asarray(
            self.film.thickness_nm(x_um, y_um)
            + sum((blob.thickness_nm(x_um, y_um) for blob in self.dirt), np.zeros_like(x_um))
        )

    def _window_of(
        self, grid: Grid, pose: TruePose, centre_um: tuple[float, float], reach_um: float
    ) -> tuple[slice, slice] | None:
        column_x, column_y, _ = self.to_column(*centre_um, pose)
        return grid.window(float(column_x), float(column_y), reach_um)

    def _holder_grid(self, grid: Grid, pose: TruePose) -> tuple[Array, Array]:
        """`to_holder` on a whole grid: solved on 24 x 24 knots, linear in between."""
        ny, nx = grid.shape
        if min(ny, nx) <= 32:
            return self.to_holder(*grid.points(slice(ny), slice(nx)), pose)
        knots = 25
        v, u = np.linspace(0, ny - 1, knots), np.linspace(0, nx - 1, knots)
        a = grid.axes_um
        dv, du = (v - ny // 2)[:, None], (u - nx // 2)[None]
        column_x = grid.centre_um[0] + a[0, 0] * du + a[0, 1] * dv
        column_y = grid.centre_um[1] + a[1, 0] * du + a[1, 1] * dv
        x, y = self.to_holder(column_x, column_y, pose)
        rows, columns = _hat(ny, knots), _hat(nx, knots)
        return rows @ x @ columns.T, rows @ y @ columns.T

    def bar_cover(self, x_um: Array, y_um: Array) -> Array:
        """1 under the bar, 0 off it."""
        if self.bar is None:
            return np.zeros_like(x_um)
        side = self.bar.side
        across = x_um if side in {"left", "right"} else y_um
        along = y_um if side in {"left", "right"} else x_um
        depth = -across if side in {"left", "top"} else across
        ripple = sum(
            0.05 / n * np.sin(1.7 * n * along + p) for n, p in enumerate(self._bar_phase, start=1)
        )
        edge = self.field_um / 2 - self.bar.inset_um + ripple
        z = np.clip((depth - edge) / _BAR_SOFTNESS_UM, -30, 30)
        return np.asarray(1 / (1 + np.exp(-z)))


def _hat(length: int, knots: int) -> Array:
    """Matrix of linear interpolation from equidistant knots, (length, knots)."""
    position = np.linspace(0, knots - 1, length)
    return np.asarray(np.clip(1 - np.abs(position[:, None] - np.arange(knots)[None]), 0, None))


def _dirt(scenario: Scenario, seed: int) -> list[Blob]:
    rng = stream(seed, "dirt")
    half = scenario.specimen.field_um / 2
    return [
        Blob(
            centre_um=(float(rng.uniform(-half, half)), float(rng.uniform(-half, half))),
            radius_um=float(rng.uniform(0.08, 0.45)),
            peak_nm=float(rng.uniform(20, 160)),
            stretch=float(rng.uniform(0.5, 1.0)),
            angle_rad=float(rng.uniform(0, np.pi)),
            roughness=rng.normal(size=(6, 2)) * 0.12 / np.arange(1, 7)[:, None],
        )
        for _ in range(scenario.specimen.contamination)
    ]
