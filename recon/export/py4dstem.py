"""py4DSTEM: an EMD 1.0 datacube with its calibration, and the results as EMD arrays.

Its axes (Rx, Ry, Qx, Qy) are (row, col) of scan and detector. ``metadatabundle/lodestem`` holds
what its phase-retrieval classes ask for: energy (eV), semi-angle (mrad), ``defocus_A`` (positive is
underfocus there too) and ``com_rotation_deg``, the ``force_com_rotation`` that turns vectors of
the detector into the scan, the negative of our scan rotation.
"""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from recon.dataset import Dataset4D
from recon.export.frames import framed_patterns, write_dense
from recon.geometry import k_per_mrad
from recon.result import Reconstruction

Axis = tuple[str, str, float]


def export_py4dstem(dataset: Dataset4D, result: Reconstruction, folder: Path) -> dict[str, Path]:
    """Write ``datacube.h5`` and ``reconstruction.emd``; return name -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"datacube": folder / "datacube.h5", "reconstruction": folder / "reconstruction.emd"}
    _write_datacube(paths["datacube"], dataset, result)
    _write_result(paths["reconstruction"], result)
    return paths


def _write_datacube(path: Path, dataset: Dataset4D, result: Reconstruction) -> None:
    header, calibration = result.header, result.calibration
    patterns = framed_patterns(dataset, result)
    k_pixel = header.detector_sampling_mrad * k_per_mrad(header.energy_keV)
    with h5py.File(path, "w") as file:
        root = _root(file, "datacube_root")
        cube = _marked(root, "datacube", "array", "DataCube")
        data = write_dense(cube, "data", patterns, dataset.scan_shape, flat=False)
        data.attrs["units"] = "electrons"
        step, q = ("A", header.scan_step_A), ("A^-1", k_pixel)
        _dimensions(cube, [("Rx", *step), ("Ry", *step), ("Qx", *q), ("Qy", *q)])
        _metadata(
            root, "calibration", "Calibration",
            {
                "Q_pixel_size": k_pixel, "Q_pixel_units": "A^-1",
                "R_pixel_size": header.scan_step_A, "R_pixel_units": "A", "QR_flip": False,
                "probe_semiangle": calibration.disc_radius_px.value,
                "convergence_semiangle_mrad": header.convergence_semiangle_mrad,
                "_root_treepath": "",
            },
        )  # fmt: skip
        # the arrays that py4DSTEM calibrates with these numbers when it reads the file
        targets = root["metadatabundle/calibration"].create_group("_target_paths")
        targets.attrs.update({"type": "list_of_strings", "length": 1})
        targets["0"] = b"/datacube"
        _metadata(
            root, "lodestem", "Metadata",
            {
                "energy_eV": 1e3 * header.energy_keV,
                "semiangle_mrad": header.convergence_semiangle_mrad,
                "beam_row_px": patterns.n // 2 + patterns.offset_px[0],
                "beam_col_px": patterns.n // 2 + patterns.offset_px[1],
                "defocus_A": calibration.defocus_A.value,
                "com_rotation_deg": -calibration.rotation_deg.value,
                "thickness_A": calibration.thickness_A.value,
                "source": result.source,
                "source_sha256": result.source_sha256,
            },
        )  # fmt: skip


def _write_result(path: Path, result: Reconstruction) -> None:
    pixel = ("A", result.pixel_size_A)
    plane: list[Axis] = [("row", *pixel), ("col", *pixel)]
    slab_A = result.calibration.thickness_A.value / max(len(result.slices_phase_rad), 1)
    arrays: list[tuple[str, Any, str, Sequence[Axis]]] = [
        ("phase", result.phase_rad, "rad", plane),
        ("slices_phase", result.slices_phase_rad, "rad", [("depth", "A", slab_A), *plane]),
    ]
    if len(result.probe):
        mode: Axis = ("mode", "pixels", 1.0)
        arrays.append(("probe_modulus", np.abs(result.probe), "", [mode, *plane]))
        arrays.append(("probe_phase", np.angle(result.probe), "rad", [mode, *plane]))
    with h5py.File(path, "w") as file:
        root = _root(file, "reconstruction_root")
        for name, values, units, axes in arrays:
            group = _marked(root, name, "array", "Array")
            group.create_dataset("data", data=values).attrs["units"] = units
            _dimensions(group, axes)
        _metadata(
            root, "lodestem", "Metadata",
            {"verdict": result.verdict, "source": result.source,
             "source_sha256": result.source_sha256},
        )  # fmt: skip


def _root(file: h5py.File, name: str) -> h5py.Group:
    file.attrs.update(
        {
            "emd_group_type": "file", "version_major": 1, "version_minor": 0,
            "authoring_program": "lodestem", "authoring_user": "", "UUID": str(uuid.uuid4()),
        }
    )  # fmt: skip
    return _marked(file, name, "root", "Root")


def _marked(parent: h5py.Group, name: str, kind: str, python_class: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs.update({"emd_group_type": kind, "python_class": python_class})
    return group


def _dimensions(group: h5py.Group, axes: Sequence[Axis]) -> None:
    """A linear axis is stored as its first two values."""
    for number, (name, units, step) in enumerate(axes):
        dim = group.create_dataset(f"dim{number}", data=np.array([0.0, step]))
        dim.attrs.update({"name": name, "units": units})


def _metadata(
    root: h5py.Group, name: str, python_class: str, values: Mapping[str, str | float | bool]
) -> None:
    bundle = root.require_group("metadatabundle")
    bundle.attrs["emd_group_type"] = "metadatabundle"
    group = _marked(bundle, name, "metadata", python_class)
    for key, value in values.items():
        kind = {str: b"string", bool: b"bool"}.get(type(value), b"number")
        item = value.encode() if isinstance(value, str) else value
        group.create_dataset(key, data=item).attrs["type"] = kind
