from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import numpy as np
import pytest

from controller.hardware.errors import ArmFailedError, ExposureTimeoutError
from controller.hardware.faults import FAULTS
from controller.hardware.values import Axis, Condition, LongOperation, Mode, OpticsChange, Scan
from sim_microscope.faults import RANDOM_WITHIN_S, FaultBoard
from tests.sim_microscope.conftest import Bench

OpenBench = Callable[..., Bench]
SMALL = Scan(shape=(20, 32), step_A=60.0, dwell_s=1e-3)


# --- when ---------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no fault is called 'gremlin'; there are .*stage-hang"):
        FaultBoard(["gremlin@3s"], 0)


@pytest.mark.parametrize("when", ["soon", "step:x", "alpha=3", "-5s", ""])
def test_an_unreadable_time_is_explained(when: str) -> None:
    with pytest.raises(ValueError, match="write an instant such as 600s, 10min or 2h"):
        FaultBoard([f"refill@{when}"], 0)


@pytest.mark.parametrize(
    ("when", "due_s"), [("600", 600), ("600s", 600), ("10min", 600), ("0.5h", 1800)]
)
def test_instants_are_read_in_their_units(when: str, due_s: float) -> None:
    board = FaultBoard([f"refill@{when}"], 0)
    assert not board.active("refill", due_s - 1e-6)
    assert board.active("refill", due_s)
    assert not board.active("refill", due_s + FAULTS["refill"].lasts_s)


def test_counts_and_states_make_a_fault_due() -> None:
    board = FaultBoard(["stage-hang@move:2", "arm-fails@step:1", "crystal-lost@alpha>10"], 0)
    board.count("move", 1.0)
    assert board.take("stage-hang", 1.0) is None
    board.count("move", 2.0)
    assert board.take("stage-hang", 2.0) == 2.0
    assert board.take("stage-hang", 3.0) is None
    board.count("step", 4.0)
    assert board.take("arm-fails", 4.0) == 4.0
    board.see("alpha", 9.9, 5.0)
    assert board.take("crystal-lost", 5.0) is None
    board.see("alpha", 10.1, 6.0)
    assert board.take("crystal-lost", 6.0) == 6.0
    assert [name for _, name in board.struck] == ["stage-hang", "arm-fails", "crystal-lost"]


def test_random_is_by_the_seed_and_within_four_hours() -> None:
    def due(seed: int) -> float:
        board = FaultBoard(["gun-off@random"], seed)
        return board.instants(["gun-off"], 0, RANDOM_WITHIN_S)[0]

    assert due(1) == due(1)
    assert due(1) != due(2)


def test_every_fault_has_the_number_of_the_list_and_words() -> None:
    for name, kind in FAULTS.items():
        assert name == kind.name
        assert 1 <= kind.number <= 42
        assert kind.effect


# --- the stage ------------------------------------------------------------------------------


def test_stage_not_reached_once(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("stage-not-reached@0",))
    bench.go(alpha_deg=5.0)
    assert bench.adapter.read_pose().alpha_deg == pytest.approx(4.4, abs=0.1)
    bench.go(alpha_deg=5.0)
    assert bench.adapter.read_pose().alpha_deg == pytest.approx(5.0, abs=0.1)


def test_idle_is_reported_early(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("idle-early@0",))
    bench.adapter.start_move(Axis.ALPHA, 8.0)
    bench.adapter.clock.sleep(1.0)
    assert not bench.adapter.axis_state(Axis.ALPHA).moving
    assert bench.adapter.read_pose().alpha_deg < 4
    bench.adapter.clock.sleep(10.0)
    assert bench.adapter.read_pose().alpha_deg == pytest.approx(8.0, abs=0.1)


def test_the_stage_hangs_until_it_is_halted(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("stage-hang@0",))
    bench.adapter.start_move(Axis.X, 8.0)
    bench.adapter.clock.sleep(500.0)
    assert bench.adapter.axis_state(Axis.X).moving
    assert bench.adapter.read_pose().x_um == pytest.approx(4.0, abs=0.2)
    bench.adapter.halt()
    bench.adapter.clock.sleep(1.0)
    assert not bench.adapter.axis_state(Axis.X).moving
    bench.go(x_um=8.0)
    assert bench.adapter.read_pose().x_um == pytest.approx(8.0, abs=0.2)


