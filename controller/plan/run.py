"""The run plan: a night as one frozen value that can be printed, diffed, checked and costed.

A plan is a YAML file.  Unknown keys, non-finite numbers and nonsense are refused with the key,
the value, the limit and the remedy; whatever depends on the instrument is checked by
:mod:`controller.plan.feasibility` before anything moves.
"""

from __future__ import annotations

import hashlib
import json
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from controller.hardware.values import Axis, Finite, Frozen, NonNegative, Positive, StageLimits
from controller.plan.materials import MaterialError, load_material
from controller.plan.notifications import NotificationPlan
from controller.plan.recovery import RecoveryRule, check_rules

SCHEMA = "lodestem/plan/1"

Zone = tuple[int, int, int]


class PlanError(ValueError):
    """A plan that cannot be used; the message names key, value, limit and remedy."""


class RunMode(StrEnum):
    """Who decides, and on what."""

    UNATTENDED = "unattended"
    SUPERVISED = "supervised"
    REHEARSAL = "rehearsal"


class InstrumentPlan(Frozen):
    """Which driver to open, with its options."""

    backend: str = "sim"
    options: dict[str, str | int | float | bool | tuple[str, ...] | None] = Field(
        default_factory=dict
    )
    calibration: Path | None = None
    """Calibration file of `lodestem calibrate`; relative to the plan.  It replaces what the
    instrument believes of itself, where it was measured at the plan's settings."""


class SamplePlan(Frozen):
    """What is on the grid."""

    material: str
    """Name in the library of materials, or any name if `structure` is given."""
    structure: Path | None = None
    """CIF file; relative to the plan. Default: the library's."""
    target_zones: tuple[Zone, ...] = ()
    """Zone axes [uvw] that are worth a scan, in order of preference. Default: the library's."""
    critical_dose_e_per_A2: Positive | None = None
    """Fluence at which Bragg spots have faded to 1/e. Default: the library's."""

    @field_validator("target_zones")
    @classmethod
    def _zones_are_directions(cls, zones: tuple[Zone, ...]) -> tuple[Zone, ...]:
        for zone in zones:
            if zone == (0, 0, 0):
                raise ValueError("[0, 0, 0] is no direction; give the indices uvw of a zone axis")
        return zones


class SurveyPlan(Frozen):
    """Low-magnification mosaic; width and height run along the camera's axes."""

    centre_um: tuple[Finite, Finite] = (0.0, 0.0)
    field_um: tuple[Positive, Positive] = (10.0, 10.0)
    pixel_size_nm: Annotated[float, Field(ge=1, le=50)] = 10.0
    overlap: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    flux_e_per_A2_s: Annotated[float, Field(gt=0, le=0.1)] = 1e-3
    electrons_per_px: Annotated[float, Field(gt=0, le=200)] = 4.0
    """First look at a tile."""
    most_electrons_per_px: Annotated[float, Field(gt=0, le=800)] | None = None
    """All looks at a tile together, as long as the picker is not sure.  None: four times the first
    look; the first look's own value: one look."""

    @model_validator(mode="after")
    def _most_is_no_less_than_the_first(self) -> Self:
        if self.most < self.electrons_per_px:
            raise ValueError(
                f"survey.most_electrons_per_px = {self.most:g} is below "
                f"survey.electrons_per_px = {self.electrons_per_px:g}; raise it, or leave it out"
            )
        return self

    @property
    def most(self) -> float:
        """Electrons per pixel of all looks at a tile, at most."""
        given = self.most_electrons_per_px
        return 4 * self.electrons_per_px if given is None else given

    @property
    def most_fluence_e_per_A2(self) -> float:
        """Of all looks at a tile, at most."""
        return self.fluence_e_per_A2 * self.most / self.electrons_per_px

    @property
    def fluence_e_per_A2(self) -> float:
        """Fluence of the first look at a tile."""
        return self.electrons_per_px / (self.pixel_size_nm * 10.0) ** 2

    @property
    def frame_s(self) -> float:
        """Exposure of the first look at the planned flux."""
        return self.fluence_e_per_A2 / self.flux_e_per_A2_s


class TargetPlan(Frozen):
    """Which crystals are worth a visit, and how many."""

    wanted: Annotated[int, Field(ge=1, le=10_000)] = 4
    """The run is done when so many scans were accepted."""
    minimum: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Fewer accepted scans than this are a finding. Default: `wanted`."""
    max_visited: Annotated[int, Field(ge=1, le=10_000)] = 40
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Least probability to be usable; the diffraction pattern is the second look."""
    min_radius_nm: Positive = 70.0

    @property
    def goal(self) -> int:
        """Accepted scans with which the run counts as a success."""
        return self.wanted if self.minimum is None else min(self.minimum, self.wanted)


