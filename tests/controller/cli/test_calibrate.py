"""``lodestem calibrate``: on the simulator, on the files it kept, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from benchmarks.alignment_patterns import Crystal, Detector, diffraction, record
from controller.calibration.store import load_calibration
from controller.cli.main import app
from controller.perception.alignment import HolderFrame
from controller.perception.alignment.geometry import double_tilt, rotation_from_vector

DATA = Path(__file__).parents[1] / "alignment" / "data"
FRAME = HolderFrame(115.0, mirrored=True)


def lodestem(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_the_camera_is_measured_on_the_simulator_and_again_from_the_kept_patterns(
    tmp_path: Path,
) -> None:
    out, kept, run = (str(tmp_path / n) for n in ("calibration.yaml", "rings.h5", "run"))
    done = lodestem(
        "calibrate", "camera", "--scenario", "gold-standard", "--seed", "3", "--at=13,0",
        "--out", out, "--save", kept, "--run", run, "--json", "-q",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    factor = result["inv_A_per_px"] / result["nominal_inv_A_per_px"]
    assert factor == pytest.approx(1.01607, abs=6e-4)  # the truth of this seed
    assert result["ellipticity"] == pytest.approx(0.012, abs=6e-4)
    assert result["origin"]["charged_e_per_A2"] > 0
    assert (tmp_path / "run" / "ledger.sqlite").exists()

    again = lodestem("calibrate", "camera", "--files", kept, "--out", out, "--json")
    assert again.exit_code == 0, again.stderr
    document = json.loads(again.stdout)
    assert document["result"]["inv_A_per_px"] == pytest.approx(result["inv_A_per_px"], rel=2e-4)
    assert document["warnings"] == []
    assert len(load_calibration(Path(out)).entries) == 2

    shown = lodestem("calibrate", "show", out, "--json")
    assert shown.exit_code == 5  # tilt axes and beam tilt were never measured
    codes = {(a["kind"], a["code"]) for a in json.loads(shown.stdout)["result"]["alarms"]}
    assert ("tilt-axes", "missing") in codes
    checked = lodestem("doctor", "--calibration", out, "--json")
    assert checked.exit_code == 5
    assert "calibration beam-tilt" in checked.stdout


@pytest.fixture(scope="module")
def crystal_stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patterns of one crystal at six readings, on a mirrored camera."""
    crystal = Crystal.from_cif(DATA / "UiO-66.cif")
    in_holder = rotation_from_vector(np.array([0.03, -0.02, 0.5]))
    path = tmp_path_factory.mktemp("axes") / "axes.h5"
    with h5py.File(path, "w") as file:
        file.attrs["instrument"] = "scope A"
        for n, (a, b) in enumerate([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]):
            seen = FRAME.stage_from_detector().T @ double_tilt(2.0 + a, -1.0 + b) @ in_holder
            g, intensity = diffraction(crystal, seen, 200, 45, g_max=1.2, beams=180)
            image = record(g, intensity, Detector(), 5e4, np.random.default_rng(n))
            pattern = file.create_dataset(f"patterns/{n:02d}", data=image)
            pattern.attrs.update(
                energy_eV=200e3, inv_A_per_px=0.0121, alpha_deg=2.0 + a, beta_deg=-1.0 + b
            )
    return path


def test_tilt_axes_from_recorded_patterns_serve_the_aligner(
    crystal_stack: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "calibration.yaml")
    structure = str(DATA / "UiO-66.cif")
    done = lodestem(
        "calibrate", "tilt-axes", "--files", str(crystal_stack), "--structure", structure,
        "--zone", "0,0,1", "--out", out, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    off = (result["azimuth_deg"] - 115 + 180) % 360 - 180
    assert abs(off) < 3.5 * result["azimuth_sigma_deg"] < 5
    assert result["mirrored"]
    assert result["origin"]["instrument"] == "scope A"

    aligned = lodestem(
        "align", str(crystal_stack), "--structure", structure, "--zone", "0,0,1",
        "--calibration", out, "--json",
    )  # fmt: skip
    moves = [p["move"] for p in json.loads(aligned.stdout)["result"]["patterns"].values()]
    # wherever it was seen from, the zone axis needs the same goniometer
    assert np.ptp([m["tilt_alpha_deg"] for m in moves]) < 0.15
    assert np.ptp([m["tilt_beta_deg"] for m in moves]) < 0.15


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tilt-axes", "--scenario", "gold-standard"), "needs the structure"),
        (("camera", "--files", "none.h5"), "no such file"),
        (("camera", "--scenario", "gold-standard", "--at=1"), "2 numbers"),
        (("camera", "--backend", "nothing"), "nothing"),
        (("show", "none.yaml"), "no such file"),
    ],
)
def test_what_cannot_be_done_is_exit_2_with_the_remedy(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = lodestem("calibrate", *words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_pattern_without_rings_stores_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "blank.npy", np.zeros((128, 128)))
    out = tmp_path / "calibration.yaml"
    done = lodestem(
        "calibrate", "camera", "--files", str(tmp_path / "blank.npy"), "--energy-keV", "300",
        "--inv-A-per-px", "0.0127", "--out", str(out),
    )  # fmt: skip
    assert done.exit_code == 2
    assert "no rings of Au" in done.stderr
    assert not out.exists()
