"""What the aligner says about one pattern."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mode = Literal["structure", "structure-free"]
Effort = Literal["first", "full"]

RADIUS_OF_68_PERCENT = 1.515
"""Radius that holds 68.3 % of a round 2-D normal distribution, in its one-axis sigma."""


@dataclass(frozen=True)
class TiltPrior:
    """What is expected before the pattern is read: it restricts the search, it does not pull."""

    tilt_mrad: tuple[float, float] | None = None
    tilt_sigma_mrad: float = 20.0
    """One-axis standard deviation of the expected tilt."""
    in_plane_rotation_deg: float | None = None
    """As an earlier estimate gave it; taken modulo the symmetry of the zone."""
    in_plane_rotation_sigma_deg: float = 2.0
    centre_px: tuple[float, float] | None = None
    """(x, y) of the direct beam."""


@dataclass(frozen=True)
class Alternative:
    """Another orientation that explains the pattern, but worse."""

    tilt_x_mrad: float
    tilt_y_mrad: float
    log_likelihood_gap: float
    """How much worse than the answer, in natural-log units, model error accounted for."""


@dataclass(frozen=True)
class Marks:
    """What an overlay draws, in pixels (x, y) and counts."""

    used_px: NDArray[np.float64]
    """Spots that the answer explains, (n, 2)."""
    rejected_px: NDArray[np.float64]
    """Spots that it does not explain, (n, 2)."""
    empty_px: NDArray[np.float64]
    """Nodes that the answer predicts dark and that are dark, (n, 2)."""


@dataclass(frozen=True)
class FirstAnswer:
    """What was known on the way, before rivals were climbed and all beams coupled."""

    tilt_x_mrad: float
    tilt_y_mrad: float
    sigma_mrad: float
    """Calibrated for first answers: radius that holds 68.3 % of their errors."""
    answered: bool
    elapsed_ms: float


@dataclass(frozen=True)
class TiltEstimate:
    """The tilt of the zone axis against the beam, with an honest error, or no answer."""

    tilt_x_mrad: float
    tilt_y_mrad: float
    """From the direct beam towards the centre of the Laue circle; |t| is the exact angle."""
    sigma_mrad: float
    """Calibrated radius that holds 68.3 % of the tilt errors."""
    answered: bool
    """False is "don't know": the tilt is then a guess or NaN and must not be acted on."""
    reason: str
    """Why there is no answer; empty where there is one."""
    mode: Mode
    centre_x_px: float
    centre_y_px: float
    inv_A_per_px: float
    """Camera constant; refined where a structure is known, otherwise as given."""
    in_plane_rotation_deg: float
    """Azimuth on the detector, from +x towards +y: of the zone's shortest reflection where the
    structure is known, of the shortest lattice vector (modulo 180) where it is not."""
    circle_radius_inv_A: float
    """Radius of the zero-order Laue circle, K sin|t|."""
    thickness_nm: float
    """Thickness that fits best; NaN where it was not fitted.  A by-product: trust it to 30 %."""
    alternatives: tuple[Alternative, ...]
    electrons_used: float
    elapsed_ms: float
    marks: Marks
    orientation: NDArray[np.float64] | None = None
    """Rotation crystal (Cartesian, a along x, c* along z) to detector frame, (3, 3); structure
    known only."""
    explained_fraction: float = float("nan")
    """Part of the counts in spots (direct beam aside) that the answer explains."""
    log_gain: float = float("nan")
    """Log-likelihood over "no crystal at all"; structure known only.  Comparable between zones of
    the same structure on the same pattern."""
    fit_quality: float = float("nan")
    """That gain as part of what exact predictions at the same nodes would gain."""
    formal_sigma_mrad: float = float("nan")
    """The error from the curvature alone, before calibration: for those who calibrate."""
    opacity: float = float("nan")
    """Thickness over the shortest extinction length; structure known only."""
    spread_mrad: float = float("nan")
    """How far rival tops lie, weighted by how likely they still are; structure known only."""
    further_electrons: float | None = None
    """Without an answer: how many more electrons would settle it; None where more would not."""
    first: FirstAnswer | None = None
    """The first answer on the way to this one; structure known only."""

    @property
    def misorientation_deg(self) -> float:
        """Angle between zone axis and beam."""
        return float(np.rad2deg(np.hypot(self.tilt_x_mrad, self.tilt_y_mrad) * 1e-3))

    def as_record(self) -> dict[str, Any]:
        """The entry of ``result.patterns`` in the JSON of ``lodestem align``; NaN becomes None."""
        names = (
            "tilt_x_mrad", "tilt_y_mrad", "sigma_mrad", "centre_x_px", "centre_y_px",
            "inv_A_per_px", "in_plane_rotation_deg", "misorientation_deg", "circle_radius_inv_A",
            "thickness_nm", "explained_fraction", "log_gain", "fit_quality",
            "formal_sigma_mrad", "electrons_used", "elapsed_ms",
        )  # fmt: skip
        record: dict[str, Any] = {n: _finite(float(getattr(self, n))) for n in names}
        record["answered"] = self.answered
        record["reason"] = self.reason
        record["mode"] = self.mode
        record["further_electrons"] = self.further_electrons
        record["spots_used"] = len(self.marks.used_px)
        record["spots_rejected"] = len(self.marks.rejected_px)
        record["alternatives"] = [
            {
                "tilt_x_mrad": a.tilt_x_mrad,
                "tilt_y_mrad": a.tilt_y_mrad,
                "log_likelihood_gap": a.log_likelihood_gap,
            }
            for a in self.alternatives
        ]
        if self.first is not None:
            record["first"] = {
                "tilt_x_mrad": _finite(self.first.tilt_x_mrad),
                "tilt_y_mrad": _finite(self.first.tilt_y_mrad),
                "sigma_mrad": _finite(self.first.sigma_mrad),
                "answered": self.first.answered,
                "elapsed_ms": self.first.elapsed_ms,
            }
        if self.orientation is not None:
            record["orientation"] = self.orientation.tolist()
        return record


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
