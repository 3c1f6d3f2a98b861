"""How a 4D-STEM scan was made: optics, raster, detector, exposure, provenance.

Conventions: positive defocus is underfocus (C10 = -defocus); axes are
(scan_y, scan_x, det_y, det_x); without flips +scan_y = +row = +det_y; the scan frame is turned by
``scan_rotation_deg`` against the detector, Rot = [[cos, -sin], [sin, cos]] acting on (row, col).
"""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Shape2D = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]


class ProcessStep(BaseModel):
    """One program that made or changed the data (NXprocess)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    program: str
    version: str = ""
    commit: str = ""
    parameters_json: str = "{}"
    input_sha256: tuple[str, ...] = ()


class ScanHeader(BaseModel):
    """Everything a reconstruction needs to know about a scan besides its counts.

    ``defocus_A``, ``scan_rotation_deg`` and ``nominal_thickness_A`` are *nominal*: what the
    instrument believed. The reconstruction measures the first two again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy_keV: Annotated[float, Field(gt=0, le=1500, allow_inf_nan=False)]
    convergence_semiangle_mrad: Positive
    defocus_A: Finite = 0.0
    """Positive is underfocus: crossover downstream of the entrance surface."""
    scan_step_A: Positive
    scan_rotation_deg: Finite = 0.0
    detector_sampling_mrad: Positive
    """Scattering angle per detector pixel."""
    flip_ud: bool = False
    flip_lr: bool = False
    transpose: bool = False
    beam_centre_px: tuple[Finite, Finite] | None = None
    """(row, col) of zero scattering angle in the stored frame; None is pixel (N//2, N//2)."""
    probe_current_pA: NonNegative | None = None
    dwell_s: NonNegative | None = None
    fluence_e_per_A2: NonNegative | None = None
    scan_shape: Shape2D
    frame_shape: Shape2D
    start_time: str
    run_uuid: str
    sample: str = ""
    nominal_thickness_A: Positive | None = None
    counting: Literal["electron", "thresholded", "simulated", "unknown"] = "unknown"
    process: tuple[ProcessStep, ...] = ()
    raw_headers: dict[str, str] = Field(default_factory=dict)

    @field_validator("start_time")
    @classmethod
    def _start_time_is_iso_8601(cls, text: str) -> str:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"start_time is {text!r}, not an ISO 8601 time such as 2026-03-01T22:15:00+00:00"
            ) from None
        return text

    @model_validator(mode="after")
    def _beam_centre_lies_on_the_detector(self) -> Self:
        if self.beam_centre_px is None:
            return self
        for centre, pixels, axis in zip(
            self.beam_centre_px, self.frame_shape, ("row", "col"), strict=True
        ):
            if not -0.5 <= centre <= pixels - 0.5:
                raise ValueError(
                    f"beam_centre_px {axis} {centre:g} lies outside a detector of {pixels} pixels"
                )
        return self

    @property
    def centre_px(self) -> tuple[float, float]:
        """(row, col) of zero scattering angle, the default filled in."""
        if self.beam_centre_px is not None:
            return self.beam_centre_px
        return float(self.frame_shape[0] // 2), float(self.frame_shape[1] // 2)

    @property
    def n_positions(self) -> int:
        """Scan points in the raster."""
        return self.scan_shape[0] * self.scan_shape[1]

    @property
    def n_pixels(self) -> int:
        """Pixels of one diffraction pattern."""
        return self.frame_shape[0] * self.frame_shape[1]
