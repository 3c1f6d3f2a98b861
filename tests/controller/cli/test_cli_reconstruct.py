"""``lodestem reconstruct``: foreign files, a vacuum pattern, exports and two results compared."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from controller.cli.main import app

FIELDS = {
    "energy_eV": 300e3,
    "semiangle_mrad": 12.0,
    "defocus_A": 120.0,
    "scan_step_A": 0.9,
    "k_pixel_mrad": 1.0,
}


def lodestem(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def disc(shape: tuple[int, int]) -> np.ndarray:
    row, col = np.indices(shape)
    return np.clip(12.5 - np.hypot(row - shape[0] // 2, col - shape[1] // 2), 0, 1)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A scan of nothing much (the beam, with a weak wobble) and a pattern in vacuum."""
    rng = np.random.default_rng(0)
    wobble = 1 + 0.3 * np.sin(np.arange(14))[:, None, None, None]
    np.save(tmp_path / "d.npy", rng.poisson(0.4 * wobble * disc((32, 32)), (14, 15, 32, 32)))
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(FIELDS))
    np.save(tmp_path / "v.npy", rng.poisson(50 * disc((32, 32))))
    (tmp_path / "p.yaml").write_text("engine: parallax\n")
    return tmp_path


def test_vacuum_export_and_compare(files: Path) -> None:
    for name in ("a", "b"):
        done = lodestem(
            "reconstruct", str(files / "d.npy"), "--params", str(files / "p.yaml"),
            "--out", str(files / name), "--vacuum", str(files / "v.npy"),
            "--export", "ptyrad", "--export", "py4dstem", "--json",
        )  # fmt: skip
        assert done.exit_code == 0, done.stderr
        result = json.loads(done.stdout)["result"]
        assert result["calibration"]["disc_radius_px"]["source"] == "vacuum"
        assert result["vacuum"]["radius_px"] == pytest.approx(12, abs=0.3)
        assert Path(result["outputs"]["ptyrad_params"]).exists()
        assert Path(result["outputs"]["py4dstem_datacube"]).exists()
    with h5py.File(files / "a" / "reconstruction.h5") as file:
        assert file["vacuum/pattern"].shape == (32, 32)
        assert file["vacuum"].attrs["n_patterns"] == 1
    done = lodestem("reconstruct", "--compare", str(files / "a"), str(files / "b"),
                    "--out", str(files / "both"), "--json")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["result"]["correlation"] > 0.999
    assert any("same electrons" in text for text in document["warnings"])
    assert (files / "both" / "comparison.html").exists()


def test_wrong_requests_are_exit_2_and_say_why(files: Path) -> None:
    data = str(files / "d.npy")
    for arguments, message in (
        ([data, "--export", "zip"], "--export zip is not known"),
        ([data, "--compare", data, data], "takes two results and no data set"),
        ([], "no data set is given"),
        ([data, "--vacuum", str(files / "none.npy")], "does not exist"),
        (["--compare", str(files), str(files)], "holds no reconstruction.h5"),
        ([data, "--device", "tpu"], "--device tpu is not auto, cpu or cuda"),
    ):
        done = lodestem("reconstruct", *arguments, "--json")
        assert done.exit_code == 2
        assert message in json.loads(done.stdout)["error"]["message"]
