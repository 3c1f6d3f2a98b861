"""How far every pattern is deflected: centre of mass of its electrons, or two halves' difference.

A thin specimen of phase V turns the beam by the local slope: the mean k of a pattern is

    k(r_p) = int |psi(r - r_p)|^2 grad V(r) / 2 pi dr.

The centre of mass of N electrons has the variance sigma_k^2 / N, for a filled disc k_edge^2 / 4N.
The difference of two halves of the disc, what a four-quadrant detector gives, has 2.5 times that.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.dataset import ScanHeader
from recon.geometry import k_per_mrad
from recon.patterns import Patterns

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Deflection:
    """Mean k (row, col) of every pattern in the detector frame, (2, scan_y, scan_x), 1/Å.

    The mean over the scan is removed; positions without electrons have none. ``variance`` is
    that of one component at one position, shot noise alone, 1/Å².
    """

    k_A: Float
    variance: float


def _frequencies(patterns: Patterns, k_pixel_A: float) -> tuple[Float, Float]:
    """Transverse k (row, col) of every electron, from the true beam centre, 1/Å."""
    n = patterns.n
    row, col = np.divmod(patterns.pixel.astype(np.int32), n)  # stored without a sign
    centred_row = (row + n // 2) % n - n // 2 - patterns.offset_px[0]
    centred_col = (col + n // 2) % n - n // 2 - patterns.offset_px[1]
    return centred_row * k_pixel_A, centred_col * k_pixel_A


def _mean_per_position(
    values: tuple[Float, Float], patterns: Patterns, scan_shape: tuple[int, int]
) -> Float:
    owner = np.repeat(patterns.position, np.diff(patterns.indptr))
    n = scan_shape[0] * scan_shape[1]
    electrons = np.bincount(owner, minlength=n)
    seen = electrons > 0
    mean = np.zeros((2, n))
    for axis, value in enumerate(values):
        total = np.bincount(owner, weights=value, minlength=n)
        mean[axis, seen] = total[seen] / electrons[seen]
        mean[axis, seen] -= mean[axis, seen].mean()
    return mean.reshape(2, *scan_shape)


def mean_deflection(
    patterns: Patterns, k_pixel_A: float, scan_shape: tuple[int, int], *, k_max_A: float
) -> Deflection:
    """First moment of every pattern, of its electrons within ``k_max_A``."""
    k = _frequencies(patterns, k_pixel_A)
    kept = np.hypot(*k) <= k_max_A
    chosen = patterns.taking(kept)
    values = (k[0][kept], k[1][kept])
    per_pattern = max(chosen.n_electrons / chosen.n_patterns, 1e-9)
    variance = float(np.var(values[0]) + np.var(values[1])) / 2 / per_pattern
    return Deflection(_mean_per_position(values, chosen, scan_shape), variance)


def centre_of_mass(
    patterns: Patterns, header: ScanHeader, *, max_angle_mrad: float | None = None
) -> Deflection:
    """First moment of every pattern, from its list of electrons.

    Parameters
    ----------
    max_angle_mrad
        Leave out what is scattered further: beyond the disc single electrons weigh heavily and
        say little. Default: one and a half times the convergence semi-angle.
    """
    per_mrad = k_per_mrad(header.energy_keV)
    limit_mrad = max_angle_mrad or 1.5 * header.convergence_semiangle_mrad
    return mean_deflection(
        patterns,
        header.detector_sampling_mrad * per_mrad,
        header.scan_shape,
        k_max_A=limit_mrad * per_mrad,
    )


def quadrant_difference(patterns: Patterns, header: ScanHeader) -> Deflection:
    """Deflection from the halves of the bright-field disc, as a segmented detector sees it.

    A disc of radius a that moves by d takes 4 d / (pi a) of its electrons over the border.
    """
    per_mrad = k_per_mrad(header.energy_keV)
    edge = header.convergence_semiangle_mrad * per_mrad
    k = _frequencies(patterns, header.detector_sampling_mrad * per_mrad)
    kept = np.hypot(*k) <= 1.1 * edge
    chosen = patterns.taking(kept)
    per_unit = np.pi * edge / 4
    values = (np.sign(k[0][kept]) * per_unit, np.sign(k[1][kept]) * per_unit)
    per_pattern = max(chosen.n_electrons / chosen.n_patterns, 1e-9)
    mean = _mean_per_position(values, chosen, header.scan_shape)
    return Deflection(mean, per_unit**2 / per_pattern)
