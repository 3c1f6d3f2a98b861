"""A reconstruction on disk: ``reconstruction.h5``, pictures for people, ``summary.html``."""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import h5py
import numpy as np

from recon.dataset import ScanHeader, VacuumProbe
from recon.export import ExportFormat, export_result
from recon.params import ReconstructionParams
from recon.pictures import write_pictures
from recon.reconstruct import Progress
from recon.request import OutputError, open_request, reconstruct_request
from recon.result import Reconstruction
from recon.summary_page import write_summary_page

__all__ = ["OutputError", "program_version", "reconstruct_file", "write_hdf5", "write_outputs"]


def reconstruct_file(  # noqa: PLR0913  (what a request may say)
    path: str | Path | None,
    out_dir: str | Path | None,
    params: ReconstructionParams | None = None,
    *,
    resume: str | Path | None = None,
    device: str | None = None,
    rng_seed: int | None = None,
    progress: Progress | None = None,
    vacuum: str | Path | None = None,
    exports: tuple[ExportFormat, ...] = (),
) -> dict[str, object]:
    """Reconstruct a file and write every output into ``out_dir``.

    With ``resume`` the reconstruction in that folder goes on from its last checkpoint, and what is
    None is as it was begun with.

    Parameters
    ----------
    vacuum
        Pattern(s) taken without a specimen under the same optics (``recon.vacuum``).
    exports
        Programs to write data and result for, each into a folder of its name.

    Returns
    -------
    The summary (JSON-ready), with ``outputs``: name -> path of every file written.

    Raises
    ------
    OutputError
        The folder already holds a reconstruction, or is not a folder.
    CheckpointError
        There is nothing to resume, or data or settings are other ones.
    DataError, CalibrationError
        As ``open_4d`` and ``reconstruct``.
    """
    request = open_request(
        path, out_dir, params, resume=resume, device=device, rng_seed=rng_seed, vacuum=vacuum
    )
    dataset = request.dataset
    result = reconstruct_request(request, progress=progress)
    exported = export_result(dataset, result, exports, request.out)
    summary = write_outputs(result, request.out, also=exported, vacuum=dataset.vacuum)
    request.checkpoints.remove()
    return summary