class AlignmentPlan(Frozen):
    """From wherever the crystal lies onto its zone axis."""

    targets: Literal["nearest", "best_reachable"] = "best_reachable"
    """Nearest: the wanted zone that the pattern shows, or none.  Best reachable: among all members
    of all wanted zones the one that the holder reaches at the least cost."""
    tolerance_deg: Annotated[float, Field(gt=0, le=5)] = 0.05
    """Goal for the angle between zone axis and incident beam."""
    acceptable_deg: Annotated[float, Field(gt=0, le=5)] = 0.1
    """Good enough for a scan once moves or budget are spent."""
    budget_e_per_A2: Annotated[float, Field(gt=0, le=20)] = 0.5
    """For everything before the scan: survey, tracking, focus and patterns, per crystal."""
    max_moves: Annotated[int, Field(ge=1, le=50)] = 6
    max_step_deg: Annotated[float, Field(gt=0, le=90)] = 45.0
    beam_tilt_within_deg: Annotated[float, Field(ge=0, le=2)] = 0.5
    """What is left within this is taken out by tilting the beam, which has no play; 0 leaves
    everything to the goniometer.  Off-axis aberrations grow with the tilt of the beam."""
    beam_diameter_nm: Annotated[float, Field(ge=20, le=5000)] = 250.0
    coarse_electrons: Annotated[float, Field(ge=500, le=1e7)] = 6000.0
    """On the crystal, for a pattern far from the axis: enough to be read."""
    max_electrons: Annotated[float, Field(ge=500, le=1e8)] = 120_000.0
    """The most for any one pattern, however unreadable those before it were."""
    wanted_sigma_deg: Annotated[float, Field(gt=0, le=1)] = 0.016
    """Of a pattern near the axis, radius that holds 68 %: what the dose plan aims at."""
    confirm: bool = True
    """Two patterns near the axis, one of them after the beam was tilted onto it, have to agree
    before the scan: a single one may fall into a wrong minimum and not know it."""
    max_patterns: Annotated[int, Field(ge=2, le=50)] = 8
    frame_s: Positive = 0.5
    detector_sampling_mrad: Positive = 0.25
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Patterns taken, each with more electrons, before an unreadable crystal is left or its last
    tilt is undone."""

    @model_validator(mode="after")
    def _tolerances_are_ordered(self) -> Self:
        if self.acceptable_deg < self.tolerance_deg:
            raise ValueError(
                f"acceptable_deg = {self.acceptable_deg:g} is tighter than "
                f"tolerance_deg = {self.tolerance_deg:g}; give a value of at least that"
            )
        if self.max_electrons < self.coarse_electrons:
            raise ValueError(
                f"max_electrons = {self.max_electrons:g} is less than coarse_electrons = "
                f"{self.coarse_electrons:g}; give a value of at least that"
            )
        return self


class TrackingPlan(Frozen):
    """Low-dose pictures that keep the crystal under the beam."""

    pixel_size_nm: Annotated[float, Field(ge=0.5, le=50)] = 6.0
    electrons_per_px: Annotated[float, Field(gt=0, le=200)] = 4.0
    frame_s: Positive = 0.5
    recentre_above_nm: Positive = 40.0
    lost_below_correlation: Annotated[float, Field(ge=0, le=1)] = 0.3
    search_nm: Positive = 450.0
    """How far from the expected place the crystal is looked for; a like one may lie beyond."""

    @property
    def fluence_e_per_A2(self) -> float:
        """Fluence of one picture."""
        return self.electrons_per_px / (self.pixel_size_nm * 10.0) ** 2


class HeightPlan(Frozen):
    """Eucentric height, and with it the focus, from pictures at two tilts."""

    tilt_deg: Annotated[float, Field(gt=1, le=30)] = 18.0
    """To both sides; 1 um of height shows as 2 tan(tilt) um of shift."""
    electrons_per_px: Annotated[float, Field(gt=0, le=200)] = 8.0
    """Of these pictures: their shift has to be known to a pixel or two, for the focus."""
    move_above_um: Positive = 0.3
    """A larger offset is taken out by the stage and measured again; a smaller one by the lens."""
    sigma_below_um: Positive = 0.05
    """A height known worse than this is measured again: the specimen drifted or jumped."""
    max_attempts: Annotated[int, Field(ge=1, le=5)] = 3


class ScanPlan(Frozen):
    """The 4D-STEM data set."""

    shape: tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]] = (44, 44)
    step_A: Annotated[float, Field(gt=0, le=100)] = 1.5
    fluence_e_per_A2: Annotated[float, Field(gt=0, le=1e6)] = 120.0
    least_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Where what the neighbours received leaves less than the fluence, a crystal is scanned with
    what is left, if that is at least this share of it."""
    dwell_s: Annotated[float, Field(gt=0, le=1)] = 1e-3
    convergence_semiangle_mrad: Annotated[float, Field(gt=0, le=60)] = 10.0
    defocus_nm: Annotated[float, Field(ge=-2000, le=2000, allow_inf_nan=False)] = 55.0
    """At the crystal: its measured height is taken into account.  Far enough from zero that an
    error of the height does not turn its sign."""
    detector_sampling_mrad: Annotated[float, Field(gt=0, le=10)] = 0.75

    @property
    def electrons_per_position(self) -> float:
        """Mean electrons of one pattern."""
        return self.fluence_e_per_A2 * self.step_A**2


