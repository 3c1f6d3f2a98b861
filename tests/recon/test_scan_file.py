"""The native scan file: nothing committed is ever lost, and what comes back is what went in."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recon.dataset import (
    Dataset4D,
    ProcessStep,
    ScanFileWriter,
    ScanHeader,
    open_scan,
    recover_scan,
    sha256_of,
)
from recon.errors import DataError, ScanFileError

SCAN, FRAME = (5, 7), (12, 9)


def header(**changes: object) -> ScanHeader:
    fields: dict[str, object] = {
        "energy_keV": 300.0,
        "convergence_semiangle_mrad": 10.0,
        "defocus_A": 150.0,
        "scan_step_A": 1.05,
        "scan_rotation_deg": -12.5,
        "detector_sampling_mrad": 0.8,
        "flip_lr": True,
        "probe_current_pA": 0.5,
        "dwell_s": 1e-4,
        "fluence_e_per_A2": 100.0,
        "scan_shape": SCAN,
        "frame_shape": FRAME,
        "start_time": "2026-03-01T22:15:00+00:00",
        "run_uuid": "9b7c0c1e-0000-4000-8000-000000000001",
        "sample": "UiO-66",
        "process": (ProcessStep(program="lodestem", version="0.1", input_sha256=("ab",)),),
        "raw_headers": {"detector": '{"series": 1}'},
    }
    return ScanHeader.model_validate(fields | changes)


def counts(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(0.3, (*SCAN, *FRAME)).astype(np.uint16)


@pytest.mark.parametrize("multiplicity", [False, True])
def test_what_was_written_comes_back(tmp_path: Path, multiplicity: bool) -> None:
    data = counts()
    data[2, 3, 4, 5] = 700  # more than one multiplicity entry can hold
    with ScanFileWriter(tmp_path / "s.h5", header(), multiplicity=multiplicity) as writer:
        for row in data:
            writer.append_dense(row)
        assert writer.committed_frames == 35
    scan = open_scan(tmp_path / "s.h5")
    np.testing.assert_array_equal(scan.dense4d(), data)
    np.testing.assert_array_equal(scan.expanded().dense4d(), data)
    assert scan.n_electrons == data.sum()
    assert scan.header == header(beam_centre_px=(6.0, 4.0))
    assert scan.sha256 == sha256_of(tmp_path / "s.h5")
    assert scan.valid.all()


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_a_virtual_image_is_the_dense_sum(seed: int) -> None:
    data = counts(seed)
    mask = np.random.default_rng(seed).normal(size=FRAME)
    scan = Dataset4D.from_dense(data, header())
    np.testing.assert_allclose(
        scan.virtual_image(mask), np.einsum("yxij,ij->yx", data, mask), atol=1e-9
    )
    np.testing.assert_allclose(scan.mean_pattern(), data.mean(axis=(0, 1)))
    chosen = np.random.default_rng(seed).random(SCAN) > 0.5
    np.testing.assert_array_equal(scan.pattern(chosen), data[chosen].sum(axis=0))
    np.testing.assert_array_equal(scan.dense(3, 11), data.reshape(-1, *FRAME)[3:11])


def test_a_missing_frame_is_not_an_empty_frame(tmp_path: Path) -> None:
    with ScanFileWriter(tmp_path / "s.h5", header()) as writer:
        writer.append_dense(np.zeros((4, *FRAME), np.uint8))
        writer.append_missing(3)
        writer.append_dense(np.ones((2, *FRAME), np.uint8))
    scan = open_scan(tmp_path / "s.h5")
    assert scan.valid.tolist() == [True] * 4 + [False] * 3 + [True] * 2 + [False] * 26
    image = scan.virtual_image(np.ones(FRAME)).reshape(-1)
    assert image[0] == 0
    assert np.isnan(image[4])
    assert image[7] == 108


def test_a_scan_can_be_watched_from_another_process_while_it_is_written(tmp_path: Path) -> None:
    writer = ScanFileWriter(tmp_path / "s.h5", header())
    writer.append_dense(counts()[0])
    look = "import sys, recon.dataset as d; print(d.open_scan(sys.argv[1]).valid.sum())"
    seen = subprocess.run(
        [sys.executable, "-c", look, tmp_path / "s.h5"], capture_output=True, text=True, check=True
    )
    assert seen.stdout.strip() == "7"
    assert open_scan(tmp_path / "s.h5").valid.sum() == 7
    writer.log('{"dose": 1}')
    writer.close()
    with pytest.raises(ScanFileError, match="closed with 7 frames"):
        writer.append_missing(1)


KILL_ME = """
import os, sys, numpy as np
from recon.dataset import ScanFileWriter, ScanHeader
header = ScanHeader.model_validate_json(sys.argv[2])
frames = np.random.default_rng(0).poisson(0.3, (4, *header.frame_shape)).astype(np.uint8)
with ScanFileWriter(sys.argv[1], header) as writer:
    while True:
        writer.append_dense(frames)
        print(writer.committed_frames, flush=True)
