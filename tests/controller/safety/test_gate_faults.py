"""Things that go wrong at the instrument, one by one, and the state they leave behind."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.hardware.errors import (
    AlreadyExposedError,
    ArmFailedError,
    BeamState,
    BlankUnconfirmedError,
    CurrentDriftError,
    DiskFullError,
    DoseState,
    ExposureTimeoutError,
    MicroscopeError,
    ModeError,
    ProtocolError,
    ShortReadError,
    StaleFrameError,
    StoppedByOtherError,
    UnsupportedError,
    WriteFailedError,
)
from controller.hardware.values import (
    Axis,
    Capabilities,
    Exposure,
    Frame,
    LongOperation,
    Mode,
    OpticsChange,
    Purpose,
    RawFrame,
    Scan,
    ScanReceipt,
)
from controller.safety.dose import DoseLedger
from controller.safety.gate import GuardedMicroscope
from controller.safety.ledger_store import ChargeState
from controller.safety.limits import DoseLimits
from tests.conformance.fake_adapter import (
    ELECTRONS_PER_PA_S,
    FakeAdapter,
    MemorySink,
    capabilities,
)
from tests.strategies import numbers

SPACE = UUID("5b0a1f54-0000-5000-8000-00000000beef")
GENEROUS = DoseLimits(specimen_e_per_A2=1e6, before_scan_e_per_A2=1e6, data_e_per_A2=1e6)


class Auditor:
    def __init__(self) -> None:
        self.heard: list[tuple[UUID, str, float]] = []

    def charged(self, exposure: Exposure, state: str, fluence_e_per_A2: float) -> None:
        self.heard.append((exposure.exposure_id, state, fluence_e_per_A2))


class Bench:
    def __init__(self, folder: Path, caps: Capabilities | None = None) -> None:
        self.folder = folder
        self.adapter = FakeAdapter(caps=caps)
        self.ledger = DoseLedger(folder / "ledger.sqlite", GENEROUS, self.adapter.clock)
        self.sink = MemorySink()
        self.auditor = Auditor()
        self.microscope = GuardedMicroscope(
            self.adapter, self.ledger, sink=self.sink, auditor=self.auditor
        )
        self.adapter.diary.clear()

    def frame(self, n: int = 1, seconds: float = 0.5) -> Exposure:
        return Exposure(
            exposure_id=uuid5(SPACE, str(n)),
            area="S00",
            purpose=Purpose.SURVEY,
            detector="camera",
            duration_s=seconds,
        )

    def raster(self, n: int = 50, shape: tuple[int, int] = (5, 7)) -> Exposure:
        self.microscope.optics.apply(
            OpticsChange(mode=Mode.STEM, beam_diameter_nm=5.0, probe_current_pA=1.0)
        )
        scan = Scan(shape=shape, step_A=20, dwell_s=1e-3)
        return Exposure(
            exposure_id=uuid5(SPACE, str(n)),
            area="T07",
            purpose=Purpose.DATA,
            detector="pixels",
            duration_s=scan.duration_s,
            scan=scan,
        )

    def state(self, exposure: Exposure) -> tuple[ChargeState, float]:
        record = self.ledger.record(exposure.exposure_id)
        assert record is not None
        return record.state, record.charged_e_per_A2

    def true_fluence(self) -> float:
        """What the middle of the disc truly received."""
        return self.adapter.electrons() / (
            math.pi / 4 * (10 * self.adapter.optics.beam_diameter_nm) ** 2
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.ledger.close()


# --- blanker --------------------------------------------------------------------------------


def test_a_stuck_blanker_closes_the_valve_and_shuts_the_gate(bench: Bench) -> None:
    exposure = bench.frame()
    bench.adapter.faults.blanker_stuck = True
    with pytest.raises(BlankUnconfirmedError, match="column valve was closed instead") as e:
        bench.microscope.expose(exposure)
    assert e.value.beam_state is BeamState.BLANKED
    assert e.value.dose_state is DoseState.UNKNOWN
    assert not bench.adapter.beam_on_specimen
    assert LongOperation.CLOSE_VALVE.value in bench.adapter.diary
    state, charged = bench.state(exposure)
    assert state is ChargeState.UNKNOWN
    assert charged >= bench.true_fluence()

    bench.adapter.faults.blanker_stuck = False
    bench.adapter.valve_open = True
    with pytest.raises(BlankUnconfirmedError, match="A person has to check the blanker"):
        bench.microscope.expose(bench.frame(2))
    assert bench.adapter.openings == 1


def test_a_stuck_blanker_without_a_valve_is_said_loudly(tmp_path: Path) -> None:
    bench = Bench(tmp_path, capabilities(long_operations=frozenset()))
    bench.adapter.faults.blanker_stuck = True
    with pytest.raises(BlankUnconfirmedError, match="THE BEAM IS ON") as e:
        bench.microscope.expose(bench.frame())
    assert e.value.beam_state is BeamState.OPEN
    bench.ledger.close()


def test_a_stuck_valve_is_said_loudly_too(bench: Bench) -> None:
    bench.adapter.faults.blanker_stuck = True
    bench.adapter.faults.valve_stuck = True
    result_error = pytest.raises(BlankUnconfirmedError, match="could not be closed")
    with result_error:
        bench.microscope.expose(bench.frame())


def test_a_blanker_that_cannot_be_read_keeps_the_bound(bench: Bench) -> None:
    bench.adapter.faults.blanker_unreadable = True
    exposure = bench.frame()
    bound = bench.microscope.forecast(exposure)
    frame = bench.microscope.expose(exposure)
    assert frame.charged_e_per_A2 == pytest.approx(bound)
    assert not bench.microscope.blank("ask").confirmed


def test_blanking_says_what_it_did(bench: Bench) -> None:
    result = bench.microscope.blank("a test")
    assert (result.blanked, result.confirmed, result.was_open) == (True, True, False)
    bench.adapter.open_beam()
    result = bench.microscope.blank("a test")
    assert (result.blanked, result.was_open, result.guard) == (True, True, "blanker")


def test_a_leaking_blanker_is_found_by_a_dark_frame(bench: Bench) -> None:
    bench.adapter.faults.blanker_leaks = True
    with pytest.raises(BlankUnconfirmedError, match=r"a frame shows .* electrons per pixel"):
        bench.microscope.verify_blanker("camera")
    assert not bench.adapter.valve_open
    pose = bench.microscope.stage.pose()
    assert bench.microscope.dose(pose.x_um, pose.y_um).total_e_per_A2 > 0
    with pytest.raises(BlankUnconfirmedError):
        bench.microscope.expose(bench.frame())


def test_a_dark_frame_verifies_the_blanker_and_costs_nothing(bench: Bench) -> None:
    check = bench.microscope.verify_blanker("camera")
    assert check.verified
    assert check.electrons_per_pixel == pytest.approx(0.0)
    assert check.open_electrons_per_pixel > 100
    pose = bench.microscope.stage.pose()
    assert bench.microscope.dose(pose.x_um, pose.y_um).total_e_per_A2 == 0.0
    assert bench.adapter.openings == 0


def test_a_dark_frame_proves_nothing_where_an_open_beam_would_not_be_seen(bench: Bench) -> None:
    bench.adapter.optics = bench.adapter.optics.replace(probe_current_pA=1e-6)
    assert not bench.microscope.verify_blanker("camera").verified


def test_an_unreadable_blanker_is_told_to_blank_whatever_fails(bench: Bench) -> None:
    """Where nobody can look whether the beam is on, it is blanked without looking."""
    bench.adapter.faults.blanker_unreadable = True

    def fail(event: str) -> None:
        if event == "open":
            bench.adapter.on_event = lambda event: None
            bench.adapter.open_beam()
            raise RuntimeError("the driver broke after it had opened the beam")

    bench.adapter.on_event = fail
    with pytest.raises(RuntimeError, match="driver broke"):
        bench.microscope.expose(bench.frame())
    assert bench.adapter.blanked
    assert bench.state(bench.frame())[0] is ChargeState.SETTLED


@pytest.mark.parametrize("place", ["abort", "blank"])
def test_an_impatient_second_ctrl_c_does_not_leave_the_booking_open(
    bench: Bench, place: str
) -> None:
    """The first one comes while the beam is on, the next ones while it is being taken off."""
    presses = {"open": 1, place: 2}

    def impatient(event: str) -> None:
        if presses.get(event, 0) > 0:
            presses[event] -= 1
            raise KeyboardInterrupt

    bench.adapter.on_event = impatient
    with pytest.raises(KeyboardInterrupt):
        bench.microscope.expose(bench.frame())
    assert sum(presses.values()) == 0
    assert bench.adapter.blanked
    assert bench.state(bench.frame())[0] is ChargeState.SETTLED


def test_a_stop_in_the_middle_of_an_exposure_ends_it_within_a_slice(bench: Bench) -> None:
    inner = bench.adapter.clock.sleep

    def sleep(duration_s: float) -> None:
        inner(duration_s)
        if bench.adapter.openings and bench.adapter.clock.now_s() > 1.0:
            bench.adapter.clock.sleep = inner
            bench.microscope.stop("a person")

    bench.adapter.clock.sleep = sleep
    with pytest.raises(StoppedByOtherError, match="a person"):
        bench.microscope.expose(bench.frame(seconds=8.0))
    assert bench.adapter.on_s < 1.2
    assert bench.adapter.clock.now_s() < 1.5


def test_the_valve_is_not_opened_again_on_a_blanker_that_does_not_blank(bench: Bench) -> None:
    bench.adapter.open_beam()
    bench.adapter.faults.blanker_stuck = True
    with pytest.raises(BlankUnconfirmedError, match="the blanker did not confirm"):
        bench.microscope.column.run(LongOperation.OPEN_VALVE)
    assert not bench.adapter.beam_on_specimen
    bench.microscope.column.run(LongOperation.CLOSE_VALVE)


# --- detectors ------------------------------------------------------------------------------


def test_a_detector_that_does_not_arm_costs_no_dose(bench: Bench) -> None:
    bench.adapter.faults.arm_fails = True
    exposure = bench.frame()
    with pytest.raises(ArmFailedError) as e:
        bench.microscope.expose(exposure)
    assert e.value.dose_state is DoseState.NONE
    assert bench.state(exposure) == (ChargeState.RELEASED, 0.0)
    assert bench.adapter.openings == 0


def test_a_camera_that_hangs_costs_a_frame_but_not_a_second_of_beam(bench: Bench) -> None:
    bench.adapter.faults.no_frame = True
    exposure = bench.frame(seconds=0.5)
    with pytest.raises(ExposureTimeoutError) as e:
        bench.microscope.expose(exposure)
    assert e.value.dose_state is DoseState.CHARGED
    assert bench.adapter.on_s == pytest.approx(0.5, abs=0.01)
    assert bench.state(exposure)[0] is ChargeState.SETTLED
    assert bench.state(exposure)[1] >= bench.true_fluence()


def test_a_late_frame_of_an_earlier_exposure_is_thrown_away(bench: Bench) -> None:
    bench.adapter.faults.stale_frames = 2
    frame = bench.microscope.expose(bench.frame())
    assert isinstance(frame, Frame)
    assert frame.exposure_id == bench.frame().exposure_id


def test_only_stale_frames_is_an_error(bench: Bench) -> None:
    bench.adapter.faults.stale_frames = 9
    with pytest.raises(StaleFrameError, match=r"3 frames of earlier exposures.*Drain") as e:
        bench.microscope.expose(bench.frame())
    assert e.value.dose_state is DoseState.CHARGED


def test_a_stale_frame_instead_of_its_own_is_no_defect_of_the_arming(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The detector has delivered what it was armed for, under another name."""
    collect, calls = bench.adapter.collect, []

    def once(timeout_s: float) -> RawFrame:
        calls.append(timeout_s)
        if len(calls) > 1:
            raise ArmFailedError("nothing is armed")
        return replace(collect(timeout_s), job_id=UUID(int=99))

    monkeypatch.setattr(bench.adapter, "collect", once)
    with pytest.raises(StaleFrameError, match="1 frame of earlier exposures and not its own"):
        bench.microscope.expose(bench.frame())


