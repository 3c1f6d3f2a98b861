"""What a vendor's interface does not tell and the laboratory has to: one YAML file per instrument.

Holder and its limits, speeds, cameras, calibrated illuminations, deflectors in counts, and which
interlocks somebody vouches for because nothing reads them.  Everything here is a fact about one
instrument, so none of it has a default that could be wrong in silence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from controller.hardware.errors import LimitError, ModeError
from controller.hardware.values import (
    Axis,
    AxisInfo,
    Calibration,
    ColumnHealth,
    Finite,
    Frozen,
    Mode,
    NonNegative,
    OpticsChange,
    Positive,
    StageLimits,
    Vector,
)

INTERLOCKS = tuple(name for name, field in ColumnHealth.model_fields.items() if field.is_required())
"""Names of the readings that an exposure depends on."""
DEFLECTORS = ("beam_shift_nm", "image_shift_nm")
ROW_TOLERANCE = 0.05


class SiteError(ValueError):
    """A site file that cannot be used; the message names file, key and remedy."""


class Holder(Frozen):
    """The specimen holder that the site file speaks of."""

    id: Annotated[str, Field(min_length=1)]
    limits: dict[Axis, tuple[Finite, Finite]] = Field(default_factory=dict)
    """What the holder and the gap of the pole piece allow; narrows the vendor's ranges."""


class SiteDetector(Frozen):
    """A camera as this laboratory uses it."""

    name: Annotated[str, Field(min_length=1)]
    """As the vendor's interface calls it."""
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """(rows, columns) of a frame, after binning."""
    binning: Annotated[int, Field(ge=1)] = 1
    pixel_um: Positive
    """Physical side of an unbinned pixel."""
    kind: Literal["counting", "integrating"]
    modes: frozenset[Mode]
    gain: Positive
    offset: Finite
    saturation: Positive = 65535.0
    min_exposure_s: Positive
    max_exposure_s: Positive
    """Also bounds how long blanking may wait where camera and blanker share one connection."""


class Illumination(Frozen):
    """One calibrated setting of the condenser: how it reads back, and what it does."""

    modes: frozenset[Mode]
    spot: int
    lens: Finite
    """Vendor's read-back of the lens that spreads the beam (C2, intensity, brightness)."""
    lens_tolerance: Positive
    beam_diameter_nm: Positive
    probe_current_pA: Positive
    convergence_semiangle_mrad: NonNegative = 0.0

    def reads(self, mode: Mode, spot: int, lens: float) -> bool:
        """Whether the column stands at this setting."""
        near = abs(lens - self.lens) <= self.lens_tolerance
        return mode in self.modes and spot == self.spot and near


class Projection(Frozen):
    """One step of the projector: a magnification, or a camera length."""

    mode: Mode
    index: int
    """As the vendor's interface counts them in this mode."""
    pixel_size_nm: Positive | None = None
    """In image mode, on the camera as this file bins it."""
    detector_sampling_mrad: Positive | None = None
    """In the other modes."""

    @model_validator(mode="after")
    def _says_what_belongs_to_its_mode(self) -> Self:
        wanted, other = "pixel_size_nm", "detector_sampling_mrad"
        if self.mode is not Mode.IMAGE:
            wanted, other = other, wanted
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"a projection of mode {self.mode.value} has {wanted} and no {other}")
        return self


