"""The simulator's truth of one scan: what was really there, on the pixels of a reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from controller.record.report.scans import Phase

BORDER_A = 5.0
"""Left out at the edges when a reconstruction is compared with the truth."""


@dataclass(frozen=True)
class TrueScan:
    """A scan as it really was.

    phase_rad
        Projected phase in the detector frame, (row, col); None over vacuum.
    centre_px
        (row, col) of the centre of the scan.
    """

    phase_rad: NDArray[np.float32] | None
    sampling_A: tuple[float, float]
    centre_px: tuple[float, float]
    defocus_nm: float | None
    thickness_nm: float | None

    def on_pixels_of(self, phase: Phase, size_A: tuple[float, float]) -> NDArray[np.float64] | None:
        """The true phase on the pixels of ``phase.field_of(size_A)``, bilinear."""
        if self.phase_rad is None:
            return None
        rows, cols = phase.field_slices(size_A)
        axes = [
            (np.arange(part.start, part.stop) - centre) * phase.pixel_size_A / step + middle
            for part, centre, step, middle in zip(
                (rows, cols), phase.centre_px, self.sampling_A, self.centre_px, strict=True
            )
        ]
        return _bilinear(self.phase_rad, axes[0], axes[1])


def read_true_scan(truth: Path, exposure_id: str) -> TrueScan | None:
    """The truth of the scan with this identifier; None where the file does not hold it."""
    try:
        with h5py.File(truth, "r") as file:
            group = file["scans"][exposure_id]
            data = group.get("phase_rad")
            known = dict(group.attrs)
            sampling, centre = np.ones(2), np.zeros(2)
            if data is not None:
                sampling = np.broadcast_to(data.attrs["sampling_A"], 2)
                centre = np.broadcast_to(data.attrs["centre_px"], 2)
            return TrueScan(
                None if data is None else np.asarray(data, dtype=np.float32),
                (float(sampling[0]), float(sampling[1])),
                (float(centre[0]), float(centre[1])),
                float(known["defocus_nm"]) if "defocus_nm" in known else None,
                float(known["thickness_nm"]) if "thickness_nm" in known else None,
            )
    except (OSError, KeyError, ValueError, TypeError):
        return None


def correlation(phase: Phase, true: TrueScan, size_A: tuple[float, float]) -> float | None:
    """Pearson correlation of a reconstruction with the truth, planes removed, registered."""
    from recon.metrics import registered_correlation

    expected = true.on_pixels_of(phase, size_A)
    border = round(BORDER_A / phase.pixel_size_A)
    if expected is None or min(expected.shape) < 2 * border + 8 or not expected.any():
        return None
    value = registered_correlation(phase.field_of(size_A).astype(float), expected, border)
    return value if np.isfinite(value) else None


def _bilinear(
    image: NDArray[np.float32], rows: NDArray[np.float64], cols: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`image` at the crossings of `rows` and `cols`; beyond its edge the edge goes on."""
    parts = []
    for at, count in ((rows, image.shape[0]), (cols, image.shape[1])):
        clipped = np.clip(at, 0, count - 1)
        low = np.minimum(clipped.astype(int), max(count - 2, 0))
        parts.append((low, np.minimum(low + 1, count - 1), clipped - low))
    (r0, r1, fr), (c0, c1, fc) = parts
    top = image[np.ix_(r0, c0)] * (1 - fc) + image[np.ix_(r0, c1)] * fc
    bottom = image[np.ix_(r1, c0)] * (1 - fc) + image[np.ix_(r1, c1)] * fc
    return np.asarray(top * (1 - fr)[:, None] + bottom * fr[:, None], dtype=float)
