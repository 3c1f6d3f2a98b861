"""What a file must say about the experiment, and the YAML beside it that says it.

Three groups of names: the experiment (``REQUIRED``, ``OPTIONAL``), how the frames lie in the file
and what their values mean (``Layout``). A number that only makes sense in another unit is refused
with the unit that was probably meant.
"""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recon.dataset import ScanHeader
from recon.errors import DataError

REQUIRED = {
    "energy_eV": "beam energy in eV",
    "semiangle_mrad": "convergence semi-angle in mrad",
    "defocus_A": "nominal defocus in angstrom, positive is underfocus",
    "scan_step_A": "probe step in angstrom",
    "k_pixel_mrad": "scattering angle per detector pixel in mrad",
}
OPTIONAL = {
    "dose_e_per_A2": "fluence in electrons per square angstrom",
    "scan_rotation_deg": "nominal scan rotation",
    "flip_ud": "detector rows reversed",
    "flip_lr": "detector columns reversed",
    "transpose": "detector axes exchanged",
    "beam_centre_px": "[row, col] of zero scattering angle",
    "nominal_thickness_A": "specimen thickness in angstrom",
    "sample": "name of the specimen",
}
HEADER_NAMES = {
    "semiangle_mrad": "convergence_semiangle_mrad",
    "k_pixel_mrad": "detector_sampling_mrad",
    "dose_e_per_A2": "fluence_e_per_A2",
}
FILE_NAMES = {header: name for name, header in HEADER_NAMES.items()}
Axis = Literal["scan_y", "scan_x", "det_y", "det_x", "frame"]
Shape2D = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
Pixel = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Layout(BaseModel):
    """How the frames lie in a file, and what a stored value means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    axes: tuple[Axis, ...] | None = None
    """Order of the stored axes, slowest first; stated axes are believed and not checked."""
    scan_shape: Shape2D | None = None
    """[scan_y, scan_x] where the file holds a list of frames."""
    skip_frames: Annotated[int, Field(ge=0)] = 0
    """Frames before the first scan point."""
    flyback_frames: Annotated[int, Field(ge=0)] = 0
    """Frames after every scan line that belong to none of its points."""
    incomplete: bool = False
    """Accept fewer frames than scan points: the missing ones are marked as never recorded."""
    as_list: bool = False
    """The frames are no scan: a stack, or one pattern, such as a measurement in vacuum."""
    dataset: str | None = None
    """Path of the array in an HDF5 file that holds several."""
    counts_per_electron: Positive | None = None
    """Mean value that one electron leaves in the pixel: electrons = (value - offset) / this."""
    value_offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Value of a pixel that no electron hit."""
    threshold_electrons: Annotated[float, Field(ge=0, lt=10)] = 0.5
    """Less than this is no electron; used with ``counts_per_electron``."""
    max_electrons: Annotated[int, Field(ge=1)] | None = None
    """More than this in one pixel of one frame is an X-ray or a discharge and dropped."""
    nan_pixels: Literal["refuse", "mask"] = "refuse"
    """``mask``: leave out every pixel that is NaN or infinite in any frame."""
    masked_pixels: tuple[Pixel, ...] = ()
    """[row, col] of detector pixels to leave out."""
    saturation_value: Positive | None = None
    """Largest value that the detector can store."""

    @model_validator(mode="after")
    def _axes_are_four_or_a_list_of_frames(self) -> Self:
        if self.axes is not None and set(self.axes) not in (
            {"scan_y", "scan_x", "det_y", "det_x"},
            {"frame", "det_y", "det_x"},
        ):
            raise ValueError(
                f"axes {list(self.axes)} must hold scan_y, scan_x, det_y, det_x, or frame, det_y, "
                f"det_x, each once"
            )
        return self


def yaml_beside(path: Path) -> dict[str, object]:
    """Fields of the YAML with the name of ``path``; empty if there is none."""
    beside = path.with_suffix(".yaml")
    if not beside.exists():
        return {}
    try:
        fields = yaml.safe_load(beside.read_text(encoding="utf-8"))
    except yaml.YAMLError as problem:
        raise DataError(f"{beside.name} is no valid YAML: {problem}") from problem
    if not isinstance(fields, dict):
        raise DataError(f"{beside.name}: expected one `name: value` per line")
    return {name: _number(name, value) for name, value in fields.items()}


def _number(name: str, value: object) -> object:
    """YAML 1.1 takes 300e3 for a text; people write it for a number."""
    if not isinstance(value, str) or name in ("sample", "dataset"):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def known_fields(attributes: Mapping[str, object]) -> dict[str, object]:
    """Those of ``attributes`` that mean something here, as plain Python."""
    names = REQUIRED.keys() | OPTIONAL.keys() | Layout.model_fields.keys()
    return {name: plain(value) for name, value in attributes.items() if name in names}


