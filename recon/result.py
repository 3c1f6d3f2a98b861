"""What a reconstruction returns: pictures, numbers, and how far they may be trusted."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recon.calibration import Calibration
from recon.dataset import ScanHeader
from recon.geometry import scanned_rectangle
from recon.metrics import RingCorrelation, Spot
from recon.params import ReconstructionParams

Float32 = NDArray[np.float32]
Stage = Literal["calibrate", "choose", "reconstruct", "halves", "judge"]


@dataclass(frozen=True)
class ProgressEvent:
    """How far a reconstruction has come: ``fraction`` of the whole, in [0, 1]."""

    stage: Stage
    fraction: float
    message: str
    pass_number: int = 0
    fitted: float = float("nan")
    held_out: float = float("nan")


@dataclass(frozen=True)
class Curves:
    """Negative log-likelihood per electron, pass by pass."""

    fitted: tuple[float, ...] = ()
    held_out: tuple[float, ...] = ()
    defocus_A: tuple[float, ...] = ()


@dataclass(frozen=True)
class Resolution:
    """Resolution in Å; NaN where it could not be measured.

    ``frc_half_A`` is where the correlation with the truth falls below 0.5: that of two half-dose
    reconstructions, less what they share without being right, falls below 0.143 there.
    ``frc_0143_A`` and ``frc_at_half_A`` are where it falls below 0.143 and 1/2 as it is;
    ``lattice_limit_A`` the spacing that at least three spots reach which noise would not make.
    ``distortion_limit_A`` is what the scan raster, as far as it is known, limits ``frc_half_A`` to.
    """

    frc_half_A: float = float("nan")
    frc_0143_A: float = float("nan")
    frc_at_half_A: float = float("nan")
    frc_half_bit_A: float = float("nan")
    lattice_limit_A: float = float("nan")
    distortion_limit_A: float = float("nan")
    n_spots: int = 0
    effective_electrons: float = 0.0

    def as_distorted(self, limit_A: float) -> "Resolution":
        """Return these numbers with no resolution against the truth beyond this limit."""
        frc_half_A = float(np.fmax(self.frc_half_A, limit_A))
        known = np.isfinite(self.frc_half_A)
        return replace(
            self, distortion_limit_A=limit_A, frc_half_A=frc_half_A if known else self.frc_half_A
        )

    def no_finer_than(self, finest_A: float) -> "Resolution":
        """Return these numbers, none of them below what the image's raster can carry."""
        return replace(
            self,
            frc_half_A=float(np.maximum(self.frc_half_A, finest_A)),
            frc_0143_A=float(np.maximum(self.frc_0143_A, finest_A)),
            frc_at_half_A=float(np.maximum(self.frc_at_half_A, finest_A)),
            frc_half_bit_A=float(np.maximum(self.frc_half_bit_A, finest_A)),
            lattice_limit_A=float(np.maximum(self.lattice_limit_A, finest_A)),
        )


@dataclass(frozen=True)
class Reconstruction:
    """The projected phase of a specimen and everything that was learned on the way.

    ``phase_rad`` lies in the detector frame, (rows, cols), pixels of ``pixel_size_A``;
    ``scan_centre_px`` is the (row, col) of the centre of the scan in it. ``probe`` is the
    entrance wave, complex64 (mode, n, n), centred; ``positions_A`` (n, 2) are scan
    positions about the centre of the scan.
    """

    header: ScanHeader
    params: ReconstructionParams
    calibration: Calibration
    phase_rad: Float32
    slices_phase_rad: Float32
    pixel_size_A: float
    scan_centre_px: tuple[float, float]
    probe: NDArray[np.complex64]
    positions_A: NDArray[np.float64]
    scan_matrix_A: NDArray[np.float64]
    parallax_phase_rad: Float32
    curves: Curves
    frc: RingCorrelation | None
    spots: tuple[Spot, ...]
    resolution: Resolution
    passes: int
    best_pass: int
    stopped_because: str
    elapsed_s: float
    peak_memory_MB: float
    verdict: str
    warnings: tuple[str, ...] = ()
    source: str = ""
    source_sha256: str = ""
    rng_seed: int = 0
    timings_s: dict[str, float] = field(default_factory=dict)
    priors: tuple[str, ...] = ()
    """What was believed before the counts were seen."""
    lattice_residual_rad: Float32 | None = None
    """What a lattice average left out, projected, like ``phase_rad``."""
    phase_sigma_rad: Float32 | None = None
    """Standard deviation of ``phase_rad`` by the counts alone, from the half sets."""

    explained_share: float = float("nan")
    """Part of what the image claims to know that the electrons confirm."""

    def scanned_field(self, border_A: float = 0.0) -> tuple[slice, slice]:
        """Largest upright rectangle of ``phase_rad`` inside the scan, less a border."""
        return scanned_rectangle(
            self.header.scan_shape,
            self.scan_matrix_A,
            self.pixel_size_A,
            self.scan_centre_px,
            border_A=border_A,
        )

    def summary(self) -> dict[str, object]:
        """Numbers for machines, JSON-ready (NaN becomes None)."""
        calibration = {
            name: {"value": _clean(m.value), "sigma": _clean(m.sigma), "source": m.source}
            for name, m in self.calibration.measured().items()
        }
        return {
            "verdict": self.verdict,
            "warnings": list(self.warnings),
            "resolution": {
                "frc_half_A": _clean(self.resolution.frc_half_A),
                "frc_0143_A": _clean(self.resolution.frc_0143_A),
                "frc_at_half_A": _clean(self.resolution.frc_at_half_A),
                "frc_half_bit_A": _clean(self.resolution.frc_half_bit_A),
                "lattice_limit_A": _clean(self.resolution.lattice_limit_A),
                "distortion_limit_A": _clean(self.resolution.distortion_limit_A),
                "n_spots": self.resolution.n_spots,
                "effective_electrons": self.resolution.effective_electrons,
            },
            "calibration": calibration
            | {
                "affine": self.calibration.affine,
                "affine_sigma": _clean(self.calibration.affine_sigma),
                "mirrored": self.calibration.mirrored,
            },
            "explained_share": _clean(self.explained_share),
            "passes": self.passes,
            "best_pass": self.best_pass,
            "stopped_because": self.stopped_because,
            "priors": list(self.priors),
            "n_slices": len(self.slices_phase_rad),
            "pixel_size_A": self.pixel_size_A,
            "elapsed_s": self.elapsed_s,
            "peak_memory_MB": self.peak_memory_MB,
            "timings_s": self.timings_s,
            "source": self.source,
            "source_sha256": self.source_sha256,
            "rng_seed": self.rng_seed,
        }


def _clean(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
