"""A crystal's orientation with the goniometer reading it belongs to, as a file.

The file holds the orientation as measured (crystal to detector), the reading, and how the holder
lies on the detector; from these the orientation at every other reading follows.  For other
programs it also holds the matrix UB of the holder: g_holder = UB (h, k, l), in 1/A without a
factor 2 pi.
"""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from controller.perception.alignment.geometry import (
    HolderFrame,
    TiltVector,
    tilt_from_zone,
)
from controller.perception.alignment.holder_orientation import (
    detector_from_crystal,
    holder_from_crystal,
)
from controller.perception.alignment.moves import Goniometer
from controller.perception.alignment.result import TiltEstimate, TiltPrior
from controller.perception.alignment.structure import CrystalStructure

Array = NDArray[np.float64]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Row = tuple[Finite, Finite, Finite]
Matrix = tuple[Row, Row, Row]
Indices = tuple[int, int, int]

CONVENTIONS = (
    "Detector: x = +column, y = +row, z = electron travel. Crystal: Cartesian, a along x, c* along "
    "z, 1/A without 2 pi. v_detector = orientation v_crystal. Holder: v_stage = Rx(alpha) Ry(beta) "
    "v_holder, active, right-handed; stage X (the alpha axis) lies at tilt_axis_azimuth_deg from "
    "detector +x towards +y; mirrored: stage Y at azimuth - 90 instead of + 90 deg, and a Friedel "
    "inversion keeps the rotations proper. "
    "g_holder = ub_holder_inv_A (h, k, l)."
)


class OrientationFileError(ValueError):
    """The file is no orientation, or contradicts itself."""


class CrystalOrientation(BaseModel):
    """Orientation of one crystal at one goniometer reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["lodestem/orientation/1"] = "lodestem/orientation/1"
    conventions: str = CONVENTIONS
    crystal: str
    direct_A: Matrix
    """Rows a, b, c in A, Cartesian."""
    orientation: Matrix
    """Crystal to detector, a rotation."""
    sigma_mrad: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Radius that holds 68.3 % of the tilt errors."""
    alpha_deg: Finite
    beta_deg: Finite
    tilt_axis_azimuth_deg: Finite
    azimuth_sigma_deg: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    mirrored: bool
    energy_keV: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    ub_holder_inv_A: Matrix
    """Columns a*, b*, c* in the holder frame, 1/A."""
    utc: str = ""
    source: str = ""
    """Pattern that it was measured from."""

    @model_validator(mode="after")
    def _is_one_orientation(self) -> Self:
        rotation = np.array(self.orientation)
        off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
        if not off < 1e-6 or np.linalg.det(rotation) < 0:
            raise ValueError(
                f"orientation is no rotation (R R^T differs from 1 by {off:.2g}, "
                f"det = {np.linalg.det(rotation):+.3f}; limit 1e-6); export it again"
            )
        direct = np.array(self.direct_A)
        if not abs(np.linalg.det(direct)) > 1e-3:
            raise ValueError("direct_A spans no volume; export the orientation again")
        expected = _ub(direct, self.holder_from_crystal())
        off = float(np.abs(np.array(self.ub_holder_inv_A) - expected).max())
        if not off < 1e-5:
            raise ValueError(
                f"ub_holder_inv_A differs from orientation, reading and azimuth by {off:.2g} 1/A "
                f"(limit 1e-5): one of them was edited; correct it or export again"
            )
        return self

    @property
    def frame(self) -> HolderFrame:
        """How the holder lay on the detector."""
        return HolderFrame(self.tilt_axis_azimuth_deg, self.mirrored)

    def holder_from_crystal(self) -> Array:
        """Rotation crystal to holder, (3, 3); it stays when the goniometer moves."""
        return holder_from_crystal(
            np.array(self.orientation), self.alpha_deg, self.beta_deg, self.frame
        )

    def orientation_at(
        self, alpha_deg: float, beta_deg: float, frame: HolderFrame | None = None
    ) -> Array:
        """Crystal to detector at another reading, (3, 3).

        ``frame`` says how the holder lies on the detector then, if not as it was (another camera
        length).
        """
        return detector_from_crystal(
            self.holder_from_crystal(), alpha_deg, beta_deg, frame or self.frame
        )

    def tilt_at(
        self, uvw: Indices, alpha_deg: float, beta_deg: float, frame: HolderFrame | None = None
    ) -> TiltVector:
        """Tilt vector in mrad that a pattern of zone [uvw] would show at another reading."""
        axis = np.asarray(uvw, dtype=float) @ np.array(self.direct_A)
        return tilt_from_zone(self.orientation_at(alpha_deg, beta_deg, frame) @ axis)

    def prior_at(
        self, uvw: Indices, alpha_deg: float, beta_deg: float, *, goniometer_sigma_deg: float = 0.1
    ) -> TiltPrior:
        """What a pattern of this crystal at another reading is expected to show.

        The width grows with the error of the azimuth times the way between the readings.
        """
        way_deg = float(np.hypot(alpha_deg - self.alpha_deg, beta_deg - self.beta_deg))
        turned = np.deg2rad(way_deg) * np.deg2rad(self.azimuth_sigma_deg) * 1e3
        gonio = 1e3 * np.deg2rad(goniometer_sigma_deg)
        sigma = float(np.sqrt((self.sigma_mrad / 1.515) ** 2 + gonio**2 + turned**2))
        return TiltPrior(self.tilt_at(uvw, alpha_deg, beta_deg), sigma)

    def as_text(self) -> str:
        """UB matrix for other programs, with the reading and the conventions."""
        lines = [
            f"# {self.crystal}, orientation in the holder at alpha = {self.alpha_deg:.3f} deg, "
            f"beta = {self.beta_deg:.3f} deg",
            "# g_holder (1/A, no 2 pi) = UB (h, k, l); holder x = alpha axis, y = beta axis, "
            "z = electron travel at alpha = beta = 0",
            "UB",
            *("  ".join(f"{value:+12.8f}" for value in row) for row in self.ub_holder_inv_A),
            "CELL " + " ".join(f"{value:.5f}" for value in self._cell()),
        ]
        return "\n".join(lines) + "\n"

    def _cell(self) -> tuple[float, ...]:
        a, b, c = np.array(self.direct_A)
        lengths = [float(np.linalg.norm(v)) for v in (a, b, c)]
        angles = [
            float(np.rad2deg(np.arccos(v @ w / (np.linalg.norm(v) * np.linalg.norm(w)))))
            for v, w in ((b, c), (a, c), (a, b))
        ]
        return (*lengths, *angles)


