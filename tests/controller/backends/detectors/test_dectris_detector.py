"""A DECTRIS detector is armed when its own series has started, and every frame is accounted for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import numpy as np
import pytest
import zmq
from numpy.typing import NDArray

from controller.backends.detectors.config import DectrisConfig
from controller.backends.detectors.dectris.detector import DectrisDetector
from controller.backends.detectors.opening import open_detector
from controller.hardware.errors import (
    ArmFailedError,
    ExposureTimeoutError,
    ModeError,
    ProtocolError,
    ReplyTimeoutError,
    SequenceGapError,
    ShortReadError,
    StaleFrameError,
    UnreachableError,
)
from controller.hardware.values import DetectorJob, FrameBatch, Scan
from tests.controller.backends.detectors import v1_messages, v2_messages
from tests.controller.backends.detectors.fake_dectris import FakeDectris, serving

SCAN = Scan(shape=(5, 8), step_A=1.0, dwell_s=1e-3)
JOB = DetectorJob(UUID(int=4), "arina", 1e-3, SCAN.positions, SCAN)
VERSIONS = pytest.mark.parametrize("version", ["v1", "v2"])


@pytest.fixture
def counts(rng: np.random.Generator) -> NDArray[np.generic]:
    return rng.poisson(0.5, (SCAN.positions, 12, 10)).astype("<u2")


def config(ports: tuple[int, int], **changes: object) -> DectrisConfig:
    settings: dict[str, object] = {
        "kind": "dectris",
        "name": "arina",
        "host": "127.0.0.1",
        "shape": (12, 10),
        "api_port": ports[0],
        "stream_port": ports[1],
        "trigger": "software",
        "arm_timeout_s": 20.0,
        "reply_timeout_s": 20.0,
        "batch_frames": 16,
    }
    return DectrisConfig.model_validate(settings | changes)


@contextmanager
def opened(dectris: FakeDectris, **changes: object) -> Iterator[DectrisDetector]:
    with serving(dectris) as ports:
        detector = open_detector(config(ports, stream=dectris.version, **changes))
        assert isinstance(detector, DectrisDetector)
        try:
            yield detector
        finally:
            detector.close()


def taken(detector: DectrisDetector, timeout_s: float = 20.0) -> list[FrameBatch]:
    detector.start()
    return list(detector.frames(timeout_s))


def placed(batches: list[FrameBatch], like: NDArray[np.generic]) -> NDArray[np.generic]:
    """The frames at their positions; -1 where none came."""
    whole = np.full(like.shape, -1, np.int64)
    for batch in batches:
        whole[batch.first_sequence :][: len(batch.data)] = batch.data
    return whole


@VERSIONS
@pytest.mark.parametrize("packing", ["bslz4", "lz4", "none"])
def test_every_frame_comes_at_its_position(
    counts: NDArray[np.generic], version: str, packing: str
) -> None:
    with opened(FakeDectris(counts, version, packing)) as detector:
        for job in (JOB, DetectorJob(UUID(int=5), "arina", 1e-3, SCAN.positions, SCAN)):
            detector.arm(job)
            batches = taken(detector)
            assert {batch.job_id for batch in batches} == {job.exposure_id}
            np.testing.assert_array_equal(placed(batches, counts), counts)
            assert detector.report().is_clean
    assert detector.headers()


@VERSIONS
def test_settings_are_those_of_the_job(counts: NDArray[np.generic], version: str) -> None:
    dectris = FakeDectris(counts, version)
    with opened(dectris, trigger="frame") as detector:
        detector.arm(JOB)
        detector.start()
    said = dectris.config
    assert said["detector/config/trigger_mode"] == "exte"
    assert (said["detector/config/nimages"], said["detector/config/ntrigger"]) == (1, 40)
    assert said["detector/config/count_time"] == 1e-3
    assert said["stream/config/format"] == {"v1": "legacy", "v2": "cbor"}[version]
    assert not any(request.endswith("/trigger") for request in dectris.requests)
    assert dectris.requests[-1] == "PUT /detector/api/1.8.0/command/abort"


def test_a_line_is_a_trigger_of_its_own(counts: NDArray[np.generic]) -> None:
    dectris = FakeDectris(counts)
    with opened(dectris, trigger="line") as detector:
        detector.arm(JOB)
    said = dectris.config
    assert said["detector/config/trigger_mode"] == "exts"
    assert (said["detector/config/nimages"], said["detector/config/ntrigger"]) == (8, 5)


def test_an_old_detector_without_formats_is_taken_for_v1(counts: NDArray[np.generic]) -> None:
    dectris = FakeDectris(counts, "v1", refuse={"/config/format": 404})
    with opened(dectris) as detector:
        detector.arm(JOB)
        np.testing.assert_array_equal(placed(taken(detector), counts), counts)


@VERSIONS
def test_a_detector_that_sends_before_the_scan_is_asked_for_loses_nothing(
    counts: NDArray[np.generic], version: str
) -> None:
    """The header may come before the reply, frames right behind it (LiberTEM-live#35)."""
    with opened(FakeDectris(counts, version, trigger_at_once=True), trigger="frame") as detector:
        detector.arm(JOB)
        np.testing.assert_array_equal(placed(taken(detector), counts), counts)


@VERSIONS
def test_dropped_frames_are_named_and_the_rest_is_kept(
    counts: NDArray[np.generic], version: str
) -> None:
    dectris = FakeDectris(
        counts, version, numbers=lambda n: [i for i in range(n) if i not in (3, 9)]
    )
    with opened(dectris) as detector:
        detector.arm(JOB)
        got = placed(taken(detector), counts)
        with pytest.raises(SequenceGapError, match="38 of 40 frames, 2 missing at 3, 9;"):
            detector.report().check()
    kept = np.delete(np.arange(40), [3, 9])
    np.testing.assert_array_equal(got[kept], counts[kept])


@VERSIONS
def test_an_early_end_is_a_short_series(counts: NDArray[np.generic], version: str) -> None:
    with opened(FakeDectris(counts, version, numbers=lambda n: list(range(30)))) as detector:
        detector.arm(JOB)
        assert sum(len(batch.data) for batch in taken(detector)) == 30
        with pytest.raises(ShortReadError, match="30 of 40 frames, 10 missing at 30, 31"):
            detector.report().check()


def test_repeated_late_and_strange_numbers_are_named(counts: NDArray[np.generic]) -> None:
    dectris = FakeDectris(counts, numbers=lambda n: [0, 1, 1, 3, 2, 99, *range(4, n)])
    with opened(dectris) as detector:
        detector.arm(JOB)
        taken(detector)
        report = detector.report()
    assert (report.repeated, report.late, report.missing) == ((1,), (2,), (2,))
    assert report.beyond == 1


@VERSIONS
def test_another_series_is_stale(counts: NDArray[np.generic], version: str) -> None:
    make = v1_messages if version == "v1" else v2_messages
    first = make.image(3, 0, counts[0])
    last = make.end(3)
    strangers = tuple(part if isinstance(part, list) else [part] for part in (first, last))
    with opened(FakeDectris(counts, version, strangers=strangers)) as detector:
        detector.arm(JOB)
        np.testing.assert_array_equal(placed(taken(detector), counts), counts)
        with pytest.raises(StaleFrameError, match="40 of 40 frames, 2 of another series"):
            detector.report().check()


@VERSIONS
def test_a_series_left_over_is_drained_before_arming(
    counts: NDArray[np.generic], version: str
) -> None:
    dectris = FakeDectris(counts, version)
    with opened(dectris) as detector:
        dectris.send_series()
        time.sleep(0.2)
        detector.arm(JOB)
        np.testing.assert_array_equal(placed(taken(detector), counts), counts)
        assert detector.report().is_clean


def test_a_second_client_takes_frames_in_turn_and_they_are_missed(
    counts: NDArray[np.generic],
) -> None:
    """The round-robin trap: PUSH deals out; what the other client got is gone, and is named."""
    dectris = FakeDectris(counts)
    with zmq.Context() as context, context.socket(zmq.PULL) as thief, opened(dectris) as detector:
        detector.arm(JOB)
        thief.setsockopt(zmq.LINGER, 0)
        port = detector._config.stream_port
        thief.connect(f"tcp://127.0.0.1:{port}")
        time.sleep(1.0)  # until it is connected
        detector.start()
        with suppress(ExposureTimeoutError):  # where the thief got the end as well
            list(detector.frames(1.0))
        report = detector.report()
    assert 15 <= report.received <= 25
    assert report.received + report.n_missing == 40
    assert "second client" in str(report.problem())


@VERSIONS
def test_noise_in_the_stream_is_an_error(counts: NDArray[np.generic], version: str) -> None:
    dectris = FakeDectris(counts, version, numbers=lambda n: list(range(5)), garbage=b"\xff{")
    got: list[FrameBatch] = []
    with opened(dectris) as detector:
        detector.arm(JOB)
        detector.start()
        with pytest.raises(ProtocolError, match="what came before is kept"):
            got.extend(detector.frames(20.0))
    assert sum(len(batch.data) for batch in got) == 5


def test_a_lost_end_and_last_frame_meet_the_deadline(counts: NDArray[np.generic]) -> None:
    dectris = FakeDectris(counts, numbers=lambda n: list(range(39)), says_end=False)
    got: list[FrameBatch] = []
    with opened(dectris) as detector:
        detector.arm(JOB)
        detector.start()
        with pytest.raises(ExposureTimeoutError, match="39 of 40 frames, 1 missing at 39, no end"):
            got.extend(detector.frames(0.7))
    assert sum(len(batch.data) for batch in got) == 39


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"says_start": False}, r"no start of series 8 within 0.5 s \(0 other messages came\)"),
        ({"images_in_start": 41}, "armed for 41 frames, 40 were asked for"),
        ({"alter": {"detector/config/count_time": 0.5}}, "count_time = 0.001 and reads back 0.5"),
        ({"refuse": {"command/arm": 500}}, r"refuses PUT .*/arm \(status 500\): \"no command/arm"),
        ({"reply": lambda series: {}}, "armed without naming its series"),
        ({"reply": lambda series: {"sequence id": 99}}, "no start of series 99"),
    ],
)
def test_it_is_not_taken_for_armed(
    counts: NDArray[np.generic], fault: dict[str, object], said: str
) -> None:
    dectris = FakeDectris(counts, **fault)  # type: ignore[arg-type]
    with opened(dectris, arm_timeout_s=0.5) as detector:
        with pytest.raises(ArmFailedError, match=said):
            detector.arm(JOB)
        with pytest.raises(ArmFailedError, match="is not armed"):
            list(detector.frames(1.0))
    armed = any(request.endswith("/arm") for request in dectris.requests)
    stopped = dectris.requests[-1].endswith("/abort")
    assert stopped == armed


