"""A result as it lies on disk, as far as a comparison needs it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.errors import DataError
from recon.geometry import rotation_matrix

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Number:
    """A calibrated number, its sigma (NaN: not known) and where it came from."""

    value: float
    sigma: float
    source: str


@dataclass(frozen=True)
class StoredResult:
    """What ``reconstruction.h5`` holds; lengths in Å, ``phase`` (rows, cols) in the detector frame.

    ``matrix_A`` takes scan steps about the centre of the scan to positions about ``centre_px``.
    """

    name: str
    phase: Float
    pixel_size_A: float
    centre_px: tuple[float, float]
    scan_shape: tuple[int, int]
    matrix_A: Float
    calibration: dict[str, Number]
    resolution: dict[str, float]
    settings: dict[str, Any]
    header: dict[str, Any]
    verdict: str
    source_sha256: str
    version: str


def load_result(path: str | Path) -> StoredResult:
    """Read a result folder, or its ``reconstruction.h5``.

    Raises
    ------
    DataError
        No result, truncated, or of a version that does not say what is needed.
    """
    path = Path(path)
    file_path = path / "reconstruction.h5" if path.is_dir() else path
    if not file_path.exists():
        raise DataError(f"{path} holds no reconstruction.h5; give the folder of a result")
    try:
        with h5py.File(file_path, "r") as file:
            return _read(file, path.name if path.is_dir() else path.parent.name or path.stem)
    except (OSError, KeyError, ValueError) as problem:
        raise DataError(
            f"{file_path} is no whole result of `lodestem reconstruct` ({problem}); "
            f"reconstruct again"
        ) from problem


def _read(file: h5py.File, name: str) -> StoredResult:
    header = json.loads(file["provenance/header_json"].asstr()[()])
    phase = file["phase_rad"]
    calibration = _calibration(file["calibration"])
    affine = np.asarray(file["calibration/affine"], np.float64)
    matrix = rotation_matrix(calibration["rotation_deg"].value) @ affine * header["scan_step_A"]
    row, col = (float(value) for value in phase.attrs["scan_centre_px"])
    resolution = {key: node for key, node in file["resolution"].items() if node.ndim == 0}
    return StoredResult(
        name=name,
        phase=np.asarray(phase, np.float64),
        pixel_size_A=float(phase.attrs["pixel_size_A"]),
        centre_px=(row, col),
        scan_shape=(int(header["scan_shape"][0]), int(header["scan_shape"][1])),
        matrix_A=matrix,
        calibration=calibration,
        resolution={key: float(node[()]) for key, node in resolution.items()},
        settings=json.loads(file["provenance/parameters_json"].asstr()[()]),
        header=header,
        verdict=str(file["provenance/verdict"].asstr()[()]),
        source_sha256=str(file["provenance"].attrs.get("input_sha256", "")),
        version=str(file["provenance"].attrs.get("version", "")),
    )


def _calibration(group: h5py.Group) -> dict[str, Number]:
    """Every number of the calibration; pairs and matrices element by element."""
    found: dict[str, Number] = {}
    for name, node in group.items():
        if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "fiu":
            continue
        values = np.atleast_1d(np.asarray(node, np.float64)).ravel()
        sigma = np.broadcast_to(np.ravel(node.attrs.get("sigma", np.nan)), values.shape)
        source = str(node.attrs.get("source", ""))
        for index, value in enumerate(values):
            label = name if values.size == 1 else f"{name}[{index}]"
            found[label] = Number(float(value), float(sigma[index]), source)
    return found
