"""A reconstruction that was stopped goes on as if it had not; two processes do the work of one."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import torch
import yaml

from recon.checkpoint import CheckpointError, CheckpointFolder
from recon.engine import DeviceError
from recon.output import reconstruct_file
from recon.params import ReconstructionParams
from recon.result import ProgressEvent

if TYPE_CHECKING:
    from tests.recon.conftest import Truth

SETTINGS = {
    "max_passes": 4,
    "patience": 9,
    "threads": 1,
    "refine_patterns": 32,
    "checkpoint_every": 1,
    "calibration_passes": 2,
}
PARAMS = ReconstructionParams.model_validate(SETTINGS)
LONGER = PARAMS.updated(max_passes=6)
"""So that refinement goes on in the last passes, with batches that wait for their step."""


class PowerCutError(Exception):
    """Stands for a power cut."""


@dataclass
class PullThePlug:
    """Raises in the given stage and pass."""

    stage: str
    pass_number: int

    def __call__(self, event: ProgressEvent) -> None:
        if (event.stage, event.pass_number) == (self.stage, self.pass_number):
            raise PowerCutError


@pytest.fixture(scope="module")
def scan(turned: "Truth", tmp_path_factory: pytest.TempPathFactory) -> Path:
    return turned.write_described(tmp_path_factory.mktemp("scan") / "scan.h5")


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    with h5py.File(folder / "reconstruction.h5") as file:
        names = ["phase_rad", "slices_phase_rad", "curves/held_out_nll_per_electron", "curves/frc"]
        return {name: file[name][()] for name in names} | {
            f"calibration/{name}": file[f"calibration/{name}"][()]
            for name in ("defocus_A", "tilt_mrad", "thickness_A", "affine")
        }


@pytest.fixture(scope="module")
def uninterrupted(scan: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    out = tmp_path_factory.mktemp("whole") / "out"
    reconstruct_file(scan, out, LONGER, rng_seed=3)
    assert not (out / "checkpoint").exists(), "nothing is left behind by what is finished"
    return arrays_of(out)


@pytest.mark.parametrize("where", [("reconstruct", 2), ("reconstruct", 6), ("halves", 2)])
def test_what_was_interrupted_goes_on_bit_for_bit(
    scan: Path, tmp_path: Path, uninterrupted: dict[str, np.ndarray], where: tuple[str, int]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(PowerCutError):
        reconstruct_file(scan, out, LONGER, rng_seed=3, progress=PullThePlug(*where))
    assert not (out / "reconstruction.h5").exists()
    seen: list[ProgressEvent] = []

    reconstruct_file(None, None, resume=out, progress=seen.append)

    first = next(e.pass_number for e in seen if e.stage == where[0])
    assert first == where[1], "passes that were done are not done again"
    resumed = arrays_of(out)
    for name, array in uninterrupted.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)


@pytest.mark.parametrize("solver", ["adam", "lbfgs", "epie"])
def test_the_other_engines_go_on_bit_for_bit_too(scan: Path, tmp_path: Path, solver: str) -> None:
    params = PARAMS.updated(solver=solver, refine=(), half_set_frc=False)
    reconstruct_file(scan, tmp_path / "whole", params)
    out = tmp_path / "out"
    with pytest.raises(PowerCutError):
        reconstruct_file(scan, out, params, progress=PullThePlug("reconstruct", 3))
    reconstruct_file(None, None, resume=out)
    phases = []
    for folder in (out, tmp_path / "whole"):
        with h5py.File(folder / "reconstruction.h5") as file:
            phases.append(file["phase_rad"][()])
    np.testing.assert_array_equal(*phases)


def test_other_settings_or_data_are_refused_by_name(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(PowerCutError):
        reconstruct_file(scan, out, PARAMS, progress=PullThePlug("reconstruct", 2))
    other = PARAMS.model_copy(update={"step": 0.25})
    with pytest.raises(CheckpointError, match=r"step was 0\.5, is 0\.25"):
        reconstruct_file(scan, None, other, resume=out)
    with pytest.raises(CheckpointError, match="rng_seed was 0, is 1"):
        reconstruct_file(scan, None, resume=out, rng_seed=1)
    changed = tmp_path / "changed.h5"
    changed.write_bytes(scan.read_bytes())
    with h5py.File(changed, "r+") as file:
        file["counts"][0, 0, 0, 0] += 1
    with pytest.raises(CheckpointError, match="source_sha256 was"):
        reconstruct_file(changed, None, resume=out)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        reconstruct_file(scan, None, resume=tmp_path / "nothing")
    (out / "checkpoint" / "fit-1.h5").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match=r"fit-1\.h5 is damaged"):
        reconstruct_file(None, None, resume=out)


def test_a_checkpoint_holds_arrays_and_text_only(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, begin={"params": {}})
    arrays = {"slices": np.arange(6, dtype=np.float32).reshape(2, 3)}
    folder.save("fit-1", arrays, {"number": 3, "loss": 0.1 + 0.2, "none": float("nan")})
    found = CheckpointFolder(tmp_path).load("fit-1")
    assert found is not None
    np.testing.assert_array_equal(found[0]["slices"], arrays["slices"])
    assert found[1]["loss"] == 0.1 + 0.2
    assert np.isnan(found[1]["none"])
    assert {p.name for p in folder.folder.iterdir()} == {"identity.json", "fit-1.h5"}
    with h5py.File(folder.folder / "fit-1.h5") as file:
        assert all(file[name].dtype.hasobject is False or name == "document_json" for name in file)


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda is there")
def test_what_fails_before_the_first_pass_leaves_nothing_behind(scan: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        reconstruct_file(scan, tmp_path / "out", PARAMS.updated(device="cuda"))
    assert not (tmp_path / "out").exists()


def test_the_vacuum_pattern_is_remembered(scan: Path, tmp_path: Path) -> None:
    with h5py.File(scan) as file:
        row, col = np.indices(file["counts"].shape[2:])
        sampling = file.attrs["k_pixel_mrad"]
    disc = np.clip(12.0 / sampling + 0.5 - np.hypot(row - 24, col - 24), 0, 1)
    np.save(tmp_path / "vacuum.npy", np.random.default_rng(1).poisson(200 * disc))
    out = tmp_path / "out"
    once = PARAMS.updated(half_set_frc=False, refine=())
    given = {"progress": PullThePlug("reconstruct", 2), "vacuum": tmp_path / "vacuum.npy"}
    with pytest.raises(PowerCutError):
        reconstruct_file(scan, out, once, **given)
    np.save(tmp_path / "other.npy", np.random.default_rng(2).poisson(200 * disc))
    with pytest.raises(CheckpointError, match="vacuum_sha256 was"):
        reconstruct_file(None, None, resume=out, vacuum=tmp_path / "other.npy")
    summary = reconstruct_file(None, None, resume=out)
    assert "vacuum" in summary


def test_a_new_start_does_not_see_old_checkpoints(scan: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", []
    with pytest.raises(PowerCutError):
        reconstruct_file(scan, out, PARAMS, progress=PullThePlug("reconstruct", 3))
    once = PARAMS.updated(max_passes=1, half_set_frc=False)
    reconstruct_file(scan, out, once, progress=lambda e: seen.append(e.pass_number))
    assert 1 in seen
    assert not (out / "checkpoint").exists()


def torchrun(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Two processes on this machine."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
         "--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
         "-m", "recon.distributed", *arguments, "--device", "cpu", "--timeout-s", "60"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_two_processes_give_the_result_of_one(scan: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"max_passes": 3, "half_set_frc": False}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(settings))
    alone = ReconstructionParams.model_validate(settings | {"device": "cpu"})
    reconstruct_file(scan, tmp_path / "one", alone)

    with torchrun(tmp_path, str(scan), "--out", "two", "--params", "p.yaml") as team:
        out, err = team.communicate(timeout=120)

    assert team.returncode == 0, err
    (document,) = out.splitlines()
    assert json.loads(document)["passes"] == 3
    phases, held = [], []
    for name in ("one", "two"):
        with h5py.File(tmp_path / name / "reconstruction.h5") as file:
            phases.append(file["phase_rad"][()])
            held.append(file["curves/held_out_nll_per_electron"][()])
    assert np.abs(phases[0] - phases[1]).max() < 1e-3 * np.abs(phases[0]).max()
    np.testing.assert_allclose(*held, rtol=1e-5)


def children(parent: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_a_killed_process_leaves_a_clear_word_and_a_checkpoint(scan: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"max_passes": 40, "patience": 40, "half_set_frc": False}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(settings))
    with torchrun(tmp_path, str(scan), "--out", "out", "--params", "p.yaml") as team:
        kept = tmp_path / "out" / "checkpoint" / "fit-1.h5"
        patience = time.monotonic() + 90
        while not kept.exists() and time.monotonic() < patience:
            time.sleep(0.05)
        second = max(children(team.pid))
        os.kill(second, signal.SIGKILL)
        _, err = team.communicate(timeout=90)

    assert team.returncode != 0
    assert "is whole; start the same command with --resume" in err
    assert not (tmp_path / "out" / "reconstruction.h5").exists()
    found = CheckpointFolder(tmp_path / "out").load("fit-1")
    assert found is not None
    reached = found[1]["number"]
    seen: list[ProgressEvent] = []
    pull_the_plug = PullThePlug("reconstruct", reached + 2)

    def watch(event: ProgressEvent) -> None:
        seen.append(event)
        pull_the_plug(event)

    with pytest.raises(PowerCutError):  # one process goes on with the work of two
        reconstruct_file(None, None, resume=tmp_path / "out", progress=watch)
    assert next(e.pass_number for e in seen if e.stage == "reconstruct") == reached + 1
