"""PtyRAD: measurements in HDF5, a parameter file, and a result that it can start from.

PtyRAD's conventions, where they differ from ours: its first object slice lies at the probe, half a
slab further down than our entrance surface, so that C10 = slab / 2 - defocus; its positions are
row vectors times scale, asymmetry, rotation, shear; its ``obj_tilts`` move the wave the other way.
"""

from pathlib import Path

import h5py
import numpy as np
import yaml
from numpy.typing import NDArray

from recon.dataset import Dataset4D
from recon.export.frames import framed_patterns, write_dense
from recon.geometry import k_per_mrad, rotation_matrix, wavelength_A
from recon.patterns import Patterns
from recon.result import Reconstruction

Float = NDArray[np.float64]
HEADER = """\
# Written by lodestem. Run `ptyrad run --params_path {name}` in this folder.
# {what}
"""


def export_ptyrad(dataset: Dataset4D, result: Reconstruction, folder: Path) -> dict[str, Path]:
    """Write ``data.hdf5``, ``params.yaml`` and, of a multislice result, what it can start from.

    Returns
    -------
    Name -> path of every file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    patterns = framed_patterns(dataset, result)
    paths = {"data": folder / "data.hdf5", "params": folder / "params.yaml"}
    with h5py.File(paths["data"], "w") as file:
        write_dense(file, "meas", patterns, dataset.scan_shape, flat=True)
        file["measured"] = np.fft.fftshift(patterns.measured)
    fresh = ptyrad_params(result, patterns)
    if fresh["init_params"]["pos_scan_affine"] is None:
        paths["positions"] = folder / "positions.hdf5"
        with h5py.File(paths["positions"], "w") as file:
            _write_positions(file, _fresh_corners(result, patterns.n))
        fresh["init_params"] |= {"pos_source": "PtyRAD", "pos_params": paths["positions"].name}
    _write(paths["params"], fresh, "Calibration as measured; object and probe start afresh.")
    if len(result.probe):
        paths["model"] = folder / "model.hdf5"
        paths["continue"] = folder / "params_continue.yaml"
        _write_model(paths["model"], result, patterns)
        again = fresh | {"init_params": fresh["init_params"] | _from_model(paths["model"].name)}
        _write(paths["continue"], again, "Starts from the object, probe and positions of lodestem.")
    return paths


def _write(path: Path, params: dict[str, dict[str, object]], what: str) -> None:
    text = yaml.safe_dump(params, sort_keys=False, default_flow_style=None, width=100)
    path.write_text(HEADER.format(name=path.name, what=what) + text, encoding="utf-8")


def _from_model(name: str) -> dict[str, object]:
    found: dict[str, object] = {"pos_scan_affine": None}
    for what in ("obj", "probe", "pos"):
        found |= {f"{what}_source": "PtyRAD", f"{what}_params": name}
    return found


def ptyrad_params(result: Reconstruction, patterns: Patterns) -> dict[str, dict[str, object]]:
    """Parameters of a fresh reconstruction in PtyRAD's names and units (Å, mrad, degrees)."""
    header, calibration = result.header, result.calibration
    slab_A = calibration.thickness_A.value / len(result.slices_phase_rad)
    C12a, C12b = calibration.C12a_A.value, calibration.C12b_A.value
    aberrations = {
        "C10": slab_A / 2 - calibration.defocus_A.value,
        "C12": float(np.hypot(C12a, C12b)),
        "phi12": float(np.degrees(np.arctan2(C12b, C12a)) / 2),
    }
    matrix = rotation_matrix(calibration.rotation_deg.value) @ np.array(calibration.affine)
    terms = affine_terms(matrix)
    tilt = calibration.tilt_row_mrad.value, calibration.tilt_col_mrad.value
    init: dict[str, object] = {
        "probe_kv": header.energy_keV,
        "probe_conv_angle": header.convergence_semiangle_mrad,
        "probe_aberrations": {name: float(value) for name, value in aberrations.items()},
        "meas_Npix": patterns.n,
        "pos_N_scan_slow": header.scan_shape[0],
        "pos_N_scan_fast": header.scan_shape[1],
        "pos_scan_step_size": header.scan_step_A,
        "pos_scan_affine": None if terms is None else [round(term, 8) for term in terms],
        "pos_scan_rand_std": None,  # by default it scatters the positions
        "meas_calibration": {
            "mode": "dk",
            "value": header.detector_sampling_mrad * k_per_mrad(header.energy_keV),
        },
        "probe_pmode_max": 1,
        "obj_Nlayer": len(result.slices_phase_rad),
        "obj_slice_thickness": float(slab_A),
        "meas_flipT": None,
        "tilt_source": "simu",
        "tilt_params": {"tilt_type": "all", "init_tilts": [[-float(t) for t in tilt]]},
        "meas_source": "file",
        "meas_params": {"path": "data.hdf5", "key": "meas"},
    }
    loss: dict[str, object] = {
        "loss_single": {"state": False, "weight": 1.0, "dp_pow": 0.5},
        "loss_poissn": {"state": True, "weight": 1.0, "dp_pow": 1.0, "eps": 1.0e-6},
        "loss_sparse": {"state": False, "weight": 0.1, "ln_order": 1},
    }
    recon: dict[str, object] = {
        "NITER": max(result.passes, 10),
        "BATCH_SIZE": {"size": 32, "grad_accumulation": 1},
        "SAVE_ITERS": 10,
        "output_dir": "output/",
        "recon_dir_affixes": ["minimal"],
    }
    return {"init_params": init, "loss_params": loss, "recon_params": recon}


