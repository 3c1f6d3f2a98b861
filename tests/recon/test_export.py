"""What PtyRAD and py4DSTEM are given says the same as what was reconstructed, in their words."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recon.calibration import Measured
from recon.dataset import Dataset4D
from recon.export import export_result
from recon.export.ptyrad import affine_matrix, affine_terms
from recon.geometry import rotation_matrix, scan_positions_A, wavelength_A
from recon.importers import open_4d
from recon.params import ReconstructionParams
from recon.reconstruct import reconstruct
from recon.result import Reconstruction

PARAMS = ReconstructionParams(
    max_passes=3, half_set_frc=False, n_slices=2, tilt_mrad=(2.0, -1.0), thickness_A=64.0
)


@pytest.fixture(scope="module")
def fitted(turned: Any) -> tuple[Dataset4D, Reconstruction]:
    counted = turned.counted(300)
    stored = np.flip(counted.dense4d(), axis=2).swapaxes(2, 3)  # undone by transpose, then flip_lr
    # order of undoing: flip_ud, flip_lr, transpose; a row flip after the exchange is a column flip
    header = counted.header.model_copy(
        update={"flip_lr": True, "transpose": True, "beam_centre_px": (24.0, 23.0)}
    )
    valid = np.ones(header.n_positions, bool)
    valid[-3:] = False
    stored.reshape(-1, 48, 48)[-3:] = 0
    dataset = replace(Dataset4D.from_dense(stored, header), valid=valid)
    return dataset, reconstruct(dataset, PARAMS)


@pytest.fixture(scope="module")
def exported(
    fitted: tuple[Dataset4D, Reconstruction], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("exports")
    written = export_result(*fitted, ("ptyrad", "py4dstem"), out)
    assert all(Path(path).exists() for path in written.values())
    assert set(written) == {
        "ptyrad_data", "ptyrad_params", "ptyrad_model", "ptyrad_continue",
        "py4dstem_datacube", "py4dstem_reconstruction",
    }  # fmt: skip
    return out


def test_both_get_upright_frames_with_the_beam_in_the_middle(
    turned: Any, exported: Path, fitted: tuple[Dataset4D, Reconstruction]
) -> None:
    upright = turned.counted(300).dense4d()
    upright.reshape(-1, 48, 48)[-3:] = 0
    with h5py.File(exported / "ptyrad/data.hdf5") as file:
        frames = file["meas"][...].reshape(upright.shape)
    with h5py.File(exported / "py4dstem/datacube.h5") as file:
        cube = file["datacube_root/datacube/data"][...]
    np.testing.assert_array_equal(frames, cube)
    shift = 24 - np.array([round(c) for c in _frame_centre(fitted)])
    moved = np.roll(upright, shift, axis=(2, 3))
    inner = (..., slice(2, -2), slice(2, -2))
    np.testing.assert_array_equal(frames[inner], moved[inner])


def _frame_centre(fitted: tuple[Dataset4D, Reconstruction]) -> tuple[float, float]:
    from recon.geometry import centre_in_frame

    return centre_in_frame(fitted[0].header, fitted[1].calibration.centre_px)


def test_py4dstem_file_is_read_by_our_own_emd_reader(
    exported: Path, fitted: tuple[Dataset4D, Reconstruction], tmp_path: Path
) -> None:
    header = fitted[1].header
    path = tmp_path / "datacube.h5"
    path.write_bytes((exported / "py4dstem/datacube.h5").read_bytes())
    path.with_suffix(".yaml").write_text(yaml.safe_dump({"energy_eV": 300e3, "defocus_A": 120.0}))
    again = open_4d(path)
    assert again.header.scan_step_A == pytest.approx(header.scan_step_A)
    assert again.header.detector_sampling_mrad == pytest.approx(header.detector_sampling_mrad)
    assert again.header.convergence_semiangle_mrad == header.convergence_semiangle_mrad
    with h5py.File(exported / "py4dstem/datacube.h5") as file:
        said = file["datacube_root/metadatabundle/lodestem"]
        assert said["com_rotation_deg"][()] == -fitted[1].calibration.rotation_deg.value
    with h5py.File(exported / "py4dstem/reconstruction.emd") as file:
        phase = file["reconstruction_root/phase"]
        np.testing.assert_array_equal(phase["data"][...], fitted[1].phase_rad)
        assert np.diff(phase["dim0"][...])[0] == pytest.approx(fitted[1].pixel_size_A)


def test_ptyrad_parameters_follow_its_conventions(
    exported: Path, fitted: tuple[Dataset4D, Reconstruction]
) -> None:
    result = fitted[1]
    params = yaml.safe_load((exported / "ptyrad/params.yaml").read_text())
    init = params["init_params"]
    slab_A = result.calibration.thickness_A.value / 2
    assert init["obj_Nlayer"] == 2
    assert init["obj_slice_thickness"] == pytest.approx(slab_A)
    # underfocus is negative C10, and the first slice lies half a slab into the specimen
    assert init["probe_aberrations"]["C10"] == pytest.approx(
        -(result.calibration.defocus_A.value - slab_A / 2)
    )
    assert init["tilt_params"]["init_tilts"] == [[-2.0, 1.0]]
    assert init["pos_scan_rand_std"] is None
    sampling_A = 1 / (init["meas_calibration"]["value"] * init["meas_Npix"])
    assert sampling_A == pytest.approx(result.pixel_size_A)
    matrix = affine_matrix(np.array(init["pos_scan_affine"])) * init["pos_scan_step_size"]
    np.testing.assert_allclose(matrix, result.scan_matrix_A, atol=1e-6)


def test_the_exported_model_predicts_what_ours_does(
    turned: Any, exported: Path, fitted: tuple[Dataset4D, Reconstruction]
) -> None:
    """Object, probe and positions, put together as PtyRAD does, give the patterns without noise."""
    result = fitted[1]
    with h5py.File(exported / "ptyrad/model.hdf5") as file:
        tensors = {name: node[...] for name, node in file["optimizable_tensors"].items()}
        corner = file["model_attributes/crop_pos"][...]
    with h5py.File(exported / "ptyrad/data.hdf5") as file:
        counts = file["meas"][...]
    n = counts.shape[-1]
    k = np.fft.fftfreq(n, result.pixel_size_A)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    slab_A, (tilt_y, tilt_x) = float(tensors["slice_thickness"]), tensors["obj_tilts"][0] * 1e-3
    H = np.exp(
        -1j * np.pi * wavelength_A(300.0) * slab_A * (ky**2 + kx**2)
        + 2j * np.pi * slab_A * (ky * np.tan(tilt_y) + kx * np.tan(tilt_x))
    )
    expected = np.roll(
        turned.patterns, 24 - np.array([round(c) for c in _frame_centre(fitted)]), axis=(2, 3)
    ).reshape(counts.shape)
    agreement = []
    for place in range(0, len(counts) - 3, 37):
        down, right = tensors["probe_pos_shifts"][place] * result.pixel_size_A
        ramp = np.exp(-2j * np.pi * (ky * down + kx * right))
        psi = np.fft.ifft2(np.fft.fft2(tensors["probe"][0]) * ramp)
        top, left = corner[place]
        patch = tensors["objp"][0][:, top : top + n, left : left + n]
        for number, phase in enumerate(patch):
            psi = psi * np.exp(1j * phase)
            if number < len(patch) - 1:
                psi = np.fft.ifft2(H * np.fft.fft2(psi))
        model = np.fft.fftshift(np.abs(np.fft.fft2(psi)) ** 2)
        agreement.append(np.corrcoef(model.ravel(), expected[place].ravel())[0, 1])
    assert np.mean(agreement) > 0.9


@given(
    rotation=st.floats(-180, 180),
    terms=st.tuples(st.floats(0.9, 1.1), st.floats(-0.05, 0.05), st.floats(-0.05, 0.05)),
)
def test_any_scan_matrix_has_its_four_terms(
    rotation: float, terms: tuple[float, float, float]
) -> None:
    scale, stretch, shear = terms
    matrix = rotation_matrix(rotation) @ np.array([[scale + stretch, shear], [0.3 * shear, scale]])
    found = affine_terms(matrix)
    if found is None:
        assert abs(abs(rotation % 90) - 45) < 25  # only there can a strain be out of reach
        return
    np.testing.assert_allclose(affine_matrix(np.array(found)), matrix, atol=1e-8)


def test_positions_are_listed_where_the_four_terms_cannot_say_them(
    fitted: tuple[Dataset4D, Reconstruction], tmp_path: Path
) -> None:
    dataset, result = fitted
    affine = ((1.0, 0.03), (0.01, 1.0))
    turned = result.calibration.changed(
        {"rotation_deg": Measured(45.0, 0.0, "fixed")}, affine=affine
    )
    matrix = rotation_matrix(45.0) @ np.array(affine)
    positions = scan_positions_A(result.header.scan_shape, matrix * result.header.scan_step_A)
    assert affine_terms(matrix) is None
    written = export_result(
        dataset, replace(result, calibration=turned, positions_A=positions), ("ptyrad",), tmp_path
    )
    init = yaml.safe_load(Path(written["ptyrad_params"]).read_text())["init_params"]
    assert init["pos_source"] == "PtyRAD"
    with h5py.File(tmp_path / "ptyrad" / init["pos_params"]) as file:
        corner = file["model_attributes/crop_pos"][...]
        px = corner + file["optimizable_tensors/probe_pos_shifts"][...]
    assert corner.min() >= 0
    np.testing.assert_allclose(
        (px - px.mean(axis=0)) * result.pixel_size_A, positions - positions.mean(axis=0), atol=1e-4
    )
