"""LiberTEM-live's Merlin simulator: a real protocol, and not ours.

It replays a `.mib` that we write; commands, acquisition header, MPX framing and triggering are its
own.  Patterns have to come out of our scan file exactly as they stand in the `.mib`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.backends.detectors import Detector4D, MerlinConfig, open_detector
from controller.hardware.clock import WallClock
from controller.hardware.errors import SequenceGapError
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
from tests.controller.backends.detectors.merlin_bytes import DTYPE, KIND
from tests.peers.detector_simulators import free_ports, program, running, wait_for_port

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]

ROWS, COLUMNS, SHAPE = 32, 32, (48, 64)
SCAN = Scan(shape=(ROWS, COLUMNS), step_A=20.0, dwell_s=1e-3)
FIRST_TRIGGER_S = 120.0
"""The simulator compiles when it is triggered for the first time."""


@pytest.fixture
def counts(rng: np.random.Generator) -> NDArray[np.generic]:
    return rng.poisson(0.3, (SCAN.positions, *SHAPE)).astype(np.uint16)


def write_mib(
    folder: Path, counts: NDArray[np.generic], depth: int = 12, lost: frozenset[int] = frozenset()
) -> Path:
    """A `.mib` with its `.hdr`; frames in `lost` (from 0) are not in it, their numbers neither."""
    kind = KIND[depth]
    with (folder / "known.mib").open("wb") as file:
        for number, frame in enumerate(counts):
            if number in lost:
                continue
            header = (
                f"MQ1,{number + 1:06d},00384,01,{SHAPE[1]:04d},{SHAPE[0]:04d},{kind},   1x1,01,"
                f"2026-01-01 00:00:00.000000,0.001000,0,0,0,1.0E+2,5.0E+2,0,0,0,0,0,0,3RX,"
                f"MQ1A,2026-01-01T00:00:00.000000000Z,1000000ns,{depth}"
            )
            file.write(header.encode().ljust(384) + frame.astype(DTYPE[kind]).tobytes())
    hdr = folder / "known.hdr"
    hdr.write_text(
        f"HDR,\t\nFrames in Acquisition (Number):\t{len(counts)}\n"
        f"Frames per Trigger (Number):\t{COLUMNS}\nCounter Depth (number):\t{depth}\nEnd\t"
    )
    return hdr


@contextmanager
def simulator(hdr: Path, nav_shape: tuple[int, int], *options: str) -> Iterator[MerlinConfig]:
    command, data, pulse = free_ports(3)
    log = hdr.with_suffix(".log")
    arguments = [
        program("libertem-live", "libertem-live-mib-sim"), str(hdr),
        "--nav-shape", *map(str, nav_shape), "--host", "127.0.0.1", "--wait-trigger",
        "--control-port", str(command), "--data-port", str(data), "--trigger-port", str(pulse),
        *options,
    ]  # fmt: skip
    with running(arguments, log) as process:
        wait_for_port(command, process, log)
        yield MerlinConfig(
            kind="merlin", name="merlin", host="127.0.0.1", shape=SHAPE, trigger="software",
            control_port=command, data_port=data, arm_timeout_s=60.0,
        )  # fmt: skip


@contextmanager
def opened(config: MerlinConfig) -> Iterator[Detector4D]:
    detector = open_detector(config)
    try:
        yield detector
    finally:
        detector.close()


def take(detector: Detector4D, counts: NDArray[np.generic]) -> int:
    """Take one scan; returns the number of frames that differ from `counts`."""
    detector.arm(DetectorJob(uuid4(), "merlin", SCAN.dwell_s, SCAN.positions, SCAN))
    detector.start()
    wrong = 0
    for batch in detector.frames(FIRST_TRIGGER_S):
        truth = counts[batch.first_sequence :][: len(batch.data)]
        wrong += int((batch.data != truth).any(axis=(1, 2)).sum())
    return wrong


@pytest.mark.parametrize("depth", [6, 12, 24])
def test_a_known_set_of_patterns_comes_without_a_mismatch(
    tmp_path: Path, counts: NDArray[np.generic], depth: int
) -> None:
    config_of = simulator(write_mib(tmp_path, counts, depth), (ROWS, COLUMNS))
    with config_of as config, opened(config.replace(counter_depth=depth)) as detector:
        for _ in range(3):
            assert take(detector, counts) == 0
            detector.report().check()
            assert detector.report().received == SCAN.positions
            assert "End" in detector.headers()["merlin acquisition"]


def test_garbage_before_the_first_acquisition_is_thrown_away(
    tmp_path: Path, counts: NDArray[np.generic]
) -> None:
    hdr = write_mib(tmp_path, counts)
    with simulator(hdr, (ROWS, COLUMNS), "--garbage") as config, opened(config) as detector:
        assert take(detector, counts) == 0
        detector.report().check()


def test_a_dropped_frame_is_reported(tmp_path: Path, counts: NDArray[np.generic]) -> None:
    hdr = write_mib(tmp_path, counts, lost=frozenset({200}))
    nav_shape = (1, SCAN.positions - 1)
    with simulator(hdr, nav_shape) as config, opened(config) as detector:
        assert take(detector, counts) == 0
        with pytest.raises(SequenceGapError, match="1023 of 1024 frames, 1 missing at 200;"):
            detector.report().check()


def test_a_guarded_scan_writes_what_the_simulator_sent(
    tmp_path: Path, counts: NDArray[np.generic], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Booked, armed, opened, received, counted, blanked, settled; with a dropped frame."""
    column = FakeAdapter(clock=WallClock())  # type: ignore[arg-type]
    monkeypatch.setattr(sessions, "load_adapter_factory", lambda name: lambda *a, **k: column)
    limits = DoseLimits(specimen_e_per_A2=1e6, before_scan_e_per_A2=1e6, data_e_per_A2=1e6)
    hdr = write_mib(tmp_path, counts, lost=frozenset({200}))
    with simulator(hdr, (1, SCAN.positions - 1)) as config:
        with opened(config) as detector:
            take(detector, counts)  # lets the simulator compile
        with open_session(
            "fake", {}, run_dir=tmp_path / "run", dose_limits=limits, detector=config
        ) as session:
            session.microscope.optics.apply(
                OpticsChange(mode=Mode.STEM, beam_diameter_nm=5.0, probe_current_pA=1.0,
                             convergence_semiangle_mrad=10.0)
            )  # fmt: skip
            receipt = session.microscope.expose(
                Exposure(exposure_id=UUID(int=6), area="T07", purpose=Purpose.DATA,
                         detector="merlin", duration_s=SCAN.duration_s, scan=SCAN)
            )  # fmt: skip
    assert isinstance(receipt, ScanReceipt)
    assert receipt.gaps == (200,)
    data = open_scan(receipt.uri)
    assert np.flatnonzero(~data.valid).tolist() == [200]
    truth = counts.copy()
    truth[200] = 0
    np.testing.assert_array_equal(data.dense(), truth)
    assert column.read_blanked()
