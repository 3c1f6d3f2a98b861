"""Lay one result over another: shift, turn and handedness, sub-pixel, on the coarser pixel.

Both images are sampled about the centres of their scans, inside the scanned field only. Masked
normalised cross-correlation (Padfield, IEEE Trans. Image Process. 21 (2012) 2706) finds the shift
for each angle; then shift and angle climb together. Of placements that fit equally well, as
those a lattice apart do in a crystal, the least displaced is taken.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, spline_filter
from scipy.optimize import minimize

from recon.compare.stored import StoredResult
from recon.geometry import rotation_matrix
from recon.metrics import without_plane

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Complex = NDArray[np.complex128]
NEAR_PIXELS, FAR_PIXELS = 96, 64
MIN_OVERLAP = 0.3
EQUALLY_GOOD = 0.97
EQUALLY_GOOD_TURNED = 0.85
CLEAR_MATCH = 0.5
NEAR_DEG = 15.0


@dataclass(frozen=True)
class Placement:
    """Point x of the second result lies at ``Rot(turn) flip x + shift`` in the first, Å."""

    turn_deg: float
    shift_A: tuple[float, float]
    mirrored: bool

    def to_second(self, points_A: Float) -> Float:
        """Points (..., 2) of the first result in the frame of the second."""
        back = (points_A - np.array(self.shift_A)) @ rotation_matrix(self.turn_deg)
        return back[..., ::-1] if self.mirrored else back


class Field:
    """A result that can be sampled anywhere: band-limited, splined, and where it was scanned."""

    def __init__(self, result: StoredResult, pixel_A: float) -> None:
        image = without_plane(result.phase)
        q = np.hypot(
            np.fft.fftfreq(image.shape[0], result.pixel_size_A)[:, None],
            np.fft.fftfreq(image.shape[1], result.pixel_size_A)[None],
        )
        image = np.fft.ifft2(np.fft.fft2(image) * (q <= 0.5 / pixel_A)).real
        self._spline = spline_filter(image, order=3)
        self._pixel_A = result.pixel_size_A
        self._centre = np.array(result.centre_px)
        self._to_scan = np.linalg.inv(result.matrix_A)
        self._half = (np.array(result.scan_shape) - 1) / 2

    def values(self, points_A: Float) -> Float:
        """Phase at points (..., 2)."""
        px = np.moveaxis(points_A / self._pixel_A + self._centre, -1, 0)
        values: Float = map_coordinates(self._spline, px, order=3, prefilter=False, mode="nearest")
        return values

    def inside(self, points_A: Float) -> Bool:
        """Whether points (..., 2) were scanned."""
        return np.asarray(np.all(np.abs(points_A @ self._to_scan.T) <= self._half, axis=-1))

    def reach_A(self) -> float:
        """Half the side of the square that holds the scan."""
        return float((np.abs(np.linalg.inv(self._to_scan)) @ self._half).max())


def square_grid(reach_A: float, pixel_A: float) -> Float:
    """Points (n, n, 2) about zero that cover ``reach_A`` to all sides."""
    n = int(np.ceil(reach_A / pixel_A))
    line = np.arange(-n, n + 1) * pixel_A
    return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1)


def register(first: StoredResult, second: StoredResult, pixel_A: float) -> Placement:
    """Best placement of ``second`` on ``first``; one near zero turn if that fits nearly as well."""
    reach = max(Field(first, pixel_A).reach_A(), Field(second, pixel_A).reach_A())
    near = _search(first, second, pixel_A, reach, NEAR_PIXELS, everywhere=False)
    if near[0] >= CLEAR_MATCH:
        return _climb(first, second, near[1], pixel_A, reach)
    far = _search(first, second, pixel_A, reach, FAR_PIXELS, everywhere=True)
    start = far[1] if far[0] * EQUALLY_GOOD_TURNED > near[0] else near[1]
    return _climb(first, second, start, pixel_A, reach)


def _search(
    first: StoredResult,
    second: StoredResult,
    pixel_A: float,
    reach_A: float,
    n_pixels: int,
    *,
    everywhere: bool,
) -> tuple[float, Placement]:
    """Score and placement of the best of all turns (and mirrors), on about ``n_pixels`` a side."""
    coarse = max(pixel_A, 2 * reach_A / n_pixels)
    points = square_grid(reach_A, coarse)
    a, b = Field(first, coarse), Field(second, coarse)
    step = float(np.degrees(1.5 * coarse / reach_A))
    small = np.arange(0, NEAR_DEG + step, step)
    turns = np.arange(-180, 180, step) if everywhere else np.unique([*small, *-small])
    mask = a.inside(points)
    fixed = _Masked(_levelled(a.values(points), mask), mask)
    candidates = []
    for mirrored in (False, True) if everywhere else (False,):
        for turn in turns:
            there = Placement(float(turn), (0.0, 0.0), mirrored).to_second(points)
            seen = b.inside(there)
            score, shift_px = fixed.match(_levelled(b.values(there), seen), seen)
            shift = shift_px * coarse
            placed = Placement(float(turn), (float(shift[0]), float(shift[1])), mirrored)
            candidates.append((score, placed))
    top = max(score for score, _ in candidates)
    good = [c for c in candidates if c[0] >= EQUALLY_GOOD * top]
    return top, min(good, key=lambda c: (c[1].mirrored, abs(c[1].turn_deg), -c[0]))[1]


def _levelled(image: Float, mask: Bool) -> Float:
    return np.where(mask, image - image[mask].mean(), 0.0) if mask.any() else np.zeros_like(image)


class _Masked:
    """An image known on a mask, ready to be matched with others of the same size."""

    def __init__(self, image: Float, mask: Bool) -> None:
        self._shape = (2 * image.shape[0], 2 * image.shape[1])
        self._spectra = self._transform(image, mask)
        self._area = float(mask.sum())
        axes = ((np.arange(m) + m // 2) % m - m // 2 for m in self._shape)
        self._shifts = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        self._length = np.hypot(self._shifts[..., 0], self._shifts[..., 1])

    def _transform(self, image: Float, mask: Bool) -> tuple[Complex, Complex, Complex]:
        one, flat, two = (np.fft.rfft2(x, self._shape) for x in (image, mask * 1.0, image**2))
        return one, flat, two

    def match(self, other: Float, mask: Bool) -> tuple[float, Float]:
        """Best correlation with ``other``, weighted by the root of the overlap, and its shift."""
        a, ma, a2 = self._spectra
        b, mb, b2 = (spectrum.conj() for spectrum in self._transform(other, mask))
        n, sum_a, sum_b, cross, square_a, square_b = (
            np.fft.irfft2(x, self._shape)
            for x in (ma * mb, a * mb, ma * b, a * b, a2 * mb, ma * b2)
        )
        n = np.maximum(np.round(n), 1.0)
        cross -= sum_a * sum_b / n
        power = (square_a - sum_a**2 / n) * (square_b - sum_b**2 / n)
        whole = min(self._area, float(mask.sum()))
        floor = 1e-9 * float(np.abs(power).max()) + 1e-300
        usable = (n >= MIN_OVERLAP * whole) & (power > floor)
        score = np.where(usable, cross / np.sqrt(np.maximum(power, floor)), -1.0)
        score *= np.sqrt(np.minimum(n / max(whole, 1.0), 1.0))
        good = score >= EQUALLY_GOOD * score.max()
        peak = np.unravel_index(np.argmin(np.where(good, self._length, np.inf)), score.shape)
        return float(score[peak]), self._shifts[peak].astype(np.float64)


def _climb(
    one: StoredResult, other: StoredResult, start: Placement, pixel_A: float, reach_A: float
) -> Placement:
    """Shift and turn together, on the pixels of the comparison."""
    # near the band edge a spline damps noise between the pixels: the fit would prefer half a pixel
    first, second = Field(one, 1.5 * pixel_A), Field(other, 1.5 * pixel_A)
    points = square_grid(reach_A, max(pixel_A, reach_A / 150))
    points = points[first.inside(points)]
    image = first.values(points)

    def loss(x: Float) -> float:
        there = Placement(float(x[2]), (float(x[0]), float(x[1])), start.mirrored).to_second(points)
        seen = second.inside(there)
        if seen.sum() < MIN_OVERLAP * len(points) / 2:
            return 1.0
        return -float(np.corrcoef(image[seen], second.values(there[seen]))[0, 1])

    origin = np.array([*start.shift_A, start.turn_deg])
    for size in (2.0, 0.3):
        reachable = np.diag([size * pixel_A, size * pixel_A, size * np.degrees(pixel_A / reach_A)])
        simplex = origin + np.vstack([np.zeros(3), reachable])
        options = {"xatol": 1e-3 * pixel_A, "fatol": 1e-7, "maxiter": 150}
        fit = minimize(loss, origin, method="Nelder-Mead", options=options | {"initial_simplex": simplex})  # fmt: skip  # noqa: E501
        origin = fit.x
    return Placement(float(origin[2]), (float(origin[0]), float(origin[1])), start.mirrored)