def test_the_stream_is_held_by_one_socket_for_as_long_as_the_detector(
    counts: NDArray[np.generic],
) -> None:
    with opened(FakeDectris(counts)) as detector:
        held = detector._stream
        for _ in range(3):
            detector.arm(JOB)
            taken(detector)
            assert detector._stream is held


def test_a_failed_trigger_ends_the_frames_early(counts: NDArray[np.generic]) -> None:
    dectris = FakeDectris(counts, refuse={"command/trigger": 400})
    with opened(dectris) as detector:
        detector.arm(JOB)
        began = time.monotonic()
        with pytest.raises(ArmFailedError, match="command/trigger"):
            taken(detector, 30.0)
        assert time.monotonic() - began < 10.0


def test_abort_from_another_thread_ends_the_frames(counts: NDArray[np.generic]) -> None:
    dectris = FakeDectris(counts, numbers=lambda n: [0, 1, 2], says_end=False)
    with opened(dectris) as detector:
        detector.arm(JOB)
        threading.Timer(0.3, detector.abort).start()
        began = time.monotonic()
        assert sum(len(batch.data) for batch in taken(detector, 30.0)) == 3
        assert time.monotonic() - began < 10.0
        detector.abort()
    assert sum(request.endswith("/abort") for request in dectris.requests) == 1


