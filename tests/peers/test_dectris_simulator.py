"""LiberTEM-live's DECTRIS simulator (SIMPLON and Stream V1): a real protocol, and not ours.

It replays a recording that we write in its format: messages with a known set of patterns.  The
interface, the sockets and the order of things are its own; it sends as soon as it is armed.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest
import zmq
from numpy.typing import NDArray

from controller.backends.detectors import DectrisConfig, Detector4D, open_detector
from controller.hardware.clock import WallClock
from controller.hardware.errors import (
    ArmFailedError,
    ExposureTimeoutError,
    MicroscopeError,
    SequenceGapError,
)
from controller.hardware.values import (
    DetectorJob,
    Exposure,
    Mode,
    OpticsChange,
    Purpose,
    Scan,
    ScanReceipt,
)
from controller.safety.limits import DoseLimits
from controller.server import session as sessions
from controller.server.session import open_session
from recon.dataset import open_scan
from tests.conformance.fake_adapter import FakeAdapter
from tests.controller.backends.detectors.v1_messages import end, image, start
from tests.peers.detector_simulators import free_ports, program, running

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]

SHAPE = (96, 192)
SCAN = Scan(shape=(32, 64), step_A=20.0, dwell_s=1e-3)
SERIES = 34
SCRIPT = Path(__file__).parent / "serve_recording.py"


@pytest.fixture
def counts(rng: np.random.Generator) -> NDArray[np.generic]:
    return rng.poisson(100 / (SHAPE[0] * SHAPE[1]), (SCAN.positions, *SHAPE)).astype("<u2")


def write_recording(
    path: Path, counts: NDArray[np.generic], lost: frozenset[int] = frozenset()
) -> None:
    """Messages one after the other, each led by its length; frames in `lost` are left out."""
    settings = {
        "x_pixels_in_detector": SHAPE[1],
        "y_pixels_in_detector": SHAPE[0],
        "bit_depth_image": 16,
        "count_time": SCAN.dwell_s,
        "frame_time": SCAN.dwell_s,
        "nimages": 1,
        "ntrigger": len(counts),
        "trigger_mode": "exte",
        "compression": "bslz4",
    }
    with path.open("wb") as file:
        parts = [*start(SERIES), json.dumps(settings).encode()]
        for number, frame in enumerate(counts):
            if number not in lost:
                parts += image(SERIES, number, frame, "bslz4")
        for part in [*parts, *end(SERIES)]:
            file.write(struct.pack("<q", len(part)) + part)


@contextmanager
def simulator(recording: Path) -> Iterator[DectrisConfig]:
    (api_port,) = free_ports(1)
    python = program("libertem-live", "python")
    log = recording.with_suffix(".log")
    command = [python, str(SCRIPT), str(recording), str(api_port)]
    with running(command, log) as process:
        line = process.stdout.readline() if process.stdout else ""
        assert line.strip().isdigit(), log.read_text()[-1500:]
        yield DectrisConfig(
            kind="dectris", name="arina", host="127.0.0.1", shape=SHAPE, stream="v1",
            api_port=api_port, stream_port=int(line),
        )  # fmt: skip


@contextmanager
def opened(config: DectrisConfig) -> Iterator[Detector4D]:
    detector = open_detector(config)
    try:
        yield detector
    finally:
        detector.close()


def take(detector: Detector4D, counts: NDArray[np.generic]) -> int:
    """Take one scan; returns the number of frames that differ from `counts`."""
    detector.arm(DetectorJob(uuid4(), "arina", SCAN.dwell_s, SCAN.positions, SCAN))
    wrong = 0
    for batch in detector.frames(5.0):
        truth = counts[batch.first_sequence :][: len(batch.data)]
        wrong += int((batch.data != truth).any(axis=(1, 2)).sum())
    return wrong


def test_a_known_set_of_patterns_comes_without_a_mismatch(
    tmp_path: Path, counts: NDArray[np.generic]
) -> None:
    write_recording(tmp_path / "known", counts)
    with simulator(tmp_path / "known") as config, opened(config) as detector:
        for _ in range(3):
            assert take(detector, counts) == 0
            detector.report().check()
            assert detector.report().received == SCAN.positions
            assert detector.headers()["dectris htype"] == "dheader-1.0"


def test_dropped_frames_are_reported(tmp_path: Path, counts: NDArray[np.generic]) -> None:
    write_recording(tmp_path / "known", counts, lost=frozenset({7, 1000, 1001}))
    with simulator(tmp_path / "known") as config, opened(config) as detector:
        assert take(detector, counts) == 0
        said = "2045 of 2048 frames, 3 missing at 7, 1000, 1001;"
        with pytest.raises(SequenceGapError, match=said):
            detector.report().check()


def test_a_second_client_takes_frames_in_turn_and_they_are_missed(
    tmp_path: Path, counts: NDArray[np.generic]
) -> None:
    """The round-robin trap, on somebody else's PUSH socket."""
    write_recording(tmp_path / "known", counts)
    with (
        simulator(tmp_path / "known") as config,
        opened(config.replace(arm_timeout_s=2.0)) as detector,
        zmq.Context() as context,
        context.socket(zmq.PULL) as thief,
    ):
        thief.setsockopt(zmq.LINGER, 0)
        thief.connect(f"tcp://127.0.0.1:{config.stream_port}")
        time.sleep(0.5)
        outcome: MicroscopeError | None = None
        try:
            assert take(detector, counts) == 0
        except (ExposureTimeoutError, ArmFailedError) as problem:
            outcome = problem  # the thief got the end, or the start, as well
        report = detector.report()
    if isinstance(outcome, ArmFailedError):
        assert "Look for a second client of its stream" in str(outcome)
        return
    assert 0 < report.n_missing < SCAN.positions
    assert report.received + report.n_missing == SCAN.positions


