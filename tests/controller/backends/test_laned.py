"""The state machine that every vendor's driver shares, with real threads and calls that block."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.backends.lane import ThreadLane
from controller.backends.laned import LanedAdapter
from controller.backends.site import load_site
from controller.hardware.clock import WallClock
from controller.hardware.errors import (
    ArmFailedError,
    ExposureTimeoutError,
    LimitError,
    ModeError,
    ProtocolError,
    UnreachableError,
)
from controller.hardware.values import Axis, DetectorJob
from tests.conformance.test_driver_template import FOLDER, template

JOB = DetectorJob(UUID(int=9), "camera", 0.05)


class Slow:
    """A camera and a stage that block until they are let go."""

    def __init__(self) -> None:
        self.image_gate = threading.Event()
        self.move_gate = threading.Event()
        self.image_gate.set()
        self.move_gate.set()
        self.failing: Exception | None = None


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def adapter(slow: Slow) -> Iterator[LanedAdapter]:
    driver = template()
    clock = WallClock()
    acme = driver.AcmeColumn(clock.now_s, lambda s: None)

    class Instrument(driver.AcmeInstrument):  # type: ignore[misc,name-defined]
        def acquire(self, job: DetectorJob) -> NDArray[np.generic]:
            slow.image_gate.wait(10)
            image: NDArray[np.generic] = super().acquire(job)
            return image

        def move(self, axis: Axis, target: float) -> None:
            slow.move_gate.wait(10)
            super().move(axis, target)

        def read_pose(self) -> object:
            if slow.failing is not None:
                raise slow.failing
            return super().read_pose()

    made = LanedAdapter(Instrument(load_site(FOLDER / "site.yaml"), acme), ThreadLane("t"), clock)
    yield made
    slow.image_gate.set()
    slow.move_gate.set()
    slow.failing = None
    made.close()


def test_blanking_waits_for_the_camera_that_shares_its_connection(
    adapter: LanedAdapter, slow: Slow
) -> None:
    slow.image_gate.clear()
    adapter.arm(JOB)
    adapter.open_beam()
    time.sleep(0.02)
    assert adapter.read_blanked() is False
    began = time.monotonic()
    threading.Timer(0.3, slow.image_gate.set).start()
    adapter.blank_beam()
    assert time.monotonic() - began > 0.2
    assert adapter.read_blanked() is True
    assert adapter.collect(5.0).job_id == JOB.exposure_id


def test_with_a_connection_of_its_own_the_camera_holds_nothing_up(
    adapter: LanedAdapter, slow: Slow
) -> None:
    adapter._detector_lane = ThreadLane("camera")
    slow.image_gate.clear()
    adapter.arm(JOB)
    adapter.open_beam()
    time.sleep(0.02)
    began = time.monotonic()
    adapter.blank_beam()
    assert adapter.read_blanked() is True
    assert time.monotonic() - began < 0.2
    slow.image_gate.set()
    adapter.collect(5.0)
    adapter._detector_lane.close()


def test_stop_during_a_blocking_move_returns_at_once_and_blanks_when_the_move_lets_it(
    adapter: LanedAdapter, slow: Slow
) -> None:
    slow.move_gate.clear()
    adapter.start_move(Axis.X, 5.0)
    time.sleep(0.02)
    adapter._instrument._acme.shutter_closed = False  # somebody opened it by hand
    began = time.monotonic()
    adapter.blank_beam()
    assert adapter.read_blanked() is None
    assert adapter.read_health().valve_open.age_s >= 0
    assert time.monotonic() - began < 0.2
    slow.move_gate.set()
    time.sleep(0.1)
    assert adapter.read_blanked() is True


def test_halting_behind_a_blocking_move_is_queued_and_done_when_the_move_lets_it(
    adapter: LanedAdapter, slow: Slow
) -> None:
    slow.move_gate.clear()
    adapter.start_move(Axis.X, 50.0)
    time.sleep(0.05)
    began = time.monotonic()
    adapter.halt()
    assert time.monotonic() - began < 0.2
    slow.move_gate.set()
    time.sleep(0.1)
    assert not adapter.axis_state(Axis.X).moving
    assert adapter.read_pose().x_um < 40.0


def test_a_blanker_that_does_not_answer_is_told_to_blank(
    adapter: LanedAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter.arm(JOB)
    adapter.open_beam()
    adapter.collect(5.0)
    acme = adapter._instrument._acme
    assert acme.shutter_closed is False

    def broken() -> bool:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(adapter._instrument, "is_blanked", broken)
    with pytest.raises(UnreachableError, match="reading the blanker"):
        adapter.read_blanked()
    time.sleep(0.1)
    assert acme.shutter_closed is True


def test_an_exposure_that_was_given_up_still_counts_as_keeping_the_connection(
    adapter: LanedAdapter, slow: Slow
) -> None:
    slow.image_gate.clear()
    adapter.arm(JOB)
    adapter.open_beam()
    time.sleep(0.05)
    adapter.abort()
    assert adapter.read_blanked() is False
    threading.Timer(0.2, slow.image_gate.set).start()
    adapter.blank_beam()
    assert adapter.read_blanked() is True


def test_the_beam_opens_neither_unarmed_nor_twice_nor_on_a_moving_stage(
    adapter: LanedAdapter, slow: Slow
) -> None:
    with pytest.raises(ArmFailedError, match="no exposure is armed"):
        adapter.open_beam()
    adapter.arm(JOB)
    adapter.open_beam()
    with pytest.raises(ArmFailedError):
        adapter.open_beam()
    with pytest.raises(ModeError, match="the beam is open"):
        adapter.start_move(Axis.X, 1.0)
    adapter.blank_beam()
    adapter.collect(5.0)
    adapter.arm(JOB)
    slow.move_gate.clear()
    adapter.start_move(Axis.X, 1.0)
    with pytest.raises(ModeError, match="the stage moves"):
        adapter.open_beam()
    assert adapter._instrument._acme.shutter_closed is True


def test_a_frame_that_does_not_come_is_a_timeout_and_the_next_one_works(
    adapter: LanedAdapter, slow: Slow
) -> None:
    slow.image_gate.clear()
    adapter.arm(JOB)
    with pytest.raises(ExposureTimeoutError, match=r"no frame from camera within 0\.1 s"):
        adapter.collect(0.1)
    adapter.abort()
    slow.image_gate.set()
    adapter.arm(JOB)
    assert adapter.collect(5.0).data.shape == (48, 64)
    with pytest.raises(ArmFailedError, match="nothing is armed"):
        adapter.collect(0.1)


@pytest.mark.parametrize(
    ("problem", "error"),
    [
        (ConnectionResetError("gone"), UnreachableError),
        (TimeoutError("late"), UnreachableError),
        (ValueError("E_OUT_OF_RANGE"), ProtocolError),
        (KeyError("x"), ProtocolError),
    ],
)
def test_whatever_a_vendor_raises_becomes_one_of_our_errors(
    adapter: LanedAdapter, slow: Slow, problem: Exception, error: type[Exception]
) -> None:
    slow.failing = problem
    with pytest.raises(error, match="reading the stage"):
        adapter.read_pose()


@pytest.mark.parametrize("target", [float("nan"), float("inf"), 60.5, -1e9])
def test_a_target_outside_or_no_number_is_not_sent(adapter: LanedAdapter, target: float) -> None:
    with pytest.raises(LimitError, match="nothing has moved"):
        adapter.start_move(Axis.ALPHA, target)
    assert not adapter.axis_state(Axis.ALPHA).moving


def test_the_next_exposure_is_not_armed_into_one_that_still_runs(
    adapter: LanedAdapter, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.backends.laned.CALL_S", 0.2)
    adapter._detector_lane = ThreadLane("camera")
    slow.image_gate.clear()
    adapter.arm(JOB)
    adapter.open_beam()
    time.sleep(0.05)
    adapter.blank_beam()
    adapter.abort()
    with pytest.raises(ArmFailedError, match="the exposure before is still under way"):
        adapter.arm(JOB)
    slow.image_gate.set()
    time.sleep(0.1)
    adapter.arm(JOB)
    assert adapter.collect(5.0).data.shape == (48, 64)


def test_closing_waits_for_an_exposure_that_was_given_up(adapter: LanedAdapter, slow: Slow) -> None:
    slow.image_gate.clear()
    adapter._detector_lane = ThreadLane("camera")
    adapter.arm(JOB)
    adapter.open_beam()
    time.sleep(0.05)
    adapter.abort()
    threading.Timer(0.3, slow.image_gate.set).start()
    began = time.monotonic()
    adapter.close()
    assert time.monotonic() - began > 0.2
    assert adapter._acquiring is not None
    assert adapter._acquiring.done()


def test_closing_blanks_even_when_it_is_asked_twice(adapter: LanedAdapter, tmp_path: Path) -> None:
    adapter.arm(JOB)
    adapter.open_beam()
    adapter.close()
    adapter.close()
    assert adapter._instrument._acme.shutter_closed is True