"""


@pytest.mark.parametrize("batches", [1, 7, 40])
def test_kill_9_loses_no_committed_batch(tmp_path: Path, batches: int) -> None:
    path = tmp_path / "s.h5"
    long = header(scan_shape=(1000, 100))
    with subprocess.Popen(
        [sys.executable, "-c", KILL_ME, path, long.model_dump_json()],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        committed = [int(process.stdout.readline()) for _ in range(batches)][-1]
        os.kill(process.pid, signal.SIGKILL)
    expected = np.random.default_rng(0).poisson(0.3, (4, *FRAME)).astype(np.uint8)
    crashed = open_scan(path)
    assert crashed.valid.sum() >= committed

    kept = recover_scan(path)

    assert kept >= committed
    with h5py.File(path, "r") as stock:
        assert stock["entry/events/committed_frames"][()] == kept
    recovered = open_scan(path)
    assert recovered.header == crashed.header
    for first in range(0, kept, 4):
        np.testing.assert_array_equal(recovered.dense(first, first + 4), expected)
    assert [file.name for file in tmp_path.iterdir()] == ["s.h5"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "s.h5").write_text("precious")
    with pytest.raises(FileExistsError, match="was not touched"):
        ScanFileWriter(tmp_path / "s.h5", header())
    assert (tmp_path / "s.h5").read_text() == "precious"


@pytest.mark.parametrize(
    ("pixel", "count", "valid", "message"),
    [
        ([1, 2], [3], None, "2 pixels but counts add up to 3"),
        ([108], [1], None, "108 .. 108 leave a frame of 108 pixels"),
        ([], [0] * 36, None, "36 frames for the 35 positions left"),
        ([1], [1], [0], "missing frame no electrons"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(
    tmp_path: Path, pixel: list[int], count: list[int], valid: list[int] | None, message: str
) -> None:
    with ScanFileWriter(tmp_path / "s.h5", header()) as writer:
        with pytest.raises(ScanFileError, match=message):
            writer.append_events(np.array(pixel, int), count, valid)
        with pytest.raises(ScanFileError, match=r"expected \(n, 12, 9\)"):
            writer.append_dense(np.zeros((2, 9, 12), np.uint8))
        assert writer.committed_frames == 0


def test_damaged_files_are_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with ScanFileWriter(path, header()) as writer:
        writer.append_dense(counts()[0])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ScanFileError, match="truncated"):
        open_scan(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file["entry/events/committed_frames"][()] = 36
    with pytest.raises(ScanFileError, match="committed_frames is 36, the scan has 35"):
        open_scan(path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = 1
    with pytest.raises(ScanFileError, match="not a lodestem scan file"):
        open_scan(tmp_path / "other.h5")
    with pytest.raises(FileNotFoundError):
        open_scan(tmp_path / "none.h5")


def test_a_foreign_unit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    ScanFileWriter(path, header()).close()
    with h5py.File(path, "r+") as file:
        file["entry/instrument/optics/defocus"].attrs["units"] = "nm"
    with pytest.raises(ScanFileError, match="is in 'nm', this version reads 'angstrom'"):
        open_scan(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"energy_keV": float("nan")}, "greater than 0|finite"),
        ({"start_time": "yesterday"}, "ISO 8601"),
        ({"beam_centre_px": (40.0, 3.0)}, "outside a detector of 12 pixels"),
        ({"stepp": 1}, "Extra inputs"),
    ],
)
def test_a_header_refuses_nonsense(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        header(**change)


def test_dense_counts_must_be_counts() -> None:
    with pytest.raises(DataError, match="integer counts"):
        Dataset4D.from_dense(counts().astype(float), header())
    with pytest.raises(DataError, match="negative"):
        Dataset4D.from_dense(counts().astype(int) - 1, header())
    with pytest.raises(DataError, match="the header says"):
        Dataset4D.from_dense(counts().transpose(1, 0, 2, 3), header())


def test_the_scan_file_does_not_wait_for_pytorch() -> None:
    code = "import sys, recon.dataset; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
