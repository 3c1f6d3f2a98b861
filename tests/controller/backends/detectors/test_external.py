"""A column and an external detector are one instrument: armed, confirmed, then scanned."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from controller.backends.detectors.external import ExternallyDetected, with_external_detector
from controller.decision.illumination import detector_for
from controller.hardware.errors import ArmFailedError, ExposureTimeoutError, UnsupportedError
from controller.hardware.values import DetectorJob, Exposure, Mode, OpticsChange, Purpose, Scan
from controller.safety.dose import DoseLedger
from controller.safety.gate import GuardedMicroscope
from controller.safety.limits import DoseLimits
from tests.conformance.adapter_suite import AdapterTests
from tests.conformance.fake_adapter import FakeAdapter, MemorySink, capabilities
from tests.conformance.microscope_suite import MicroscopeTests
from tests.controller.backends.detectors.scripted_detector import SHAPE, ScriptedDetector

SCAN = Scan(shape=(3, 5), step_A=20.0, dwell_s=1e-3)
JOB = DetectorJob(UUID(int=3), "merlin", 1e-3, SCAN.positions, SCAN)
FRAME = DetectorJob(UUID(int=4), "merlin", 0.2)


class Bench:
    """Column and detector that write into one diary."""

    def __init__(self, column: FakeAdapter | None = None) -> None:
        self.column = column or FakeAdapter()
        self.diary = self.column.diary
        self.detector = ScriptedDetector(self.column.note)
        self.whole = with_external_detector(self.column, self.detector)


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestColumnWithDetectorIsAnAdapter(AdapterTests):
    def open_adapter(self, folder: Path) -> ExternallyDetected:
        return Bench().whole


class TestColumnWithDetectorIsAMicroscope(MicroscopeTests):
    def open_adapter(self, folder: Path) -> ExternallyDetected:
        return Bench().whole


def test_the_detector_has_confirmed_before_the_scan_engine_is_armed(bench: Bench) -> None:
    bench.whole.arm(JOB)
    bench.whole.open_beam()
    batches = list(bench.whole.stream(1.0))
    assert bench.diary[:4] == ["detector armed", "arm", "open", "detector started"]
    assert [batch.first_sequence for batch in batches] == list(range(15))
    assert {batch.job_id for batch in batches} == {JOB.exposure_id}


def test_the_scan_engine_is_armed_in_the_name_of_a_detector_of_the_column(bench: Bench) -> None:
    bench.whole.arm(JOB)
    assert bench.column.job is not None
    assert bench.column.job.detector == "pixels"
    assert bench.column.job.scan == SCAN
    assert bench.column.job.exposure_id == JOB.exposure_id


def test_a_detector_that_does_not_confirm_leaves_the_scan_engine_alone(bench: Bench) -> None:
    bench.detector.arm_fails = True
    with pytest.raises(ArmFailedError, match="did not confirm"):
        bench.whole.arm(JOB)
    assert bench.diary == ["detector armed"]


def test_a_scan_engine_that_does_not_arm_disarms_the_detector(bench: Bench) -> None:
    bench.column.faults.arm_fails = True
    with pytest.raises(ArmFailedError, match="disarm it and try again"):
        bench.whole.arm(JOB)
    assert bench.diary == ["detector armed", "arm", "detector aborted"]


def test_after_a_scan_nothing_stays_armed(bench: Bench) -> None:
    bench.whole.arm(JOB)
    bench.whole.open_beam()
    stream = bench.whole.stream(1.0)
    for _ in range(15):
        next(stream)
    stream.close()  # whoever listens stops at the last frame
    assert bench.diary[-2:] == ["detector aborted", "abort"]
    assert bench.column.job is None


def test_a_single_frame_needs_no_scan_engine(bench: Bench) -> None:
    bench.whole.arm(FRAME)
    bench.whole.open_beam()
    bench.whole.blank_beam()
    raw = bench.whole.collect(1.0)
    assert (raw.job_id, raw.data.shape) == (FRAME.exposure_id, SHAPE)
    assert bench.diary == ["detector armed", "open", "detector started", "blank",
                           "detector aborted"]  # fmt: skip


def test_without_a_beam_the_frame_is_triggered_when_it_is_collected(bench: Bench) -> None:
    """The dark frame that shows whether the blanker blanks."""
    bench.whole.arm(FRAME)
    bench.whole.collect(1.0)
    assert bench.diary == ["detector armed", "detector started", "detector aborted"]


def test_a_series_without_a_frame_is_an_error(bench: Bench) -> None:
    bench.detector.missing = frozenset({0})
    bench.whole.arm(FRAME)
    with pytest.raises(ExposureTimeoutError, match="ended without a frame: 0 of 1 frames"):
        bench.whole.collect(1.0)


def test_the_columns_own_detectors_work_as_before(bench: Bench) -> None:
    bench.whole.arm(DetectorJob(UUID(int=5), "camera", 0.1))
    bench.whole.open_beam()
    bench.whole.blank_beam()
    assert bench.whole.collect(1.0).data.shape == (48, 64)
    assert bench.diary == ["arm", "open", "blank", "collect"]
    assert bench.whole.scan_report() is None
    assert bench.whole.scan_headers() == {}


def test_stop_disarms_both_scan_engine_first(bench: Bench) -> None:
    bench.whole.arm(JOB)
    bench.whole.abort()
    assert bench.diary[-2:] == ["abort", "detector aborted"]


def test_closing_lets_go_of_both_the_beam_first(bench: Bench) -> None:
    def broken(event: str) -> None:
        if event == "close":
            raise RuntimeError("the vendor's library crashed")

    bench.column.on_event = broken
    with pytest.raises(RuntimeError, match="crashed"):
        bench.whole.close()
    assert bench.detector.closed == 1


def test_the_capabilities_show_one_more_detector(bench: Bench) -> None:
    info = bench.whole.capabilities.detector("merlin")
    assert info.shape == SHAPE
    assert info.can_scan
    assert len(bench.whole.capabilities.detectors) == 3


def test_scans_of_a_plan_go_to_the_external_detector_and_pictures_to_the_camera(
    bench: Bench,
) -> None:
    capabilities = bench.whole.capabilities
    assert [info.name for info in capabilities.detectors] == ["camera", "merlin", "pixels"]
    assert detector_for(capabilities, Mode.STEM, scan=True).name == "merlin"
    assert detector_for(capabilities, Mode.DIFFRACTION).name == "camera"


def test_a_column_without_a_scan_engine_takes_single_frames_only() -> None:
    bench = Bench(FakeAdapter(caps=capabilities(scan=None)))
    assert not bench.whole.capabilities.detector("merlin").can_scan
    with pytest.raises(UnsupportedError, match="no scan engine for merlin; nothing was armed"):
        bench.whole.arm(JOB)
    bench.whole.arm(FRAME)


def test_names_have_to_fit(bench: Bench) -> None:
    column = FakeAdapter()
    with pytest.raises(ValueError, match="has a detector 'camera' already"):
        with_external_detector(column, ScriptedDetector(column.note, "camera"))
    with pytest.raises(ValueError, match=r"that can scan; there are \['pixels'\]"):
        with_external_detector(column, bench.detector, scan_with="camera")


def test_the_report_of_a_scan_names_what_is_missing(bench: Bench) -> None:
    bench.detector.missing = frozenset({2, 7})
    bench.whole.arm(JOB)
    bench.whole.open_beam()
    list(bench.whole.stream(1.0))
    said = bench.whole.scan_report()
    assert said is not None
    assert json.loads(said)["missing"] == [2, 7]
    assert json.loads(said)["frames"] == "13 of 15 frames, 2 missing at 2, 7"


def test_under_guard_a_scan_is_booked_before_and_blanked_after(
    bench: Bench, tmp_path: Path
) -> None:
    bench.detector.missing = frozenset({4})
    limits = DoseLimits(specimen_e_per_A2=1e6, before_scan_e_per_A2=1e6, data_e_per_A2=1e6)
    sink = MemorySink()
    with DoseLedger(tmp_path / "ledger.sqlite", limits, bench.whole.clock) as ledger:
        microscope = GuardedMicroscope(bench.whole, ledger, sink=sink)
        microscope.optics.apply(
            OpticsChange(mode=Mode.STEM, beam_diameter_nm=5.0, convergence_semiangle_mrad=10.0,
                         probe_current_pA=1.0)
        )  # fmt: skip
        bench.diary.clear()
        receipt = microscope.expose(
            Exposure(exposure_id=UUID(int=8), area="T07", purpose=Purpose.DATA,
                     detector="merlin", duration_s=SCAN.duration_s, scan=SCAN)
        )  # fmt: skip
        assert microscope.dose(0.0, 0.0).total_e_per_A2 > 0
    assert receipt.gaps == (4,)
    assert not receipt.complete
    order = [event for event in bench.diary if not event.startswith("row")]
    assert order.index("detector armed") < order.index("arm") < order.index("open")
    assert order.index("open") < order.index("blank")
    assert np.concatenate([batch.data for batch in sink.batches]).shape == (14, *SHAPE)
