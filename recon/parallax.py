"""Tilt-corrected bright field: defocus, astigmatism, rotation and a first image, without a model.

By reciprocity every bright-field pixel k is a conventional image with tilted illumination: the
image I_k shows the specimen displaced by s(k) = grad chi(k) / 2 pi = S k. In Fourier space

    G(q, k) ~ F(q) exp(2 pi i q . S k),   S = lambda [[C10 - C12a, C12b], [C12b, C10 + C12a]],

so that the sum over k of G exp(-2 pi i q . S k) adds up only if S, and the turn of the scan against
the detector that is hidden in q, are right. Its power, divided by the shot noise, is twice
the logarithm of a likelihood ratio: maximised, it gives the parameters; curved, their sigmas.
The contrast left in the sum is that of a bright-field image, 2 sin(chi) per phase, and is undone
in ``phase_image``. Method: Spoth et al., Microsc. Microanal. 23 (2017) 1626; Varnavides et al.,
arXiv 2309.05250.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, maximum_filter

from recon.dataset import ScanHeader
from recon.errors import CalibrationError
from recon.geometry import k_per_mrad, scan_matrix, wavelength_A
from recon.patterns import Patterns

Float = NDArray[np.float64]
Complex = NDArray[np.complex64]


@dataclass(frozen=True)
class Shear:
    """What the parallax depends on: aberrations (Å) and rotation (degrees)."""

    C10_A: float
    C12a_A: float
    C12b_A: float
    rotation_deg: float

    def vector(self) -> Float:
        """[C10, C12a, C12b, rotation]."""
        return np.array([self.C10_A, self.C12a_A, self.C12b_A, self.rotation_deg])

    def turned_over(self) -> "Shear":
        """Return the other shear that moves every image alike: half a turn, opposite defocus."""
        turned = (self.rotation_deg + 360.0) % 360.0 - 180.0
        return Shear(-self.C10_A, -self.C12a_A, -self.C12b_A, turned)


@dataclass(frozen=True)
class ParallaxFit:
    """The best shear, its covariance (order of ``Shear.vector``) and 2 ln(likelihood ratio)."""

    shear: Shear
    covariance: Float
    score: float
    coarse_score: float
    """What ``coarse_score`` says of the same search."""

    @property
    def sigma(self) -> Float:
        """Standard deviations, order of ``Shear.vector``."""
        return np.sqrt(np.clip(np.diag(self.covariance), 0, None))


class BrightFieldSpectra:
    """Scan spectra of all bright-field pixels, ready to be summed with any shear.

    Parameters
    ----------
    patterns
        Counts in the computational frame.
    header
        Optics and raster.
    affine
        Scan distortion (2, 2), applied before the rotation.
    radius_fraction
        Part of the disc radius that is used; the rim is blurred by its finite pixels.
    """

    def __init__(
        self,
        patterns: Patterns,
        header: ScanHeader,
        *,
        affine: Float | None = None,
        radius_fraction: float = 0.92,
    ) -> None:
        self.header = header
        self.affine = affine
        self.wavelength_A = wavelength_A(header.energy_keV)
        self.k_pixel_A = header.detector_sampling_mrad * k_per_mrad(header.energy_keV)
        self.k_edge_A = header.convergence_semiangle_mrad * k_per_mrad(header.energy_keV)
        self._spectra(patterns, self.k_edge_A * radius_fraction)

    def _spectra(self, patterns: Patterns, k_max_A: float) -> None:
        n = patterns.n
        half = int(np.ceil(k_max_A / self.k_pixel_A)) + 1
        steps = np.arange(-half, half + 1)
        ky, kx = np.meshgrid(
            (steps - patterns.offset_px[0]) * self.k_pixel_A,
            (steps - patterns.offset_px[1]) * self.k_pixel_A,
            indexing="ij",
        )
        self.k_row, self.k_col = ky[:, 0].astype(np.float32), kx[0].astype(np.float32)
        self.inside = np.hypot(ky, kx) <= k_max_A
        rows, cols = np.nonzero(self.inside)
        lookup = np.full(n * n, -1, np.int32)
        lookup[(steps[rows] % n) * n + steps[cols] % n] = np.arange(len(rows))
        ny, nx = self.header.scan_shape
        slot = lookup[patterns.pixel]
        kept = slot >= 0
        self.electrons = float(np.count_nonzero(kept))
        count = np.diff(patterns.indptr)
        position = np.repeat(patterns.position.astype(np.int32), count)[kept]
        slot = slot[kept]
        order = np.argsort(slot, kind="stable")
        first = np.searchsorted(slot, np.arange(len(rows) + 1), sorter=order)
        position = position[order]
        u, v = np.meshgrid(np.fft.fftfreq(ny), np.fft.fftfreq(nx), indexing="ij")
        self.scan_frequency = np.stack([u.ravel(), v.ravel()], axis=1)
        self.grid = np.zeros((ny * nx, *self.inside.shape), np.complex64)
        # image by image: all of them at once, and their transforms, would be held three times over
        for k in range(len(rows)):
            hit = position[first[k] : first[k + 1]]
            image = np.bincount(hit, minlength=ny * nx).astype(np.float32)
            _fill_missing(image, patterns.position)
            spectrum = np.fft.fft2((image - image.mean()).reshape(ny, nx))
            self.grid[:, rows[k], cols[k]] = spectrum.ravel()

    def mirrored(self) -> "BrightFieldSpectra":
        """The spectra of a detector with rows and columns exchanged; no count is copied."""
        other = copy(self)
        other.k_row, other.k_col = self.k_col, self.k_row
        other.inside = self.inside.T
        other.grid = self.grid.transpose(0, 2, 1)
        return other

    def only(self, chosen: NDArray[np.bool_]) -> "BrightFieldSpectra":
        """The chosen scan frequencies alone."""
        other = copy(self)
        other.scan_frequency = self.scan_frequency[chosen]
        other.grid = np.ascontiguousarray(self.grid[chosen])
        return other

    def q(self, rotation_deg: float) -> Float:
        """Frequencies (row, col) of every scan spectrum in the detector frame, (n, 2), 1/Å."""
        matrix = scan_matrix(self.header, rotation_deg, self.affine)
        return self.scan_frequency @ np.linalg.inv(matrix)

    def aligned_sum(self, shear: Shear) -> Complex:
        """Sum over k of G(q, k) exp(-2 pi i q . S k) at every scan frequency."""
        q = self.q(shear.rotation_deg)
        c10, a, b = shear.C10_A, shear.C12a_A, shear.C12b_A
        shear_matrix = self.wavelength_A * np.array([[c10 - a, b], [b, c10 + a]])
        shift = (q @ shear_matrix).astype(np.float32)  # symmetric: (q S) . k = q . (S k)
        along_row = _turned_back(shift[:, :1] * self.k_row)
        along_col = _turned_back(shift[:, 1:] * self.k_col)
        partial = np.matmul(self.grid, along_col[:, :, None])[..., 0]
        return (partial * along_row).sum(axis=1)

    def half_plane(self, q_max_A: float) -> NDArray[np.bool_]:
        """One of each pair +q, -q with |q| <= q_max, without q = 0; turns do not change |q|."""
        q = self.q(0.0)
        u, v = self.scan_frequency.T
        half = (u > 0) | ((u == 0) & (v > 0))
        return half & (np.hypot(*q.T) <= q_max_A)

    def score(self, shear: Shear) -> float:
        """Twice the log-likelihood gained by the aligned sum over pure shot noise."""
        power = np.abs(self.aligned_sum(shear)) ** 2
        return float(2 * power.sum(dtype=np.float64) / max(self.electrons, 1.0))


def _turned_back(turns: NDArray[np.float32]) -> Complex:
    """exp(-2 pi i turns); cosine and sine are many times faster than a complex exponential."""
    angle = np.float32(-2 * np.pi) * turns
    out = np.empty(turns.shape, np.complex64)
    out.real, out.imag = np.cos(angle), np.sin(angle)
    return out


def _fill_missing(image: NDArray[np.float32], present: NDArray[np.integer[Any]]) -> None:
    """Give positions that were never recorded the mean of the image."""
    if len(present) < len(image):
        missing = np.ones(len(image), bool)
        missing[present] = False
        image[missing] = image[present].mean()


@dataclass(frozen=True)
class SearchRange:
    """Where to look for the shear, about the nominal values."""

    defocus_A: float = 1200.0
    rotation_deg: float = 90.0
    max_C12_A: float = 150.0


def fit_shear(
    spectra: BrightFieldSpectra, nominal: Shear, search: SearchRange | None = None
) -> ParallaxFit:
    """Measure defocus, astigmatism and rotation: coarse grid at low q, then Newton steps.

    The few spots of a crystal at low q can be aligned in more than one way; several hills are
    climbed, and the one that is highest with all frequencies is taken.

    Raises
    ------
    CalibrationError
        No shear stands out of the shot noise, or the best one is no proper maximum.
    """
    search = search or SearchRange()
    low = spectra.only(spectra.half_plane(0.35 * spectra.k_edge_A))
    reach = spectra.only(spectra.half_plane(0.7 * spectra.k_edge_A))
    starts = _grid_search(low, nominal, search)
    hills = [_climb(low, start, search.max_C12_A)[0] for start in starts]
    highest = max(hills, key=reach.score)
    best, hessian, score = _climb(reach, highest, search.max_C12_A)
    noise = 2.0 * len(reach.grid)
    if not score > noise + 5 * np.sqrt(2 * noise):
        raise CalibrationError(
            f"the bright-field images do not stand out of the shot noise (score {score:.0f}, noise "
            f"alone gives {noise:.0f}); rotation and defocus were not measured. "
            f"More electrons, a larger field or a smaller defocus would help"
        )
    if abs((best.rotation_deg - nominal.rotation_deg + 180) % 360 - 180) > 90:
        best = best.turned_over()
    coarse = max(low.score(start) for start in starts)
    fit = ParallaxFit(best, _covariance(hessian), score, coarse)
    if not fit.sigma[3] <= MAX_ROTATION_SIGMA_DEG:
        raise CalibrationError(
            f"the bright-field images do not tell the scan rotation (sigma {fit.sigma[3]:.0f} "
            f"deg); defocus by more, or fix rotation_deg"
        )
    return fit


def coarse_score(
    spectra: BrightFieldSpectra, nominal: Shear, search: SearchRange | None = None
) -> float:
    """Best score on the coarse grid, low frequencies only: a quick comparison of hypotheses."""
    low = spectra.only(spectra.half_plane(0.35 * spectra.k_edge_A))
    return max(map(low.score, _grid_search(low, nominal, search or SearchRange())))


def _grid_search(spectra: BrightFieldSpectra, nominal: Shear, search: SearchRange) -> list[Shear]:
    """Return the best local maxima of the score on a grid about the nominal shear."""
    d = _both_ways(search.defocus_A, 45.0)
    t = _both_ways(search.rotation_deg, 8.0)
    trials = [
        [replace(nominal, C10_A=nominal.C10_A + dc, rotation_deg=nominal.rotation_deg + dt)
         for dt in t]
        for dc in d
    ]  # fmt: skip
    scores = np.array([[spectra.score(trial) for trial in row] for row in trials])
    summits = scores == maximum_filter(scores, size=3)
    order = np.argsort(np.where(summits, scores, -np.inf), axis=None)[::-1]
    rows, cols = np.unravel_index(order[: min(HILLS, int(summits.sum()))], scores.shape)
    return [trials[i][j] for i, j in zip(rows, cols, strict=True)]


HILLS = 6


def _both_ways(reach: float, spacing: float) -> Float:
    """Even grid from -reach to reach, zero included, no wider than ``spacing``."""
    steps = int(np.ceil(reach / spacing))
    return np.linspace(-reach, reach, 2 * steps + 1)


MAX_ROTATION_SIGMA_DEG = 8.0
STEP = np.array([4.0, 4.0, 4.0, 0.5])


def _climb(
    spectra: BrightFieldSpectra, start: Shear, max_C12_A: float
) -> tuple[Shear, Float, float]:
    """Newton ascent with finite differences in units of ``STEP``; steps that do not gain shrink."""
    x = start.vector()

    def value(z: Float) -> float:
        return spectra.score(Shear(*z))

    here = value(x)
    hessian = np.zeros((4, 4))
    for _ in range(12):
        gradient, hessian = _derivatives(value, x, here)
        values, vectors = np.linalg.eigh(-hessian)
        values = np.maximum(np.abs(values), 1e-3 * np.abs(values).max() + 1e-12)
        step = vectors @ ((vectors.T @ gradient) / values)
        step *= min(1.0, 6.0 / max(float(np.abs(step).max()), 1e-12))
        for _ in range(6):
            trial = x + step * STEP
            trial[1:3] = np.clip(trial[1:3], -max_C12_A, max_C12_A)
            there = value(trial)
            if there > here:
                break
            step /= 2
        else:
            break
        moved = float(np.abs(trial - x).max())
        x, here = trial, there
        if moved < 0.02:
            break
    return Shear(*x.tolist()), hessian / np.outer(STEP, STEP), here


def phase_image(spectra: BrightFieldSpectra, shear: Shear, *, damping: float = 0.15) -> Float:
    """Phase from the tilt-corrected bright field, float64 (scan_y, scan_x), radians.

    The contrast of a weak phase object, 2 sin(chi(q)), is divided out with a Wiener filter.
    Positive where atoms are. Strong specimens come out too flat: a first look, not a measurement.
    """
    ny, nx = spectra.header.scan_shape
    q = spectra.q(shear.rotation_deg)
    qy, qx = q.T
    even = shear.C10_A * (qy**2 + qx**2) + shear.C12a_A * (qx**2 - qy**2)
    chi = np.pi * spectra.wavelength_A * (even + 2 * shear.C12b_A * qx * qy)
    transfer = 2 * np.sin(chi) * (np.hypot(qy, qx) < 1.4 * spectra.k_edge_A)
    contrast = spectra.aligned_sum(shear) / (spectra.electrons / (ny * nx))
    phase = contrast * transfer / (transfer**2 + 4 * damping)
    return np.fft.ifft2(phase.reshape(ny, nx)).real


def resample(
    image: Float, matrix: Float, pixel_A: float
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Turn an image on the scan raster into the detector frame with square pixels.

    Returns
    -------
    float32 image (rows, cols), zero outside the scan, and the pixel of the centre of the scan.
    """
    ny, nx = image.shape
    half = np.array([(ny - 1) / 2, (nx - 1) / 2])
    reach = np.abs(matrix) @ half / pixel_A
    centre = np.ceil(reach)
    rows, cols = np.indices((2 * centre + 1).astype(int)).reshape(2, -1)
    r = (np.stack([rows, cols]) - centre[:, None]) * pixel_A
    scan = np.linalg.inv(matrix) @ r + half[:, None]
    values = map_coordinates(image, scan, order=3, mode="constant")
    shape = (int(2 * centre[0] + 1), int(2 * centre[1] + 1))
    return values.reshape(shape).astype(np.float32), (float(centre[0]), float(centre[1]))


def _derivatives(value: Callable[[Float], float], x: Float, here: float) -> tuple[Float, Float]:
    """Gradient and Hessian of ``value`` at ``x`` in units of ``STEP`` (central differences)."""
    n = len(x)
    unit = np.diag(STEP)
    plus = np.array([value(x + unit[i]) for i in range(n)])
    minus = np.array([value(x - unit[i]) for i in range(n)])
    gradient = (plus - minus) / 2
    hessian = np.diag(plus + minus - 2 * here)
    for i in range(n):
        for j in range(i):
            both = value(x + unit[i] + unit[j])
            hessian[i, j] = hessian[j, i] = both - plus[i] - plus[j] + here
    return gradient, hessian


def _covariance(hessian: Float) -> Float:
    """Inverse of the information -H/2 of a score that is twice a log-likelihood."""
    values, vectors = np.linalg.eigh(-hessian / 2)
    values = np.maximum(values, 1e-12)
    return (vectors / values) @ vectors.T
