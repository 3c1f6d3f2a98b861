"""Where each field of a ``ScanHeader`` lives in the NeXus tree, and with which unit.

One table, read by writer and reader alike, so that the two cannot drift apart.
"""

import json
from dataclasses import dataclass

import h5py
import numpy as np
from pydantic import ValidationError

from recon.dataset.header import ProcessStep, ScanHeader
from recon.errors import ScanFileError

SCHEMA_VERSION = "1"
DEFINITION = "NXem"
EVENTS = "entry/events"


@dataclass(frozen=True)
class Field:
    """One header field: its path below ``/entry`` and its unit (empty: none)."""

    path: str
    unit: str = ""


FIELDS: dict[str, Field] = {
    "energy_keV": Field("instrument/source/energy", "keV"),
    "probe_current_pA": Field("instrument/source/probe_current", "pA"),
    "convergence_semiangle_mrad": Field("instrument/optics/semi_convergence_angle", "mrad"),
    "defocus_A": Field("instrument/optics/defocus", "angstrom"),
    "scan_step_A": Field("instrument/scan/step", "angstrom"),
    "scan_rotation_deg": Field("instrument/scan/rotation", "deg"),
    "dwell_s": Field("instrument/scan/dwell_time", "s"),
    "fluence_e_per_A2": Field("instrument/scan/fluence", "1/angstrom^2"),
    "detector_sampling_mrad": Field("instrument/detector/angular_sampling", "mrad"),
    "flip_ud": Field("instrument/detector/flip_ud"),
    "flip_lr": Field("instrument/detector/flip_lr"),
    "transpose": Field("instrument/detector/transpose"),
    "beam_centre_px": Field("instrument/detector/beam_centre", "px"),
    "counting": Field("instrument/detector/counting"),
    "sample": Field("sample/name"),
    "nominal_thickness_A": Field("sample/thickness", "angstrom"),
    "start_time": Field("start_time"),
    "run_uuid": Field("run_uuid"),
}
CLASSES = {
    "entry": "NXentry",
    "entry/instrument": "NXinstrument",
    "entry/instrument/source": "NXsource",
    "entry/instrument/optics": "NXoptical_system_em",
    "entry/instrument/scan": "NXscanbox_em",
    "entry/instrument/detector": "NXdetector",
    "entry/sample": "NXsample",
    "entry/events": "NXdata",
    "entry/raw_headers": "NXcollection",
    "entry/log": "NXcollection",
}


def write_header(file: h5py.File, header: ScanHeader) -> None:
    """Write everything but the events into an empty file."""
    for group, nexus_class in CLASSES.items():
        file.require_group(group).attrs["NX_class"] = nexus_class
    entry = file["entry"]
    entry["definition"] = DEFINITION
    entry["schema_version"] = SCHEMA_VERSION
    values = header.model_dump() | {"beam_centre_px": header.centre_px}
    for name, field in FIELDS.items():
        if values[name] is None:
            continue
        entry[field.path] = values[name]
        if field.unit:
            entry[field.path].attrs["units"] = field.unit
    for number, step in enumerate(header.process):
        write_process(file, number, step)
    for name, text in header.raw_headers.items():
        entry["raw_headers"].attrs[name] = text
    events = file[EVENTS].attrs
    events["scan_shape"] = np.array(header.scan_shape, dtype=np.int64)
    events["frame_shape"] = np.array(header.frame_shape, dtype=np.int64)
    events["order"] = "row-major in the scan, flyback excluded; pixel = row * width + column"


def write_process(file: h5py.File, number: int, step: ProcessStep) -> None:
    """Write one provenance entry as ``/entry/process_N``."""
    group = file.create_group(f"entry/process_{number}")
    group.attrs["NX_class"] = "NXprocess"
    for name, value in step.model_dump().items():
        group[name] = json.dumps(value) if name == "input_sha256" else value


def read_header(file: h5py.File) -> ScanHeader:
    """Read the header back.

    Raises
    ------
    ScanFileError
        A field is missing, has another unit, or does not pass validation.
    """
    if EVENTS not in file:
        raise ScanFileError(
            f"{file.filename} has no /{EVENTS}: not a lodestem scan file. "
            f"Import dense arrays with `recon.importers.open_4d` instead."
        )
    entry = file["entry"]
    values = {name: _value(entry, field) for name, field in FIELDS.items() if field.path in entry}
    events = file[EVENTS].attrs
    try:
        return ScanHeader(
            **values,
            scan_shape=tuple(int(n) for n in events["scan_shape"]),
            frame_shape=tuple(int(n) for n in events["frame_shape"]),
            process=_processes(entry),
            raw_headers={name: str(text) for name, text in entry["raw_headers"].attrs.items()
                         if name != "NX_class"},
        )  # fmt: skip
    except KeyError as missing:
        raise ScanFileError(f"{file.filename}: attribute {missing} is missing") from missing
    except ValidationError as problems:
        raise ScanFileError(f"{file.filename}: {problems}") from problems


def _value(entry: h5py.Group, field: Field) -> object:
    dataset = entry[field.path]
    unit = dataset.attrs.get("units", "")
    if unit != field.unit:
        raise ScanFileError(
            f"/entry/{field.path} is in {unit!r}, this version reads {field.unit!r}; "
            f"convert the value or the file's unit attribute"
        )
    value = dataset[()]
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return value.item() if isinstance(value, np.generic) else value


def _processes(entry: h5py.Group) -> tuple[ProcessStep, ...]:
    names = [name for name in entry if name.startswith("process_")]
    steps = []
    for name in sorted(names, key=lambda name: int(name.removeprefix("process_"))):
        fields = {key: entry[name][key].asstr()[()] for key in entry[name]}
        fields["input_sha256"] = json.loads(fields["input_sha256"])
        steps.append(ProcessStep(**fields))
    return tuple(steps)