def test_a_frame_of_another_shape_is_refused(bench: Bench) -> None:
    bench.adapter.faults.wrong_shape = True
    with pytest.raises(ProtocolError, match=r"a frame of \(47, 64\), it has \(48, 64\)"):
        bench.microscope.expose(bench.frame())


def test_bad_pixels_are_marked(bench: Bench) -> None:
    frame = bench.microscope.expose(bench.frame())
    assert isinstance(frame, Frame)
    assert frame.valid is not None
    assert np.argwhere(~frame.valid).tolist() == [[3, 5]]


def test_the_frame_says_how_many_electrons_came(bench: Bench) -> None:
    frame = bench.microscope.expose(bench.frame(seconds=0.5))
    assert isinstance(frame, Frame)
    seen = float(frame.electrons().sum())
    assert seen == pytest.approx(0.5 * 10 * ELECTRONS_PER_PA_S, rel=0.01)


# --- between booking and opening ---------------------------------------------------------------


def on_arm(bench: Bench, change: object) -> None:
    def step_in(event: str) -> None:
        if event == "arm":
            change()

    bench.adapter.on_event = step_in


def test_a_beam_that_was_resized_meanwhile_is_not_opened(bench: Bench) -> None:
    def narrower() -> None:
        bench.adapter.optics = bench.adapter.optics.replace(beam_diameter_nm=1500.0)

    on_arm(bench, narrower)
    with pytest.raises(ModeError, match="changed between booking and opening"):
        bench.microscope.expose(bench.frame())
    assert bench.state(bench.frame()) == (ChargeState.RELEASED, 0.0)
    assert bench.adapter.openings == 0


