"""tickit-devices' Eiger (Diamond): SIMPLON with Stream V2.

It sends the same recorded EIGER2 16M image again and again, so it proves the protocol and not the
content (for that, ``test_stream_v2`` makes a round trip).  Its answer to ``arm`` names another
series than its stream, hence ``series_from: start-message``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from controller.backends.detectors import DectrisConfig, Detector4D, open_detector
from controller.backends.detectors.dectris.simplon import Simplon
from controller.hardware.errors import ArmFailedError
from controller.hardware.values import DetectorJob, Scan
from tests.peers.detector_simulators import free_ports, program, running, wait_for_port

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

SHAPE = (4362, 4148)
ELECTRONS_OF_THE_RECORDING = 13_712
SCAN = Scan(shape=(2, 3), step_A=1.0, dwell_s=0.05)


@pytest.fixture
def config(tmp_path: Path) -> Iterator[DectrisConfig]:
    api, v1, v2 = free_ports(3)
    plan = tmp_path / "eiger.yaml"
    plan.write_text(
        f"- type: tickit_devices.eiger.Eiger\n  name: eiger\n  inputs: {{}}\n"
        f"  host: 127.0.0.1\n  port: {api}\n  stream_host: 127.0.0.1\n"
        f"  stream_legacy_port: {v1}\n  stream_cbor_port: {v2}\n"
    )
    log = tmp_path / "eiger.log"
    with running([program("tickit", "tickit"), "all", str(plan)], log) as process:
        wait_for_port(api, process, log)
        Simplon("127.0.0.1", api, "1.8.0", 10.0).command("initialize")
        yield DectrisConfig(
            kind="dectris", name="eiger", host="127.0.0.1", shape=SHAPE, stream="v2",
            trigger="software", series_from="start-message", api_port=api, stream_port=v2,
        )  # fmt: skip


def take(detector: Detector4D, frames: int, scan: Scan | None) -> list[int]:
    """Take a series; returns the electrons of every frame."""
    detector.arm(DetectorJob(uuid4(), "eiger", SCAN.dwell_s, frames, scan))
    detector.start()
    electrons: list[int] = []
    for batch in detector.frames(60.0):
        assert batch.data.shape[1:] == SHAPE
        electrons += [int(frame.sum()) for frame in batch.data]
    return electrons


def test_series_are_armed_triggered_received_and_end(config: DectrisConfig) -> None:
    detector = open_detector(config.replace(batch_frames=2))
    try:
        for _ in range(2):
            assert take(detector, 6, SCAN) == [ELECTRONS_OF_THE_RECORDING] * 6
            detector.report().check()
            assert detector.report().without_value > 0  # the gaps between its modules
        assert take(detector, 1, None) == [ELECTRONS_OF_THE_RECORDING]
        assert detector.headers()["dectris detector_description"] == "Dectris EIGER2 Si 16M"
    finally:
        detector.close()


def test_a_reply_that_names_another_series_is_not_believed(config: DectrisConfig) -> None:
    """It answers 2 to every arm; the second series is that, the third is not."""
    detector = open_detector(config.replace(series_from="arm-reply", arm_timeout_s=8.0))
    try:
        with pytest.raises(ArmFailedError, match="no start of series 2 within 8 s"):
            take(detector, 1, None)
        assert take(detector, 1, None) == [ELECTRONS_OF_THE_RECORDING]
        with pytest.raises(ArmFailedError, match="no start of series 2 within 8 s"):
            take(detector, 1, None)
    finally:
        detector.close()
