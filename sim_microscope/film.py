"""The support film: holes or lace, a rough thickness, and its height above the tilt axis.

Thickness lies on a periodic map of 15.36 µm at 10 nm; height is a sum of a few long waves, so that
it is known exactly everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from sim_microscope.randomness import stream
from sim_microscope.scenario import FilmSpec

Array = NDArray[np.float64]

MAP_PX = 1536
MAP_PIXEL_UM = 0.01


@dataclass(frozen=True, eq=False)
class Film:
    """Thickness and height of the support at holder coordinates in µm."""

    map_nm: NDArray[np.float32]
    waves: Array
    """(wave, 4): wave vector x, y in rad/µm, phase in rad, amplitude in µm."""
    offset_um: float

    def thickness_nm(self, x_um: Array, y_um: Array) -> Array:
        """Thickness at points of any common shape, nm."""
        rows = y_um / MAP_PIXEL_UM + MAP_PX / 2
        columns = x_um / MAP_PIXEL_UM + MAP_PX / 2
        return np.asarray(
            ndimage.map_coordinates(
                self.map_nm, [rows, columns], order=1, mode="grid-wrap", output=np.float64
            )
        )

    def height_um(self, x_um: Array, y_um: Array) -> Array:
        """Height above the tilt axis when the stage reads z = 0, towards the source negative."""
        total = np.full(np.broadcast(x_um, y_um).shape, self.offset_um)
        for kx, ky, phase, amplitude in self.waves:
            total = total + amplitude * np.cos(kx * x_um + ky * y_um + phase)
        return total


@lru_cache(maxsize=4)
def make_film(spec: FilmSpec, seed: int) -> Film:
    """Draw a film; the same `seed`, the same film."""
    rng = stream(seed, "film")
    cover = {"holey": _holey, "lacey": _lacey}.get(spec.kind)
    if spec.kind == "none":
        thickness = np.zeros((MAP_PX, MAP_PX))
    else:
        rough = 1 + spec.roughness * (0.7 * _noise(rng, 0.05) + 0.7 * _noise(rng, 0.6))
        thickness = spec.thickness_nm * np.clip(rough, 0.1, None)
        if cover is not None:
            thickness = thickness * cover(spec, rng)
    number = 5
    length_um = rng.uniform(9.0, 22.0, number)
    direction = rng.uniform(0, 2 * np.pi, number)
    waves = np.stack(
        [
            2 * np.pi / length_um * np.cos(direction),
            2 * np.pi / length_um * np.sin(direction),
            rng.uniform(0, 2 * np.pi, number),
            np.full(number, spec.height_sigma_um * np.sqrt(2 / number)),
        ],
        axis=1,
    )
    return Film(thickness.astype(np.float32), waves, spec.height_offset_um)


def _noise(rng: np.random.Generator, length_um: float) -> Array:
    """Smooth periodic Gaussian noise of unit variance and about the given length."""
    white = rng.normal(size=(MAP_PX, MAP_PX)).astype(np.float32)
    ky = fft.fftfreq(MAP_PX, MAP_PIXEL_UM)[:, None]
    kx = fft.rfftfreq(MAP_PX, MAP_PIXEL_UM)[None]
    low_pass = np.exp(-0.5 * (2 * np.pi * length_um / 2) ** 2 * (kx**2 + ky**2))
    smooth = fft.irfft2(fft.rfft2(white) * low_pass.astype(np.float32), s=white.shape)
    return np.asarray(smooth / smooth.std(), dtype=np.float64)


def _holey(spec: FilmSpec, rng: np.random.Generator) -> Array:
    """1 on the film, 0 in holes, with a thickened rim, at random places up to the open share."""
    cover = np.ones((MAP_PX, MAP_PX), np.float32)
    low, high = (radius / MAP_PIXEL_UM for radius in spec.hole_radius_um)
    for _ in range(400):
        if 1 - cover.mean() >= spec.open_share:
            break
        radius = rng.uniform(low, high)
        row, column = rng.uniform(0, MAP_PX, 2)
        stretch, angle = rng.uniform(0.8, 1.0), rng.uniform(0, np.pi)
        half = int(radius + 20)
        rows = np.arange(int(row) - half, int(row) + half)
        columns = np.arange(int(column) - half, int(column) + half)
        dy, dx = rows[:, None] - row, columns[None] - column
        u = dx * np.cos(angle) + dy * np.sin(angle)
        v = (dy * np.cos(angle) - dx * np.sin(angle)) / stretch
        outside = np.hypot(u, v) - radius
        edge = 0.5 * (1 + np.tanh(outside / 1.5)) + 0.5 * np.exp(-0.5 * ((outside - 5) / 4) ** 2)
        window = np.ix_(rows % MAP_PX, columns % MAP_PX)
        cover[window] = np.where(
            outside > 0, np.maximum(cover[window] * (cover[window] > 0.5), 0) * edge, 0
        ) + np.where(outside > 0, (cover[window] <= 0.5) * cover[window] * edge, 0)
    return np.clip(cover, 0, 1.6).astype(np.float64)


def _lacey(spec: FilmSpec, rng: np.random.Generator) -> Array:
    """Strands along the zero lines of smooth noise, thicker in the middle."""
    lace = np.minimum(np.abs(_noise(rng, 0.35)), np.abs(_noise(rng, 0.45)))
    width = float(np.quantile(lace, 1 - spec.open_share))
    return np.asarray(np.clip(2.2 * (1 - lace / width), 0, 1.8))