class ReconstructionPlan(Frozen):
    """How the scans are looked at during the run."""

    enabled: bool = True
    accept_resolution_A: Positive = 5.0
    """A scan counts as a success if the electrons confirm its reconstruction, and both its lattice
    limit and its FRC resolution are at most this:
    for a framework of 20 A cells, reflections of several orders stand out of the noise."""
    modelled_time_s: NonNegative = 60.0
    """Virtual time that a reconstruction takes in simulation, beside the night or not."""
    max_passes: Annotated[int, Field(ge=1, le=500)] | None = None
    workers: Annotated[int, Field(ge=0, le=64)] | None = None
    """Processes that reconstruct while the night goes on; 0: the night waits for each result.
    Default: 1, and 0 on a simulated instrument in virtual time."""
    scheduler: str = ""
    """Address of a Dask scheduler whose workers see the run folder, instead of processes here."""
    most_waiting: Annotated[int, Field(ge=1, le=1000)] = 4
    """With so many scans waiting for their reconstruction, no further one is taken."""

    @property
    def is_beside(self) -> bool:
        """Whether reconstructions run beside the night."""
        return self.enabled and bool(self.workers or self.scheduler)


class AgentPlan(Frozen):
    """What the agent may settle by what the night has shown it."""

    order: Literal["yield", "score", "survey"] = "yield"
    """Which crystal comes next: the one of most accepted scans per hour to be expected; the one
    of the best score; or as the survey came by them."""
    look_first: bool = True
    """Whether a pattern tells that a crystal can be read and an axis reached before its height is
    measured, which takes most of the time of a visit."""
    adapt_fluence: bool = True
    """Whether reconstructions that fall short raise the fluence of the scans that follow."""
    most_fluence_share: Annotated[float, Field(ge=1, le=5)] = 1.5
    """Of the planned fluence, at most; the dose budget of the specimen holds in any case."""


class LimitsPlan(Frozen):
    """Limits of this run; the instrument's own always hold too."""

    alpha_deg: tuple[Finite, Finite] | None = None
    beta_deg: tuple[Finite, Finite] | None = None
    x_um: tuple[Finite, Finite] | None = None
    y_um: tuple[Finite, Finite] | None = None
    z_um: tuple[Finite, Finite] | None = None

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Self:
        for name in type(self).model_fields:
            span = getattr(self, name)
            if span is None:
                continue
            if not span[0] <= span[1]:
                raise ValueError(f"{name} = {span} is empty; give [low, high]")
            if name.endswith("_deg") and max(map(abs, span)) > 90:
                raise ValueError(
                    f"{name} = {span}: no goniometer tilts beyond 90 deg; give the holder's range"
                )
        return self

    def stage_limits(self) -> StageLimits:
        """As a box for the guard."""
        spans = {axis: getattr(self, axis.value) for axis in Axis}
        return StageLimits(ranges={axis: span for axis, span in spans.items() if span is not None})


class BudgetPlan(Frozen):
    """What the run may use up."""

    specimen_e_per_A2: Positive | None = None
    """For any 100 nm cell, all purposes. Default: 0.9 of the material's critical dose."""
    time_h: Annotated[float, Field(gt=0, le=200)] = 10.0
    disk_GB: Positive = 50.0


class ApprovalPlan(Frozen):
    """Supervised mode: what happens when nobody answers. Silence never approves."""

    wait_s: Positive = 600.0
    on_silence: Literal["hold", "skip"] = "hold"