def test_a_current_that_rose_meanwhile_is_not_let_through(bench: Bench) -> None:
    def more() -> None:
        bench.adapter.optics = bench.adapter.optics.replace(probe_current_pA=13.0)

    on_arm(bench, more)
    with pytest.raises(CurrentDriftError, match=r"rose to 13 pA, above the 11 pA"):
        bench.microscope.expose(bench.frame())
    assert bench.adapter.openings == 0


def test_a_stage_that_somebody_moved_meanwhile_is_not_exposed(bench: Bench) -> None:
    on_arm(bench, lambda: bench.adapter.faults.offset.update({Axis.X: 3.0}))
    with pytest.raises(StoppedByOtherError, match="not by this session"):
        bench.microscope.expose(bench.frame())
    assert bench.adapter.openings == 0


def test_no_exposure_while_the_stage_moves(bench: Bench) -> None:
    bench.adapter.start_move(Axis.ALPHA, 30.0)
    with pytest.raises(ModeError, match="alpha_deg still moves"):
        bench.microscope.expose(bench.frame())
    assert bench.adapter.openings == 0


def test_a_current_that_jumps_during_the_exposure_is_charged(bench: Bench) -> None:
    """Plus 30 % while the beam is on: more than the 5 sigma that were booked."""

    def jump(event: str) -> None:
        if event == "open":
            bench.adapter.faults.true_current_factor = 1.3

    bench.adapter.on_event = jump
    exposure = bench.frame()
    bound = bench.microscope.forecast(exposure)
    bench.microscope.expose(exposure)
    state, charged = bench.state(exposure)
    assert state is ChargeState.SETTLED
    assert charged > bound
    assert charged >= bench.true_fluence()


