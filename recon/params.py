"""What a user may fix or choose; everything left alone is chosen from the data."""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recon.errors import ReconError

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


Refinable = Literal[
    "defocus_A", "C12a_A", "C12b_A", "rotation_deg", "tilt_row_mrad", "tilt_col_mrad",
    "scale", "stretch", "shear", "drift_along", "drift_across", "thickness_A",
]  # fmt: skip


class ParameterError(ReconError):
    """The parameter file holds an unknown key or an impossible value; nothing was reconstructed."""


class ReconstructionParams(BaseModel):
    """Settings of ``reconstruct``; the defaults do the right thing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["multislice", "parallax"] = "multislice"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 2

    defocus_A: Finite | None = None
    """Fix the defocus (positive is underfocus) instead of measuring it."""
    rotation_deg: Finite | None = None
    """Fix the scan rotation instead of measuring it."""
    thickness_A: Positive | None = None
    """Fix the thickness; else refined from the header's nominal one, or from 200 Å."""
    tilt_mrad: tuple[Finite, Finite] | None = None
    """Fix the tilt of the beam in the specimen (row, col); else refined from zero."""
    n_slices: Annotated[int, Field(ge=1, le=64)] | None = None
    slice_thickness_A: Positive = 60.0
    """Slabs at most this thick are used where ``n_slices`` is not given."""

    nominal_defocus_A: Finite | None = None
    """Nominal defocus at the specimen, where the file's header holds only what the lens was set to
    and the specimen was not at eucentric height."""
    search_defocus_A: Positive = 1200.0
    """How far from nominal the defocus is looked for."""
    search_rotation_deg: Annotated[float, Field(gt=0, le=90)] = 90.0
    """How far from nominal the scan rotation is looked for; half a turn more only changes the side
    of focus, so that 90 degrees are everything."""
    refine: tuple[Refinable, ...] = (
        "defocus_A", "C12a_A", "C12b_A", "tilt_row_mrad", "tilt_col_mrad", "thickness_A",
        "rotation_deg", "scale", "stretch", "shear",
    )  # fmt: skip
    """What is refined together with the object; what is fixed above stays."""
    refine_patterns: Annotated[int, Field(ge=16)] = 120
    """Patterns from which the Fisher information of the refinement is taken."""

    calibration_passes: Annotated[int, Field(ge=0, le=1000)] = 10
    """Passes over the inner part of the patterns that refine the calibration beforehand."""

    max_passes: Annotated[int, Field(ge=1, le=1000)] = 16
    patience: Annotated[int, Field(ge=1)] = 2
    held_out_fraction: Fraction = 0.1
    half_set_frc: bool = True

    step: Positive = 0.5
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    batch: Annotated[int, Field(ge=1)] = 128
    slice_coupling: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0: all slices equal; 1: free slices."""
    floor_fraction: Positive = 0.2
    positivity: bool = True

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read settings from a YAML file.

        Raises
        ------
        ParameterError
            Not a mapping, a misspelt key or an impossible value.
        """
        try:
            fields = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
            return cls.model_validate(fields)
        except (ValidationError, yaml.YAMLError) as problems:
            raise ParameterError(f"{path}: {problems}") from problems
