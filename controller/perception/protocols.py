"""What the loop asks of its eyes: picker, aligner, reconstructor.

Small protocols, so that a surrogate can stand in for speed and a better one can replace any of
them.  All are pure over arrays and values; none sees the microscope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from controller.hardware.values import DetectorInfo, OpticsState

Zone = tuple[int, int, int]
Rows = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class RegionPick:
    """One pick in pixels of its image; `score` is the probability of being right."""

    x_px: float
    y_px: float
    radius_nm: float
    score: float
    diameter_nm: float
    reason: str = ""


@dataclass(frozen=True)
class RegionsSeen:
    """What the picker says of one field."""

    picks: tuple[RegionPick, ...]
    labels: NDArray[np.uint8]
    class_fractions: dict[str, float]
    abstained: bool = False
    reason: str = ""
    out_of_distribution: bool = False
    electrons_per_px: float | None = None
    """Mean detected electrons per pixel of all frames."""
    electrons_per_px_wanted: float | None = None
    """At which a surer answer may be expected; None if more would not help or is not needed."""


class Picker(Protocol):
    """Survey picture in, ranked regions out."""

    @property
    def model_hash(self) -> str:
        """Identifies the weights."""

    def pick(
        self,
        frames: Sequence[NDArray[np.generic]],
        *,
        detector: DetectorInfo,
        pixel_size_nm: float,
        incident_electrons_per_px: float,
    ) -> RegionsSeen:
        """Raw frames of one field to regions."""


@dataclass(frozen=True)
class TiltHint:
    """What is known before a pattern is read."""

    zone_uvw: Zone
    tilt_mrad: tuple[float, float]
    sigma_mrad: float
    in_plane_rotation_deg: float | None = None


@dataclass(frozen=True)
class AxisSeen:
    """Where a zone axis points, known from the orientation of the whole crystal."""

    zone_uvw: Zone
    """As wanted."""
    member_uvw: Zone
    """The member of its family, in the sense that runs with the beam."""
    direction: tuple[float, float, float]
    """Unit vector in the frame of the detector."""


@dataclass(frozen=True)
class TiltReading:
    """What the aligner says of one pattern; signs as in docs/conventions.md."""

    answered: bool
    reason: str
    zone_uvw: Zone | None
    tilt_mrad: tuple[float, float]
    sigma_mrad: float
    centre_px: tuple[float, float]
    """(x, y) of the direct beam."""
    inv_A_per_px: float
    mode: str
    in_plane_rotation_deg: float | None = None
    thickness_nm: float | None = None
    spots_px: tuple[tuple[float, float], ...] = ()
    alternatives: tuple[dict[str, Any], ...] = ()
    electrons_wanted: float | None = None
    """Where there is no answer: what would give one, if that is known."""
    orientation: Rows | None = None
    """Rotation crystal (Cartesian, a along x, c* along z) to detector, rows."""
    axes: tuple[AxisSeen, ...] = ()
    """All members of the wanted zones, as the orientation places them."""


class Aligner(Protocol):
    """Diffraction pattern in, tilt against the nearest wanted zone axis out."""

    def read(
        self,
        counts: NDArray[np.float32],
        *,
        optics: OpticsState,
        zones: Sequence[Zone],
        hint: TiltHint | None = None,
    ) -> TiltReading:
        """Read one pattern; never raises on a bad picture, says so instead."""


@dataclass(frozen=True)
class ReconstructionReading:
    """Numbers that decide whether a scan is accepted."""

    ok: bool
    resolution_A: float | None
    frc_half_A: float | None = None
    lattice_limit_A: float | None = None
    defocus_nm: float | None = None
    thickness_nm: float | None = None
    passes: int = 0
    stopped_because: str = ""
    verdict: str = ""
    reason: str = ""
    warnings: tuple[str, ...] = field(default_factory=tuple)


class Reconstructor(Protocol):
    """Scan file in, phase image and its quality out."""

    def reconstruct(
        self, scan_path: Path, out_dir: Path, *, expected_defocus_nm: float
    ) -> ReconstructionReading:
        """Reconstruct into `out_dir`; never raises on bad data, says so instead.

        `expected_defocus_nm` is the defocus at the specimen, which the file does not know: it
        holds the setting of the lens.
        """
