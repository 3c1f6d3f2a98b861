"""A session with an external detector: the scan file holds its frames, its words and its gaps."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from controller.backends.detectors.config import MerlinConfig
from controller.hardware.clock import WallClock
from controller.hardware.errors import ArmFailedError, ExposureTimeoutError, UnreachableError
from controller.hardware.values import Exposure, Mode, OpticsChange, Purpose, Scan, ScanReceipt
from controller.safety.limits import DoseLimits
from controller.server import session as sessions
from controller.server.config import Driver, WatchdogConfig
from controller.server.serve import start_watchdog
from controller.server.session import Session, open_session
from recon.dataset import open_scan
from tests.conformance.fake_adapter import FakeAdapter
from tests.controller.backends.detectors.fake_merlin import FakeMerlin, serving

LIMITS = DoseLimits(specimen_e_per_A2=1e6, before_scan_e_per_A2=1e6, data_e_per_A2=1e6)
SCAN = Scan(shape=(5, 8), step_A=20.0, dwell_s=1e-3)


@pytest.fixture
def counts(rng: np.random.Generator) -> NDArray[np.generic]:
    return rng.poisson(0.4, (SCAN.positions, 6, 8)).astype(np.uint16)


@pytest.fixture
def column(monkeypatch: pytest.MonkeyPatch) -> FakeAdapter:
    made = FakeAdapter(clock=WallClock())  # type: ignore[arg-type]
    monkeypatch.setattr(sessions, "load_adapter_factory", lambda name: lambda *a, **k: made)
    return made


@pytest.fixture
def merlin(counts: NDArray[np.generic]) -> FakeMerlin:
    return FakeMerlin(counts)


@pytest.fixture
def session(merlin: FakeMerlin, column: FakeAdapter, tmp_path: Path) -> Iterator[Session]:
    with serving(merlin) as (control_port, data_port):
        config = MerlinConfig(
            kind="merlin", name="merlin", host="127.0.0.1", shape=(6, 8), trigger="software",
            control_port=control_port, data_port=data_port, arm_timeout_s=3.0,
        )  # fmt: skip
        with open_session(
            "fake", {}, run_dir=tmp_path, dose_limits=LIMITS, detector=config
        ) as opened:
            opened.microscope.optics.apply(
                OpticsChange(mode=Mode.STEM, beam_diameter_nm=5.0, probe_current_pA=1.0,
                             convergence_semiangle_mrad=10.0)
            )  # fmt: skip
            yield opened


def raster() -> Exposure:
    return Exposure(exposure_id=uuid4(), area="T07", purpose=Purpose.DATA, detector="merlin",
                    duration_s=SCAN.duration_s, scan=SCAN)  # fmt: skip


def log_of(uri: str) -> list[dict[str, object]]:
    with h5py.File(uri, "r") as file:
        return [json.loads(line) for line in bytes(file["entry/log/json_lines"][:]).splitlines()]


def test_the_frames_on_the_wire_are_the_events_in_the_file(
    session: Session, counts: NDArray[np.generic]
) -> None:
    receipt = session.microscope.expose(raster())
    assert isinstance(receipt, ScanReceipt)
    assert receipt.complete
    data = open_scan(receipt.uri)
    np.testing.assert_array_equal(data.dense(), counts)
    assert "Frames in Acquisition (Number):\t40" in data.header.raw_headers["merlin acquisition"]
    assert data.header.raw_headers["counts per electron"] == "1"
    assert data.header.counting == "thresholded"
    assert log_of(receipt.uri)[-1]["frames"] == "40 of 40 frames"


def test_dropped_and_repeated_frames_are_in_receipt_and_file(
    session: Session, merlin: FakeMerlin, counts: NDArray[np.generic]
) -> None:
    merlin.numbers = lambda n: [1, 2, 2, *(i for i in range(3, n + 1) if i not in (4, 30))]
    receipt = session.microscope.expose(raster())
    assert isinstance(receipt, ScanReceipt)
    assert receipt.gaps == (3, 29)
    assert not receipt.complete
    data = open_scan(receipt.uri)
    assert np.flatnonzero(~data.valid).tolist() == [3, 29]
    kept = np.delete(np.arange(40), [3, 29])
    np.testing.assert_array_equal(data.dense()[kept], counts[kept])
    said = log_of(receipt.uri)[-1]
    assert (said["missing"], said["repeated"]) == ([3, 29], [1])


def test_a_scan_that_never_ends_is_blanked_and_keeps_what_came(
    session: Session, merlin: FakeMerlin, column: FakeAdapter, tmp_path: Path
) -> None:
    """A camera that hangs costs frames, never dose: the beam is off one second after the plan."""
    merlin.numbers = lambda n: list(range(1, 21))
    exposure = raster()
    began = time.monotonic()
    with pytest.raises(ExposureTimeoutError, match="20 of 40 frames, 20 missing at 20, 21"):
        session.microscope.expose(exposure)
    assert time.monotonic() - began < 10.0
    assert column.read_blanked()
    data = open_scan(tmp_path / "scans" / f"{exposure.exposure_id}.h5")
    assert int(data.valid.sum()) == 20


def test_a_detector_that_does_not_confirm_costs_no_dose(
    session: Session, merlin: FakeMerlin, column: FakeAdapter
) -> None:
    merlin.confirms = False
    with pytest.raises(ArmFailedError, match="no acquisition header"):
        session.microscope.expose(raster())
    assert column.openings == 0
    assert session.microscope.dose(0.0, 0.0).total_e_per_A2 == 0


def test_a_session_lets_the_column_go_if_the_detector_is_not_there(
    column: FakeAdapter, tmp_path: Path
) -> None:
    config = MerlinConfig(kind="merlin", name="merlin", host="127.0.0.1", shape=(6, 8),
                          control_port=1)  # fmt: skip
    with pytest.raises(UnreachableError):
        open_session("fake", {}, run_dir=tmp_path, dose_limits=LIMITS, detector=config)
    assert column.closed


def test_the_watchdog_does_not_open_the_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It only blanks; the driver alone would refuse an option that is not its own."""
    commands: list[list[str]] = []

    class Process:
        def __init__(self, command: list[str], **_: object) -> None:
            commands.append(command)
            self.stdout = io.StringIO("ready\n")

    monkeypatch.setattr("controller.server.serve.subprocess.Popen", Process)
    driver = Driver(adapter="sim", options={"detector_file": "merlin.yaml", "seed": 3})
    start_watchdog(WatchdogConfig(), driver, "ipc://pulse", tmp_path)
    (command,) = commands
    assert json.loads(command[command.index("--options") + 1]) == {"seed": 3}


