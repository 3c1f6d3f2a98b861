"""What `lodestem reconstruct` says while it works, and how it refuses."""

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from controller.cli.main import app
from controller.cli.output import Output
from controller.cli.reconstruct_ways import live_bar
from recon.result import ProgressEvent


def test_the_bar_shows_pass_losses_and_the_time_left() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with live_bar(Output("reconstruct", as_json=False), console) as tell:
        tell(ProgressEvent("reconstruct", 0.3, "pass 3", 3, 4.25, 4.3125))
    text = screen.getvalue()
    assert "reconstruct: pass 3" in text
    assert "fitted 4.2500, held out 4.3125" in text
    assert "30%" in text


def test_the_bar_is_silent_where_nobody_looks() -> None:
    screen = io.StringIO()
    with live_bar(Output("reconstruct", as_json=False), Console(file=screen)) as tell:
        tell(ProgressEvent("reconstruct", 0.3, "pass 3", 3, 4.25, float("nan")))
    assert screen.getvalue() == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no data"),
        (["--virtual", "bf"], "no data"),
        (["--distributed"], "no data"),
        (["{tmp}/gone.h5"], "does not exist"),
        (["{tmp}/gone.h5", "{tmp}/gone2.h5", "--out", "{tmp}/o"], "does not exist"),
        (["{tmp}/a.h5", "{tmp}/a.h5"], "give --out DIR"),
        (["{tmp}/a.h5", "{tmp}/a.h5", "--vacuum", "{tmp}/a.h5"], "--vacuum is for one scan"),
        (["{tmp}/a.h5", "--virtual", "bf", "--export", "ptyrad"], "--export is for one scan"),
        (["--resume", "{tmp}"], "holds no checkpoint to resume from"),
        (["{tmp}/a.h5", "--engine", "magic", "--out", "{tmp}/o"], "magic"),
        (["{tmp}/a.h5", "--virtual", "bf"], "cannot be opened"),
    ],
)
def test_what_cannot_be_is_refused_with_status_2(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "a.h5").write_bytes(b"no scan")
    given = [text.format(tmp=tmp_path) for text in arguments]
    result = CliRunner().invoke(app, ["reconstruct", *given, "--json"])
    assert result.exit_code == 2, result.output
    message = json.loads(result.stdout)["error"]
    assert words in f"{message['message']} {message['hint']}"


def test_distributed_without_torchrun_says_how_to_start(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["counts"] = np.ones((8, 8, 16, 16), np.uint8)
        file.attrs.update(
            energy_eV=300e3, semiangle_mrad=10.0, defocus_A=100.0, scan_step_A=1.0,
            k_pixel_mrad=2.0, dose_e_per_A2=10.0, scan_rotation_deg=0.0,
        )  # fmt: skip
    arguments = ["reconstruct", str(tmp_path / "a.h5"), "--distributed", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 6
    assert "torchrun --nproc-per-node" in json.loads(result.stdout)["error"]["message"]
