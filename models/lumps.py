"""The shape of the solid thing under a candidate: what an eye would look at first.

A crystal is convex, flat inside and sharp at its rim; dirt is ragged or domed.  The thing is the
connected area that is neither vacuum, film nor bar, whatever the network calls it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from models.classes import RegionClass

Floats = NDArray[np.float32]
SHAPE_FEATURES = (
    "lump_log_area", "lump_convexity", "lump_flatness", "lump_elongation", "lump_at_edge",
    "lump_gap", "lump_thickness",
)  # fmt: skip
_FAR_NM = 120.0
_NOTHING = (0.0, 0.0, 0.0, 0.0, 0.0, _FAR_NM / 100, 0.0)


@dataclass(frozen=True)
class Lumps:
    """The numbered solid things of one image."""

    numbers: NDArray[np.int32]
    boxes: list[tuple[slice, slice]]
    electrons: Floats
    """Smoothed, (ny, nx)."""
    thickness_mfp: Floats
    """By the network, (ny, nx)."""
    film_electrons: float
    """Median electrons per pixel beside the things."""
    pixel_size_nm: float

    def shape_at(self, y: int, x: int) -> tuple[float, ...]:
        """The ``SHAPE_FEATURES`` of the thing at a pixel; zeros where there is none.

        Flatness is the contrast of the outer half of the area over that of the inner half: 1 for a
        slab, about a half for a dome.
        """
        number = int(self.numbers[y, x])
        if number == 0:
            return _NOTHING
        rows, cols = self.boxes[number - 1]
        inside = np.pad(self.numbers[rows, cols] == number, 1)
        area = float(inside.sum())
        points = np.argwhere(inside & ~ndimage.binary_erosion(inside)).astype(np.float64)
        if area < 6 or len(points) < 6:
            return _NOTHING
        spread = np.linalg.eigvalsh(np.cov(np.argwhere(inside).T) + 1e-3 * np.eye(2))
        ny, nx = self.numbers.shape
        at_edge = rows.start == 0 or cols.start == 0 or rows.stop == ny or cols.stop == nx
        return (
            float(np.log(area * self.pixel_size_nm**2)),
            _convexity(points, area),
            self._flatness(inside, rows, cols),
            float(np.log(spread[1] / spread[0])),
            float(at_edge),
            self._gap_nm(number, rows, cols) / 100,
            float(np.quantile(self.thickness_mfp[rows, cols][inside[1:-1, 1:-1]], 0.75)),
        )

    def _gap_nm(self, number: int, rows: slice, cols: slice) -> float:
        """Distance to the next thing, nm, at most ``_FAR_NM``."""
        reach = int(np.ceil(_FAR_NM / self.pixel_size_nm))
        wide = (
            slice(max(0, rows.start - reach), rows.stop + reach),
            slice(max(0, cols.start - reach), cols.stop + reach),
        )
        window = self.numbers[wide]
        others = (window != 0) & (window != number)
        if not others.any():
            return _FAR_NM
        distance = ndimage.distance_transform_edt(~others)[window == number]
        return float(min(distance.min() * self.pixel_size_nm, _FAR_NM))

    def _flatness(self, inside: NDArray[np.bool_], rows: slice, cols: slice) -> float:
        depth = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
        body = depth > 1.5  # the rim itself is blurred by the optics
        if body.sum() < 8:
            return 0.0
        middle = float(np.median(depth[body]))
        electrons = self.electrons[rows, cols]
        outer, inner = body & (depth <= middle), body & (depth > middle)
        if not inner.any():
            return 0.0
        contrast = float(electrons[inner].mean()) - self.film_electrons
        if abs(contrast) < 1e-3 * max(self.film_electrons, 1e-6):
            return 0.0
        return float(np.clip((electrons[outer].mean() - self.film_electrons) / contrast, -1, 3))


def find_lumps(
    probability: Floats, electrons: Floats, thickness_mfp: Floats, pixel_size_nm: float
) -> Lumps:
    """Number the solid things.

    Parameters
    ----------
    probability
        Class probabilities, (6, ny, nx).
    electrons
        Smoothed electrons, (ny, nx).
    thickness_mfp
        By the network, (ny, nx).
    pixel_size_nm
        Pixel size, nm.
    """
    solid = (
        probability[RegionClass.CRYSTAL]
        + probability[RegionClass.THICK_OR_OVERLAP]
        + probability[RegionClass.CONTAMINATION]
    )
    numbers, _ = ndimage.label(ndimage.gaussian_filter(solid, 0.7) > 0.5)
    numbers = numbers.astype(np.int32)
    beside = electrons[numbers == 0]
    film = float(np.median(beside[::7])) if beside.size else 0.0
    boxes = ndimage.find_objects(numbers)
    return Lumps(numbers, boxes, electrons, thickness_mfp, film, pixel_size_nm)


def _convexity(points: NDArray[np.float64], area: float) -> float:
    """Area over that of the convex hull of the outermost pixels' centres, at most about 1.1."""
    try:
        hull = ConvexHull(points)
    except QhullError:
        return 0.0
    # the hull runs through pixel centres: half a pixel is missing all around
    return float(min(area / (hull.volume + 0.5 * hull.area + 0.5), 1.1))
