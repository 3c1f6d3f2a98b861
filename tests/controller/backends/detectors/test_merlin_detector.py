"""A Merlin is armed when its acquisition header has come, and every frame is accounted for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.backends.detectors.config import MerlinConfig
from controller.backends.detectors.merlin.detector import MerlinDetector
from controller.backends.detectors.opening import open_detector
from controller.hardware.errors import (
    ArmFailedError,
    ExposureTimeoutError,
    ModeError,
    ProtocolError,
    ReplyTimeoutError,
    SequenceGapError,
    StaleFrameError,
    UnreachableError,
)
from controller.hardware.values import DetectorJob, FrameBatch, Scan
from tests.controller.backends.detectors.fake_merlin import FakeMerlin, serving
from tests.controller.backends.detectors.merlin_bytes import acquisition, frame

SCAN = Scan(shape=(5, 8), step_A=1.0, dwell_s=1e-3)
JOB = DetectorJob(UUID(int=4), "merlin", 1e-3, SCAN.positions, SCAN)


@pytest.fixture
def counts(rng: np.random.Generator) -> NDArray[np.generic]:
    return rng.poisson(2.0, (SCAN.positions, 6, 8)).astype(np.uint16)


def config(ports: tuple[int, int], **changes: object) -> MerlinConfig:
    settings: dict[str, object] = {
        "kind": "merlin",
        "name": "merlin",
        "host": "127.0.0.1",
        "shape": (6, 8),
        "control_port": ports[0],
        "data_port": ports[1],
        "trigger": "software",
        "arm_timeout_s": 20.0,
        "reply_timeout_s": 20.0,
        "batch_frames": 16,
    }
    return MerlinConfig.model_validate(settings | changes)


@contextmanager
def opened(merlin: FakeMerlin, **changes: object) -> Iterator[MerlinDetector]:
    with serving(merlin) as ports:
        detector = open_detector(config(ports, **changes))
        assert isinstance(detector, MerlinDetector)
        try:
            yield detector
        finally:
            detector.close()


def taken(detector: MerlinDetector, timeout_s: float = 20.0) -> list[FrameBatch]:
    detector.start()
    return list(detector.frames(timeout_s))


def placed(batches: list[FrameBatch], like: NDArray[np.generic]) -> NDArray[np.generic]:
    """The frames at their positions; -1 where none came."""
    whole = np.full(like.shape, -1, np.int64)
    for batch in batches:
        whole[batch.first_sequence :][: len(batch.data)] = batch.data
    return whole


def test_every_frame_comes_at_its_position(counts: NDArray[np.generic]) -> None:
    with opened(FakeMerlin(counts)) as detector:
        for job in (JOB, DetectorJob(UUID(int=5), "merlin", 1e-3, SCAN.positions, SCAN)):
            detector.arm(job)
            batches = taken(detector)
            assert {batch.job_id for batch in batches} == {job.exposure_id}
            np.testing.assert_array_equal(placed(batches, counts), counts)
            assert detector.report().is_clean
            assert "Frames in Acquisition" in detector.headers()["merlin acquisition"]


def test_settings_are_those_of_the_job(counts: NDArray[np.generic]) -> None:
    merlin = FakeMerlin(counts)
    with opened(merlin, trigger="line", counter_depth=6) as detector:
        detector.arm(JOB)
        detector.start()
    assert merlin.parameters["NUMFRAMESTOACQUIRE"] == "40"
    assert merlin.parameters["NUMFRAMESPERTRIGGER"] == "8"
    assert merlin.parameters["ACQUISITIONTIME"] == "1"
    assert merlin.parameters["COUNTERDEPTH"] == "6"
    assert merlin.parameters["TRIGGERSTART"] == "1"
    assert "CMD,SOFTTRIGGER" not in merlin.commands
    assert merlin.commands[-1] == "CMD,STOPACQUISITION"


def test_a_single_frame_is_triggered_by_software_whatever_the_scan_uses(
    counts: NDArray[np.generic],
) -> None:
    with opened(FakeMerlin(counts[:1]), trigger="frame") as detector:
        detector.arm(DetectorJob(UUID(int=4), "merlin", 0.5))
        (batch,) = taken(detector)
    np.testing.assert_array_equal(batch.data, counts[:1])


@pytest.mark.parametrize("counts_comma", [True, False])
def test_answers_are_read_whether_or_not_they_count_their_comma(
    counts: NDArray[np.generic], counts_comma: bool
) -> None:
    """LiberTEM-live's simulator does not; the error code is then one byte beyond the length."""
    merlin = FakeMerlin(counts, counts_comma=counts_comma)
    with opened(merlin) as detector:
        detector.arm(JOB)
        merlin.refuse["COUNTERDEPTH"] = 3
        with pytest.raises(ArmFailedError, match=r"parameter out of range \(3\)") as caught:
            detector.arm(JOB)
    assert caught.value.vendor_code == 3


