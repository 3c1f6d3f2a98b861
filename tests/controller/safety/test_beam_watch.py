"""An open beam is ended in time, also while whoever opened it is stuck elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.hardware.errors import (
    BeamState,
    DoseState,
    ExposureTimeoutError,
    InterlockError,
    MicroscopeError,
    ReplyTimeoutError,
    ScreenDownError,
    StaleHealthError,
    StoppedByOtherError,
)
from controller.hardware.values import Axis, ColumnHealth, Condition, HealthReading, ScanReceipt
from controller.safety.ledger_store import ChargeState
from tests.controller.safety.test_gate_faults import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.ledger.close()


def later(bench: Bench, after_s: float, action: Callable[[], None]) -> None:
    """Do something `after_s` after the beam was opened."""

    def opened(event: str) -> None:
        if event == "open":
            bench.adapter.clock.call_at(bench.adapter.clock.now_s() + after_s, action)

    bench.adapter.on_event = opened


def reads(**changes: HealthReading) -> Callable[[Bench], None]:
    def change(bench: Bench) -> None:
        bench.adapter.health = bench.adapter.health.replace(**changes)

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (reads(screen_up=HealthReading(condition=Condition.BAD)), ScreenDownError),
        (reads(gun_on=HealthReading(condition=Condition.UNKNOWN)), StaleHealthError),
        (reads(gun_on=HealthReading(condition=Condition.GOOD, age_s=11.0)), StaleHealthError),
    ],
)
def test_an_interlock_that_goes_bad_ends_the_exposure_within_a_quarter_of_a_second(
    bench: Bench, change: Callable[[Bench], None], error: type[InterlockError]
) -> None:
    later(bench, 1.0, lambda: change(bench))
    exposure = bench.frame(seconds=8.0)
    bound = bench.microscope.forecast(exposure)
    with pytest.raises(error, match="the exposure was cut off and is charged") as e:
        bench.microscope.expose(exposure)
    assert bench.adapter.on_s <= 1.25
    assert e.value.dose_state is DoseState.CHARGED
    assert e.value.beam_state is BeamState.BLANKED
    assert bench.state(exposure) == (ChargeState.SETTLED, pytest.approx(bound))


def test_a_column_that_cannot_be_read_ends_the_exposure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent() -> ColumnHealth:
        raise ReplyTimeoutError("no reply")

    later(bench, 1.0, lambda: monkeypatch.setattr(bench.adapter, "read_health", silent))
    with pytest.raises(StaleHealthError, match="cannot be read during an exposure"):
        bench.microscope.expose(bench.frame(seconds=8.0))
    assert bench.adapter.on_s <= 1.25


def test_a_disk_that_hangs_does_not_keep_the_beam_on(bench: Bench) -> None:
    exposure = bench.raster()
    write = bench.sink.append
    before_s = bench.adapter.on_s

    def slowly(batch: object) -> None:
        bench.adapter.clock.sleep(30.0)
        write(batch)

    bench.sink.append = slowly
    with pytest.raises(ExposureTimeoutError, match="what came is kept"):
        bench.microscope.expose(exposure)
    assert bench.adapter.on_s - before_s <= exposure.duration_s + 0.25
    assert bench.sink.finished == 1


def test_a_stream_that_falls_silent_does_not_keep_the_beam_on(bench: Bench) -> None:
    exposure = bench.raster()
    bench.adapter.faults.scan_stalls_at = 14
    with pytest.raises(ExposureTimeoutError):
        bench.microscope.expose(exposure)
    assert bench.adapter.on_s <= exposure.duration_s + 0.25


def test_a_driver_that_hangs_while_opening_does_not_keep_the_beam_on(bench: Bench) -> None:
    opens = bench.adapter.open_beam

    def hang() -> None:
        opens()
        bench.adapter.clock.sleep(600.0)

    bench.adapter.open_beam = hang
    bench.microscope.expose(bench.frame(seconds=0.5))
    assert bench.adapter.on_s <= 0.75


def test_a_hand_on_the_stage_ends_the_exposure_and_is_charged_along_the_way(bench: Bench) -> None:
    later(bench, 1.0, lambda: bench.adapter.faults.offset.update({Axis.X: 3.0}))
    exposure = bench.frame(seconds=8.0)
    with pytest.raises(StoppedByOtherError, match="charged along the way"):
        bench.microscope.expose(exposure)
    assert bench.adapter.on_s <= 1.25
    true = bench.true_fluence()
    for x_um in (-0.9, 0.0, 1.5, 3.0, 3.9):
        assert bench.microscope.dose(x_um, 0.0).total_e_per_A2 >= true


def test_a_stage_that_was_moved_just_before_the_end_is_noticed_afterwards(bench: Bench) -> None:
    later(bench, 0.04, lambda: bench.adapter.faults.offset.update({Axis.Y: -2.0}))
    with pytest.raises(StoppedByOtherError, match="the stage moved during the exposure"):
        bench.microscope.expose(bench.frame(seconds=0.05))
    assert bench.microscope.dose(0.0, -2.5).total_e_per_A2 >= bench.true_fluence()


def test_a_current_that_rises_and_falls_again_is_charged_at_its_height(bench: Bench) -> None:
    faults = bench.adapter.faults

    def rise() -> None:
        faults.true_current_factor = 1.4
        clock = bench.adapter.clock
        clock.call_at(clock.now_s() + 0.35, lambda: setattr(faults, "true_current_factor", 1.0))

    later(bench, 0.2, rise)
    exposure = bench.frame(seconds=1.0)
    bound = bench.microscope.forecast(exposure)
    bench.microscope.expose(exposure)
    assert bench.state(exposure)[1] > 1.2 * bound


def test_a_watch_changes_nothing_where_nothing_happens(bench: Bench) -> None:
    receipt = bench.microscope.expose(bench.raster())
    assert isinstance(receipt, ScanReceipt)
    assert receipt.complete
    bench.microscope.expose(bench.frame(2, seconds=3.0))
    assert bench.state(bench.frame(2))[0] is ChargeState.SETTLED
    on_s = bench.adapter.on_s
    bench.adapter.health = bench.adapter.health.replace(
        screen_up=HealthReading(condition=Condition.BAD)
    )
    bench.adapter.clock.sleep(60.0)
    assert bench.adapter.on_s == on_s


def test_a_stray_charge_is_kept_over_a_restart_and_made_once(bench: Bench) -> None:
    later(bench, 0.1, lambda: bench.adapter.faults.offset.update({Axis.X: 3.0}))
    with pytest.raises(MicroscopeError):
        bench.microscope.expose(bench.frame(seconds=1.0))
    states = [record.state for record in bench.ledger.records()]
    assert states == [ChargeState.SETTLED, ChargeState.UNKNOWN]