class Deflector(Frozen):
    """Linear calibration of a deflector: value = matrix · (raw − neutral)."""

    matrix: tuple[Vector, Vector]
    """nm in the column frame per raw unit of the vendor (counts, metres, um); two rows."""
    neutral: Vector
    raw: tuple[Finite, Finite]
    """Smallest and largest raw value on each axis."""
    whole: bool
    """Raw values are whole counts."""

    @model_validator(mode="after")
    def _can_be_inverted(self) -> Self:
        if self.determinant == 0:
            raise ValueError("the matrix has no inverse, so nothing could be set; measure it again")
        return self

    @property
    def determinant(self) -> float:
        """Of the matrix."""
        (a, b), (c, d) = self.matrix
        return a * d - b * c

    def value(self, raw: Vector) -> Vector:
        """Physical value of a pair of raw ones."""
        (a, b), (c, d) = self.matrix
        x, y = raw[0] - self.neutral[0], raw[1] - self.neutral[1]
        return a * x + b * y, c * x + d * y

    def raw_for(self, value: Vector) -> Vector:
        """The raw pair that gives `value`, to the nearest count where they are whole.

        Raises
        ------
        LimitError
            Beyond what the deflector reaches; nothing was changed.
        """
        (a, b), (c, d) = self.matrix
        x = (d * value[0] - b * value[1]) / self.determinant + self.neutral[0]
        y = (a * value[1] - c * value[0]) / self.determinant + self.neutral[1]
        low, high = self.raw
        if not (low <= x <= high and low <= y <= high):
            raise LimitError(
                f"({value[0]:g}, {value[1]:g}) needs the raw values ({x:g}, {y:g}), outside "
                f"{low:g} .. {high:g} of the deflector; nothing was changed. "
                f"Move the stage instead."
            )
        return (float(round(x)), float(round(y))) if self.whole else (x, y)


