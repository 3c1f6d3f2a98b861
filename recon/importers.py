"""Open a 4D-STEM data set whatever wrote it, or say why it cannot be, with the remedy.

Three sources: the native scan file, a *described array* (HDF5 with ``/counts`` and root attributes
in the units of ``DESCRIPTION``), and a NumPy array with the same fields in a YAML beside it.
"""

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from recon.dataset import Dataset4D, ScanHeader, open_scan, sha256_of
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


def open_4d(path: str | Path) -> Dataset4D:
    """Open ``path`` as a counted 4D-STEM data set.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    DataError
        The file is damaged, undescribed, or holds something other than counts; the message says
        which field or axis and what to do. The file was not changed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path.name}: files ending in {path.suffix!r} are not read; "
            f"known are {', '.join(sorted(_READERS))}"
        )
    return reader(path)


def describe(
    counts: NDArray[Any], fields: Mapping[str, object], *, source: str, sha256: str = ""
) -> Dataset4D:
    """Make a data set of dense counts (scan_y, scan_x, det_y, det_x) and their description."""
    missing = [f"{name} ({meaning})" for name, meaning in REQUIRED.items() if name not in fields]
    if missing:
        raise DataError(f"{source}: missing {'; '.join(missing)}. Add them to the file or its YAML")
    unknown = sorted(set(fields) - set(REQUIRED) - set(OPTIONAL))
    if unknown:
        raise DataError(
            f"{source}: unknown fields {', '.join(unknown)}; known are "
            f"{', '.join([*REQUIRED, *OPTIONAL])}"
        )
    header = _header(counts.shape, fields, source)
    return Dataset4D.from_dense(
        as_counts(counts, source).reshape(counts.shape), header, source=source, sha256=sha256
    )


def as_counts(values: NDArray[Any], source: str) -> NDArray[Any]:
    """Unsigned integers, or the reason why ``values`` are no electron counts."""
    if values.dtype.kind == "u":
        return values
    if values.dtype.kind not in "if":
        raise DataError(f"{source}: counts have dtype {values.dtype}, expected numbers")
    if values.dtype.kind == "f":
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            raise DataError(
                f"{source}: {bad} of {values.size} counts are NaN or infinite; "
                f"mask or repair those pixels before the reconstruction"
            )
        if np.abs(values - np.round(values)).max() > 1e-3:
            raise DataError(
                f"{source}: counts are not whole numbers (for example "
                f"{values[values != np.round(values)].flat[0]:g}); the Poisson statistics need "
                f"electrons: divide by the counts per electron and threshold first"
            )
    if values.min() < 0:
        raise DataError(
            f"{source}: counts are negative (minimum {values.min():g}); "
            f"subtract less dark current, or threshold"
        )
    if values.max() > np.iinfo(np.uint32).max:
        raise DataError(f"{source}: {values.max():g} counts in one pixel cannot be electrons")
    return np.round(values).astype(np.uint32)


def _header(shape: tuple[int, ...], fields: Mapping[str, object], source: str) -> ScanHeader:
    if len(shape) != 4:
        raise DataError(
            f"{source}: counts have shape {shape}, expected four axes "
            f"(scan_y, scan_x, det_y, det_x); reshape a flat list of frames first"
        )
    names = {
        "semiangle_mrad": "convergence_semiangle_mrad",
        "k_pixel_mrad": "detector_sampling_mrad",
        "dose_e_per_A2": "fluence_e_per_A2",
    }
    values = {names.get(name, name): _plain(value) for name, value in fields.items()}
    try:
        values["energy_keV"] = float(str(values.pop("energy_eV"))) / 1e3
        return ScanHeader.model_validate(
            values
            | {
                "scan_shape": shape[:2],
                "frame_shape": shape[2:],
                "start_time": datetime.now(UTC).isoformat(timespec="seconds"),
                "run_uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, source)),
            }
        )
    except (ValidationError, ValueError) as problems:
        raise DataError(f"{source}: {problems}") from problems


def _plain(value: object) -> object:
    """Turn what HDF5 attributes give (NumPy scalars, bytes, arrays) into plain Python."""
    if isinstance(value, np.ndarray):
        return tuple(value.tolist()) if value.ndim else value.item()
    if isinstance(value, np.generic):
        return value.item()
    return value.decode() if isinstance(value, bytes) else value


def _open_hdf5(path: Path) -> Dataset4D:
    try:
        file = h5py.File(path, "r")
    except OSError:
        return open_scan(path)  # still being written, crashed, or truncated: it knows which
    with file:
        if "entry/events" in file:
            return open_scan(path)
        if "counts" not in file:
            raise DataError(
                f"{path.name}: neither a lodestem scan file (/entry/events) nor a described array "
                f"(/counts); it holds {', '.join(sorted(file)) or 'nothing'}"
            )
        fields = {name: value for name, value in file.attrs.items() if name in REQUIRED | OPTIONAL}
        fields |= _yaml_beside(path)
        try:
            counts = file["counts"][...]
        except OSError as problem:
            raise DataError(
                f"{path.name}: /counts cannot be read ({problem}); the file is truncated"
            ) from problem
    return describe(counts, fields, source=str(path), sha256=sha256_of(path))


def _open_npy(path: Path) -> Dataset4D:
    try:
        counts = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError, OSError) as problem:
        raise DataError(f"{path.name} is no readable NumPy array: {problem}") from problem
    fields = _yaml_beside(path)
    if not fields:
        raise DataError(
            f"{path.name}: a bare array says nothing about the microscope; describe it in "
            f"{path.with_suffix('.yaml').name} with {', '.join(REQUIRED)}"
        )
    return describe(np.asarray(counts), fields, source=str(path), sha256=sha256_of(path))


def _yaml_beside(path: Path) -> dict[str, object]:
    beside = path.with_suffix(".yaml")
    if not beside.exists():
        return {}
    fields = yaml.safe_load(beside.read_text(encoding="utf-8"))
    if not isinstance(fields, dict):
        raise DataError(f"{beside.name}: expected one `name: value` per line")
    return fields


_READERS: dict[str, Callable[[Path], Dataset4D]] = {
    ".h5": _open_hdf5,
    ".hdf5": _open_hdf5,
    ".nxs": _open_hdf5,
    ".npy": _open_npy,
}