# --- killed while it receives, counts and writes -------------------------------------------

POSITIONS = 4096
VICTIM = """
import sys
from pathlib import Path
from uuid import UUID
from controller.backends.detectors import MerlinConfig, open_detector
from controller.hardware.values import DetectorJob, Scan
from recon.dataset import ScanFileWriter, ScanHeader

control_port, data_port, path = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
scan = Scan(shape=(64, 64), step_A=1.0, dwell_s=1e-4)
detector = open_detector(MerlinConfig(kind="merlin", name="m", host="127.0.0.1", shape=(6, 8),
    trigger="software", control_port=control_port, data_port=data_port, batch_frames=8))
header = ScanHeader(energy_keV=300, convergence_semiangle_mrad=20, scan_step_A=1.0,
    detector_sampling_mrad=1, scan_shape=scan.shape, frame_shape=(6, 8),
    start_time="2026-01-01T00:00:00+00:00", run_uuid="r")
detector.arm(DetectorJob(UUID(int=1), "m", 1e-4, scan.positions, scan))
with ScanFileWriter(path, header) as writer:
    detector.start()
    for batch in detector.frames(60.0):
        if batch.first_sequence > writer.committed_frames:
            writer.append_missing(batch.first_sequence - writer.committed_frames)
        writer.append_dense(batch.data)
        print(writer.committed_frames, flush=True)
print("done", flush=True)
detector.close()
"""


def _receive_and_kill(folder: Path, merlin: FakeMerlin, after_frames: int) -> tuple[Path, int]:
    """Path of the file, and how many frames were said to be committed before the kill."""
    path = folder / f"{after_frames}.h5"
    with serving(merlin) as (control_port, data_port):
        victim = subprocess.Popen(
            [sys.executable, "-c", VICTIM, str(control_port), str(data_port), str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert victim.stdout is not None
        said = [0]
        for line in victim.stdout:
            if not line.strip().isdigit():
                break
            said.append(int(line))
            if said[-1] >= after_frames:
                os.kill(victim.pid, signal.SIGKILL)
        said += [int(line) for line in victim.stdout if line.strip().isdigit()]
        victim.wait()
        victim.stdout.close()
    assert victim.returncode == -signal.SIGKILL
    return path, max(said)


@pytest.mark.parametrize("seed", range(5))
def test_kill_9_while_frames_come_loses_no_committed_frame(tmp_path: Path, seed: int) -> None:
    _kill(tmp_path, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5, 55))
def test_kill_9_at_fifty_instants_loses_no_committed_frame(tmp_path: Path, seed: int) -> None:
    _kill(tmp_path, seed)


def _kill(folder: Path, seed: int) -> None:
    """What the process had committed is in the file, and it is what was on the wire."""
    counts = np.random.default_rng(3).poisson(0.4, (POSITIONS, 6, 8)).astype(np.uint16)
    lost = {100, 1000, 2000}
    merlin = FakeMerlin(counts, numbers=lambda n: [i + 1 for i in range(n) if i not in lost])
    after = random.Random(seed).randrange(8, POSITIONS - 200)
    path, committed = _receive_and_kill(folder, merlin, after)
    data = open_scan(path)
    recovered = int(np.flatnonzero(data.valid).max()) + 1
    assert recovered >= committed >= after
    assert {int(n) for n in np.flatnonzero(~data.valid[:recovered])} == {
        n for n in lost if n < recovered
    }
    kept = np.flatnonzero(data.valid)
    np.testing.assert_array_equal(data.dense()[kept], counts[kept])