def test_the_shape_is_compared_before_anything_is_armed(counts: NDArray[np.generic]) -> None:
    with (
        pytest.raises(ModeError, match="12 x 10 pixels, the configuration says 10 x 12"),
        opened(FakeDectris(counts), shape=(10, 12)),
    ):
        pass


def test_a_detector_that_is_not_there_is_named() -> None:
    with pytest.raises(UnreachableError, match=r"correct `host` and `api_port`"):
        open_detector(config((1, 2)))


def test_a_detector_that_does_not_answer_is_given_up_in_time(
    counts: NDArray[np.generic],
) -> None:
    dectris = FakeDectris(counts)
    with opened(dectris, reply_timeout_s=0.3) as detector:
        dectris.hang = {"": 1.0}
        began = time.monotonic()
        with pytest.raises(ReplyTimeoutError, match=r"not answered by 127.0.0.1:\d+ within 0.3 s"):
            detector.arm(JOB)
        assert time.monotonic() - began < 10.0
        dectris.hang = {}


def test_a_detector_that_may_have_armed_unheard_is_stopped(counts: NDArray[np.generic]) -> None:
    dectris = FakeDectris(counts)
    with opened(dectris, arm_timeout_s=0.3) as detector:
        dectris.hang = {"command/arm": 1.0}
        with pytest.raises(ReplyTimeoutError, match="command/arm was not answered"):
            detector.arm(JOB)
    assert dectris.requests[-1].endswith("/abort")


def test_triggering_does_not_wait_for_the_exposure(counts: NDArray[np.generic]) -> None:
    """The beam is open meanwhile: a detector that hangs must not keep it so."""
    dectris = FakeDectris(counts, hang={"command/trigger": 3.0})
    with opened(dectris) as detector:
        detector.arm(JOB)
        began = time.monotonic()
        detector.start()
        assert time.monotonic() - began < 2.0
        assert sum(len(batch.data) for batch in detector.frames(20.0)) == len(counts)


def test_an_endless_answer_is_not_read(counts: NDArray[np.generic]) -> None:
    dectris = FakeDectris(counts)
    with opened(dectris) as detector:
        dectris.config["stream/config/format"] = "x" * (1 << 21)
        with pytest.raises(ProtocolError, match="longer than 1048576 bytes"):
            detector._api.get("stream", "config", "format")
