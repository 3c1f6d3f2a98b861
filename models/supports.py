"""What carries and soils the crystals: films, grid bars and contamination.

Every function draws one map on a (ny, nx) grid in nanometres of material (float32) or a mask.
Films come as continuous, holey (round holes) and lacey (a random net); contamination as smeared
hydrocarbon, droplets and rough debris; bars as opaque straight edges at the side of the field.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Shape = tuple[int, int]


def smooth_noise(rng: np.random.Generator, shape: Shape, correlation_px: float) -> Floats:
    """Zero-mean, unit-variance random field with structures of about ``correlation_px``.

    Returns
    -------
    float32, ``shape``.
    """
    coarse = max(1.0, correlation_px / 2.0)
    small = (int(np.ceil(shape[0] / coarse)) + 4, int(np.ceil(shape[1] / coarse)) + 4)
    seed = ndimage.gaussian_filter(rng.standard_normal(small).astype(np.float32), 1.0)
    rows = (np.arange(shape[0], dtype=np.float32) / coarse + rng.uniform(0, 2)).astype(np.float32)
    cols = (np.arange(shape[1], dtype=np.float32) / coarse + rng.uniform(0, 2)).astype(np.float32)
    field = _bilinear(seed, rows, cols)
    field -= field.mean()
    return field / max(float(field.std()), 1e-6)


def _bilinear(values: Floats, rows: Floats, cols: Floats) -> Floats:
    """Separable linear interpolation of ``values`` at a grid of fractional rows and columns."""
    r0 = np.minimum(rows.astype(int), values.shape[0] - 2)
    c0 = np.minimum(cols.astype(int), values.shape[1] - 2)
    fr, fc = (rows - r0)[:, None], (cols - c0)[None, :]
    by_row = values[r0] * (1 - fr) + values[r0 + 1] * fr
    return np.asarray(by_row[:, c0] * (1 - fc) + by_row[:, c0 + 1] * fc, np.float32)


def continuous_film(rng: np.random.Generator, shape: Shape, pixel_size_nm: float) -> Floats:
    """Film without holes, 3-40 nm, with a slow gradient and, at times, cracks."""
    film = np.full(shape, np.exp(rng.uniform(np.log(3), np.log(40))), np.float32)
    film *= 1 + np.float32(rng.uniform(0, 0.15)) * smooth_noise(rng, shape, 800 / pixel_size_nm)
    if rng.random() < 0.25:  # torn: one side is vacuum
        edge = smooth_noise(rng, shape, rng.uniform(1500, 5000) / pixel_size_nm)
        film[edge > rng.uniform(0.6, 1.8)] = 0
    return np.maximum(film, 0)


def holey_film(rng: np.random.Generator, shape: Shape, pixel_size_nm: float) -> Floats:
    """Film with round holes of 0.15-1.5 um radius, in a lattice or strewn."""
    film = continuous_film(rng, shape, pixel_size_nm)
    radius = float(np.exp(rng.uniform(np.log(150), np.log(1500)))) / pixel_size_nm
    spacing = radius * rng.uniform(2.3, 4.5)
    turn = rng.uniform(0, np.pi / 2)
    jitter = rng.uniform(0, 0.3) if rng.random() < 0.5 else 0.0
    reach = int(np.ceil(np.hypot(*shape) / spacing / 2)) + 1
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    along = i + rng.uniform(0, 1) + jitter * rng.standard_normal(i.shape)
    across = j + rng.uniform(0, 1) + jitter * rng.standard_normal(j.shape)
    ys = shape[0] / 2 + spacing * (along * np.cos(turn) - across * np.sin(turn))
    xs = shape[1] / 2 + spacing * (along * np.sin(turn) + across * np.cos(turn))
    rim = rng.uniform(0, 1.0) if rng.random() < 0.5 else 0.0
    for y, x in zip(ys.ravel(), xs.ravel(), strict=True):
        r = radius * (1 + jitter * rng.uniform(-0.6, 0.6))
        _punch(film, (y, x), r, ellipticity=rng.uniform(0.85, 1.15), rim=rim)
    return film


def _punch(
    film: Floats, centre: tuple[float, float], radius_px: float, *, ellipticity: float, rim: float
) -> None:
    y, x = centre
    reach = 1.3 * radius_px
    y0, y1 = max(0, int(y - reach)), min(film.shape[0], int(y + reach) + 1)
    x0, x1 = max(0, int(x - reach)), min(film.shape[1], int(x + reach) + 1)
    if y0 >= y1 or x0 >= x1:
        return
    rows = (np.arange(y0, y1, dtype=np.float32) - y)[:, None] * ellipticity
    cols = (np.arange(x0, x1, dtype=np.float32) - x)[None, :] / ellipticity
    distance = np.sqrt(rows * rows + cols * cols) / radius_px
    patch = film[y0:y1, x0:x1]
    if rim > 0:
        patch *= 1 + rim * np.exp(-(((distance - 1.05) / 0.06) ** 2))
    patch[distance < 1] = 0


def lacey_film(rng: np.random.Generator, shape: Shape, pixel_size_nm: float) -> Floats:
    """Random net of struts: the level lines of a smooth field, thicker in their middle."""
    mesh = rng.uniform(300, 1500) / pixel_size_nm
    field = np.abs(smooth_noise(rng, shape, mesh))
    if rng.random() < 0.6:
        field = np.minimum(field, np.abs(smooth_noise(rng, shape, mesh * rng.uniform(0.6, 1.6))))
    width = rng.uniform(0.12, 0.45)
    profile = np.clip(1 - field / width, 0, 1)
    thickness = np.exp(rng.uniform(np.log(10), np.log(70)))
    return np.asarray(thickness * np.sqrt(profile), np.float32)


def draw_film(rng: np.random.Generator, shape: Shape, pixel_size_nm: float) -> Floats:
    """Draw one of the films; at times with a thin continuous film beneath the net.

    Returns
    -------
    float32, ``shape``, nm of carbon; 0 in the holes.
    """
    kind = rng.random()
    if kind < 0.35:
        return holey_film(rng, shape, pixel_size_nm)
    if kind < 0.65:
        film = lacey_film(rng, shape, pixel_size_nm)
        if rng.random() < 0.2:
            film += np.float32(rng.uniform(2, 6))
        return film
    if kind < 0.97:
        return continuous_film(rng, shape, pixel_size_nm)
    return np.zeros(shape, np.float32)


def draw_contamination(
    rng: np.random.Generator,
    film_nm: Floats,
    pixel_size_nm: float,
    *,
    amount: float,
    soft_share: float = 0.0,
) -> Floats:
    """Dirt on the film: smears, droplets, rough debris, crusts.

    Parameters
    ----------
    rng
        Source of randomness.
    film_nm
        Support, (ny, nx); smears keep to it, lumps may reach over a hole.
    pixel_size_nm
        Pixel size, nm.
    amount
        Expected number of lumps; 0 gives clean films.
    soft_share
        Share of the lumps whose rim fades out, and of the dirty fields with a crust of flecks.

    Returns
    -------
    float32, (ny, nx), nm of material.
    """
    ny, nx = film_nm.shape
    dirt = np.zeros((ny, nx), np.float32)
    if amount > 0 and rng.random() < 0.3:
        smear = smooth_noise(rng, (ny, nx), rng.uniform(200, 1500) / pixel_size_nm)
        layer = np.float32(rng.uniform(15, 80)) * np.clip(smear - rng.uniform(1.2, 2.2), 0, 1)
        dirt += np.where(film_nm > 0, layer, 0)
    if amount > 0 and soft_share > 0 and rng.random() < soft_share:
        dirt += np.where(film_nm > 0, _crust(rng, (ny, nx), pixel_size_nm), 0)
    for _ in range(int(rng.poisson(amount))):
        _drop(rng, dirt, film_nm, pixel_size_nm, soft_share)
    return dirt


def _crust(rng: np.random.Generator, shape: Shape, pixel_size_nm: float) -> Floats:
    """Flecks of every size: what rises above a level of noise on several scales."""
    scale = rng.uniform(150, 900)
    rough = np.zeros(shape, np.float32)
    for octave in range(4):
        size = max(1.5, scale / 2**octave / pixel_size_nm)
        rough += np.float32(rng.uniform(0.4, 0.8) ** octave) * smooth_noise(rng, shape, size)
    level = np.quantile(rough, rng.uniform(0.88, 0.99))
    return np.asarray(np.float32(rng.uniform(40, 250)) * np.clip(rough - level, 0, 1), np.float32)


def _drop(
    rng: np.random.Generator,
    dirt: Floats,
    film_nm: Floats,
    pixel_size_nm: float,
    soft_share: float,
) -> None:
    """Add one lump: a star-shaped outline with a domed, rough or flat top."""
    ny, nx = dirt.shape
    radius_nm = np.exp(rng.uniform(np.log(40), np.log(500)))
    radius = radius_nm / pixel_size_nm
    y, x = rng.uniform(0, ny), rng.uniform(0, nx)
    if film_nm[int(y), int(x)] <= 0 and rng.random() < 0.8:
        return
    reach = 1.8 * radius
    y0, y1 = max(0, int(y - reach)), min(ny, int(y + reach) + 1)
    x0, x1 = max(0, int(x - reach)), min(nx, int(x + reach) + 1)
    rows = (np.arange(y0, y1, dtype=np.float32) - y)[:, None]
    cols = (np.arange(x0, x1, dtype=np.float32) - x)[None, :]
    angle = np.arctan2(rows, cols)
    outline = np.ones_like(angle)
    raggedness = rng.choice([0.03, 0.15, 0.3])
    for k in range(2, 7):
        swing = raggedness * rng.normal() / np.sqrt(k - 1)
        outline += np.float32(swing) * np.cos(k * angle + np.float32(rng.uniform(0, 6.3)))
    distance = np.sqrt(rows * rows + cols * cols) / (radius * np.maximum(outline, 0.25))
    height_nm = radius_nm * np.exp(rng.uniform(np.log(0.05), np.log(1.5)))
    power = rng.choice([0.25, 0.5, 1.0])
    if soft_share > 0 and rng.random() < soft_share:
        power = rng.uniform(1.5, 4.0)
    lump = np.float32(height_nm) * np.clip(1 - distance * distance, 0, 1) ** np.float32(power)
    if rng.random() < 0.5:
        grain = smooth_noise(rng, (y1 - y0, x1 - x0), max(1.5, rng.uniform(20, 90) / pixel_size_nm))
        lump *= np.clip(1 + np.float32(rng.uniform(0.1, 0.5)) * grain, 0.1, 3)
    dirt[y0:y1, x0:x1] = np.maximum(dirt[y0:y1, x0:x1], lump)


def draw_bars(rng: np.random.Generator, shape: Shape, pixel_size_nm: float) -> Mask:
    """Mask of the grid bars: one side of the field, or a corner of the square.

    Returns
    -------
    bool, ``shape``.
    """
    ny, nx = shape
    rows = np.arange(ny, dtype=np.float32)[:, None] - ny / 2
    cols = np.arange(nx, dtype=np.float32)[None, :] - nx / 2
    turn = rng.uniform(0, 2 * np.pi)
    rough = rng.uniform(0, 4) * smooth_noise(rng, shape, rng.uniform(100, 600) / pixel_size_nm)
    mask = np.zeros(shape, bool)
    for side in range(1 + int(rng.random() < 0.3)):
        a = turn + side * np.pi / 2
        along = rows * np.sin(a) + cols * np.cos(a) + rough
        # the half width of the field in this direction, less the strip the bar covers
        half = 0.5 * (abs(ny * np.sin(a)) + abs(nx * np.cos(a)))
        mask |= along > half - rng.uniform(0.05, 0.45) * half
    return mask