def write_outputs(
    result: Reconstruction,
    out: str | Path,
    *,
    also: Mapping[str, str] | None = None,
    vacuum: VacuumProbe | None = None,
) -> dict[str, object]:
    """Write HDF5, PNGs, ``summary.html``, ``summary.json`` and ``params.yaml``; return the summary.

    The last repeats the reconstruction: a run knows of a scan what its file does not, such as the
    defocus at the specimen.

    ``also`` are files written elsewhere, name -> path, to be listed among the outputs; ``vacuum``
    is the illumination that was measured for the scan.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    pictures = write_pictures(result, out)
    write_hdf5(result, out / "reconstruction.h5", vacuum=vacuum)
    write_summary_page(result, pictures, out / "summary.html")
    files = {path.stem: str(path) for path in pictures.values()}
    files["reconstruction"] = str(out / "reconstruction.h5")
    files["summary"] = str(out / "summary.html")
    (out / "params.yaml").write_text(result.params.to_yaml(), encoding="utf-8")
    files["params"] = str(out / "params.yaml")
    summary = result.summary() | {"outputs": files | dict(also or {})}
    if vacuum is not None:
        summary["vacuum"] = _vacuum_numbers(vacuum)
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    (out / "summary.json").write_text(text, encoding="utf-8")
    return summary


def write_hdf5(result: Reconstruction, path: Path, *, vacuum: VacuumProbe | None = None) -> None:
    """Write the arrays; the file appears under its name only when it is whole."""
    beside = path.with_name(f".{path.name}.writing")
    with h5py.File(beside, "w") as file:
        phase = file.create_dataset("phase_rad", data=result.phase_rad)
        phase.attrs["pixel_size_A"] = result.pixel_size_A
        phase.attrs["scan_centre_px"] = result.scan_centre_px
        phase.attrs["units"] = "rad"
        if result.phase_sigma_rad is not None:
            file["phase_sigma_rad"] = result.phase_sigma_rad
        slices = file.create_dataset("slices_phase_rad", data=result.slices_phase_rad)
        slices.attrs["slab_A"] = result.calibration.thickness_A.value / len(result.slices_phase_rad)
        file["probe"] = result.probe
        file["probe"].attrs["sampling_A"] = result.pixel_size_A
        file["positions_A"] = result.positions_A
        parallax = file.create_dataset("parallax_phase_rad", data=result.parallax_phase_rad)
        parallax.attrs["pixel_size_A"] = result.header.scan_step_A / 2
        if result.lattice_residual_rad is not None:
            file["lattice_residual_rad"] = result.lattice_residual_rad
            file["lattice_residual_rad"].attrs["pixel_size_A"] = result.pixel_size_A
        _write_calibration(file.create_group("calibration"), result)
        _write_curves(file.create_group("curves"), result)
        _write_resolution(file.create_group("resolution"), result)
        _write_provenance(file.create_group("provenance"), result)
        if vacuum is not None:
            file["vacuum/pattern"] = vacuum.pattern
            file["vacuum"].attrs.update(_vacuum_numbers(vacuum))
    os.replace(beside, path)


def _vacuum_numbers(vacuum: VacuumProbe) -> dict[str, object]:
    """Everything but the pattern itself."""
    return {
        item.name: getattr(vacuum, item.name) for item in fields(vacuum) if item.name != "pattern"
    }


def _write_calibration(group: h5py.Group, result: Reconstruction) -> None:
    for name, measured in result.calibration.measured().items():
        if not name.startswith("tilt_"):
            group[name] = measured.value
            group[name].attrs["sigma"] = measured.sigma
            group[name].attrs["source"] = measured.source
    tilt = result.calibration.tilt_row_mrad, result.calibration.tilt_col_mrad
    group["tilt_mrad"] = [axis.value for axis in tilt]
    group["tilt_mrad"].attrs["sigma"] = [axis.sigma for axis in tilt]
    group["tilt_mrad"].attrs["source"] = tilt[0].source
    group["affine"] = np.array(result.calibration.affine)
    group["affine"].attrs["sigma"] = result.calibration.affine_sigma
    group["affine"].attrs["source"] = result.calibration.rotation_deg.source
    group["mirrored"] = result.calibration.mirrored


def _write_curves(group: h5py.Group, result: Reconstruction) -> None:
    group["fitted_nll_per_electron"] = np.array(result.curves.fitted)
    group["held_out_nll_per_electron"] = np.array(result.curves.held_out)
    group["defocus_A"] = np.array(result.curves.defocus_A)
    if result.frc is not None:
        group["frc_frequency_per_A"] = result.frc.frequency_A
        group["frc"] = result.frc.correlation
        group["frc_half_bit_threshold"] = result.frc.half_bit_threshold()


def _write_resolution(group: h5py.Group, result: Reconstruction) -> None:
    resolution = result.resolution
    group["frc_half_A"] = resolution.frc_half_A
    group["frc_0143_A"] = resolution.frc_0143_A
    group["frc_at_half_A"] = resolution.frc_at_half_A
    group["frc_half_bit_A"] = resolution.frc_half_bit_A
    group["lattice_limit_A"] = resolution.lattice_limit_A
    group["distortion_limit_A"] = resolution.distortion_limit_A
    group["explained_share"] = result.explained_share
    group["effective_electrons"] = resolution.effective_electrons
    group["spots_per_A"] = np.array([spot.q_A for spot in result.spots]).reshape(-1, 2)


def _write_provenance(group: h5py.Group, result: Reconstruction) -> None:
    header: ScanHeader = result.header
    group.attrs["program"] = "lodestem"
    group.attrs["version"] = program_version()
    group.attrs["input"] = result.source
    group.attrs["input_sha256"] = result.source_sha256
    group.attrs["run_uuid"] = header.run_uuid
    group.attrs["rng_seed"] = result.rng_seed
    group["parameters_json"] = result.params.model_dump_json()
    group["header_json"] = header.model_dump_json()
    group["verdict"] = result.verdict
    group["stopped_because"] = result.stopped_because
    group["priors_json"] = json.dumps(list(result.priors), ensure_ascii=False)
    group["warnings_json"] = json.dumps(list(result.warnings), ensure_ascii=False)


def program_version() -> str:
    """Installed version of lodestem, or ``unknown`` from a bare source tree."""
    try:
        return metadata.version("lodestem")
    except metadata.PackageNotFoundError:
        return "unknown"