# --- scans ----------------------------------------------------------------------------------


def test_missing_frames_are_listed_and_the_rest_is_kept(bench: Bench) -> None:
    bench.adapter.faults.drop = frozenset({3, 4, 20, 34})
    receipt = bench.microscope.expose(bench.raster())
    assert isinstance(receipt, ScanReceipt)
    assert not receipt.complete
    assert receipt.gaps == (3, 4, 20, 34)
    assert receipt.frames_expected == 35


def test_repeated_and_stale_batches_are_dropped(bench: Bench) -> None:
    bench.adapter.faults.repeat_batches = True
    bench.adapter.faults.stale_batches = True
    receipt = bench.microscope.expose(bench.raster())
    assert isinstance(receipt, ScanReceipt)
    assert receipt.complete
    assert sum(len(batch.data) for batch in bench.sink.batches) == 35


def test_a_scan_without_frames_is_an_error_and_is_charged(bench: Bench) -> None:
    bench.adapter.faults.drop = frozenset(range(35))
    exposure = bench.raster()
    with pytest.raises(ShortReadError, match="0 of 35 frames came") as e:
        bench.microscope.expose(exposure)
    assert e.value.dose_state is DoseState.CHARGED
    assert bench.state(exposure)[1] > 0


def test_a_scan_that_stalls_is_cut_off_and_charged_for_the_time_it_took(bench: Bench) -> None:
    exposure = bench.raster()
    bound = bench.microscope.forecast(exposure)
    bench.adapter.faults.scan_stalls_at = 14
    with pytest.raises(ExposureTimeoutError) as e:
        bench.microscope.expose(exposure)
    assert e.value.dose_state is DoseState.CHARGED
    assert bench.adapter.read_blanked()
    assert bench.state(exposure)[1] > bound
    assert bench.sink.finished == 1