def test_frames_of_before_are_thrown_away(counts: NDArray[np.generic]) -> None:
    """Half a frame, a whole acquisition and garbage wait on the connection (faults 19 and 20)."""
    old = frame(39, counts[0])[-50:] + frame(40, counts[1]) + b"GARBAGE" * 1000
    old += acquisition(40) + frame(1, counts[2]) + frame(2, counts[3])
    with opened(FakeMerlin(counts, old=old)) as detector:
        detector.arm(JOB)
        np.testing.assert_array_equal(placed(taken(detector), counts), counts)


def test_dropped_frames_are_named_and_the_rest_is_kept(counts: NDArray[np.generic]) -> None:
    merlin = FakeMerlin(counts, numbers=lambda n: [i for i in range(1, n + 1) if i not in (4, 10)])
    with opened(merlin) as detector:
        detector.arm(JOB)
        got = placed(taken(detector), counts)
        with pytest.raises(SequenceGapError, match="38 of 40 frames, 2 missing at 3, 9;"):
            detector.report().check()
    assert (got[[3, 9]] == -1).all()
    kept = np.delete(np.arange(40), [3, 9])
    np.testing.assert_array_equal(got[kept], counts[kept])


def test_repeated_and_late_frames_are_named(counts: NDArray[np.generic]) -> None:
    merlin = FakeMerlin(counts, numbers=lambda n: [1, 2, 2, 4, 3, *range(5, n + 1)])
    with opened(merlin) as detector:
        detector.arm(JOB)
        taken(detector)
        report = detector.report()
    assert (report.repeated, report.late, report.missing) == ((1,), (2,), (2,))


def test_frames_of_another_acquisition_are_stale(counts: NDArray[np.generic]) -> None:
    stranger = acquisition(40) + b"".join(frame(n, counts[0]) for n in range(31, 41))
    merlin = FakeMerlin(counts, numbers=lambda n: list(range(1, 31)), extra=stranger)
    with opened(merlin) as detector:
        detector.arm(JOB)
        with pytest.raises(ExposureTimeoutError, match="11 of another series"):
            taken(detector, 0.5)
        assert detector.report().received == 30


def test_only_strangers_are_stale_frames(counts: NDArray[np.generic]) -> None:
    stranger = acquisition(40) + frame(1, counts[0])
    merlin = FakeMerlin(counts, numbers=lambda n: [], extra=stranger)
    with opened(merlin) as detector:
        detector.arm(JOB)
        with pytest.raises(StaleFrameError, match="2 of another series"):
            taken(detector, 0.5)


def test_a_connection_that_breaks_keeps_what_came_and_can_be_armed_again(
    counts: NDArray[np.generic],
) -> None:
    merlin = FakeMerlin(counts, close_after=17)
    got: list[FrameBatch] = []
    with opened(merlin) as detector:
        detector.arm(JOB)
        detector.start()
        with pytest.raises(UnreachableError, match="closed the data connection"):
            got.extend(detector.frames(20.0))
        assert sum(len(batch.data) for batch in got) == 17
        merlin.close_after = None
        detector.arm(JOB)
        np.testing.assert_array_equal(placed(taken(detector), counts), counts)