def test_a_slow_stage_arrives_all_the_same(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("slow-stage@0",))
    began = bench.adapter.clock.now_s()
    bench.go(alpha_deg=4.0)
    assert bench.adapter.clock.now_s() - began == pytest.approx(20, abs=1)
    assert bench.adapter.read_pose().alpha_deg == pytest.approx(4.0, abs=0.1)


def test_a_silent_clamp_shows_in_the_read_back_only(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("silent-clamp@0",))
    bench.go(y_um=-6.0)
    state = bench.adapter.axis_state(Axis.Y)
    assert (state.moving, state.limiter) == (False, False)
    assert bench.adapter.read_pose().y_um == pytest.approx(-3.0, abs=0.2)


@pytest.mark.parametrize(
    ("fault", "flag"), [("limiter-latch", "limiter"), ("touch-alarm", "touch")]
)
def test_an_alarm_latches_until_a_person_has_looked(
    open_bench: OpenBench, fault: str, flag: str
) -> None:
    bench = open_bench(faults=(f"{fault}@0",))
    bench.go(alpha_deg=6.0)
    assert getattr(bench.adapter.axis_state(Axis.ALPHA), flag)
    bench.go(alpha_deg=0.0)
    assert bench.adapter.read_pose().alpha_deg == pytest.approx(3.0, abs=0.1)
    bench.adapter.release_alarms()
    bench.go(alpha_deg=0.0)
    assert bench.adapter.read_pose().alpha_deg == pytest.approx(0.0, abs=0.1)
    assert not getattr(bench.adapter.axis_state(Axis.ALPHA), flag)


def test_a_crystal_is_lost_after_a_tilt_and_the_read_back_does_not_know(
    open_bench: OpenBench,
) -> None:
    def shift(*faults: str) -> tuple[float, float]:
        bench = open_bench(faults=faults)
        bench.go(alpha_deg=4.0)
        pose = bench.adapter.true_pose()
        assert abs(bench.adapter.read_pose().x_um) < 0.1
        return pose.x_um, pose.y_um

    moved = np.subtract(shift("crystal-lost@0"), shift())
    assert np.hypot(*moved) == pytest.approx(2.0, abs=0.01)


def test_somebody_moves_the_stage_by_hand(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("external-move@10",))
    bench.adapter.clock.sleep(9.0)
    assert bench.adapter.read_pose().x_um == pytest.approx(0.0, abs=0.1)
    bench.adapter.clock.sleep(5.0)
    assert bench.adapter.read_pose().x_um == pytest.approx(3.0, abs=0.1)


def test_a_drift_burst_is_fast_and_calms_down(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("drift-burst@10",))
    bench.adapter.clock.sleep(10.0)
    before = bench.adapter.true_pose()
    bench.adapter.clock.sleep(10.0)
    after = bench.adapter.true_pose()
    assert np.hypot(after.x_um - before.x_um, after.y_um - before.y_um) > 0.03


# --- column and beam ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reading"),
    [
        ("valve-closes", "valve_open"),
        ("vacuum-bad", "vacuum_ready"),
        ("gun-off", "gun_on"),
        ("ht-trip", "high_tension_on"),
        ("screen-down", "screen_up"),
        ("refill", "not_refilling"),
        ("flash-due", "no_flash_due"),
    ],
)
def test_an_interlock_reads_bad_while_its_fault_is_on(
    open_bench: OpenBench, fault: str, reading: str
) -> None:
    bench = open_bench(faults=(f"{fault}@100",))
    before = bench.adapter.read_health().readings()
    assert all(value.condition is Condition.GOOD for value in before.values())
    bench.adapter.clock.sleep(100.0)
    value = bench.adapter.read_health().readings()[reading]
    assert value.condition is Condition.BAD
    assert value.detail


@pytest.mark.parametrize("fault", ["valve-closes", "gun-off", "ht-trip"])
def test_no_beam_comes_through_a_closed_column(open_bench: OpenBench, fault: str) -> None:
    bench = open_bench(faults=(f"{fault}@0",))
    offset = bench.adapter.capabilities.detector("camera").offset
    assert np.median(bench.frame()) == pytest.approx(offset, abs=2)
    assert bench.adapter.truth.dose.electrons() == 0


