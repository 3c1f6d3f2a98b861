"""Scenarios: what lies on the grid, how the machine behaves and what goes wrong, as YAML.

Every key has a default, so a scenario states only what is special about it.  The shipped ones lie
in ``sim_microscope/scenarios``; a user's own is a path.  A mistake is answered with the key, the
value, the limit and the remedy.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FOLDER = Path(__file__).parent / "scenarios"

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Range = tuple[NonNegative, NonNegative]
Zone = tuple[int, int, int]


class ScenarioError(ValueError):
    """A scenario cannot be read; the message names key, value, limit and remedy."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FilmSpec(_Part):
    """The support film."""

    kind: Literal["holey", "lacey", "continuous", "none"] = "holey"
    thickness_nm: NonNegative = 14.0
    roughness: Annotated[float, Field(ge=0, le=0.6)] = 0.12
    """Relative standard deviation of the thickness."""
    open_share: Annotated[float, Field(ge=0, le=0.8)] = 0.3
    """Share of the area that is hole."""
    hole_radius_um: Range = (0.35, 0.9)
    height_sigma_um: NonNegative = 0.15
    """Buckling: standard deviation of the height about the eucentric plane."""
    height_offset_um: Finite = 0.0
    """Height of the whole grid above the eucentric plane when the stage reads z = 0."""


class BarSpec(_Part):
    """A bar of the grid along one edge of the field."""

    side: Literal["left", "right", "top", "bottom"] = "left"
    inset_um: NonNegative = 0.8
    """How far the bar reaches into the field."""


