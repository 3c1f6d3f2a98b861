"""What is no data set is refused, and the message says what to do."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from recon.dataset import ScanFileWriter
from recon.errors import CalibrationError, DataError
from recon.importers import open_4d
from recon.params import ParameterError, ReconstructionParams
from recon.reconstruct import reconstruct

FIELDS = {
    "energy_eV": 300e3,
    "semiangle_mrad": 10.0,
    "defocus_A": 100.0,
    "scan_step_A": 1.05,
    "k_pixel_mrad": 1.5,
    "dose_e_per_A2": 100.0,
    "scan_rotation_deg": 3.0,
    "flip_ud": True,
    "flip_lr": False,
    "transpose": False,
}


def counts(seed: int = 0) -> np.ndarray:
    row, col = np.indices((20, 24))
    disc = np.hypot(row - 10, col - 12) * 1.5 < 10.0
    return np.random.default_rng(seed).poisson(0.9 * disc, (7, 8, 20, 24))


def described(path: Path, data: np.ndarray, fields: dict[str, object]) -> Path:
    with h5py.File(path, "w") as file:
        file["counts"] = data
        file.attrs.update(fields)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
def test_a_described_array_opens(tmp_path: Path, dtype: type) -> None:
    scan = open_4d(described(tmp_path / "d.h5", counts().astype(dtype), FIELDS))
    np.testing.assert_array_equal(scan.dense4d(), counts())
    assert scan.header.energy_keV == 300.0
    assert scan.header.flip_ud
    assert scan.header.fluence_e_per_A2 == 100.0
    assert len(scan.sha256) == 64


def test_numpy_with_a_yaml_beside_it_opens(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", counts())
    with pytest.raises(DataError, match=r"describe it in d\.yaml with energy_eV"):
        open_4d(tmp_path / "d.npy")
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(FIELDS))
    assert open_4d(tmp_path / "d.npy").n_electrons == counts().sum()


def test_a_native_file_opens_the_same_way(tmp_path: Path) -> None:
    scan = open_4d(described(tmp_path / "d.h5", counts(), FIELDS))
    with ScanFileWriter(tmp_path / "native.h5", scan.header) as writer:
        writer.append_dense(scan.dense())
        assert open_4d(tmp_path / "native.h5").n_electrons == scan.n_electrons


def bad(change: str) -> np.ndarray:
    data = counts().astype(np.float32)
    match change:
        case "nan":
            data[2, 3, 4, 5] = np.nan
        case "negative":
            data[0, 0, 0, 0] = -1
        case "fractions":
            data *= 0.37
        case "flat":
            data = data.reshape(-1, 20, 24)
        case "huge":
            data[0, 0, 0, 0] = 1e12
    return data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nan", "1 of 26880 counts are NaN"),
        ("negative", "counts are negative"),
        ("fractions", "not whole numbers.*divide by the counts per electron"),
        ("flat", r"expected four axes \(scan_y, scan_x, det_y, det_x\)"),
        ("huge", "cannot be electrons"),
    ],
)
def test_counts_that_are_no_counts_are_refused(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_4d(described(tmp_path / "d.h5", bad(change), FIELDS))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    fields = {k: v for k, v in FIELDS.items() if k != "semiangle_mrad"}
    with pytest.raises(DataError, match=r"missing semiangle_mrad \(convergence semi-angle"):
        open_4d(described(tmp_path / "d.h5", counts(), fields))
    np.save(tmp_path / "e.npy", counts())
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(FIELDS | {"semi_angle": 3}))
    with pytest.raises(DataError, match="unknown fields semi_angle"):
        open_4d(tmp_path / "e.npy")
    with pytest.raises(DataError, match="greater than 0") as refused:
        open_4d(described(tmp_path / "f.h5", counts(), FIELDS | {"scan_step_A": -1.0}))
    assert "scan_step_A is -1.0: input should be" in str(refused.value)
    with pytest.raises(DataError, match=r"k_pixel_mrad is -1.0.*Correct it in the file") as refused:
        open_4d(described(tmp_path / "g.h5", counts(), FIELDS | {"k_pixel_mrad": -1.0}))
    assert "pydantic" not in str(refused.value)


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_4d(tmp_path / "none.h5")
    (tmp_path / "a.dm4").write_text("")
    with pytest.raises(DataError, match=r"ending in '\.dm4' are not read"):
        open_4d(tmp_path / "a.dm4")
    (tmp_path / "b.h5").write_text("no HDF5")
    with pytest.raises(DataError, match="cannot be opened as HDF5"):
        open_4d(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["image"] = 1
    with pytest.raises(DataError, match="it holds image"):
        open_4d(tmp_path / "c.h5")
    whole = described(tmp_path / "d.h5", counts(), FIELDS).read_bytes()
    (tmp_path / "d.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="truncated"):
        open_4d(tmp_path / "d.h5")


def test_a_detector_that_cuts_the_disc_is_named(tmp_path: Path) -> None:
    data = np.roll(counts(), 8, axis=3)
    data[..., :4] = 0
    with pytest.raises(DataError, match="cuts the bright-field disc"):
        reconstruct(open_4d(described(tmp_path / "d.h5", data, FIELDS)))
    long = FIELDS | {"semiangle_mrad": 40.0}
    with pytest.raises(DataError, match="bright-field disc"):
        reconstruct(open_4d(described(tmp_path / "e.h5", counts(), long)))


def test_too_few_electrons_or_positions_are_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="too few to find the bright-field disc"):
        reconstruct(open_4d(described(tmp_path / "d.h5", counts()[:, :, :10] * 0, FIELDS)))
    with pytest.raises(DataError, match="a scan of 3 x 8 positions is no image"):
        reconstruct(open_4d(described(tmp_path / "e.h5", counts()[:3], FIELDS)))


def test_parameters_refuse_misspelt_keys_and_nonsense(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("max_passes: 5\nslice_coupling: 0.5\n")
    assert ReconstructionParams.from_yaml(path).max_passes == 5
    path.write_text("max_pases: 5\n")
    with pytest.raises(ParameterError, match=r"p\.yaml.*\n?max_pases"):
        ReconstructionParams.from_yaml(path)
    path.write_text("defocus_A: .nan\n")
    with pytest.raises(ParameterError, match="finite"):
        ReconstructionParams.from_yaml(path)
