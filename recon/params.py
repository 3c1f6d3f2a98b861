"""What a user may fix or choose; everything left alone is chosen from the data."""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recon.errors import ReconError
from recon.solvers.settings import Regulariser

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

    engine: Literal["multislice", "parallax", "icom", "dpc", "ssb"] = "multislice"
    """Iterative ptychography, or a direct method for a first look."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 2
    checkpoint_every: Annotated[int, Field(ge=0)] = 2
    """Passes between two checkpoints of a reconstruction from a file; 0 keeps none."""

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

    calibration_passes: Annotated[int, Field(ge=0, le=1000)] = 16
    """Passes over the inner part of the patterns that refine the calibration beforehand."""

    max_passes: Annotated[int, Field(ge=1, le=1000)] = 16
    patience: Annotated[int, Field(ge=1)] = 2
    closing_passes: Annotated[int, Field(ge=0, le=100)] = 2
    """Passes over all electrons, those that were held out too, from the best pass on."""
    held_out_fraction: Fraction = 0.1
    half_set_frc: bool = True

    high_pass_A: Positive | None = None
    """Direct methods: fade out periods longer than this."""
    probe_deconvolution: bool = True
    """iCOM and DPC: divide out the blur by the probe as far as the noise allows."""
    ssb_overlap: Literal["double", "all"] = "all"
    """SSB: the trotters only, or also where both discs overlap the undiffracted one."""

    step: Positive = 0.5
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    batch: Annotated[int, Field(ge=1)] = 128
    slice_coupling: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = "auto"
    """0: all slices equal; 1: free slices; auto: equal ones are set free where electrons that no
    fit has seen say so."""
    floor_fraction: Positive = 0.2
    positivity: bool = True

    warm_start: Literal["none", "icom"] = "none"
    """Begin from an empty object, or from the integrated centre of mass of the same electrons."""
    solver: Literal["lsq", "adam", "lbfgs", "epie"] = "lsq"
    """How to climb. All but the default begin from the calibration that the default one finds."""
    likelihood: Literal["poisson", "anscombe", "amplitude"] = "poisson"
    """Only Poisson is unbiased at few counts."""
    probe: Literal["parametric", "free"] = "parametric"
    """A free probe is taken only where the dose carries it, else a warning says why not."""
    probe_modes: Annotated[int, Field(ge=1, le=12)] = 1
    """Incoherent modes: of a free probe, or 3, 4 or 7 points of a source of finite size."""
    source_size_A: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Standard deviation of the demagnified source at the specimen."""
    position_correction: Literal["off", "auto"] = "off"
    """Shift every position by as much as its counts carry."""
    regularisers: tuple[Regulariser, ...] = ()
    """Priors beyond positivity and slice coupling: band_limit, tv, lattice."""

    @model_validator(mode="after")
    def _modes_have_a_meaning(self) -> Self:
        if self.probe_modes > 1 and self.probe == "parametric" and not self.source_size_A:
            raise ValueError(
                f"probe_modes is {self.probe_modes} with a parametric probe of no source size; "
                f"give source_size_A, or probe: free"
            )
        if self.source_size_A and (self.probe == "free" or self.probe_modes not in (3, 4, 7)):
            raise ValueError("source_size_A belongs to a parametric probe of 3, 4 or 7 probe_modes")
        return self

    @property
    def beside_default(self) -> bool:
        """Something is asked for that only the engines of ``recon.solvers`` have."""
        return (
            (self.solver, self.likelihood, self.probe) != ("lsq", "poisson", "parametric")
            or self.probe_modes > 1
            or self.position_correction != "off"
            or any(prior.kind != "tv" for prior in self.regularisers)
        )

    @property
    def coupling(self) -> float:
        """The coupling of slices that a fit begins with."""
        return 0.0 if self.slice_coupling == "auto" else self.slice_coupling

    @property
    def variation_weight(self) -> float:
        """Weight of all total variation priors together."""
        return sum(prior.weight for prior in self.regularisers if prior.kind == "tv")

    def prior_labels(self, n_slices: int) -> tuple[str, ...]:
        """What was believed before the counts were seen, in words."""
        labels = ["phase not below zero"] if self.positivity and self.solver != "epie" else []
        if n_slices > 1 and self.solver != "epie" and self.coupling < 1:
            alike = "equal" if self.coupling == 0 else f"alike ({self.coupling:g})"
            labels.append(f"all {n_slices} slices {alike}")
        return (*labels, *(prior.label() for prior in self.regularisers))

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

    def to_yaml(self) -> str:
        """What differs from the defaults, as `from_yaml` reads it."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_defaults=True), sort_keys=False)

    def updated(self, **changes: object) -> Self:
        """Return these settings with some of them changed, checked like those of a file.

        Raises
        ------
        ParameterError
            A misspelt name or an impossible value.
        """
        try:
            return self.model_validate(self.model_dump() | changes)
        except ValidationError as problems:
            raise ParameterError(str(problems)) from problems
