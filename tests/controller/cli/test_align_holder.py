"""``lodestem align`` with the holder told: moves, stereogram, orientation; wrong flags by name."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from benchmarks.alignment_patterns import Crystal, Detector, diffraction, orientation, record
from controller.cli.main import app

DATA = Path(__file__).parents[1] / "alignment" / "data"
HOLDER = ("--tilt-axis-azimuth-deg", "-62", "--limits=-30,30,-20,20")


def lodestem(*words: str) -> Result:
    return CliRunner().invoke(app, ["align", *words])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    crystal = Crystal.from_cif(DATA / "UiO-66.cif")
    rotation = orientation(crystal, (0, 0, 1), np.array([30.0, -20.0]), 0.3)
    g, intensity = diffraction(crystal, rotation, 200, 45, g_max=1.2, beams=220)
    path = tmp_path_factory.mktemp("stack") / "stack.h5"
    with h5py.File(path, "w") as out:
        out["cif/UiO"] = (DATA / "UiO-66.cif").read_text()
        image = record(g, intensity, Detector(), 3e4, np.random.default_rng(2))
        pattern = out.create_dataset("patterns/p1", data=image)
        pattern.attrs.update(energy_eV=200e3, inv_A_per_px=0.0121, alpha_deg=3.0, beta_deg=-1.0)
        pattern.attrs.update(structure="UiO", target_zone_uvw=[0, 0, 1])
    return path


def test_the_reading_of_the_file_gives_move_zones_and_pictures(stack: Path, tmp_path: Path) -> None:
    places = {
        kind: tmp_path / name
        for kind, name in (
            ("overlay", "fit.png"),
            ("stereogram", "reach.svg"),
            ("orientation", "o.json"),
        )
    }
    files = [word for kind, path in places.items() for word in (f"--{kind}", str(path))]
    done = lodestem(str(stack), *HOLDER, *files, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    found = result["patterns"]["p1"]
    assert found["answered"]
    assert found["move"]["reachable"]
    change = np.hypot(found["move"]["change_alpha_deg"], found["move"]["change_beta_deg"])
    assert change == pytest.approx(found["misorientation_deg"], rel=0.02)
    nearest = found["zones"][0]
    assert nearest["family_uvw"] == [1, 0, 0]
    assert nearest["tilt_alpha_deg"] == pytest.approx(found["move"]["tilt_alpha_deg"], abs=1e-6)
    assert all(path.stat().st_size > 1000 for path in places.values())
    assert result["orientations"] == {"p1": str(places["orientation"])}


def test_a_given_reading_wins_over_the_file(stack: Path) -> None:
    done = lodestem(str(stack), *HOLDER, "--pose=-25,0", "--json")
    move = json.loads(done.stdout)["result"]["patterns"]["p1"]["move"]
    assert move["tilt_alpha_deg"] - move["change_alpha_deg"] == pytest.approx(-25.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pose=1,2",), "azimuth"),
        (("--pose=1,2,3", "--tilt-axis-azimuth-deg", "0"), "2 numbers"),
        (("--pose=1,200", "--tilt-axis-azimuth-deg", "0"), "-90 .. 90"),
        (("--pose=1,2", "--tilt-axis-azimuth-deg", "0", "--limits=3,-3,0,1"), "ascending"),
        (("--stereogram", "x.gif", "--tilt-axis-azimuth-deg", "0"), ".svg"),
    ],
)
def test_wrong_flags_are_exit_2_with_the_remedy(
    stack: Path, words: tuple[str, ...], said: str
) -> None:
    done = lodestem(str(stack), *words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_without_an_answer_the_missing_stereogram_is_a_warning(tmp_path: Path) -> None:
    np.save(tmp_path / "blank.npy", np.zeros((64, 64)))
    done = lodestem(
        str(tmp_path / "blank.npy"), "--energy-keV", "200", "--inv-A-per-px", "0.01", *HOLDER,
        "--pose=0,0", "--stereogram", str(tmp_path / "s.svg"), "--json",
    )  # fmt: skip
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert "no stereogram was written" in document["warnings"][0]
    assert not (tmp_path / "s.svg").exists()