class CrystalGroup(_Part):
    """Crystals that are drawn alike."""

    structure: str = "UiO-66"
    """Shipped structure or path of a CIF, relative to the scenario file."""
    count: Annotated[int, Field(ge=1, le=400)] = 6
    role: Literal["usable", "unreachable", "thick", "aggregate"] = "usable"
    """Usable: thin, alone and within the holder's reach.  An aggregate is 2 to 4 in a heap."""
    width_nm: tuple[Positive, Positive] = (250.0, 900.0)
    thickness_nm: tuple[Positive, Positive] = (20.0, 80.0)
    zones: Annotated[tuple[Zone, ...], Field(min_length=1)] = ((0, 0, 1), (1, 1, 1), (0, 1, 1))
    """Directions that the crystals lie along (their facets), and that are wanted."""
    misorientation_deg: Range = (0.5, 12.0)
    """Of the nearest of `zones` from the beam, with the holder untilted."""
    mosaic_deg: NonNegative = 0.04
    """Standard deviation of the orientation between blocks."""
    bend_deg: NonNegative = 0.1
    """Change of orientation from end to end."""
    flake: bool = True
    """Flat faces across the direction they lie along; otherwise the bare habit."""

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name in ("width_nm", "thickness_nm", "misorientation_deg"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(
                    f"{name} = ({low:g}, {high:g}) descends; write the smaller number first"
                )
        if any(zone == (0, 0, 0) for zone in self.zones):
            raise ValueError("zones holds (0, 0, 0), which is no direction; remove it")
        return self


class GoldSpec(_Part):
    """A strip of fine-grained gold beside the field, as a standard; seen by diffraction only."""

    from_x_um: Finite = 10.0
    """The strip lies at holder x from here on."""
    half_height_um: Positive = 20.0
    """It reaches as far as this to both sides of y = 0."""
    thickness_nm: Annotated[float, Field(ge=1, le=40)] = 10.0
    grain_nm: Annotated[float, Field(ge=2, le=50)] = 8.0


class SpecimenSpec(_Part):
    """What lies on the grid."""

    field_um: Annotated[float, Field(gt=1, le=60)] = 12.0
    """Side of the square about (0, 0) that holds the crystals."""
    film: FilmSpec = FilmSpec()
    bar: BarSpec | None = None
    contamination: Annotated[int, Field(ge=0, le=200)] = 3
    """Number of dirt patches."""
    crystals: Annotated[tuple[CrystalGroup, ...], Field(min_length=1)] = (CrystalGroup(),)
    gold: GoldSpec | None = None
    """A standard for the camera constant; most specimens have none."""


class AxisSpec(_Part):
    """Manners of one axis, in its unit (µm or degrees)."""

    low: Finite
    high: Finite
    speed_per_s: Positive
    play: NonNegative = 0.0
    """Full width of the backlash: the specimen lags the drive by half of it on either side."""
    repeatability: NonNegative = 0.0
    read_noise: NonNegative = 0.0
    creep: Share = 0.0
    """Share of a move (at most five times the repeatability) that comes late, over seconds."""

    @model_validator(mode="after")
    def _range_ascends(self) -> Self:
        if not self.low < self.high:
            raise ValueError(
                f"low = {self.low:g} is not below high = {self.high:g}; swap them or widen"
            )
        return self


class StageSpec(_Part):
    """The goniometer and the holder."""

    x: AxisSpec = AxisSpec(
        low=-900, high=900, speed_per_s=6, play=0.12, repeatability=0.03, read_noise=0.004
    )
    y: AxisSpec = AxisSpec(
        low=-900, high=900, speed_per_s=6, play=0.12, repeatability=0.03, read_noise=0.004
    )
    z: AxisSpec = AxisSpec(
        low=-200, high=200, speed_per_s=3, play=0.1, repeatability=0.05, read_noise=0.01
    )
    alpha: AxisSpec = AxisSpec(
        low=-30, high=30, speed_per_s=2, play=0.12, repeatability=0.015, read_noise=0.003
    )
    beta: AxisSpec = AxisSpec(
        low=-20, high=20, speed_per_s=1, play=0.16, repeatability=0.02, read_noise=0.004
    )
    settle_s: NonNegative = 0.4
    drift_nm_per_s: NonNegative = 0.01
    """Speed of the steady drift."""
    drift_kick_nm_per_s: NonNegative = 0.15
    """Speed of the thermal drift right after a long move; it decays."""
    drift_decay_s: Positive = 60.0
    jump_probability: Share = 0.002
    """Chance per move that the goniometer jumps once it has arrived."""
    jump_um: NonNegative = 0.08

    @model_validator(mode="after")
    def _tilts_are_tilts(self) -> Self:
        for name in ("alpha", "beta"):
            axis: AxisSpec = getattr(self, name)
            if max(abs(axis.low), abs(axis.high)) > 90:
                raise ValueError(
                    f"{name} from {axis.low:g} to {axis.high:g} deg: no goniometer tilts beyond "
                    f"90 deg; give the range of a holder"
                )
        return self


class OpticsSpec(_Part):
    """Lenses and deflectors, and how wrong the stored calibration is."""

    image_rotation_deg: Finite = 37.0
    image_mirrored: bool = False
    tilt_axis_azimuth_deg: Finite = -62.0
    diffraction_mirrored: bool = False
    scan_rotation_deg: Finite = 12.0
    pixel_size_error: NonNegative = 0.015
    camera_constant_error: NonNegative = 0.012
    azimuth_error_deg: NonNegative = 0.8
    """These three are one sigma of the difference between stored and true value."""
    shift_cross_talk: Share = 0.02
    mode_offset_nm: NonNegative = 25.0
    """One sigma of how far the beam of a mode lies from the optical axis."""
    C12_nm: NonNegative = 1.5
    C21_nm: NonNegative = 15.0
    C30_mm: NonNegative = 0.005
    objective_aperture_mrad: Annotated[float, Field(ge=1, le=50)] = 3.0
    """Semi-angle of the aperture that makes the contrast of images."""
    source_size_nm: NonNegative = 0.03
    energy_spread_eV: NonNegative = 0.6
    camera_direct_beam_px: Finite = 1.5
    """One sigma of the direct beam's distance from the middle of the diffraction detector."""
    beam_tilt_rotation_deg: Finite = 0.0
    """Turn of the beam-tilt coils against the alpha axis."""
    beam_tilt_gain_error: Share = 0.0
    beam_tilt_cross_talk: Share = 0.0
    """One sigma of each gain and of each off-diagonal term of the tilt coils."""
    descan_error: Share = 0.0
    """One sigma of each term of the direct beam's walk, in mrad per mrad of beam tilt."""
    ellipticity: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    """Long over short axis, less one, of a ring on the diffraction camera."""
    ellipse_azimuth_deg: Finite = 0.0
    """Of the long axis on the camera, from +x towards +y."""


class BeamSpec(_Part):
    """Gun and blanker."""

    max_current_pA: Positive = 300.0
    current_drift_per_h: Annotated[float, Field(ge=-0.9, le=2)] = -0.04
    current_noise: Annotated[float, Field(ge=0, le=0.2)] = 0.004
    read_noise: Annotated[float, Field(ge=0, le=0.2)] = 0.01
    flash_gain: Annotated[float, Field(gt=0, le=3)] = 1.12
    """Factor of the current right after a flash."""
    blank_latency_s: NonNegative = 0.001
    edge_share: Annotated[float, Field(ge=0, le=0.1)] = 0.04
    """Width of the disc's soft edge (one sigma), as a share of its radius."""


class DetectorSpec(_Part):
    """The camera and the two counting detectors."""

    camera_px: Annotated[int, Field(ge=32, le=4096)] = 512
    diffraction_px: Annotated[int, Field(ge=32, le=2048)] = 256
    scan_px: Annotated[int, Field(ge=16, le=512)] = 64
    camera_gain: Positive = 11.0
    camera_offset: NonNegative = 120.0
    camera_read_noise: NonNegative = 4.0
    """Standard deviation in counts."""
    camera_blur_px: NonNegative = 0.55
    dead_pixels: Annotated[int, Field(ge=0, le=500)] = 8
    hot_pixels: Annotated[int, Field(ge=0, le=500)] = 3
    unlisted_bad_pixels: Annotated[int, Field(ge=0, le=50)] = 2
    hot_rate_per_s: NonNegative = 400.0
    count_rate_limit_per_px_s: Positive = 4e6
    """Rate at which coincidences hide a share 1/e of the electrons."""
    counting_saturation: Positive = 65535.0


class DamageSpec(_Part):
    """Radiation damage."""

    enabled: bool = True
    critical_fluence_factor: Positive = 1.0
    """Multiplies the structure's critical fluence."""


class Scenario(_Part):
    """One night's world."""

    name: str = "unnamed"
    description: str = ""
    energy_keV: Annotated[float, Field(ge=30, le=1500)] = 300.0
    specimen: SpecimenSpec = SpecimenSpec()
    stage: StageSpec = StageSpec()
    optics: OpticsSpec = OpticsSpec()
    beam: BeamSpec = BeamSpec()
    detectors: DetectorSpec = DetectorSpec()
    damage: DamageSpec = DamageSpec()
    faults: tuple[str, ...] = ()
    """As on the command line: ``NAME@WHEN``."""


def shipped_scenarios() -> tuple[str, ...]:
    """Names of the scenarios that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_scenario(name_or_path: str | Path) -> Scenario:
    """Read a shipped scenario by name, or a file.

    Raises
    ------
    ScenarioError
        No such scenario, no YAML, or a key or value that does not fit.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ScenarioError(
                f"there is no scenario file {path}; give the path of a YAML file or one of "
                f"{', '.join(shipped_scenarios())}"
            )
    else:
        path = FOLDER / f"{name_or_path}.yaml"
        if not path.is_file():
            raise ScenarioError(
                f"no scenario is called {str(name_or_path)!r}; there are "
                f"{', '.join(shipped_scenarios())}, or give the path of a file ending in .yaml"
            )
    return _parse(path, path.read_text(encoding="utf-8"))


@cache
def _parse(path: Path, text: str) -> Scenario:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        raise ScenarioError(f"{path}: not valid YAML: {problem}; correct that line") from problem
    if not isinstance(content, dict):
        raise ScenarioError(
            f"{path}: a scenario is a mapping of keys such as 'specimen:' and 'stage:', "
            f"this file holds {type(content).__name__}; see the shipped ones for examples"
        )
    content.setdefault("name", path.stem)
    _resolve_structures(content, path.parent)
    try:
        return Scenario.model_validate(content)
    except ValidationError as problems:
        raise ScenarioError(f"{path}: " + "; ".join(_explain(problems))) from problems


def _resolve_structures(content: dict[str, object], folder: Path) -> None:
    """A CIF beside the scenario file is named relative to it."""
    specimen = content.get("specimen")
    groups = specimen.get("crystals") if isinstance(specimen, dict) else None
    for group in groups if isinstance(groups, list) else ():
        name = group.get("structure") if isinstance(group, dict) else None
        if isinstance(name, str) and name.endswith(".cif") and not Path(name).is_absolute():
            group["structure"] = str(folder / name)


def _explain(problems: ValidationError) -> list[str]:
    told = []
    for problem in problems.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "the file as a whole"
        if problem["type"] == "extra_forbidden":
            allowed = ", ".join(_keys_beside(problem["loc"]))
            told.append(f"{key}: unknown key; the keys here are {allowed}. Correct or remove it")
        else:
            value = "" if problem["type"] == "missing" else f" (it is {problem['input']!r})"
            said = problem["msg"].removeprefix("Value error, ")
            told.append(f"{key}{value}: {said}. Change this key")
    return told


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """Keys allowed where the last part of `location` was found."""
    model: type[BaseModel] = Scenario
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = _models_in(annotation)[0]
    return list(model.model_fields)


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[type[BaseModel]] = []
    for argument in getattr(annotation, "__args__", ()):
        found += _models_in(argument)
    return found