def test_the_screen_hides_the_beam_from_the_camera_but_not_from_the_specimen(
    open_bench: OpenBench,
) -> None:
    bench = open_bench(faults=("screen-down@0",))
    offset = bench.adapter.capabilities.detector("camera").offset
    assert np.median(bench.frame()) == pytest.approx(offset, abs=2)
    assert bench.adapter.truth.dose.electrons() > 0


def test_the_valve_opens_again_only_when_the_vacuum_is_ready(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("valve-closes@0",))
    assert bench.adapter.read_health().valve_open.condition is Condition.BAD
    assert not bench.adapter.run_operation(LongOperation.OPEN_VALVE).succeeded
    bench.adapter.clock.sleep(400.0)
    assert bench.adapter.read_health().valve_open.condition is Condition.BAD
    assert bench.adapter.run_operation(LongOperation.OPEN_VALVE).succeeded
    assert bench.adapter.read_health().valve_open.condition is Condition.GOOD


def test_a_valve_that_closes_during_an_exposure_cuts_its_dose(open_bench: OpenBench) -> None:
    whole, cut = open_bench(), open_bench(faults=("valve-closes@0.5",))
    for bench in (whole, cut):
        bench.frame("camera", 1.0)
    ratio = cut.adapter.truth.dose.electrons() / whole.adapter.truth.dose.electrons()
    assert ratio == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("fault", "factor"), [("current-jump", 1.3), ("current-drop", 0.6)])
def test_a_change_of_current_is_in_the_dose_and_on_the_meter(
    open_bench: OpenBench, fault: str, factor: float
) -> None:
    calm, changed = open_bench(), open_bench(faults=(f"{fault}@0",))
    for bench in (calm, changed):
        bench.frame()
    dose = changed.adapter.truth.dose.electrons() / calm.adapter.truth.dose.electrons()
    assert dose == pytest.approx(factor, rel=1e-6)
    read = [b.adapter.read_health().probe_current_pA for b in (calm, changed)]
    assert read[0] is not None
    assert read[1] == pytest.approx(factor * read[0], rel=0.1)


def test_a_flash_ends_the_request_and_raises_the_current(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("flash-due@0",))
    before = bench.adapter.read_health().probe_current_pA
    assert bench.adapter.run_operation(LongOperation.FLASH_LOW).succeeded
    health = bench.adapter.read_health()
    assert health.no_flash_due.condition is Condition.GOOD
    assert before is not None
    assert health.probe_current_pA == pytest.approx(1.12 * before, rel=0.05)


def test_a_stuck_blanker_says_so_and_only_the_valve_stops_the_beam(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("blanker-stuck@0",))
    adapter = bench.adapter
    adapter.open_beam()
    adapter.clock.sleep(1.0)
    adapter.blank_beam()
    assert adapter.read_blanked() is False
    assert adapter.is_beam_on_specimen()
    before = adapter.truth.dose.electrons()
    adapter.clock.sleep(1.0)
    assert adapter.truth.dose.electrons() > before
    adapter.run_operation(LongOperation.CLOSE_VALVE)
    assert not adapter.is_beam_on_specimen()
    closed = adapter.truth.dose.electrons()
    adapter.clock.sleep(10.0)
    assert adapter.truth.dose.electrons() == closed


def test_another_holder_has_another_name(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("holder-changed@5",))
    first = bench.adapter.read_health().holder_id
    bench.adapter.clock.sleep(5.0)
    assert bench.adapter.read_health().holder_id != first


# --- detectors ------------------------------------------------------------------------------


def test_a_frame_that_never_comes_costs_the_deadline_and_the_next_one_comes(
    open_bench: OpenBench,
) -> None:
    bench = open_bench(faults=("camera-timeout@0",))
    began = bench.adapter.clock.now_s()
    with pytest.raises(ExposureTimeoutError, match="no frame from camera within 10 s"):
        bench.frame()
    assert bench.adapter.clock.now_s() - began >= 10
    bench.adapter.abort()
    assert bench.frame().shape == (512, 512)
    assert bench.adapter.truth.dose.electrons() > 0


def test_a_late_frame_turns_up_in_the_next_exposure(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("late-frame@0",))
    with pytest.raises(ExposureTimeoutError):
        bench.frame()
    bench.adapter.arm(bench.job("camera", 0.1))
    assert bench.adapter.collect(5.0).job_id == UUID(int=1)
    assert bench.adapter.collect(5.0).job_id == UUID(int=2)