class Site(Frozen):
    """One instrument in one laboratory."""

    model: Annotated[str, Field(min_length=1)]
    pole_piece_gap_mm: Positive
    """For people: the limits of the holder have to respect it."""
    holder: Holder
    axes: dict[Axis, AxisInfo]
    """Ranges and manners; intersected with what the vendor's interface reports."""
    stage_signs: dict[Axis, Literal[-1, 1]]
    """Of the vendor's reading against ``docs/conventions.md``, axis by axis; found by a supervised
    move of each axis under low magnification."""
    energy_keV: Positive
    """Used where the vendor's interface does not tell."""
    max_current_pA: Positive
    """Hard cap of the gun with the apertures that are in use."""
    current_relative_sigma: NonNegative
    detectors: Annotated[tuple[SiteDetector, ...], Field(min_length=1)]
    illuminations: Annotated[tuple[Illumination, ...], Field(min_length=1)]
    projections: tuple[Projection, ...] = ()
    """Steps of the projector that may be chosen; without any, a person sets it."""
    blank_latency_s: NonNegative
    """Longest time from the command to blank until no electron arrives, readout of the camera
    included where camera and blanker share one connection. Measure it."""
    attested: frozenset[str] = frozenset()
    """Interlocks that nothing reads and that somebody vouches for by other means."""
    deflectors: dict[str, Deflector] = Field(default_factory=dict)
    """Without an entry a deflector cannot be set, and has to stay as it was at the start."""
    defocus_scale: Positive = 1.0
    """True over indicated defocus."""
    magnification_factor: Positive = 1.0
    """True over indicated magnification at the camera."""
    camera_length_factor: Positive = 1.0
    calibration: Calibration = Calibration()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        strange = self.deflectors.keys() - set(DEFLECTORS)
        if strange:
            raise ValueError(
                f"deflectors: {', '.join(sorted(strange))} is none of {', '.join(DEFLECTORS)}"
            )
        unknown = self.attested - set(INTERLOCKS)
        if unknown:
            raise ValueError(
                f"attested: {', '.join(sorted(unknown))} is no interlock; "
                f"there are {', '.join(INTERLOCKS)}"
            )
        unsigned = [axis.value for axis in sorted(self.axes) if axis not in self.stage_signs]
        if unsigned:
            raise ValueError(
                f"stage_signs lacks {', '.join(unsigned)}; move each axis a little under "
                f"supervision and say 1 or -1"
            )
        for axis, (low, high) in self.holder.limits.items():
            if not low <= high:
                raise ValueError(f"holder.limits.{axis.value}: {low:g} .. {high:g} is empty")
        currents = [row.probe_current_pA for row in self.illuminations]
        if max(currents) > self.max_current_pA:
            raise ValueError(
                f"an illumination of {max(currents):g} pA is above max_current_pA = "
                f"{self.max_current_pA:g} pA; correct one of them"
            )
        return self

    def holder_limits(self) -> StageLimits:
        """What the holder allows."""
        return StageLimits(ranges=dict(self.holder.limits))

    def detector(self, name: str) -> SiteDetector:
        """The camera called `name`; only names of the capabilities are asked for."""
        return next(info for info in self.detectors if info.name == name)

    def illumination(self, mode: Mode, spot: int, lens: float) -> Illumination:
        """The calibrated setting that the column stands at.

        Raises
        ------
        ModeError
            It is none of them, so area and current of the beam are not known.
        """
        for row in self.illuminations:
            if row.reads(mode, spot, lens):
                return row
        raise ModeError(
            f"spot {spot} with lens {lens:g} in mode {mode.value} is none of the "
            f"{len(self.illuminations)} calibrated illuminations of the site file, so the dose "
            f"could not be bounded; the beam stays blanked. Apply one of them, or calibrate this."
        )

    def projection_for(self, change: OpticsChange, mode: Mode) -> Projection | None:
        """The step of the projector that `change` asks for; None if it asks for none.

        Raises
        ------
        LimitError
            There is none within 5 %. Nothing was changed.
        """
        name = "pixel_size_nm" if mode is Mode.IMAGE else "detector_sampling_mrad"
        asked: float | None = getattr(change, name)
        if asked is None:
            return None
        rows = [row for row in self.projections if row.mode is mode]
        near = [row for row in rows if _near(getattr(row, name), asked)]
        if not near:
            listed = ", ".join(f"{getattr(row, name):g}" for row in rows)
            raise LimitError(
                f"{name} = {asked:g} is none of the steps of the projector; nothing was changed. "
                f"The site file has: {listed or 'none for this mode'}."
            )
        return min(near, key=lambda row: abs(getattr(row, name) - asked))

    def illumination_for(self, change: OpticsChange, mode: Mode) -> Illumination | None:
        """The calibrated setting that `change` asks for; None if it asks for none.

        Raises
        ------
        LimitError
            There is none within 5 %. Nothing was changed.
        """
        wanted = {
            name: value
            for name, value in change.model_dump(exclude_none=True).items()
            if name in ("beam_diameter_nm", "probe_current_pA", "convergence_semiangle_mrad")
        }
        if not wanted:
            return None
        rows = [row for row in self.illuminations if mode in row.modes]
        for row in rows:
            if all(_near(getattr(row, name), value) for name, value in wanted.items()):
                return row
        listed = "; ".join(
            f"{row.beam_diameter_nm:g} nm, {row.probe_current_pA:g} pA, "
            f"{row.convergence_semiangle_mrad:g} mrad"
            for row in rows
        )
        asked_for = ", ".join(f"{name} = {value:g}" for name, value in wanted.items())
        raise LimitError(
            f"{asked_for} is no calibrated illumination of mode {mode.value}; nothing was changed. "
            f"The site file has: {listed or 'none for this mode'}."
        )


def _near(has: float | None, asked: float) -> bool:
    return has is not None and abs(has - asked) <= ROW_TOLERANCE * asked


def load_site(path: Path | str) -> Site:
    """Read and validate a site file.

    Raises
    ------
    SiteError
        It cannot be read, or does not say what is needed; every problem is listed.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as problem:
        raise SiteError(
            f"the site file {path} cannot be read ({problem}); "
            f"docs/drivers.md shows one to start from"
        ) from problem
    try:
        return Site.model_validate(content)
    except ValidationError as problems:
        listed = "; ".join(
            f"{'.'.join(str(part) for part in error['loc']) or 'the file'}: {error['msg']}"
            for error in problems.errors()
        )
        raise SiteError(f"the site file {path} cannot be used: {listed}") from problems