class RunPlan(Frozen):
    """A whole run."""

    schema_name: Literal["lodestem/plan/1"] = Field(default="lodestem/plan/1", alias="schema")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9 _.-]{1,80}$")] = "run"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    instrument: InstrumentPlan = InstrumentPlan()
    sample: SamplePlan
    survey: SurveyPlan = SurveyPlan()
    targets: TargetPlan = TargetPlan()
    tracking: TrackingPlan = TrackingPlan()
    alignment: AlignmentPlan = AlignmentPlan()
    height: HeightPlan = HeightPlan()
    scan: ScanPlan = ScanPlan()
    reconstruction: ReconstructionPlan = ReconstructionPlan()
    agent: AgentPlan = AgentPlan()
    limits: LimitsPlan = LimitsPlan()
    budget: BudgetPlan = BudgetPlan()
    approval: ApprovalPlan = ApprovalPlan()
    notifications: NotificationPlan = NotificationPlan()
    recovery: Annotated[dict[str, RecoveryRule], AfterValidator(check_rules)] = Field(
        default_factory=dict
    )
    """By class of fault: what to do instead of what `lodestem config recovery` prints."""
    library: str | None = None
    """SQLAlchemy URL of the library of experiments. Default: ``library.sqlite`` beside the run."""

    model_config = Frozen.model_config | {"populate_by_name": True}

    @classmethod
    def from_yaml(cls, path: Path) -> RunPlan:
        """Read a plan file.

        Raises
        ------
        PlanError
            Not readable, not YAML, or not a plan: all problems at once, each with its key.
        """
        try:
            text = path.read_text(encoding="utf-8")
            data = yaml.safe_load(text)
        except OSError as error:
            raise PlanError(f"{path}: cannot be read ({error.strerror})") from error
        except yaml.YAMLError as error:
            raise PlanError(f"{path}: not YAML: {error}") from error
        if not isinstance(data, dict):
            raise PlanError(f"{path}: a plan is a mapping of keys; this is {type(data).__name__}")
        return cls.from_mapping(data, base=path.parent, source=str(path))

    @classmethod
    def from_mapping(cls, data: dict[str, Any], *, base: Path, source: str) -> RunPlan:
        """Validate `data`; relative file names are taken from `base`.

        Raises
        ------
        PlanError
            All problems at once.
        """
        try:
            plan = cls.model_validate(data).resolved(base)
        except ValidationError as error:
            raise PlanError(explain(error, source)) from None
        except MaterialError as error:
            raise PlanError(f"{source}: sample: {error}") from error
        return plan

    def resolved(self, base: Path) -> RunPlan:
        """Fill in what the library of materials knows, and make file names absolute."""
        sample = self.sample
        if sample.structure is not None:
            path = sample.structure if sample.structure.is_absolute() else base / sample.structure
            if not path.is_file():
                raise MaterialError(f"structure = {path} is no file; give the path of a CIF")
            if not sample.target_zones:
                raise MaterialError(
                    "target_zones is missing; with a structure of your own give the zones [uvw]"
                )
            critical = sample.critical_dose_e_per_A2
            if critical is None:
                raise MaterialError(
                    "critical_dose_e_per_A2 is missing; with a structure of your own give the "
                    "fluence that it survives"
                )
            sample = sample.replace(structure=path)
        else:
            material = load_material(sample.material)
            sample = sample.replace(
                structure=material.structure,
                target_zones=sample.target_zones or material.target_zones,
                critical_dose_e_per_A2=sample.critical_dose_e_per_A2
                or material.critical_dose_e_per_A2,
            )
        instrument = self.instrument
        if instrument.calibration is not None:
            given = instrument.calibration
            path = given if given.is_absolute() else base / given
            instrument = instrument.replace(calibration=path)
        budget = self.budget
        if budget.specimen_e_per_A2 is None:
            critical = sample.critical_dose_e_per_A2 or math.inf
            budget = budget.replace(specimen_e_per_A2=0.9 * critical)
        return self.replace(sample=sample, budget=budget, instrument=instrument)

    @property
    def structure_path(self) -> Path:
        """The CIF of the sample (a resolved plan has one)."""
        if self.sample.structure is None:
            raise PlanError("the plan was not resolved: sample.structure is missing")
        return self.sample.structure

    def fingerprint(self) -> str:
        """SHA-256 of the plan's content, file locations aside."""
        data = self.model_dump(mode="json", by_alias=True)
        structure = self.structure_path.read_bytes()
        data["sample"]["structure"] = hashlib.sha256(structure).hexdigest()
        path = self.instrument.calibration
        if path is not None:  # one that is not there is refused by `feasibility`
            held = path.read_bytes() if path.is_file() else b""
            data["instrument"]["calibration"] = hashlib.sha256(held).hexdigest()
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def explain(error: ValidationError, source: str) -> str:
    """Every problem of a validation on its own line: key, what is wrong, the value, the remedy."""
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"]) or "(whole file)"
        value = problem.get("input")
        shown = "" if isinstance(value, dict | list) else f" (value: {value!r})"
        if problem["type"] == "extra_forbidden":
            text = "unknown key; check the spelling against `lodestem config schema`"
        elif problem["type"] == "missing":
            text, shown = "missing; this key is required", ""
        else:
            text = problem["msg"].removeprefix("Value error, ") + "; correct the value"
        lines.append(f"{source}: {key}: {text}{shown}")
    return "\n".join(lines)
