"""Files in, JSON and pictures out."""

import json
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from benchmarks.alignment_patterns import Crystal, Detector, diffraction, orientation, record
from controller.perception.alignment import AlignmentInputError, Calibration, align_files
from controller.perception.alignment.overlay import laue_circle_outline
from controller.perception.alignment.structure import StructureError, structure_from_cif

DATA = Path(__file__).parent / "data"
TILT = (-6.0, 11.0)


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    crystal = Crystal.from_cif(DATA / "UiO-66.cif")
    rotation = orientation(crystal, (0, 0, 1), np.array(TILT), 0.3)
    g, intensity = diffraction(crystal, rotation, 200, 45, g_max=1.2, thickness_spread=0.1)
    detector = Detector(shape=(201, 224), centre_px=(110.2, 97.6))
    return record(g, intensity, detector, 2e4, np.random.default_rng(2))


def _write(path: Path, image: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".mrc":
        with mrcfile.new(path) as mrc:
            mrc.set_data(image.astype(np.float32))
    elif path.suffix == ".tif":
        tifffile.imwrite(path, image.astype(np.uint16))
    else:
        Image.fromarray(image.astype(np.uint16)).save(path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".mrc", ".tif", ".png"])
def test_every_kind_of_image_gives_the_same_counts(
    tmp_path: Path, counts: np.ndarray, suffix: str
) -> None:
    from controller.perception.alignment import read_patterns

    path = _write(tmp_path / f"pattern{suffix}", counts)
    (pattern,) = read_patterns(path, Calibration(energy_keV=200, inv_A_per_px=0.012))
    np.testing.assert_array_equal(pattern.counts, counts)
    assert pattern.id == "pattern"


def test_a_stack_is_measured_pattern_by_pattern(tmp_path: Path, counts: np.ndarray) -> None:
    path = tmp_path / "stack.h5"
    with h5py.File(path, "w") as stack:
        stack["cif/UiO"] = (DATA / "UiO-66.cif").read_text()
        broken = counts.copy()
        broken[3, 4] = np.nan
        for key, image in {"free": counts, "known": counts, "nan": broken}.items():
            dataset = stack.create_dataset(f"patterns/{key}", data=image)
            dataset.attrs["energy_eV"] = 200e3
            dataset.attrs["inv_A_per_px"] = 0.0121
        stack["patterns/known"].attrs["structure"] = "UiO"
        stack["patterns/known"].attrs["target_zone_uvw"] = [0, 0, 1]
    overlay = tmp_path / "seen.png"

    result = align_files([path], overlay=overlay)

    records = result["patterns"]
    assert list(records) == ["free", "known", "nan"]
    assert records["free"]["mode"] == "structure-free"
    assert records["known"]["mode"] == "structure"
    for key, allowed in (("free", 5.0), ("known", 1.5)):
        found = records[key]
        assert found["answered"], found["reason"]
        assert np.hypot(found["tilt_x_mrad"] - TILT[0], found["tilt_y_mrad"] - TILT[1]) < allowed
        assert (tmp_path / f"seen-{key}.png").stat().st_size > 10_000
    assert not records["nan"]["answered"]
    assert "1 of 45024 pixels are NaN" in records["nan"]["reason"]
    json.dumps(result, allow_nan=False)


def test_missing_calibration_names_the_flag(tmp_path: Path, counts: np.ndarray) -> None:
    path = _write(tmp_path / "pattern.npy", counts)
    with pytest.raises(AlignmentInputError, match="--inv-A-per-px"):
        align_files([path], Calibration(energy_keV=200))
    with pytest.raises(AlignmentInputError, match="no such file"):
        align_files([tmp_path / "absent.npy"])
    (tmp_path / "a.xyz").write_text("?")
    with pytest.raises(AlignmentInputError, match=r"unknown kind '\.xyz'"):
        align_files([tmp_path / "a.xyz"])


def test_a_stack_with_gaps_says_where(tmp_path: Path, counts: np.ndarray) -> None:
    path = tmp_path / "gap.h5"
    with h5py.File(path, "w") as stack:
        stack.create_dataset("patterns/a", data=counts).attrs["energy_eV"] = 200e3
    with pytest.raises(AlignmentInputError, match=r"/patterns/a: the attribute inv_A_per_px"):
        align_files([path])
    with h5py.File(path, "w") as stack:
        stack["other"] = 1
    with pytest.raises(AlignmentInputError, match="no patterns"):
        align_files([path])


def test_a_file_that_is_no_structure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="not a CIF"):
        structure_from_cif("this is not a CIF", "note")
    with pytest.raises(StructureError, match="cannot be read"):
        structure_from_cif(tmp_path / "absent.cif")


def test_the_drawn_circle_passes_through_the_beam_and_round_the_laue_centre() -> None:
    outline = laue_circle_outline((25.0, 10.0), 39.9)
    assert np.hypot(*outline.T).min() < 0.02
    theta = np.hypot(25.0, 10.0) * 1e-3
    centre = 39.9 * np.sin(theta) * np.cos(theta) * np.array([25.0, 10.0]) / np.hypot(25.0, 10.0)
    np.testing.assert_allclose(outline[:-1].mean(0), centre, rtol=1e-6)
