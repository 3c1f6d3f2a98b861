"""A second scene generator, built differently, for evaluation only: training never sees it.

Where ``scenes`` cuts polyhedra with half spaces, this one extrudes random convex polygons with
bevels; its lacey film is a Voronoi net, its dirt comes from fractal noise and Gaussian domes, its
detectors have a Fourier transfer function, gamma-distributed pulse heights and a dark field that
follows ``1 - exp(-t/mfp_adf)``.  Only the definition of what is true (``truth``) is shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, cKDTree

from models.classes import Mode
from models.imaging import Scene, SurveyImage
from models.scenes import Specimen
from models.truth import Footprint, truth_of

Floats = NDArray[np.float32]
Film = Literal["lacey", "holey", "continuous"]


def draw_evaluation_scene(
    rng: np.random.Generator,
    *,
    electrons_per_px: float,
    shape: tuple[int, int] = (512, 512),
    mode: Mode | None = None,
    pixel_size_nm: float | None = None,
) -> Scene:
    """Draw one scene for evaluation.

    Parameters
    ----------
    rng
        Source of randomness.
    electrons_per_px
        Mean detected electrons per pixel.
    shape, mode, pixel_size_nm
        Grid, imaging mode (BF in 60 % by default) and pixel size (4-12 nm by default).
    """
    specimen, mode = _specimen(rng, shape, mode, pixel_size_nm)
    return Scene(specimen, next(_expose(rng, specimen, mode, [electrons_per_px])))


def _specimen(
    rng: np.random.Generator,
    shape: tuple[int, int],
    mode: Mode | None,
    pixel_size_nm: float | None,
) -> tuple[Specimen, Mode]:
    pixel = pixel_size_nm or float(rng.uniform(4, 12))
    mode = mode or ("BF" if rng.random() < 0.6 else "HAADF")
    film = _film(rng, shape, pixel)
    dirt = _dirt(rng, film, pixel)
    bars = _bar(rng, shape)
    crystals = _crystals(rng, film, pixel)
    crystal_mfp = np.zeros(shape, np.float32)
    diffraction = np.zeros(shape, np.float32)
    excitable = rng.random() < 0.5
    for crystal in crystals:
        crystal_mfp[crystal.box] += crystal.mfp
        if excitable:
            diffraction[crystal.box] += np.float32(rng.beta(1, 5)) * (crystal.mfp > 0)
    truth = truth_of(crystals, film_mfp=film, dirt_mfp=dirt, bars=bars, pixel_size_nm=pixel)
    return Specimen(pixel, film, crystal_mfp, dirt, bars, diffraction, truth=truth), mode


def _film(rng: np.random.Generator, shape: tuple[int, int], pixel_nm: float) -> Floats:
    ny, nx = shape
    kind: Film = ("lacey", "holey", "continuous")[int(rng.integers(3))]
    level = rng.uniform(0.04, 0.25)
    rows, cols = np.mgrid[0:ny, 0:nx].astype(np.float32)
    if kind == "continuous":
        tilt = rng.uniform(-0.2, 0.2, 2)
        return np.asarray(level * (1 + tilt[0] * rows / ny + tilt[1] * cols / nx), np.float32)
    spacing = rng.uniform(500, 1600) / pixel_nm
    n = int(np.ceil((ny + 2 * spacing) * (nx + 2 * spacing) / spacing**2)) + 4
    sites = rng.uniform((-spacing, -spacing), (ny + spacing, nx + spacing), (n, 2))
    near, _ = cKDTree(sites).query(np.stack([rows.ravel(), cols.ravel()], axis=1), k=2)
    first, second = near[:, 0].reshape(shape), near[:, 1].reshape(shape)
    if kind == "lacey":
        half_width = rng.uniform(40, 120) / pixel_nm
        strut = np.clip(1 - (second - first) / (2 * half_width), 0, 1)
        return np.asarray(level * 1.6 * np.sqrt(strut), np.float32)
    hole = first < spacing * rng.uniform(0.25, 0.42)
    return np.where(hole, 0, level).astype(np.float32)


def _dirt(rng: np.random.Generator, film: Floats, pixel_nm: float) -> Floats:
    dirt = np.zeros_like(film)
    if rng.random() < 0.35:
        return dirt
    fractal = _fractal(rng, film.shape, rng.uniform(1.6, 2.2))
    cut = np.quantile(fractal, rng.uniform(0.93, 0.99))
    dirt += np.clip(fractal - cut, 0, None) / max(float(np.ptp(fractal)), 1e-6) * 4
    dirt *= film > 0
    rows, cols = np.ogrid[0 : film.shape[0], 0 : film.shape[1]]
    for _ in range(int(rng.poisson(2))):
        y, x = rng.uniform(0, film.shape[0]), rng.uniform(0, film.shape[1])
        sigma = rng.uniform(40, 180) / pixel_nm
        dome = np.exp(-((rows - y) ** 2 + (cols - x) ** 2) / (2 * sigma**2))
        dirt += np.float32(rng.uniform(0.3, 1.5)) * np.where(dome > 0.15, dome, 0)
    return np.where(dirt > 0.1, dirt, 0).astype(np.float32)


def _fractal(rng: np.random.Generator, shape: tuple[int, ...], slope: float) -> Floats:
    ky = np.fft.fftfreq(shape[0])[:, None]
    kx = np.fft.rfftfreq(shape[1])[None, :]
    k = np.sqrt(ky**2 + kx**2)
    k[0, 0] = np.inf
    spectrum = (rng.normal(size=k.shape) + 1j * rng.normal(size=k.shape)) / k**slope
    return np.fft.irfft2(spectrum, s=shape).astype(np.float32)


def _bar(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.bool_]:
    bars = np.zeros(shape, bool)
    if rng.random() < 0.25:
        depth = int(rng.uniform(0.08, 0.3) * min(shape))
        edge = depth + rng.uniform(-0.2, 0.2) * np.arange(max(shape)) + rng.normal(0, 1, max(shape))
        bars = np.arange(shape[0])[:, None] < edge[None, : shape[1]]
        if rng.random() < 0.5:
            bars = bars[::-1]
        if shape[0] == shape[1] and rng.random() < 0.5:
            bars = bars.T
    return np.ascontiguousarray(bars)


def _crystals(rng: np.random.Generator, film: Floats, pixel_nm: float) -> list[Footprint]:
    ny, nx = film.shape
    mfp_nm = rng.uniform(100, 180)
    median_nm = rng.uniform(220, 700)
    crystals: list[Footprint] = []
    count = int(rng.integers(1, 12)) if rng.random() < 0.94 else 0
    for _ in range(count):
        size_px = float(np.clip(median_nm * np.exp(rng.normal(0, 0.4)), 110, 2000)) / pixel_nm
        at = np.array([rng.uniform(0, ny), rng.uniform(0, nx)])
        if film[int(at[0]), int(at[1])] == 0 and rng.random() < 0.7:
            continue
        if crystals and rng.random() < 0.15:  # piled on the last one
            last = crystals[-1]
            at = np.array([last.y0, last.x0]) + rng.uniform(0, 1, 2) * last.mfp.shape
        thickness = np.exp(rng.normal(np.log(70), 0.6)) / mfp_nm
        crystal = _prism(rng, (ny, nx), at, size_px, float(thickness))
        if crystal is not None:
            crystals.append(crystal)
    return crystals


def _prism(
    rng: np.random.Generator,
    shape: tuple[int, int],
    at: NDArray[np.float64],
    size_px: float,
    thickness_mfp: float,
) -> Footprint | None:
    """Random convex polygon, extruded, with bevelled rim and a slight wedge."""
    corners = int(rng.integers(4, 9))
    angles = 2 * np.pi * (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) / corners
    stretch = np.array([1.0, rng.uniform(0.45, 1.0)])
    points = 0.55 * size_px * np.stack([np.sin(angles), np.cos(angles)], axis=1) * stretch
    turn = rng.uniform(0, np.pi)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    hull = ConvexHull(points @ spin.T + at)
    low = np.maximum(np.floor(hull.min_bound).astype(int), 0)
    high = np.minimum(np.ceil(hull.max_bound).astype(int) + 1, shape)
    if (low >= high).any():
        return None
    rows, cols = np.mgrid[low[0] : high[0], low[1] : high[1]]
    depth = -np.max(
        [a * rows + b * cols + c for a, b, c in hull.equations], axis=0
    )  # distance inside the nearest side
    bevel = max(0.7, rng.uniform(0, 0.35) * size_px)
    wedge = 1 + rng.uniform(-0.3, 0.3) * (rows - at[0]) / size_px
    mfp = np.where(depth > 0, thickness_mfp * np.clip(depth / bevel, 0.1, 1) * wedge, 0)
    if not (mfp > 0).any():
        return None
    return Footprint(int(low[0]), int(low[1]), np.maximum(mfp, 0).astype(np.float32))


def draw_evaluation_frames(
    rng: np.random.Generator,
    *,
    electrons_per_px: Sequence[float],
    shape: tuple[int, int] = (512, 512),
    mode: Mode | None = None,
    pixel_size_nm: float | None = None,
) -> list[Scene]:
    """Draw one specimen and several exposures of it, independent but by the same detector.

    Parameters
    ----------
    rng
        Source of randomness.
    electrons_per_px
        Mean detected electrons per pixel of each exposure.
    shape, mode, pixel_size_nm
        As for :func:`draw_evaluation_scene`.
    """
    specimen, mode = _specimen(rng, shape, mode, pixel_size_nm)
    return [Scene(specimen, image) for image in _expose(rng, specimen, mode, electrons_per_px)]


def _expose(
    rng: np.random.Generator, specimen: Specimen, mode: Mode, doses_e_per_px: Sequence[float]
) -> Iterator[SurveyImage]:
    """One image per dose: the same light and the same detector, new electrons."""
    total = specimen.film_mfp + specimen.crystal_mfp + specimen.dirt_mfp
    if mode == "BF":
        signal = np.exp(-total - specimen.diffraction)
        signal[specimen.bars] = 0.003
    else:
        heavy = specimen.film_mfp + rng.uniform(1, 2) * specimen.crystal_mfp + specimen.dirt_mfp
        signal = 0.08 * (1 - np.exp(-0.35 * heavy)) + rng.uniform(0.0002, 0.002)
        signal[specimen.bars] = 0.08
    ny, nx = signal.shape
    rows, cols = np.ogrid[-1 : 1 : ny * 1j, -1 : 1 : nx * 1j]
    drop = rng.uniform(0, 0.25)
    signal = signal * (1 - drop * ((rows - rng.uniform(-1, 1)) ** 2 + cols**2) / 4)
    k = np.sqrt(np.fft.fftfreq(ny)[:, None] ** 2 + np.fft.rfftfreq(nx)[None, :] ** 2)
    transfer = np.exp(-k * rng.uniform(0.2, 1.6))
    signal = np.maximum(np.fft.irfft2(np.fft.rfft2(signal) * transfer, s=signal.shape), 0)
    detector: Literal["counting", "integrating", "scan"] = "counting"
    gain, offset, spread, noise = 1.0, 0.0, 0.0, 0.0
    chosen = rng.random()
    if chosen > 0.4:
        detector = "integrating" if chosen < 0.75 else "scan"
        gain, offset = float(rng.uniform(5, 300)), float(rng.uniform(0, 100))
        spread, noise = rng.uniform(0.1, 0.7), rng.uniform(0.01, 0.1)
    known = rng.random() < 0.5
    for dose in doses_e_per_px:
        per_signal = dose / float(signal.mean())
        counts = rng.poisson(signal * per_signal).astype(np.float32)
        if spread:
            heights = rng.gamma(np.maximum(counts, 1e-3) / spread, spread)
            counts = np.where(counts > 0, heights, 0).astype(np.float32)
        if detector == "integrating":
            smeared = np.fft.irfft2(np.fft.rfft2(counts) * transfer, s=counts.shape)
            counts = smeared.astype(np.float32)
        if noise:
            counts += np.float32(noise) * rng.standard_normal(counts.shape, np.float32)
        yield SurveyImage(
            values=np.asarray(counts * gain + offset, np.float32),
            mode=mode,
            pixel_size_nm=specimen.pixel_size_nm,
            gain=gain,
            offset=offset,
            detector=detector,
            incident_electrons_per_px=per_signal if known else None,
        )
