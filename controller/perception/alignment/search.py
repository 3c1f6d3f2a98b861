"""Coarse orientation search: templates around the target zone against a polar image.

Beam directions on a grid around the zone (one symmetry-distinct wedge of it, since the in-plane
rotation is searched in full), a template of expected spots for each, intensities to a low power
and relrods as wide as the grid step.  All in-plane rotations of a template come at once, by adding
shifted rows of the polar image.
"""

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.perception.alignment.geometry import rotation_from_vector
from controller.perception.alignment.pattern import Pattern
from controller.perception.alignment.scale import LatticeMatch
from controller.perception.alignment.spots import Spots, disc_kernel
from controller.perception.alignment.structure import CrystalStructure
from controller.perception.alignment.structure_factors import reflections
from controller.perception.alignment.zone import ZoneFrame, zone_frames

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

AZIMUTHS = 360
_TEMPLATE_SPOTS = 90
_SEARCH_THICKNESS_A = 350.0
_LATTICE_ROTATION_RAD = 0.045


@dataclass(frozen=True, eq=False)
class TemplateLibrary:
    """Expected spots for beam directions around one zone."""

    zone: ZoneFrame
    directions: Array
    """Orientation at in-plane rotation zero, (d, 3, 3)."""
    g: Array
    """Radius in 1/A and azimuth in rad of each spot, (d, spots, 2)."""
    weight: Array
    """Zero where a template has fewer spots, (d, spots); unit norm."""


@dataclass(frozen=True)
class Candidate:
    """One orientation worth a closer look."""

    zone: ZoneFrame
    orientation: Array
    scale: float
    """Camera constant relative to the nominal one."""
    score: float


@lru_cache(maxsize=24)
def template_libraries(
    structure: CrystalStructure,
    uvw: tuple[int, int, int],
    wavenumber: float,
    g_max: float,
    reach_deg: float,
    step_deg: float,
) -> tuple[TemplateLibrary, ...]:
    """Templates for every sense of the zone that symmetry does not make equal; cached."""
    return tuple(
        _library(structure, zone, wavenumber, g_max, reach_deg, step_deg)
        for zone in zone_frames(structure, uvw)
    )


def _library(
    structure: CrystalStructure,
    zone: ZoneFrame,
    wavenumber: float,
    g_max: float,
    reach_deg: float,
    step_deg: float,
) -> TemplateLibrary:
    known = reflections(structure, g_max)
    # the strongest reflections carry all templates; faint ones only cost time
    strong = np.argsort(-known.strength)[:60000]
    g, strength = known.g[strong], known.strength[strong]
    leans = _wedge(np.deg2rad(reach_deg), np.deg2rad(step_deg), zone.fold)
    directions = np.empty((len(leans), 3, 3))
    spots = np.zeros((len(leans), _TEMPLATE_SPOTS, 2))
    weight = np.zeros((len(leans), _TEMPLATE_SPOTS))
    length = np.linalg.norm(g, axis=1)
    own = 0.37 / _SEARCH_THICKNESS_A
    width = np.sqrt(own**2 + (0.35 * np.deg2rad(step_deg) * length) ** 2)
    for d, (theta, azimuth) in enumerate(leans):
        axis = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
        orientation = rotation_from_vector(theta * axis) @ zone.frame
        lab = g @ orientation.T
        s = np.sqrt(wavenumber**2 - lab[:, 0] ** 2 - lab[:, 1] ** 2) - wavenumber - lab[:, 2]
        lit = np.abs(s) < 2.5 * width
        value = strength[lit] * own / width[lit] * np.exp(-0.5 * (s[lit] / width[lit]) ** 2)
        top = np.argsort(-value)[:_TEMPLATE_SPOTS]
        at = lab[lit][top]
        directions[d] = orientation
        spots[d, : len(top), 0] = np.hypot(at[:, 0], at[:, 1])
        spots[d, : len(top), 1] = np.arctan2(at[:, 1], at[:, 0])
        w = value[top] ** 0.35
        weight[d, : len(top)] = w / max(float(np.linalg.norm(w)), 1e-12)
    return TemplateLibrary(zone, directions, spots, weight)


def _wedge(reach: float, step: float, fold: int) -> list[tuple[float, float]]:
    """(polar angle, azimuth) of grid points in one of ``fold`` equal wedges around the zone."""
    points = [(0.0, 0.0)]
    for ring in range(1, int(np.ceil(reach / step)) + 1):
        theta = ring * step
        if theta > reach + 1e-9:
            break
        around = max(1, int(np.ceil(2 * np.pi * np.sin(theta) / step / fold)))
        points += [
            (theta, 2 * np.pi / fold * (k + 0.5 * (ring % 2)) / around) for k in range(around)
        ]
    return points


