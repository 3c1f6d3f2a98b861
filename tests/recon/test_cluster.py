"""Many scans: done once, resumed if interrupted; a bad file stops nobody."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from recon.cluster import reconstruct_many, run_job
from recon.cluster.job import job_key
from recon.cluster.run import ClusterError
from recon.output import reconstruct_file
from recon.params import ReconstructionParams
from recon.result import ProgressEvent

if TYPE_CHECKING:
    from tests.recon.conftest import Truth

QUICK = ReconstructionParams(engine="icom", threads=1)


def test_jobs_run_once_and_a_bad_file_stops_nobody(turned: "Truth", tmp_path: Path) -> None:
    good = [turned.write_described(tmp_path / f"scan{i}.h5", seed=i) for i in range(2)]
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"not a scan")
    heard: list[str] = []

    first = reconstruct_many(
        [good[0], bad, good[1]], tmp_path / "out", QUICK, workers=1,
        on_result=lambda result: heard.append(result.status),
    )  # fmt: skip

    assert [result.status for result in first] == ["done", "failed", "done"]
    assert sorted(heard) == ["done", "done", "failed"]
    assert "bad.h5" in first[1].error
    assert all((Path(r.out) / "reconstruction.h5").exists() for r in (first[0], first[2]))
    assert first[0].row()[1] == "done"
    assert float(first[0].row()[2]) > 1.0
    written = json.loads((tmp_path / "out" / "jobs.json").read_text())
    assert [job["status"] for job in written] == ["done", "failed", "done"]
    again = run_job(str(good[0]), str(tmp_path / "out"), QUICK)
    assert again.status == "skipped"
    assert again.summary == first[0].summary
    other = run_job(str(good[0]), str(tmp_path / "out"), QUICK.updated(engine="dpc"))
    assert other.status == "done"
    assert other.out != first[0].out


def test_a_key_is_of_input_and_settings_not_of_speed(turned: "Truth", tmp_path: Path) -> None:
    scan = turned.write_described(tmp_path / "a.h5", seed=1)
    key = job_key(scan, QUICK)
    assert job_key(scan, QUICK.updated(threads=7, device="cpu", checkpoint_every=9)) == key
    assert job_key(scan, QUICK.updated(step=0.1)) != key
    assert job_key(scan, QUICK, rng_seed=1) != key
    (tmp_path / "a.yaml").write_text("defocus_A: 100\n")
    assert job_key(scan, QUICK) != key
    assert job_key(turned.write_described(tmp_path / "b.h5", seed=2), QUICK) != key


def test_an_interrupted_job_goes_on_where_it_was(
    turned: "Truth", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = ReconstructionParams(
        max_passes=4, threads=1, refine_patterns=32, half_set_frc=False, checkpoint_every=1
    )
    scan = turned.write_described(tmp_path / "a.h5", seed=1)
    out = tmp_path / "out" / f"a-{job_key(scan, params)}"

    def pull_the_plug(event: ProgressEvent) -> None:
        if event.pass_number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct_file(scan, out, params, progress=pull_the_plug)
    resumed: list[object] = []
    monkeypatch.setattr(
        "recon.cluster.job.reconstruct_file",
        lambda *a, **k: resumed.append(k.get("resume")) or reconstruct_file(*a, **k),
    )
    result = run_job(str(scan), str(tmp_path / "out"), params)
    assert result.status == "done"
    assert resumed == [out]
    assert result.summary is not None
    assert result.summary["passes"] == 4


def test_a_scheduler_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recon.cluster.run.CONNECT_TIMEOUT_S", 1)
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        reconstruct_many([], tmp_path, QUICK, scheduler="tcp://127.0.0.1:9")