def test_a_late_frame_is_drained_by_abort(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("late-frame@0",))
    with pytest.raises(ExposureTimeoutError):
        bench.frame()
    bench.adapter.abort()
    bench.adapter.arm(bench.job("camera", 0.1))
    assert bench.adapter.collect(5.0).job_id == UUID(int=2)


def test_a_stale_frame_carries_the_name_of_the_one_before(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("stale-frame@step:2",))
    bench.frame()
    bench.adapter.arm(bench.job("camera", 0.1))
    assert bench.adapter.collect(5.0).job_id == UUID(int=1)


def test_a_detector_that_does_not_arm_arms_again(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("arm-fails@0",))
    with pytest.raises(ArmFailedError, match="Arm it again"):
        bench.frame()
    bench.frame()


@pytest.mark.parametrize("fault", ["dropped-frames", "short-scan", "repeated-frames"])
def test_a_scan_with_lost_or_repeated_frames_shows_in_the_numbers(
    open_bench: OpenBench, fault: str
) -> None:
    bench = open_bench(faults=(f"{fault}@0",))
    bench.adapter.write_optics(OpticsChange(mode=Mode.STEM))
    bench.go(x_um=40.0)  # no crystal there: the pattern is one and the same
    bench.adapter.arm(bench.job("scan4d", SMALL.dwell_s, SMALL))
    bench.adapter.open_beam()
    batches = list(bench.adapter.stream(60.0))
    bench.adapter.blank_beam()
    numbers = [b.first_sequence + k for b in batches for k in range(len(b.data))]
    if fault == "repeated-frames":
        assert sorted(set(numbers)) == list(range(SMALL.positions))
        assert len(numbers) > SMALL.positions
    else:
        assert len(numbers) < SMALL.positions
        assert len(set(numbers)) == len(numbers)


def test_charging_moves_the_image_with_the_dose_rate(open_bench: OpenBench) -> None:
    def picture(*faults: str) -> np.ndarray:
        bench = open_bench(faults=faults)
        bench.adapter.write_optics(OpticsChange(probe_current_pA=120.0))
        x, y = bench.adapter.truth.specimen.crystals[0].centre_um
        bench.go(x_um=x, y_um=y)
        return bench.frame("camera", 0.3).astype(float)

    calm, charged = picture(), picture("charging@0")
    spectrum = np.fft.rfft2(calm - calm.mean()) * np.conj(np.fft.rfft2(charged - charged.mean()))
    peak = np.unravel_index(np.argmax(np.fft.irfft2(spectrum)), calm.shape)
    shift = [(int(p) + 256) % 512 - 256 for p in peak]
    assert np.hypot(*shift) > 5


def test_the_record_clock_steps_and_the_deadlines_do_not_notice(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("clock-step@100",))
    clock = bench.adapter.clock
    before = clock.utc()
    clock.sleep(101.0)
    bench.adapter.read_health()
    assert (clock.utc() - before).total_seconds() == pytest.approx(3701.0)
    assert clock.now_s() == pytest.approx(101.0)


def test_an_altered_exposure_shows_in_the_counts_only(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("exposure-altered@step:2",))
    offset = bench.adapter.capabilities.detector("camera").offset
    whole, half = (float(bench.frame("camera", 0.4).mean()) - offset for _ in range(2))
    assert half == pytest.approx(0.5 * whole, rel=0.02)


def test_an_inverted_axis_tilts_the_specimen_the_other_way(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("alpha-inverted@0",))
    bench.go(alpha_deg=7.0)
    assert bench.adapter.read_pose().alpha_deg == pytest.approx(7.0, abs=0.1)
    assert bench.adapter.true_pose().alpha_deg == pytest.approx(-7.0, abs=0.2)


def test_without_contrast_no_focus_is_better_than_another(open_bench: OpenBench) -> None:
    def contrast(*faults: str) -> float:
        bench = open_bench(faults=faults)
        bench.adapter.write_optics(OpticsChange(probe_current_pA=120.0))
        x, y = bench.adapter.truth.specimen.crystals[0].centre_um
        bench.go(x_um=x, y_um=y)
        picture = bench.frame("camera", 1.0).astype(float)
        return float(picture[100:-100:8].std())

    assert contrast() > 2 * contrast("focus-flat@0")


