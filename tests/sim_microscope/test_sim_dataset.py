from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from controller.hardware.values import Scan
from sim_microscope.dataset import DatasetSize, write_dataset
from sim_microscope.preview import write_png

SMALL = DatasetSize(
    most_tiles=1,
    pattern_crystals=1,
    scans=1,
    scan=Scan(shape=(3, 5), step_A=2.1, dwell_s=1e-3),
)


def test_the_files_hold_what_the_command_line_reads(tmp_path: Path) -> None:
    result = write_dataset("easy", tmp_path, seed=4, size=SMALL)
    assert result["image_count"] == 1
    assert result["pattern_count"] == 2
    with h5py.File(result["images"]) as file:
        image = file["images/S00"]
        assert image.shape == (512, 512)
        assert image.attrs["mode"] == "BF"
        electrons = (image[:] - image.attrs["offset"]) / image.attrs["gain"]
        assert np.median(electrons) == pytest.approx(
            image.attrs["incident_electrons_per_px"], rel=0.25
        )
    with h5py.File(result["patterns"]) as file:
        pattern = file["patterns/K00-flat"]
        assert pattern.attrs["energy_eV"] == 300e3
        assert pattern.attrs["inv_A_per_px"] == pytest.approx(0.2e-3 / 0.019687, rel=1e-3)
        assert pattern.attrs["target_zone_uvw"].shape == (3,)
        assert "_cell_length_a" in file["cif"][pattern.attrs["structure"]].asstr()[()]
        names = {pattern.attrs["exposure_id"]}
    with h5py.File(result["scans"][0]) as file:
        assert file["counts"].shape == (3, 5, 64, 64)
        per_position = file.attrs["dose_e_per_A2"] * file.attrs["scan_step_A"] ** 2
        assert file["counts"][:].sum(axis=(2, 3)).mean() == pytest.approx(per_position, rel=0.3)
        names.add(file.attrs["exposure_id"])
    with h5py.File(result["truth"]) as file:
        assert names <= set(json.loads(file["exposures"].attrs["exposure_id"]))
        near = file["exposures_crystals"][1]
        assert 0.8 < near[4] < 1.4
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_a_detector_that_fails_once_is_asked_again(tmp_path: Path) -> None:
    nothing = DatasetSize(most_tiles=1, pattern_crystals=0, scans=0)
    faults = ("camera-timeout@step:1", "arm-fails@step:2")
    result = write_dataset("easy", tmp_path, seed=4, faults=faults, size=nothing)
    assert result["image_count"] == 1


def test_a_bad_scenario_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no scenario is called"):
        write_dataset("nowhere", tmp_path / "out", seed=1)
    assert not (tmp_path / "out").exists()


def test_a_preview_is_a_png_of_the_right_shape(tmp_path: Path) -> None:
    from PIL import Image

    ramp = np.arange(35.0).reshape(5, 7)
    write_png(tmp_path / "a.png", ramp)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (7, 5)
        pixels = np.asarray(image)
    assert (np.diff(pixels.ravel().astype(int)) >= 0).all()
    assert pixels[0, 0] == 0
    assert pixels[-1, -1] == 255
