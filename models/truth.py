"""What is true in a drawn scene: labels, thickness, usable areas, and whether a pick is right.

A pick is right when its centre lies in the usable area of one crystal, at least 80 % of its disc
(radius >= 50 nm) lies in that area, and no better pick took the same crystal.  The usable area is
the thin (own t/mfp <= 0.8), uncovered, clean part of a crystal that is eligible as a whole: at
least 60 nm from the next, touching neither the edge of the image nor a bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.classes import (
    LEAST_RADIUS_NM,
    LEAST_USABLE_FRACTION,
    NEIGHBOUR_GAP_NM,
    THICK_LIMIT_MFP,
    RegionClass,
)

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Footprint:
    """One crystal on the grid: its bounding box and its thickness inside."""

    y0: int
    x0: int
    mfp: Floats
    """Thickness in mean free paths inside the box, (height, width)."""

    @property
    def box(self) -> tuple[slice, slice]:
        """Slices of the box in the field."""
        height, width = self.mfp.shape
        return slice(self.y0, self.y0 + height), slice(self.x0, self.x0 + width)


@dataclass(frozen=True)
class Truth:
    """Ground truth of one scene on its pixel grid, all (ny, nx)."""

    pixel_size_nm: float
    labels: NDArray[np.uint8]
    """Values of :class:`~models.classes.RegionClass`."""
    thickness_mfp: Floats
    """Everything along the beam: film, crystals, dirt; clipped at 3 (bars are 3)."""
    instances: NDArray[np.int16]
    """Number of the crystal from 1; 0 none; -1 several on top of each other."""
    usable: NDArray[np.int16]
    """Number of the crystal whose usable area this is; 0 elsewhere."""
    usable_distance_nm: Floats
    """Distance to the border of the usable area; 0 outside."""


def truth_of(
    crystals: Sequence[Footprint],
    *,
    film_mfp: Floats,
    dirt_mfp: Floats,
    bars: Mask,
    pixel_size_nm: float,
) -> Truth:
    """Work out the truth of a scene from its parts.

    Parameters
    ----------
    crystals
        Every crystal alone.
    film_mfp, dirt_mfp
        Thickness of support and of contamination, float32, (ny, nx).
    bars
        Mask of the grid bars, (ny, nx).
    pixel_size_nm
        Pixel size, nm.
    """
    shape = film_mfp.shape
    total = np.zeros(shape, np.float32)
    count = np.zeros(shape, np.uint8)
    number = np.zeros(shape, np.int16)
    for k, crystal in enumerate(crystals, start=1):
        inside = crystal.mfp > 0
        total[crystal.box] += crystal.mfp
        count[crystal.box] += inside
        number[crystal.box][inside] = k
    soiled = dirt_mfp > 0.1
    labels = np.where(film_mfp > 0, RegionClass.SUPPORT, RegionClass.VACUUM).astype(np.uint8)
    labels[count == 1] = RegionClass.CRYSTAL
    labels[(count > 1) | (total > THICK_LIMIT_MFP)] = RegionClass.THICK_OR_OVERLAP
    labels[soiled] = RegionClass.CONTAMINATION
    labels[bars] = RegionClass.BAR

    eligible = np.zeros(len(crystals) + 1, bool)
    eligible[1:] = _isolated(crystals, pixel_size_nm)
    for k, crystal in enumerate(crystals, start=1):
        eligible[k] &= not _touches(crystal, shape, bars)
    instances = np.where(count > 1, np.int16(-1), number)
    usable = np.where((labels == RegionClass.CRYSTAL) & eligible[number], number, 0)
    distance = ndimage.distance_transform_edt(np.pad(usable > 0, 1))[1:-1, 1:-1]
    thickness = np.minimum(total + film_mfp + dirt_mfp, 3)
    thickness[bars] = 3
    return Truth(
        pixel_size_nm=pixel_size_nm,
        labels=labels,
        thickness_mfp=thickness.astype(np.float32),
        instances=instances.astype(np.int16),
        usable=usable.astype(np.int16),
        usable_distance_nm=(distance * pixel_size_nm).astype(np.float32),
    )


def _touches(crystal: Footprint, shape: tuple[int, ...], bars: Mask) -> bool:
    inside = crystal.mfp > 0
    rows, cols = crystal.box
    at_edge = (
        (rows.start == 0 and bool(inside[0].any()))
        or (cols.start == 0 and bool(inside[:, 0].any()))
        or (rows.stop == shape[0] and bool(inside[-1].any()))
        or (cols.stop == shape[1] and bool(inside[:, -1].any()))
    )
    return at_edge or bool((bars[crystal.box] & inside).any())


def _isolated(crystals: Sequence[Footprint], pixel_size_nm: float) -> Mask:
    """Whether each crystal is at least the gap from every other, (crystal,)."""
    outlines = [_outline(c) for c in crystals]
    alone = np.ones(len(crystals), bool)
    gap_px = NEIGHBOUR_GAP_NM / pixel_size_nm
    for i, a in enumerate(outlines):
        for j in range(i):
            b = outlines[j]
            if not a.size or not b.size or _boxes_apart(a, b, gap_px):
                continue
            apart = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2).min() >= gap_px**2
            if not apart or _overlap(crystals[i], crystals[j]):
                alone[i] = alone[j] = False
    return alone


def _outline(crystal: Footprint) -> NDArray[np.float32]:
    inside = np.pad(crystal.mfp > 0, 1)
    core = inside[1:-1, 1:-1]
    border = core & ~(inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:])
    return (np.argwhere(border) + np.array([crystal.y0, crystal.x0])).astype(np.float32)


def _boxes_apart(a: Floats, b: Floats, gap_px: float) -> bool:
    return bool(
        (a.min(axis=0) - b.max(axis=0) > gap_px).any()
        or (b.min(axis=0) - a.max(axis=0) > gap_px).any()
    )


def _overlap(a: Footprint, b: Footprint) -> bool:
    y0, y1 = max(a.y0, b.y0), min(a.box[0].stop, b.box[0].stop)
    x0, x1 = max(a.x0, b.x0), min(a.box[1].stop, b.box[1].stop)
    if y0 >= y1 or x0 >= x1:
        return False
    in_a = a.mfp[y0 - a.y0 : y1 - a.y0, x0 - a.x0 : x1 - a.x0] > 0
    in_b = b.mfp[y0 - b.y0 : y1 - b.y0, x0 - b.x0 : x1 - b.x0] > 0
    return bool((in_a & in_b).any())


def judge_picks(truth: Truth, picks: Sequence[tuple[float, float, float]]) -> list[bool]:
    """Whether each pick is right, best first.

    Parameters
    ----------
    truth
        Truth of the scene.
    picks
        ``(y_px, x_px, radius_nm)`` in the order of rank.
    """
    ny, nx = truth.labels.shape
    rows, cols = np.arange(ny)[:, None], np.arange(nx)[None, :]
    taken: set[int] = set()
    verdicts = []
    for y_px, x_px, radius_nm in picks:
        y, x = round(y_px), round(x_px)
        crystal = int(truth.usable[y, x]) if 0 <= y < ny and 0 <= x < nx else 0
        radius_px = radius_nm / truth.pixel_size_nm
        disc = (rows - y_px) ** 2 + (cols - x_px) ** 2 <= radius_px**2
        # what lies off the image counts as not usable
        whole = max(float(disc.sum()), np.pi * radius_px**2 - 4 * radius_px)
        inside = float((truth.usable[disc] == crystal).sum()) if crystal else 0.0
        right = (
            crystal > 0
            and radius_nm >= LEAST_RADIUS_NM
            and inside >= LEAST_USABLE_FRACTION * whole
            and crystal not in taken
        )
        if crystal > 0:
            taken.add(crystal)
        verdicts.append(right)
    return verdicts