def test_noise_in_the_stream_is_an_error(counts: NDArray[np.generic]) -> None:
    merlin = FakeMerlin(counts, numbers=lambda n: list(range(1, 6)), extra=b"X" * 100)
    got: list[FrameBatch] = []
    with opened(merlin) as detector:
        detector.arm(JOB)
        detector.start()
        with pytest.raises(ProtocolError, match="is no start of a Merlin message"):
            got.extend(detector.frames(20.0))
    assert sum(len(batch.data) for batch in got) == 5


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"confirms": False}, "no acquisition header within 0.5 s"),
        ({"frames_in_header": 41}, "armed for 41 frames, 40 were asked for"),
        ({"alter": {"ACQUISITIONTIME": "5"}}, "ACQUISITIONTIME = 1 and reads back '5'"),
        ({"refuse": {"STARTACQUISITION": 1}}, r"system busy \(1\)"),
    ],
)
def test_it_is_not_taken_for_armed(
    counts: NDArray[np.generic], fault: dict[str, object], said: str
) -> None:
    merlin = FakeMerlin(counts, **fault)  # type: ignore[arg-type]
    with opened(merlin, arm_timeout_s=0.5) as detector:
        with pytest.raises(ArmFailedError, match=said):
            detector.arm(JOB)
        with pytest.raises(ArmFailedError, match="is not armed"):
            list(detector.frames(1.0))
    started = "CMD,STARTACQUISITION" in merlin.commands
    assert started == (merlin.commands[-1] == "CMD,STOPACQUISITION")


def test_abort_from_another_thread_ends_the_frames(counts: NDArray[np.generic]) -> None:
    merlin = FakeMerlin(counts, numbers=lambda n: [1, 2, 3])
    with opened(merlin) as detector:
        detector.arm(JOB)
        threading.Timer(0.3, detector.abort).start()
        began = time.monotonic()
        assert sum(len(batch.data) for batch in taken(detector, 30.0)) == 3
        assert time.monotonic() - began < 10.0
        detector.abort()
    assert merlin.commands.count("CMD,STOPACQUISITION") == 1


def test_a_refused_trigger_ends_the_frames_early(counts: NDArray[np.generic]) -> None:
    with opened(FakeMerlin(counts, refuse={"SOFTTRIGGER": 1})) as detector:
        detector.arm(JOB)
        began = time.monotonic()
        with pytest.raises(ArmFailedError, match="refuses 'CMD,SOFTTRIGGER': system busy"):
            taken(detector, 30.0)
        assert time.monotonic() - began < 10.0


def test_triggering_does_not_wait_for_the_answer(counts: NDArray[np.generic]) -> None:
    """The beam is open meanwhile: a detector that hangs must not keep it so."""
    merlin = FakeMerlin(counts)
    with opened(merlin) as detector:
        detector.arm(JOB)
        answer = merlin._answer

        def late(request: str) -> bytes:
            time.sleep(3.0)
            return answer(request)

        merlin._answer = late  # type: ignore[method-assign]
        began = time.monotonic()
        detector.start()
        assert time.monotonic() - began < 2.0
        assert sum(len(batch.data) for batch in detector.frames(20.0)) == len(counts)


def test_the_shape_is_compared_before_anything_is_armed(counts: NDArray[np.generic]) -> None:
    with (
        pytest.raises(ModeError, match="6 x 8 pixels, the configuration says 8 x 6"),
        opened(FakeMerlin(counts), shape=(8, 6)),
    ):
        pass


def test_a_merlin_that_is_not_there_is_named() -> None:
    with pytest.raises(UnreachableError, match=r"correct `host` and `control_port`"):
        open_detector(config((1, 2)))


def test_a_merlin_that_does_not_answer_is_given_up_in_time(counts: NDArray[np.generic]) -> None:
    merlin = FakeMerlin(counts)
    with opened(merlin, reply_timeout_s=0.3) as detector:
        merlin._answer = lambda request: b""  # type: ignore[method-assign]
        began = time.monotonic()
        with pytest.raises(ReplyTimeoutError, match="did not answer 'SET,COUNTERDEPTH,12'"):
            detector.arm(JOB)
        assert time.monotonic() - began < 10.0