def affine_terms(matrix: Float) -> tuple[float, float, float, float] | None:
    """(scale, asymmetry, rotation deg, shear deg) of PtyRAD for positions ``matrix @ scan``.

    Row vectors: m = matrix^T = scale diag(1 + a/2, 1 - a/2) [[c, s], [-s, c]] [[1, 0], [t, 1]]. The
    rows of m [[1, 0], [-t, 1]] are orthogonal: a quadratic in t = tan(shear), without a root
    for some strains turned by about 45 degrees (then None).
    """
    m = matrix.T
    square = m[0, 1] * m[1, 1]
    linear = m[0, 0] * m[1, 1] + m[0, 1] * m[1, 0]
    constant = m[0, 0] * m[1, 0] + square
    discriminant = linear**2 - 4 * square * constant
    if discriminant < 0 or abs(linear) + np.sqrt(discriminant) < 1e-12:
        return None
    # the smaller root, in the form that holds without rotation, where the quadratic is linear
    t = 2 * constant / (linear + np.copysign(np.sqrt(discriminant), linear))
    turned = m @ np.array([[1.0, 0.0], [-t, 1.0]])
    first, second = (float(np.linalg.norm(row)) for row in turned)
    rotation = float(np.degrees(np.arctan2(turned[0, 1], turned[0, 0])))
    scale = (first + second) / 2
    return scale, (first - second) / scale, rotation, float(np.degrees(np.arctan(t)))


def affine_matrix(terms: Float) -> Float:
    """The inverse of ``affine_terms``, (2, 2)."""
    scale, asymmetry, rotation, shear = terms
    stretch = scale * np.diag([1 + asymmetry / 2, 1 - asymmetry / 2])
    sheared = np.array([[1.0, 0.0], [np.tan(np.radians(shear)), 1.0]])
    return (stretch @ rotation_matrix(rotation).T @ sheared).T


def _write_model(path: Path, result: Reconstruction, patterns: Patterns) -> None:
    """Object, probe at the first slice and positions under the names PtyRAD saves them."""
    n, pixel_A = patterns.n, result.pixel_size_A
    slab_A = result.calibration.thickness_A.value / len(result.slices_phase_rad)
    corner = np.array(result.scan_centre_px) + result.positions_A / pixel_A - n // 2
    tilt = [result.calibration.tilt_row_mrad.value, result.calibration.tilt_col_mrad.value]
    slices = result.slices_phase_rad[None].astype(np.float32)
    with h5py.File(path, "w") as file:
        tensors = file.create_group("optimizable_tensors")
        tensors["obja"] = np.ones_like(slices)
        tensors["objp"] = slices
        tensors["probe"] = _at_first_slice(result, slab_A)
        tensors["obj_tilts"] = -np.array([tilt], np.float32)
        tensors["slice_thickness"] = np.float32(slab_A)
        _write_positions(file, corner)
        attributes = file["model_attributes"]
        attributes["dx"] = pixel_A
        attributes["slice_thickness"] = np.float32(slab_A)
        attributes["N_scan_slow"], attributes["N_scan_fast"] = result.header.scan_shape


def _write_positions(file: h5py.File, corner_px: Float) -> None:
    """Top left corner of every patch: whole pixels, and the rest."""
    whole = np.round(corner_px)
    file["model_attributes/crop_pos"] = whole.astype(np.int16)
    file["optimizable_tensors/probe_pos_shifts"] = (corner_px - whole).astype(np.float32)


def _fresh_corners(result: Reconstruction, n: int) -> Float:
    """Corners in the canvas of a fresh PtyRAD object, 1.2 times what the patches cover."""
    position = result.positions_A / result.pixel_size_A
    canvas = 1.2 * np.ceil(np.ptp(position, axis=0) + n)
    return position - position.mean(axis=0) + np.ceil(canvas / 2 - n / 2)


def _at_first_slice(result: Reconstruction, slab_A: float) -> NDArray[np.complex64]:
    """The probe half a slab below the entrance surface, centred, (mode, n, n)."""
    n = result.probe.shape[-1]
    k = np.fft.fftfreq(n, result.pixel_size_A)
    k2 = k[:, None] ** 2 + k[None] ** 2
    H = np.exp(-1j * np.pi * wavelength_A(result.header.energy_keV) * slab_A / 2 * k2)
    return np.fft.ifft2(H * np.fft.fft2(result.probe)).astype(np.complex64)