def plain(value: object) -> object:
    """Turn what HDF5 attributes give (NumPy scalars, bytes, arrays) into plain Python."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist()) if value.ndim else value.item()
    if isinstance(value, np.generic):
        value = value.item()
    return value.decode() if isinstance(value, bytes) else value


def read_layout(fields: Mapping[str, object], source: str) -> Layout:
    """Take the fields about the layout out of all ``fields``.

    Raises
    ------
    DataError
        A value is impossible, or a name is none of ours.
    """
    unknown = sorted(
        str(name)
        for name in fields
        if name not in REQUIRED and name not in OPTIONAL and name not in Layout.model_fields
    )
    if unknown:
        known = ", ".join([*REQUIRED, *OPTIONAL, *Layout.model_fields])
        raise DataError(f"{source}: unknown fields {', '.join(unknown)}; known are {known}")
    chosen = {name: fields[name] for name in Layout.model_fields if name in fields}
    try:
        return Layout.model_validate(chosen)
    except ValidationError as problems:
        raise DataError(f"{source}: {in_words(problems)}") from problems


def in_words(problems: ValidationError) -> str:
    """What is wrong with which field, for someone who wrote it into a file, not into a program."""
    said = []
    for problem in problems.errors(include_url=False):
        where = [str(part) for part in problem["loc"]]
        field = FILE_NAMES.get(where[0], where[0]) if where else ""
        text = problem["msg"].removeprefix("Value error, ")
        given = f" is {problem['input']!r}: " if where else ""
        said.append(f"{'.'.join([field, *where[1:]])}{given}{text[:1].lower()}{text[1:]}")
    return "; ".join(said) + ". Correct it in the file or its YAML; nothing was read"


def make_header(
    fields: Mapping[str, object],
    scan_shape: tuple[int, int],
    frame_shape: tuple[int, int],
    source: str,
    also: Mapping[str, object],
) -> ScanHeader:
    """Header of a scan from its description; ``also`` are header fields under their own names.

    Raises
    ------
    DataError
        A field is missing, impossible, or in another unit than its name says.
    """
    check_units(fields, source)
    missing = [f"{name} ({meaning})" for name, meaning in REQUIRED.items() if name not in fields]
    if missing:
        raise DataError(
            f"{source}: missing {'; '.join(missing)}. Add them to the file or its YAML, "
            f"{Path(source).with_suffix('.yaml').name}"
        )
    values = {
        HEADER_NAMES.get(name, name): plain(value)
        for name, value in fields.items()
        if name in REQUIRED or name in OPTIONAL
    }
    try:
        values["energy_keV"] = float(str(values.pop("energy_eV"))) / 1e3
        return ScanHeader.model_validate(
            {"start_time": datetime.now(UTC).isoformat(timespec="seconds")}
            | values
            | {
                "scan_shape": scan_shape,
                "frame_shape": frame_shape,
                "run_uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, source)),
            }
            | dict(also)
        )
    except ValidationError as problems:
        raise DataError(f"{source}: {in_words(problems)}") from problems
    except ValueError as problem:
        raise DataError(f"{source}: energy_eV is no number ({problem})") from problem


PLAUSIBLE: tuple[tuple[str, float, float, str], ...] = (
    ("energy_eV", 5e3, 1.5e6, "is it in keV? write 300e3 for 300 kV"),
    ("semiangle_mrad", 0.3, 200, "is it in rad? 0.01 rad is 10 mrad"),
    ("k_pixel_mrad", 2e-3, 50, "is it in rad? 0.001 rad is 1 mrad"),
    ("scan_step_A", 5e-3, 2e3, "is it in m or nm? 0.1 nm is 1 Å"),
    ("defocus_A", 1e-2, 1e6, "is it in m? 10 nm is 100 Å"),
    ("nominal_thickness_A", 1.0, 1e5, "is it in nm or m? 20 nm is 200 Å"),
)
"""Name, least and largest plausible absolute value, and what was probably meant instead."""


def check_units(fields: Mapping[str, object], source: str) -> None:
    """Refuse a number which no experiment can have in the unit of its name."""
    for name, least, largest, remedy in PLAUSIBLE:
        value = plain(fields.get(name))
        if not isinstance(value, int | float) or (value <= 0 and name != "defocus_A"):
            continue  # what is missing, no number, or not positive is refused elsewhere
        if value and not least <= abs(value) <= largest:
            raise DataError(
                f"{source}: {name} is {value:g}, expected {least:g} to {largest:g}; {remedy}"
            )