def polar_image(
    pattern: Pattern, spots: Spots, centre_px: tuple[float, float], n_radii: int
) -> Array:
    """Variance-stabilised excess in polar coordinates, (radius in px, azimuth), azimuth twice.

    Each value is the largest nearby, so that a template may miss a spot by a pixel or two.
    """
    kernel = disc_kernel(max(1.5, 1.7 * spots.sigma_px))
    summed = ndimage.convolve(pattern.counts, kernel, mode="constant")
    expected = ndimage.convolve(
        np.where(pattern.good, spots.background, 0.0), kernel, mode="constant"
    )
    excess = 2.0 * (np.sqrt(summed + 0.375) - np.sqrt(expected + 0.375))
    # noise below two sigma says nothing; bright spots must not decide alone
    signal = np.log1p(np.clip(excess - 2.0, 0.0, None))
    rows, cols = pattern.shape
    y, x = np.ogrid[:rows, :cols]
    hidden = np.hypot(x - centre_px[0], y - centre_px[1]) < 3.5 * spots.sigma_px + 1.5
    signal = ndimage.maximum_filter(np.where(hidden, 0.0, signal), 3)
    azimuth = np.arange(AZIMUTHS) * 2 * np.pi / AZIMUTHS
    radius = np.arange(n_radii)
    px = centre_px[0] + np.outer(radius, np.cos(azimuth))
    py = centre_px[1] + np.outer(radius, np.sin(azimuth))
    polar = ndimage.map_coordinates(signal, [py, px], order=1, mode="constant")
    polar = polar - polar.mean(axis=1, keepdims=True)
    return np.concatenate([polar, polar], axis=1)


def search(
    polar: Array,
    libraries: tuple[TemplateLibrary, ...],
    inv_A_per_px: float,
    scales: tuple[float, ...],
    most: int,
    match: LatticeMatch | None = None,
) -> list[Candidate]:
    """The best orientations, best first, no two closer than about 1.5 deg.

    Where the lattice of the spots is known (``match``), only the in-plane rotations that it allows.
    """
    found: list[Candidate] = []
    for library in libraries:
        score, scale = _correlate(
            polar, library.g, library.weight, inv_A_per_px, np.array(scales, dtype=float)
        )
        if match is not None:
            score[:, ~_allowed(match.rotations_rad(library.zone.frame))] = -1e9
        found += _peaks(library, score, np.array(scales)[scale], most)
    found.sort(key=lambda c: -c.score)
    return found[:most]


def _allowed(rotations_rad: Array) -> NDArray[np.bool_]:
    """Which of the azimuth steps lie near one of the rotations; all where there is none."""
    azimuth = np.arange(AZIMUTHS) * 2 * np.pi / AZIMUTHS
    if len(rotations_rad) == 0:
        return np.ones(AZIMUTHS, dtype=bool)
    off = np.abs(np.angle(np.exp(1j * (azimuth[:, None] - rotations_rad[None]))))
    return np.asarray(off.min(axis=1) < _LATTICE_ROTATION_RAD, dtype=bool)


def _peaks(library: TemplateLibrary, score: Array, scale: Array, most: int) -> list[Candidate]:
    flat = score.ravel()
    leading = np.argpartition(-flat, min(40 * most, flat.size - 1))[: 40 * most]
    leading = leading[np.argsort(-flat[leading], kind="stable")]
    kept: list[Candidate] = []
    near = 1.0 + 2.0 * np.cos(np.deg2rad(1.5))
    stack = np.empty((most, 9))
    for place in leading:
        d, a = divmod(int(place), AZIMUTHS)
        turn = rotation_from_vector(np.array([0.0, 0.0, 2 * np.pi * a / AZIMUTHS]))
        orientation = turn @ library.directions[d]
        if score[d, a] < -1e8:
            break
        # trace of the rotation between two orientations = 1 + 2 cos(angle)
        if kept and (stack[: len(kept)] @ orientation.ravel()).max() > near:
            continue
        stack[len(kept)] = orientation.ravel()
        kept.append(Candidate(library.zone, orientation, float(scale[d, a]), float(score[d, a])))
        if len(kept) == most:
            break
    return kept


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _correlate(
    polar: Array, g: Array, weight: Array, inv_A_per_px: float, scales: Array
) -> tuple[Array, Integers]:
    n_radii, double = polar.shape
    n = double // 2
    best = np.full((g.shape[0], n), -1e9)
    which = np.zeros((g.shape[0], n), dtype=np.int64)
    total = np.empty(n)
    for d in range(g.shape[0]):
        for k in range(scales.shape[0]):
            total[:] = 0.0
            for i in range(g.shape[1]):
                w = weight[d, i]
                if w == 0.0:
                    break
                radius = int(g[d, i, 0] / (inv_A_per_px * scales[k]) + 0.5)
                if radius >= n_radii:
                    continue
                start = int(np.floor(g[d, i, 1] / (2 * np.pi) * n + 0.5)) % n
                row = polar[radius, start : start + n]
                for a in range(n):
                    total[a] += w * row[a]
            for a in range(n):
                if total[a] > best[d, a]:
                    best[d, a] = total[a]
                    which[d, a] = k
    return best, which