def test_a_full_disk_stops_the_scan_at_once(bench: Bench) -> None:
    bench.sink.full_after = 2
    exposure = bench.raster()
    with pytest.raises(DiskFullError, match="Free some space") as e:
        bench.microscope.expose(exposure)
    assert e.value.vendor_code == errno.ENOSPC
    assert e.value.dose_state is DoseState.CHARGED
    assert bench.adapter.read_blanked()
    assert "row 3" not in bench.adapter.diary


def test_a_file_that_cannot_be_begun_costs_no_dose(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(bench.sink, "begin", refuse)
    exposure = bench.raster()
    with pytest.raises(WriteFailedError, match=r"nothing was exposed.*Check the disk") as e:
        bench.microscope.expose(exposure)
    assert e.value.dose_state is DoseState.NONE
    assert bench.state(exposure) == (ChargeState.RELEASED, 0.0)
    assert bench.adapter.openings == 0


def test_a_session_without_a_sink_refuses_scans(tmp_path: Path) -> None:
    adapter = FakeAdapter()
    with DoseLedger(tmp_path / "l.sqlite", GENEROUS, adapter.clock) as ledger:
        bench_microscope = GuardedMicroscope(adapter, ledger)
        bench_microscope.optics.apply(OpticsChange(mode=Mode.STEM))
        scan = Scan(shape=(2, 3), step_A=20, dwell_s=1e-3)
        with pytest.raises(UnsupportedError, match="nowhere to write scans"):
            bench_microscope.expose(
                Exposure(
                    exposure_id=uuid5(SPACE, "x"),
                    area="T",
                    purpose=Purpose.DATA,
                    detector="pixels",
                    duration_s=1.0,
                    scan=scan,
                )
            )
        assert adapter.openings == 0


@pytest.mark.parametrize(
    ("scan", "words"),
    [
        (Scan(shape=(600, 3), step_A=20, dwell_s=1e-3), "a scan of 600 x 3 positions is above"),
        (Scan(shape=(6, 3), step_A=20, dwell_s=1e-6), "dwell_s = 1e-06 is below"),
    ],
)
def test_a_scan_beyond_the_engine_is_refused(bench: Bench, scan: Scan, words: str) -> None:
    exposure = bench.raster().replace(scan=scan, duration_s=scan.duration_s)
    with pytest.raises(MicroscopeError, match=words):
        bench.microscope.expose(exposure)
    assert bench.adapter.openings == 0


# --- the auditor and the record ------------------------------------------------------------


def test_the_auditor_hears_every_state_before_and_after(bench: Bench) -> None:
    bench.microscope.expose(bench.frame())
    assert [state for _, state, _ in bench.auditor.heard] == ["reserved", "opening", "settled"]


def test_an_auditor_that_fails_keeps_the_beam_shut(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night that cannot be written down is not exposed."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bench.auditor, "charged", refuse)
    with pytest.raises(OSError, match="No space left"):
        bench.microscope.expose(bench.frame())
    assert bench.adapter.openings == 0


def test_a_restart_turns_an_open_exposure_into_unknown_and_never_repeats_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    exposure = bench.frame()
    bound = bench.microscope.forecast(exposure)

    def die(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(DoseLedger, "settle", die)
    with pytest.raises(SystemExit):
        bench.microscope.expose(exposure)
    monkeypatch.undo()
    bench.ledger.close()
    assert bench.adapter.read_blanked()

    with DoseLedger(bench.folder / "ledger.sqlite", GENEROUS, bench.adapter.clock) as ledger:
        record = ledger.record(exposure.exposure_id)
        assert record is not None
        assert record.state is ChargeState.UNKNOWN
        assert record.booking.reserved_e_per_A2 == pytest.approx(bound)
        assert record.charged_e_per_A2 == record.booking.unseen_bound_e_per_A2 > bound
        again = GuardedMicroscope(bench.adapter, ledger)
        with pytest.raises(AlreadyExposedError, match=r"unknown.*was not opened again") as e:
            again.expose(exposure)
        assert e.value.dose_state is DoseState.UNKNOWN
        assert bench.adapter.openings == 1


def test_a_ledger_that_cannot_be_written_any_more_keeps_the_bound_and_refuses_the_next(
    bench: Bench,
) -> None:
    """The disk fills while the beam is on: blanked, charged at the bound, and nothing further."""
    database = bench.ledger._store._db

    def fill(event: str) -> None:
        if event == "open":
            database.execute("PRAGMA query_only=ON")

    bench.adapter.on_event = fill
    exposure = bench.frame()
    bound = bench.microscope.forecast(exposure)
    with pytest.raises(WriteFailedError, match="the dose ledger could not be written") as e:
        bench.microscope.expose(exposure)
    assert e.value.dose_state is DoseState.UNKNOWN
    assert e.value.beam_state is BeamState.BLANKED
    assert bench.adapter.blanked
    assert bench.state(exposure) == (ChargeState.OPENING, pytest.approx(bound))
    with pytest.raises(WriteFailedError):
        bench.microscope.expose(bench.frame(2))
    assert bench.adapter.openings == 1


# --- the law --------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    numbers(1e-3, 3.0),
    numbers(0.9, 1.1),
    st.sampled_from(["", "no_frame", "blanker_stuck", "stop", "wrong_shape", "ctrl-c"]),
    numbers(0.0, 3.0),
)
def test_charged_is_at_least_true_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory,
    seconds: float,
    true_current: float,
    fault: str,
    when_s: float,
) -> None:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    bench.adapter.faults.true_current_factor = true_current
    if fault in ("no_frame", "blanker_stuck", "wrong_shape"):
        setattr(bench.adapter.faults, fault, True)

    class Clock:
        """Steps in while the exposure waits."""

        def __init__(self) -> None:
            self.inner = bench.adapter.clock
            self.armed = fault in ("stop", "ctrl-c")

        def now_s(self) -> float:
            return self.inner.now_s()

        def utc(self) -> object:
            return self.inner.utc()

        def sleep(self, duration_s: float) -> None:
            self.inner.sleep(duration_s)
            if self.armed and bench.adapter.openings and self.inner.now_s() >= when_s:
                self.armed = False
                if fault == "ctrl-c":
                    raise KeyboardInterrupt
                bench.microscope.stop("a person")

    bench.adapter._clock = Clock()
    exposure = bench.frame(seconds=seconds)
    with suppress(MicroscopeError, KeyboardInterrupt):
        bench.microscope.expose(exposure)
    bench.adapter._account()
    true = bench.true_fluence()
    pose = bench.adapter.read_pose()
    assert not bench.adapter.beam_on_specimen
    assert bench.microscope.dose(pose.x_um, pose.y_um).total_e_per_A2 >= true
    assert bench.adapter.openings == 1
    bench.ledger.close()
