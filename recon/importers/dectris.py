"""DECTRIS `master.h5` (ARINA, QUADRO, SINGLA, ELA): NXmx tree that links the files of frames.

``/entry/data/data_000001`` ... are links to (n, det_y, det_x), bitshuffle/LZ4. A pixel of the
``pixel_mask`` is left out; the largest value of the integer type marks a pixel without a value or
an overflow. ``ntrigger`` lines of ``nimages`` frames give the scan, or the microscope's own file
beside the master (``STEM Metadata``). Axes as stored.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.dataset import sha256_of
from recon.errors import DataError
from recon.importers.fields import plain
from recon.importers.frames import Frames, joined

DETECTOR = "entry/instrument/detector"


def is_dectris_master(file: h5py.File) -> bool:
    """Whether the file has numbered blocks of frames below ``/entry/data``."""
    return "entry/data" in file and any(name.startswith("data_") for name in file["entry/data"])


def dectris_frames(file: h5py.File, path: Path) -> tuple[Frames, str]:
    """Frames of a master file and the SHA-256 over all its files.

    Raises
    ------
    DataError
        A linked file is missing or its frames have another shape.
    """
    parts = _parts(file, path)
    shape = parts[0].shape[1:]
    for part in parts:
        if part.ndim != 3 or part.shape[1:] != shape or part.dtype != parts[0].dtype:
            raise DataError(
                f"{path.name}: frames of {part.shape[1:]} {part.dtype} follow frames of {shape} "
                f"{parts[0].dtype}; the files belong to different scans"
            )
    n_frames, read = joined(
        [len(part) for part in parts],
        [partial(_rows, part) for part in parts],
    )
    dtype = parts[0].dtype
    mask = _at(file, f"{DETECTOR}/detectorSpecific/pixel_mask", f"{DETECTOR}/pixel_mask")
    ceiling = _at(file, f"{DETECTOR}/saturation_value")
    energy = _at(
        file,
        "entry/instrument/beam/incident_energy",
        f"{DETECTOR}/detectorSpecific/incident_energy",
        f"{DETECTOR}/detectorSpecific/photon_energy",
    )
    date = _at(file, f"{DETECTOR}/detectorSpecific/data_collection_date")
    dwell = _at(file, f"{DETECTOR}/frame_time", f"{DETECTOR}/count_time")
    companion = _companion(path)
    found: dict[str, object] = {}
    if energy is not None and float(energy) > 5e3:
        found["energy_eV"] = float(energy)
    frames = Frames(
        name=path.name,
        n_frames=n_frames,
        frame_shape=(int(shape[0]), int(shape[1])),
        bytes_per_frame=int(shape[0] * shape[1] * dtype.itemsize),
        read=read,
        shapes=_shapes(file, companion),
        found=found | companion.get("fields", {}),
        masked=None if mask is None or mask.shape != shape else np.asarray(mask) != 0,
        void_value=int(np.iinfo(dtype).max) if dtype.kind == "u" else None,
        saturation_value=float(ceiling) if ceiling is not None and ceiling > 0 else None,
        counting="thresholded",
        raw_headers=_headers(file),
        start_time=None if date is None else str(plain(date))[:19],
        dwell_s=None if dwell is None else float(dwell),
    )
    return frames, _digest(path, parts)


def _rows(part: h5py.Dataset, start: int, stop: int) -> NDArray[Any]:
    return np.asarray(part[start:stop])


def _parts(file: h5py.File, path: Path) -> list[h5py.Dataset]:
    group = file["entry/data"]
    parts = []
    for name in sorted(name for name in group if name.startswith("data_")):
        link = group.get(name, getlink=True)
        try:
            parts.append(group[name])
        except (KeyError, OSError) as problem:
            where = link.filename if isinstance(link, h5py.ExternalLink) else name
            raise DataError(
                f"{path.name}: {name} is missing: {where} is not beside it, or is truncated. Copy "
                f"all files of the scan into one folder under their own names"
            ) from problem
    return parts


def _at(file: h5py.File, *paths: str) -> Any:  # noqa: ANN401
    """Value of the first path that exists, else None."""
    for path in paths:
        if path in file:
            return file[path][()]
    return None


def _companion(path: Path) -> dict[str, Any]:
    """Shape and calibrated step from the file that the microscope writes beside the master."""
    beside = path.with_name(path.name.replace("_master", ""))
    if beside == path or not beside.exists():
        return {}
    try:
        with h5py.File(beside, "r") as file:
            said = {key: plain(value) for key, value in file["STEM Metadata"].attrs.items()}
    except (OSError, KeyError):
        return {}

    def number(name: str) -> float:
        value = said.get(name, 0)
        value = value[0] if isinstance(value, tuple) else value
        return float(value) if isinstance(value, int | float) else 0.0

    fields: dict[str, object] = {}
    if number("IsPixelSizeCalibrated") and number("Pixel Size") > 0:
        fields["scan_step_A"] = 10 * number("Pixel Size")
    if number("High Tension") > 5e3:
        fields["energy_eV"] = number("High Tension")
    shape = int(number("NumPixelsY")), int(number("NumPixelsX"))
    return {"fields": fields, "shape": shape if min(shape) > 0 else None}


def _shapes(file: h5py.File, companion: dict[str, Any]) -> tuple[tuple[str, tuple[int, int]], ...]:
    found: list[tuple[str, tuple[int, int]]] = []
    if companion.get("shape"):
        found.append(("STEM Metadata", companion["shape"]))
    lines = _at(file, f"{DETECTOR}/detectorSpecific/ntrigger")
    frames = _at(file, f"{DETECTOR}/detectorSpecific/nimages")
    if lines is not None and frames is not None and lines > 1 and frames > 1:
        found.append(("ntrigger x nimages", (int(lines), int(frames))))
    return tuple(found)


def _headers(file: h5py.File) -> dict[str, str]:
    names = (
        "description",
        "detector_number",
        "threshold_energy",
        "bit_depth_image",
        "sensor_material",
    )
    found = {name: _at(file, f"{DETECTOR}/{name}") for name in names}
    return {name: str(plain(value)) for name, value in found.items() if value is not None}


def _digest(path: Path, parts: list[h5py.Dataset]) -> str:
    """SHA-256 over the digests of the master and of every file of frames."""
    files = sorted({part.file.filename for part in parts} | {str(path)})
    return hashlib.sha256("".join(sha256_of(name) for name in files).encode()).hexdigest()