def test_a_setting_that_the_detector_does_not_take_is_not_taken_for_armed(
    tmp_path: Path, counts: NDArray[np.generic]
) -> None:
    """The simulator refuses whatever differs from its recording."""
    write_recording(tmp_path / "known", counts)
    with simulator(tmp_path / "known") as config, opened(config) as detector:
        job = DetectorJob(uuid4(), "arina", 2 * SCAN.dwell_s, SCAN.positions, SCAN)
        with pytest.raises(ArmFailedError, match=r"config/count_time \(status 500\)"):
            detector.arm(job)
        assert take(detector, counts) == 0


def test_a_guarded_scan_writes_what_the_simulator_sent(
    tmp_path: Path, counts: NDArray[np.generic], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Booked, armed, opened, received, decoded, counted, blanked, settled; with a dropped frame."""
    column = FakeAdapter(clock=WallClock())  # type: ignore[arg-type]
    monkeypatch.setattr(sessions, "load_adapter_factory", lambda name: lambda *a, **k: column)
    limits = DoseLimits(specimen_e_per_A2=1e6, before_scan_e_per_A2=1e6, data_e_per_A2=1e6)
    write_recording(tmp_path / "known", counts, lost=frozenset({7}))
    with (
        simulator(tmp_path / "known") as config,
        open_session(
            "fake", {}, run_dir=tmp_path / "run", dose_limits=limits, detector=config
        ) as session,
    ):
        session.microscope.optics.apply(
            OpticsChange(mode=Mode.STEM, beam_diameter_nm=5.0, probe_current_pA=1.0,
                         convergence_semiangle_mrad=10.0)
        )  # fmt: skip
        receipt = session.microscope.expose(
            Exposure(exposure_id=UUID(int=6), area="T07", purpose=Purpose.DATA,
                     detector="arina", duration_s=SCAN.duration_s, scan=SCAN)
        )  # fmt: skip
    assert isinstance(receipt, ScanReceipt)
    assert receipt.gaps == (7,)
    truth = counts.copy()
    truth[7] = 0
    np.testing.assert_array_equal(open_scan(receipt.uri).dense(), truth)
    assert column.read_blanked()
