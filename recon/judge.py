"""Put numbers on an image and words on the numbers; never prettier than the data carry."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from recon.calibration import Calibration
from recon.dataset import ScanHeader
from recon.metrics import RingCorrelation, Spot, lattice_limit_A, lattice_spots, ring_correlation
from recon.result import Resolution

Image = NDArray[np.float32]
ERROR_MAP_A = 1.5
"""Width of the neighbourhood (Gaussian sigma) over which the halves' differences are averaged."""


def measure_resolution(
    phase: Image,
    halves: tuple[Image, Image] | None,
    sampling_A: float,
    *,
    raster: NDArray[np.float64],
    electrons: float,
) -> tuple[Resolution, RingCorrelation | None, list[Spot]]:
    """Ring correlation of the halves, and the lattice limit that both halves show.

    All images are the same part of the scanned field. Without halves only the lattice limit of
    the full image is given.
    """
    if not np.isfinite(phase).all():
        return Resolution(), None, []
    if halves is None:
        spots = lattice_spots(phase.astype(np.float64), sampling_A, raster=raster)
        return _resolution(None, spots, electrons), None, spots
    first, second = (half.astype(np.float64) for half in halves)
    frc = ring_correlation(first, second, sampling_A)
    spots = lattice_spots(first, sampling_A, raster=raster, other=second)
    return _resolution(frc, spots, electrons), frc, spots


def _resolution(frc: RingCorrelation | None, spots: list[Spot], electrons: float) -> Resolution:
    nan = float("nan")
    return Resolution(
        frc_half_A=nan if frc is None else frc.resolution_A(0.143),
        frc_at_half_A=nan if frc is None else frc.resolution_A(0.5),
        frc_half_bit_A=nan if frc is None else frc.resolution_A(frc.half_bit_threshold()),
        lattice_limit_A=lattice_limit_A(spots),
        n_spots=len(spots),
        effective_electrons=electrons,
    )


def error_map(first: Image, second: Image, sampling_A: float) -> Image:
    """Standard deviation of the full reconstruction, float32 like the halves, radians.

    Two independent halves differ by twice the standard deviation of their mean; the mean square is
    taken over ``ERROR_MAP_A``. Errors that both halves share (calibration, model) are not in it.
    """
    square = (first.astype(np.float64) - second) ** 2 / 4
    smooth = gaussian_filter(square, ERROR_MAP_A / sampling_A, mode="nearest")
    return np.sqrt(np.maximum(smooth, 0)).astype(np.float32)


def judge_verdict(header: ScanHeader, calibration: Calibration, resolution: Resolution) -> str:
    """One or two sentences that a microscopist would say about the result."""
    parts = []
    if math.isfinite(resolution.lattice_limit_A):
        parts.append(
            f"lattice visible to {resolution.lattice_limit_A:.2f} Å ({resolution.n_spots} spots)"
        )
    else:
        parts.append("no lattice stands out of the noise")
    if math.isfinite(resolution.frc_half_A):
        parts.append(f"half-set FRC {resolution.frc_half_A:.2f} Å over the whole field")
    defocus = calibration.defocus_A
    error_nm = (defocus.value - header.defocus_A) / 10
    parts.append(f"defocus {defocus.value / 10:.1f} nm, {abs(error_nm):.1f} nm from nominal")
    turned = calibration.rotation_deg.value - header.scan_rotation_deg
    parts.append(f"scan rotation {turned:+.1f} deg from nominal")
    c12 = math.hypot(calibration.C12a_A.value, calibration.C12b_A.value) / 10
    parts.append("astigmatism small" if c12 < 2 else f"astigmatism {c12:.1f} nm")
    thickness = calibration.thickness_A
    spread = f" ± {thickness.sigma / 10:.1f}" if math.isfinite(thickness.sigma) else ""
    parts.append(f"thickness {thickness.value / 10:.0f}{spread} nm ({thickness.source})")
    tilt = math.hypot(calibration.tilt_row_mrad.value, calibration.tilt_col_mrad.value)
    if calibration.tilt_row_mrad.source == "joint":
        parts.append(f"specimen tilted by {tilt:.1f} mrad")
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]
