"""Draw specimens for training: crystals on a film, with dirt, bars and their ground truth.

Everything is drawn over the ranges that a survey meets (domain randomisation): pixels of 3-15 nm,
crystals of 100-2000 nm of any habit and 15-1500 nm thick, alone, close together or piled up, on
holey, lacey or continuous films.  ``imaging`` turns a specimen into detector values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.polyhedra import draw_polyhedron
from models.supports import draw_bars, draw_contamination, draw_film, smooth_noise
from models.truth import Footprint, Truth, truth_of

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SceneConfig:
    """Ranges over which specimens are drawn."""

    shape: tuple[int, int] = (192, 192)
    pixel_size_nm: tuple[float, float] = (3.0, 15.0)
    """Log-uniform."""
    crystal_size_nm: tuple[float, float] = (100.0, 2000.0)
    """Mean lateral diameter, log-uniform."""
    crystal_mfp_nm: tuple[float, float] = (80.0, 450.0)
    """Mean free path of the crystal, one material per scene, log-uniform."""
    crystals_per_field: tuple[int, int] = (0, 12)
    empty_share: float = 0.06
    bar_share: float = 0.35
    dirty_share: float = 0.75
    lumps_per_field: float = 2.5
    """Mean number of lumps of dirt where there is dirt; exponential."""
    soft_dirt_share: float = 0.0
    """Share of the lumps whose rim fades out, and of the dirty fields with a crust of flecks."""


@dataclass(frozen=True)
class Specimen:
    """A drawn specimen as the beam meets it, all maps (ny, nx) float32."""

    pixel_size_nm: float
    film_mfp: Floats
    crystal_mfp: Floats
    dirt_mfp: Floats
    bars: NDArray[np.bool_]
    diffraction: Floats
    """Extra bright-field loss by diffraction, in exponents of e; 0 off the crystals."""
    truth: Truth


def draw_specimen(
    rng: np.random.Generator,
    config: SceneConfig | None = None,
    *,
    pixel_size_nm: float | None = None,
) -> Specimen:
    """Draw one specimen.

    Parameters
    ----------
    rng
        Source of randomness; the same state draws the same specimen.
    config
        Ranges; ``SceneConfig()`` by default.
    pixel_size_nm
        Fixes the pixel size instead of drawing it.
    """
    config = config or SceneConfig()
    ny, nx = config.shape
    if pixel_size_nm is None:
        low, high = config.pixel_size_nm
        pixel_size_nm = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    film_nm = draw_film(rng, (ny, nx), pixel_size_nm)
    amount = (
        float(rng.exponential(config.lumps_per_field)) if rng.random() < config.dirty_share else 0.0
    )
    dirt_nm = draw_contamination(
        rng, film_nm, pixel_size_nm, amount=amount, soft_share=config.soft_dirt_share
    )
    bars = np.zeros((ny, nx), bool)
    if rng.random() < config.bar_share:
        bars = draw_bars(rng, (ny, nx), pixel_size_nm)
    film_mfp = film_nm / np.float32(rng.uniform(90, 350))
    dirt_mfp = dirt_nm / np.float32(rng.uniform(80, 350))

    shortest, longest = config.crystal_mfp_nm
    mfp_nm = float(np.exp(rng.uniform(np.log(shortest), np.log(longest))))
    crystals = _draw_crystals(rng, config, film_nm, pixel_size_nm, mfp_nm)
    crystal_mfp = np.zeros((ny, nx), np.float32)
    diffraction = np.zeros((ny, nx), np.float32)
    strength = rng.uniform(0, 0.6) if rng.random() < 0.6 else 0.0
    for crystal in crystals:
        crystal_mfp[crystal.box] += crystal.mfp
        diffraction[crystal.box] += _diffraction_contrast(rng, crystal, strength)
    truth = truth_of(
        crystals, film_mfp=film_mfp, dirt_mfp=dirt_mfp, bars=bars, pixel_size_nm=pixel_size_nm
    )
    return Specimen(pixel_size_nm, film_mfp, crystal_mfp, dirt_mfp, bars, diffraction, truth=truth)


def _draw_crystals(
    rng: np.random.Generator,
    config: SceneConfig,
    film_nm: Floats,
    pixel_size_nm: float,
    mfp_nm: float,
) -> list[Footprint]:
    """Crystals of one material and one size distribution, strewn, clustered or piled."""
    ny, nx = config.shape
    if rng.random() < config.empty_share:
        return []
    low, high = config.crystal_size_nm
    typical_nm = np.exp(rng.uniform(np.log(low * 1.3), np.log(high * 0.8)))
    # the field holds only so many crystals of this size
    room = max(1.0, 0.5 * ny * nx * pixel_size_nm**2 / typical_nm**2)
    least, most = config.crystals_per_field
    wanted = min(int(rng.integers(max(1, least), most + 1)), int(np.ceil(room)))
    flatness = np.exp(rng.uniform(np.log(0.06), np.log(1.0)))
    plates_nm = float(np.exp(rng.uniform(np.log(20), np.log(160)))) if rng.random() < 0.5 else 0.0
    clustering = float(rng.choice([0.0, 0.25, 0.7], p=[0.45, 0.35, 0.2]))
    crystals: list[Footprint] = []
    centre = np.array([rng.uniform(0, ny), rng.uniform(0, nx)])
    for _ in range(wanted):
        size_nm = float(np.clip(typical_nm * np.exp(rng.normal(0, 0.35)), low, high))
        height_nm = plates_nm or size_nm * flatness
        thickness_nm = float(np.clip(height_nm * np.exp(rng.normal(0, 0.4)), 15, 1500))
        if crystals and rng.random() < clustering:
            away = size_nm / pixel_size_nm * rng.uniform(0.3, 1.3)
            angle = rng.uniform(0, 2 * np.pi)
            centre = centre + away * np.array([np.sin(angle), np.cos(angle)])
        else:
            centre = _place(rng, film_nm)
        crystal = _footprint(
            rng, config.shape, centre, pixel_size_nm, (size_nm, thickness_nm, mfp_nm)
        )
        if crystal is not None:
            crystals.append(crystal)
    return crystals


def _place(rng: np.random.Generator, film_nm: Floats) -> NDArray[np.float64]:
    """Draw a place, nearly always on the film."""
    ny, nx = film_nm.shape
    place = rng.uniform(0, 1, 2) * (ny, nx)
    for _ in range(6):
        if film_nm[int(place[0]), int(place[1])] > 0:
            break
        place = rng.uniform(0, 1, 2) * (ny, nx)
    return place


def _footprint(
    rng: np.random.Generator,
    shape: tuple[int, int],
    centre_px: NDArray[np.float64],
    pixel_size_nm: float,
    size_thickness_mfp_nm: tuple[float, float, float],
) -> Footprint | None:
    size_nm, thickness_nm, mfp_nm = size_thickness_mfp_nm
    body = draw_polyhedron(rng, lateral_size_nm=size_nm, thickness_nm=thickness_nm)
    reach = 1.8 * size_nm / pixel_size_nm + 2
    y, x = float(centre_px[0]), float(centre_px[1])
    y0, y1 = max(0, int(y - reach)), min(shape[0], int(y + reach) + 1)
    x0, x1 = max(0, int(x - reach)), min(shape[1], int(x + reach) + 1)
    if y0 >= y1 or x0 >= x1:
        return None
    rows = ((np.arange(y0, y1) - y) * pixel_size_nm).astype(np.float32)
    cols = ((np.arange(x0, x1) - x) * pixel_size_nm).astype(np.float32)
    thickness = body.thickness_nm(cols, rows)
    inside = thickness > 1.0
    if not inside.any():
        return None
    r = np.flatnonzero(inside.any(axis=1))
    c = np.flatnonzero(inside.any(axis=0))
    cut = (slice(r[0], r[-1] + 1), slice(c[0], c[-1] + 1))
    mfp = np.where(inside[cut], thickness[cut] / np.float32(mfp_nm), 0).astype(np.float32)
    return Footprint(y0 + int(r[0]), x0 + int(c[0]), mfp)


def _diffraction_contrast(rng: np.random.Generator, crystal: Footprint, strength: float) -> Floats:
    """Bragg loss of one crystal: a level of its own, at times bend contours or fringes."""
    if strength == 0.0:
        return np.zeros_like(crystal.mfp)
    level = strength * rng.exponential(0.5)
    loss = np.float32(level) * np.minimum(crystal.mfp / np.float32(0.3), 1)
    look = rng.random()
    if look < 0.25:
        bend = smooth_noise(rng, crystal.mfp.shape, max(3.0, 0.5 * max(crystal.mfp.shape)))
        loss *= 1 + np.float32(2.0) * np.exp(-((bend / np.float32(0.25)) ** 2))
    elif look < 0.4:
        loss *= 1 + np.cos(crystal.mfp * np.float32(2 * np.pi / rng.uniform(0.3, 1.0)))
    return np.asarray(np.minimum(loss, 1.5), np.float32)