def test_a_tilt_axis_that_runs_off_tells_a_height_of_three_micrometres(
    open_bench: OpenBench,
) -> None:
    def y_at(alpha: float, *faults: str) -> float:
        bench = open_bench(faults=faults)
        bench.go(alpha_deg=alpha)
        return bench.adapter.true_pose().y_um

    for alpha in (-12.0, 12.0):
        away = y_at(alpha, "focus-false@0") - y_at(alpha)
        assert away == pytest.approx(3.0 * np.tan(np.deg2rad(alpha)), abs=0.02)


def test_lenses_that_hang_cost_two_minutes(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("lens-hang@0",))
    bench.adapter.write_optics(OpticsChange(mode=Mode.STEM))
    assert bench.adapter.clock.now_s() == pytest.approx(120.0)
    bench.adapter.write_optics(OpticsChange(mode=Mode.IMAGE))
    assert bench.adapter.clock.now_s() == pytest.approx(120.0)


def pattern_of(
    open_bench: OpenBench, *faults: str, dose_first: int = 0, current_pA: float = 20.0
) -> np.ndarray:
    """Counts of a crystal on a parallel beam."""
    bench = open_bench(faults=faults)
    bench.adapter.write_optics(
        OpticsChange(mode=Mode.DIFFRACTION, beam_diameter_nm=300.0, probe_current_pA=current_pA)
    )
    x, y = bench.adapter.truth.specimen.crystals[0].centre_um
    bench.go(x_um=x, y_um=y)
    for _ in range(dose_first):
        bench.frame("diffraction", 1.0)
    return bench.frame("diffraction", 1.0).astype(float)


def away_from_beam(counts: np.ndarray) -> np.ndarray:
    """Counts that are clearly spots, far from the direct beam."""
    rows, cols = np.indices(counts.shape)
    far = np.hypot(rows - 128, cols - 128) > 0.16 * 256
    return np.where(far & (counts > 20 * np.median(counts[far]) + 20), counts, 0.0)


def test_beam_damage_fades_the_spots_exponentially_and_far_ones_first(
    open_bench: OpenBench,
) -> None:
    spots = away_from_beam(pattern_of(open_bench)) > 0

    def left(*faults: str) -> float:
        fresh, late = (
            pattern_of(open_bench, *faults, dose_first=n, current_pA=1.0)[spots].sum()
            for n in (0, 3)
        )
        return float(late / fresh)

    assert left() > 0.9
    assert left("beam-damage@0") < 0.6


def test_a_second_crystal_adds_spots(open_bench: OpenBench) -> None:
    one, two = (away_from_beam(pattern_of(open_bench, *f)) > 0 for f in ((), ("two-crystals@0",)))
    assert (two & ~one).sum() > 0.5 * one.sum()


def test_a_bent_crystal_smears_the_intensities_over_its_bend(open_bench: OpenBench) -> None:
    flat, bent = (away_from_beam(pattern_of(open_bench, *f)) for f in ((), ("bent-crystal@0",)))
    correlation = np.corrcoef(flat.ravel(), bent.ravel())[0, 1]
    assert 0.0 < correlation < 0.95


def test_few_spots_leave_the_neighbourhood_of_the_direct_beam_only(open_bench: OpenBench) -> None:
    counts = pattern_of(open_bench, "few-spots@0")
    assert away_from_beam(pattern_of(open_bench)).sum() > 0
    assert away_from_beam(counts).sum() == 0
    assert counts[118:138, 118:138].max() > 100


def test_faults_of_other_places_are_told_to_whoever_plays_them(open_bench: OpenBench) -> None:
    bench = open_bench(faults=("disk-full@10s", "disk-slow@10s", "server-crash@write:2"))
    injected = bench.adapter.injected
    assert not injected.strikes("disk-full")
    assert not injected.is_on("disk-slow")
    bench.adapter.clock.sleep(10.0)
    assert injected.strikes("disk-full")
    assert not injected.strikes("disk-full")
    assert injected.is_on("disk-slow")
    injected.count("write")
    assert not injected.strikes("server-crash")
    injected.count("write")
    assert injected.strikes("server-crash")
    assert {name for _, name in bench.adapter.truth.faults} >= {"disk-full", "server-crash"}
