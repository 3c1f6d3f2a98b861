"""Put numbers on an image and words on the numbers; never prettier than the data carry."""

import math

import numpy as np
from numpy.typing import NDArray

from recon.calibration import Calibration
from recon.dataset import ScanHeader
from recon.metrics import RingCorrelation, Spot, lattice_limit_A, lattice_spots, ring_correlation
from recon.result import Resolution

Image = NDArray[np.float32]


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
    parts.append(f"thickness {thickness.value / 10:.0f} nm ({thickness.source})")
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]