def crystal_orientation(
    estimate: TiltEstimate,
    structure: CrystalStructure,
    goniometer: Goniometer,
    *,
    energy_keV: float,
    utc: str = "",
    source: str = "",
) -> CrystalOrientation | None:
    """What a measured tilt says about the crystal; None without an answer or a structure."""
    if not estimate.answered or estimate.orientation is None:
        return None
    to_holder = holder_from_crystal(
        estimate.orientation, goniometer.alpha_deg, goniometer.beta_deg, goniometer.frame
    )
    return CrystalOrientation(
        crystal=structure.name,
        direct_A=_matrix(structure.direct),
        orientation=_matrix(estimate.orientation),
        sigma_mrad=estimate.sigma_mrad,
        alpha_deg=goniometer.alpha_deg,
        beta_deg=goniometer.beta_deg,
        tilt_axis_azimuth_deg=goniometer.frame.tilt_axis_azimuth_deg,
        azimuth_sigma_deg=goniometer.azimuth_sigma_deg,
        mirrored=goniometer.frame.mirrored,
        energy_keV=energy_keV,
        ub_holder_inv_A=_matrix(_ub(structure.direct, to_holder)),
        utc=utc,
        source=source,
    )


def write_orientation(path: Path, content: CrystalOrientation) -> None:
    """Write JSON; with the suffix ``.ub`` or ``.txt`` the matrix as text."""
    if path.suffix.lower() in (".ub", ".txt"):
        path.write_text(content.as_text(), encoding="utf-8")
    else:
        path.write_text(json.dumps(content.model_dump(), indent=2) + "\n", encoding="utf-8")


def read_orientation(path: Path) -> CrystalOrientation:
    """Read the JSON that `write_orientation` wrote.

    Raises
    ------
    OrientationFileError
        Missing, no JSON, or contradicting itself.
    """
    try:
        return CrystalOrientation.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise OrientationFileError(f"{path}: cannot be read ({problem.strerror})") from problem
    except ValidationError as problems:
        told = "; ".join(
            f"{'.'.join(str(p) for p in e['loc']) or 'the file'}: {e['msg']}"
            for e in problems.errors()
        )
        raise OrientationFileError(f"{path}: not an orientation file: {told}") from problems


def _ub(direct: Array, holder_from_crystal: Array) -> Array:
    return np.asarray(holder_from_crystal @ np.linalg.inv(direct), dtype=float)


def _matrix(values: Array) -> Matrix:
    a, b, c = ((float(r[0]), float(r[1]), float(r[2])) for r in values)
    return a, b, c
