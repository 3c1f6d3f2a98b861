"""What every guarded microscope must do, whatever instrument is behind it.

A backend inherits `MicroscopeTests` and says how its adapter is opened, as a store inherits
zarr's ``StoreTests``.  What an instrument cannot do it says in its capabilities; the suite then
asks that it is refused with `UnsupportedError`, and never skips.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

import numpy as np
import pytest
from pydantic import ValidationError

from controller.hardware.contract import Adapter, Microscope
from controller.hardware.errors import (
    AlreadyExposedError,
    BeamState,
    DoseLimitError,
    DoseState,
    InterlockError,
    LimitError,
    ModeError,
    StaleHealthError,
    StoppedByOtherError,
    UnsupportedError,
    ValveClosedError,
)
from controller.hardware.values import (
    SETTINGS,
    Approach,
    Axis,
    ColumnHealth,
    Condition,
    DetectorInfo,
    Exposure,
    Frame,
    HealthReading,
    LongOperation,
    Mode,
    OpticsChange,
    PartialPose,
    Purpose,
    Scan,
    ScanReceipt,
    Settle,
)
from controller.safety.dose import DoseLedger
from controller.safety.gate import GuardedMicroscope
from controller.safety.interlocks import INTERLOCKS
from controller.safety.ledger_store import ChargeState
from controller.safety.limits import DoseLimits, checked_target
from tests.conformance.fake_adapter import MemorySink
from tests.conformance.watched_adapter import WatchedAdapter

SPACE = UUID("5b0a1f54-0000-5000-8000-000000000000")
GENEROUS = DoseLimits(specimen_e_per_A2=2e5, before_scan_e_per_A2=1e5, data_e_per_A2=1e5)


@dataclass
class Bench:
    """A guarded microscope with what a test may look at behind it."""

    microscope: Microscope
    adapter: WatchedAdapter
    ledger: DoseLedger
    sink: MemorySink

    def state(self, exposure: Exposure) -> ChargeState | None:
        record = self.ledger.record(exposure.exposure_id)
        return None if record is None else record.state


class MicroscopeTests:
    """Inherit, and override `open_adapter`."""

    image_duration_s = 0.2
    scan = Scan(shape=(3, 5), step_A=20.0, dwell_s=1e-3)
    scan_optics = OpticsChange(mode=Mode.STEM, probe_current_pA=1.0)
    tilt_deg = 2.5

    def open_adapter(self, folder: Path) -> Adapter:
        raise NotImplementedError

    def present(
        self, guarded: GuardedMicroscope, folder: Path
    ) -> AbstractContextManager[Microscope]:
        """The microscope as its user holds it: itself, or the far end of a wire."""
        return nullcontext(guarded)

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        adapter = WatchedAdapter(self.open_adapter(tmp_path))
        with DoseLedger(tmp_path / "ledger.sqlite", GENEROUS, adapter.clock) as ledger:
            sink = MemorySink()
            guarded = GuardedMicroscope(adapter, ledger, sink=sink)
            with self.present(guarded, tmp_path) as microscope:
                adapter.diary.clear()
                yield Bench(microscope, adapter, ledger, sink)
            adapter.on_call = lambda name: None
            adapter.health_seen = lambda health: health
            adapter.close()

    def image(self, bench: Bench, number: int = 1, **changes: object) -> Exposure:
        detector = self.detector(bench, bench.microscope.optics.state().mode)
        values: dict[str, object] = {
            "exposure_id": uuid5(SPACE, str(number)),
            "area": "S00",
            "purpose": Purpose.SURVEY,
            "detector": detector.name,
            "duration_s": self.image_duration_s,
        }
        return Exposure.model_validate(values | changes)

    def raster(self, bench: Bench, number: int = 100) -> Exposure:
        bench.microscope.optics.apply(self.scan_optics)
        return Exposure(
            exposure_id=uuid5(SPACE, str(number)),
            area="T07",
            purpose=Purpose.DATA,
            detector=next(d.name for d in bench.microscope.capabilities.detectors if d.can_scan),
            duration_s=self.scan.duration_s,
            scan=self.scan,
        )

    def detector(self, bench: Bench, mode: Mode) -> DetectorInfo:
        return next(d for d in bench.microscope.capabilities.detectors if mode in d.modes)

    # --- the contract ------------------------------------------------------------------------

    def test_it_is_a_microscope_and_has_no_way_to_open_the_beam(self, bench: Bench) -> None:
        assert isinstance(bench.microscope, Microscope)
        offered = {name for name in dir(bench.microscope) if not name.startswith("_")}
        assert not {name for name in offered if "open" in name or "unblank" in name}

    def test_it_starts_blanked(self, bench: Bench) -> None:
        assert bench.adapter.read_blanked() is not False

    # --- stage -------------------------------------------------------------------------------

    def test_a_move_returns_what_was_measured(self, bench: Bench) -> None:
        target = PartialPose(x_um=1.5, alpha_deg=self.tilt_deg)
        if Axis.ALPHA not in bench.microscope.capabilities.axes:
            target = PartialPose(x_um=1.5)

        result = bench.microscope.stage.move(target)

        pose = bench.microscope.stage.pose()
        settle = Settle()
        assert result.requested == target
        assert result.achieved.x_um == pytest.approx(pose.x_um, abs=settle.tolerance_um)
        assert set(result.residual) == set(target.targets())
        assert result.residual[Axis.X] == pytest.approx(result.achieved.x_um - 1.5)
        assert abs(result.residual.get(Axis.ALPHA, 0.0)) <= settle.tolerance_deg
        assert result.polls >= settle.idle_polls

    def test_axes_that_are_not_named_stay(self, bench: Bench) -> None:
        before = bench.microscope.stage.pose()

        bench.microscope.stage.move(PartialPose(y_um=-2.0))

        assert {axis for axis, _ in bench.adapter.moves} == {Axis.Y}
        after = bench.microscope.stage.pose()
        assert after.alpha_deg == pytest.approx(before.alpha_deg, abs=0.15)

    @pytest.mark.parametrize("axis", list(Axis))
    def test_a_target_outside_the_limits_is_refused_and_nothing_moves(
        self, bench: Bench, axis: Axis
    ) -> None:
        if axis not in bench.microscope.capabilities.axes:
            with pytest.raises(UnsupportedError, match=f"no axis {axis.value}.*nothing moved"):
                bench.microscope.stage.move(PartialPose.model_validate({axis.value: 0.0}))
            assert bench.adapter.moves == []
            return
        low, high = bench.microscope.stage.limits().ranges[axis]
        for value in (low - 0.1, high + 0.1):
            with pytest.raises(LimitError, match=f"{axis.value} = .* is outside .* nothing moved"):
                bench.microscope.stage.move(PartialPose.model_validate({axis.value: value}))
        assert bench.adapter.moves == []

    def test_one_bad_axis_refuses_the_whole_move(self, bench: Bench) -> None:
        high = bench.microscope.stage.limits().ranges[Axis.Y][1]
        with pytest.raises(LimitError):
            bench.microscope.stage.move(PartialPose(x_um=1.0, y_um=high + 1))
        assert bench.adapter.moves == []

    def test_limits_are_within_those_of_the_vendor(self, bench: Bench) -> None:
        for axis, (low, high) in bench.microscope.stage.limits().ranges.items():
            info = bench.microscope.capabilities.axes[axis]
            assert info.low <= low <= high <= info.high

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_a_number_is_refused(self, bench: Bench, value: float) -> None:
        with pytest.raises(ValidationError):
            PartialPose(alpha_deg=value)
        with pytest.raises(LimitError, match=r"must be finite, got alpha_deg = .*nothing moved"):
            checked_target(alpha_deg=value)
        smuggled = PartialPose.model_construct(x_um=value)
        with pytest.raises(LimitError):
            bench.microscope.stage.move(smuggled)
        assert bench.adapter.moves == []

    def test_from_below_arrives_from_below(self, bench: Bench) -> None:
        has_tilt = Axis.ALPHA in bench.microscope.capabilities.axes
        axis = Axis.ALPHA if has_tilt else Axis.X
        target = PartialPose.model_validate({axis.value: self.tilt_deg})
        bench.microscope.stage.move(target, approach=Approach.FROM_BELOW)
        targets = [value for moved, value in bench.adapter.moves if moved is axis]
        assert targets[-1] == self.tilt_deg
        assert targets[-2] < self.tilt_deg

    def test_stop_from_another_thread_ends_a_move(self, bench: Bench) -> None:
        self.during(bench, "axis_state", lambda: bench.microscope.stop("hand on the panel"))

        with pytest.raises(StoppedByOtherError, match="hand on the panel"):
            bench.microscope.stage.move(PartialPose(x_um=20.0))

        assert "halt" in bench.adapter.diary
        assert bench.adapter.read_blanked() is not False

    def test_blank_and_health_do_not_wait_for_a_move(self, bench: Bench) -> None:
        def act() -> None:
            assert bench.microscope.blank("a test").blanked
            bench.microscope.column.health()

        self.during(bench, "axis_state", act)
        result = bench.microscope.stage.move(PartialPose(x_um=3.0))
        assert abs(result.residual[Axis.X]) <= Settle().tolerance_um

    def test_a_second_command_is_refused_while_one_drives(self, bench: Bench) -> None:
        refused: list[Exception] = []

        def act() -> None:
            try:
                bench.microscope.stage.move(PartialPose(y_um=1.0))
            except ModeError as problem:
                refused.append(problem)

        self.during(bench, "axis_state", act)
        bench.microscope.stage.move(PartialPose(x_um=3.0))
        assert "a move is under way" in str(refused[0])

    # --- optics and column -------------------------------------------------------------------

    def test_optics_return_what_was_read_back(self, bench: Bench) -> None:
        capabilities = bench.microscope.capabilities
        mode = Mode.IMAGE if Mode.IMAGE in capabilities.modes else None
        if "defocus_nm" not in capabilities.settings:
            self.refuses(bench, OpticsChange(mode=mode, defocus_nm=-350.0))
            return
        state = bench.microscope.optics.apply(OpticsChange(mode=mode, defocus_nm=-350.0))
        assert state.defocus_nm == pytest.approx(-350.0, abs=20)
        assert bench.microscope.optics.state().defocus_nm == pytest.approx(-350.0, abs=20)

    def test_optics_change_with_the_beam_blanked(self, bench: Bench) -> None:
        seen: list[bool | None] = []
        bench.adapter.on_call = lambda name: (
            seen.append(bench.adapter.read_blanked()) if name == "write_optics" else None
        )
        mode = bench.microscope.optics.state().mode
        bench.microscope.optics.apply(OpticsChange(mode=mode))
        assert seen
        assert False not in seen

    def test_a_setting_outside_the_range_is_refused_and_nothing_is_sent(self, bench: Bench) -> None:
        capabilities = bench.microscope.capabilities
        wide = 2 * capabilities.beam_diameter_nm[1]
        for change in (
            OpticsChange(mode=Mode.IMAGE, beam_diameter_nm=wide),
            OpticsChange(probe_current_pA=2 * capabilities.max_current_pA),
        ):
            asked = change.model_dump(exclude_none=True)
            possible = change.mode in capabilities.modes | {None} and (
                asked.keys() <= capabilities.settings
            )
            error = LimitError if possible else UnsupportedError
            with pytest.raises(error, match="nothing was changed"):
                bench.microscope.optics.apply(change)
        assert "write_optics" not in bench.adapter.diary

    def test_a_mode_or_setting_that_is_missing_is_unsupported(self, bench: Bench) -> None:
        capabilities = bench.microscope.capabilities
        for mode in set(Mode) - capabilities.modes:
            self.refuses(bench, OpticsChange(mode=mode))
        for name in SETTINGS - capabilities.settings - {"mode"}:
            pair = name.startswith(("beam_shift", "image_shift", "beam_tilt"))
            self.refuses(bench, OpticsChange.model_validate({name: (1.0, 1.0) if pair else 1.0}))

    def refuses(self, bench: Bench, change: OpticsChange) -> None:
        """What is missing is refused, and nothing is sent."""
        with pytest.raises(UnsupportedError, match="nothing was changed"):
            bench.microscope.optics.apply(change)
        assert "write_optics" not in bench.adapter.diary

    def test_an_operation_that_is_not_offered_is_unsupported(self, bench: Bench) -> None:
        offered = bench.microscope.capabilities.long_operations
        for operation in set(LongOperation) - offered:
            with pytest.raises(UnsupportedError, match=operation.value):
                bench.microscope.column.run(operation)

    # --- exposures ---------------------------------------------------------------------------

    def test_a_frame_has_the_shape_of_its_detector(self, bench: Bench) -> None:
        exposure = self.image(bench)

        frame = bench.microscope.expose(exposure)

        detector = self.detector(bench, frame.optics.mode)
        assert isinstance(frame, Frame)
        assert frame.data.shape == detector.shape
        assert frame.electrons().dtype == np.float32
        assert frame.exposure_id == exposure.exposure_id
        if frame.valid is not None:
            assert frame.valid.shape == detector.shape
            assert (~frame.valid).sum() == len(set(detector.bad_pixels))

    def test_the_beam_is_blanked_afterwards_and_the_dose_is_charged(self, bench: Bench) -> None:
        exposure = self.image(bench)
        forecast = bench.microscope.forecast(exposure)

        frame = bench.microscope.expose(exposure)

        assert bench.adapter.read_blanked() is not False
        assert bench.state(exposure) is ChargeState.SETTLED
        assert 0 < frame.charged_e_per_A2 <= 1.2 * forecast
        reading = bench.microscope.dose(frame.pose.x_um, frame.pose.y_um)
        assert reading.by_purpose[Purpose.SURVEY] == pytest.approx(frame.charged_e_per_A2)

    def test_the_dose_is_booked_before_the_beam_opens(self, bench: Bench) -> None:
        exposure = self.image(bench)
        seen: list[ChargeState | None] = []
        bench.adapter.on_call = lambda name: (
            seen.append(bench.state(exposure)) if name in ("arm", "open_beam") else None
        )
        bench.microscope.expose(exposure)
        assert seen == [ChargeState.RESERVED, ChargeState.OPENING]

    def test_charges_add_up_in_the_same_place(self, bench: Bench) -> None:
        first = bench.microscope.expose(self.image(bench, 1))
        second = bench.microscope.expose(self.image(bench, 2, purpose=Purpose.TRACK))
        reading = bench.microscope.dose(first.pose.x_um, first.pose.y_um)
        assert reading.total_e_per_A2 == pytest.approx(
            first.charged_e_per_A2 + second.charged_e_per_A2
        )
        assert reading.before_scan_e_per_A2 == reading.total_e_per_A2

    def test_a_repeated_id_never_opens_the_beam_again(self, bench: Bench) -> None:
        exposure = self.image(bench)
        first = bench.microscope.expose(exposure)
        again = bench.microscope.expose(exposure)
        assert bench.adapter.openings == 1
        assert isinstance(again, Frame)
        assert isinstance(first, Frame)
        np.testing.assert_array_equal(again.data, first.data)

    def test_a_repeated_id_with_another_content_is_refused(self, bench: Bench) -> None:
        bench.microscope.expose(self.image(bench))
        with pytest.raises(AlreadyExposedError, match=r"with another content.*not opened again"):
            bench.microscope.expose(self.image(bench, duration_s=2 * self.image_duration_s))
        assert bench.adapter.openings == 1

    def test_too_much_dose_is_refused_before_anything_happens(self, bench: Bench) -> None:
        bench.ledger.limits = DoseLimits(
            specimen_e_per_A2=1e-9, before_scan_e_per_A2=1e-9, data_e_per_A2=1e-9
        )
        exposure = self.image(bench)
        with pytest.raises(
            DoseLimitError, match="nothing was booked and the beam stays blanked"
        ) as e:
            bench.microscope.expose(exposure)
        assert e.value.dose_state is DoseState.NONE
        assert e.value.beam_state is BeamState.BLANKED
        assert bench.state(exposure) is None
        assert not {"arm", "open_beam"} & set(bench.adapter.diary)

    def test_a_detector_that_is_not_there_is_unsupported(self, bench: Bench) -> None:
        with pytest.raises(UnsupportedError, match="no detector 'eye'"):
            bench.microscope.expose(self.image(bench, detector="eye"))
        assert bench.adapter.openings == 0

    def test_an_exposure_time_outside_the_range_is_refused(self, bench: Bench) -> None:
        longest = self.detector(bench, bench.microscope.optics.state().mode).max_exposure_s
        with pytest.raises(LimitError, match="nothing was exposed"):
            bench.microscope.expose(self.image(bench, duration_s=1.01 * longest))
        assert bench.adapter.openings == 0

    def test_stop_during_an_exposure_blanks_and_charges_the_bound(self, bench: Bench) -> None:
        exposure = self.image(bench)
        bound = bench.microscope.forecast(exposure)
        self.during(bench, "opened", lambda: bench.microscope.stop("enough"))
        with pytest.raises(StoppedByOtherError, match="enough") as e:
            bench.microscope.expose(exposure)
        assert e.value.dose_state is DoseState.CHARGED
        assert bench.adapter.read_blanked() is not False
        record = bench.ledger.record(exposure.exposure_id)
        assert record is not None
        assert record.charged_e_per_A2 == pytest.approx(bound, rel=0.2)

    @pytest.mark.parametrize("place", ["arm", "open_beam", "opened", "blank_beam", "collect"])
    def test_ctrl_c_anywhere_leaves_the_beam_blanked_and_the_booking_closed(
        self, bench: Bench, place: str
    ) -> None:
        exposure = self.image(bench)

        def interrupt() -> None:
            raise KeyboardInterrupt

        self.once(bench, place, interrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.microscope.expose(exposure)
        assert bench.adapter.read_blanked() is not False
        record = bench.ledger.record(exposure.exposure_id)
        assert record is not None
        if place == "arm":
            assert record.state is ChargeState.RELEASED
            assert bench.adapter.openings == 0
        else:
            assert record.state is ChargeState.SETTLED
            assert record.charged_e_per_A2 > 0
        with pytest.raises(AlreadyExposedError):
            bench.microscope.expose(exposure)
        assert bench.adapter.openings <= 1

    # --- interlocks --------------------------------------------------------------------------

    @pytest.mark.parametrize("name", list(INTERLOCKS))
    @pytest.mark.parametrize("condition", [Condition.BAD, Condition.UNKNOWN])
    def test_no_exposure_while_an_interlock_is_bad_or_unknown(
        self, bench: Bench, name: str, condition: Condition
    ) -> None:
        reading = HealthReading(condition=condition, detail="as the test says")
        bench.adapter.health_seen = lambda health: health.replace(**{name: reading})
        expected = INTERLOCKS[name].error if condition is Condition.BAD else StaleHealthError
        with pytest.raises(expected, match=r"as the test says.*nothing was exposed"):
            bench.microscope.expose(self.image(bench))
        assert bench.adapter.openings == 0
        assert bench.ledger.records() == []

    def test_no_exposure_on_a_stale_reading(self, bench: Bench) -> None:
        old = HealthReading(condition=Condition.GOOD, age_s=1e4)
        bench.adapter.health_seen = lambda health: health.replace(vacuum_ready=old)
        with pytest.raises(StaleHealthError, match=r"vacuum_ready was read 10000.0 s ago"):
            bench.microscope.expose(self.image(bench))
        assert bench.adapter.openings == 0

    def test_another_holder_stops_moves_and_exposures(self, bench: Bench) -> None:
        bench.adapter.health_seen = lambda health: health.replace(holder_id="somebody else's")
        with pytest.raises(InterlockError, match="start a new run"):
            bench.microscope.expose(self.image(bench))
        with pytest.raises(InterlockError, match="start a new run"):
            bench.microscope.stage.move(PartialPose(x_um=1.0))
        assert bench.adapter.openings == 0
        assert bench.adapter.moves == []

    def test_an_interlock_that_falls_between_booking_and_opening_releases(
        self, bench: Bench
    ) -> None:
        exposure = self.image(bench)
        shut = HealthReading(condition=Condition.BAD)

        def close() -> None:
            bench.adapter.health_seen = lambda health: health.replace(valve_open=shut)

        self.once(bench, "arm", close)
        with pytest.raises(ValveClosedError):
            bench.microscope.expose(exposure)
        assert bench.state(exposure) is ChargeState.RELEASED
        assert bench.adapter.openings == 0

    # --- scans -------------------------------------------------------------------------------

    def cannot_scan(self, bench: Bench) -> bool:
        """Whether scans are a missing capability; then each is refused, and this has seen it."""
        capabilities = bench.microscope.capabilities
        if capabilities.scan is not None:
            return False
        assert not any(detector.can_scan for detector in capabilities.detectors)
        exposure = self.image(bench, duration_s=self.scan.duration_s, scan=self.scan)
        with pytest.raises(UnsupportedError, match=r"cannot record a scan.*nothing was exposed"):
            bench.microscope.expose(exposure)
        assert bench.adapter.openings == 0
        assert bench.state(exposure) is None
        return True

    def test_a_scan_returns_a_receipt_and_every_frame_once_in_order(self, bench: Bench) -> None:
        if self.cannot_scan(bench):
            return
        exposure = self.raster(bench)

        receipt = bench.microscope.expose(exposure)

        assert isinstance(receipt, ScanReceipt)
        assert receipt.complete
        assert receipt.frames_expected == receipt.frames_committed == self.scan.positions
        firsts = [batch.first_sequence for batch in bench.sink.batches]
        sizes = [len(batch.data) for batch in bench.sink.batches]
        assert firsts == [0, *np.cumsum(sizes)[:-1].tolist()]
        info = bench.microscope.capabilities.detector(exposure.detector)
        assert all(batch.data.shape[1:] == info.shape for batch in bench.sink.batches)
        assert all(
            np.issubdtype(batch.data.dtype, np.unsignedinteger) for batch in bench.sink.batches
        )
        assert bench.adapter.read_blanked() is not False
        assert bench.state(exposure) is ChargeState.SETTLED

    def test_a_repeated_scan_returns_the_same_receipt(self, bench: Bench) -> None:
        if self.cannot_scan(bench):
            return
        exposure = self.raster(bench)
        receipt = bench.microscope.expose(exposure)
        assert bench.microscope.expose(exposure) == receipt
        assert bench.adapter.openings == 1

    def test_stop_in_a_scan_blanks_and_keeps_what_came(self, bench: Bench) -> None:
        if self.cannot_scan(bench):
            return
        exposure = self.raster(bench)
        self.during(bench, "batch", lambda: bench.microscope.stop("no more"))
        with pytest.raises(StoppedByOtherError, match="no more") as e:
            bench.microscope.expose(exposure)
        assert e.value.dose_state is DoseState.CHARGED
        assert bench.adapter.read_blanked() is not False
        assert bench.sink.finished == 1

    @pytest.mark.parametrize("place", ["stream", "batch", "blank_beam"])
    def test_ctrl_c_in_a_scan_blanks_and_closes_the_file(self, bench: Bench, place: str) -> None:
        if self.cannot_scan(bench):
            return
        exposure = self.raster(bench)

        def interrupt() -> None:
            raise KeyboardInterrupt

        self.once(bench, place, interrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.microscope.expose(exposure)
        assert bench.adapter.read_blanked() is not False
        assert bench.state(exposure) is ChargeState.SETTLED
        assert bench.sink.finished == 1

    # --- helpers -----------------------------------------------------------------------------

    def once(self, bench: Bench, place: str, action: Callable[[], object]) -> None:
        """Run `action` at the first adapter call of that name."""

        def step_in(name: str) -> None:
            if name == place:
                bench.adapter.on_call = lambda name: None
                action()

        bench.adapter.on_call = step_in

    def during(self, bench: Bench, place: str, action: Callable[[], None]) -> None:
        """Run `action` in another thread, to its end, at the first call of that name."""
        failures: list[BaseException] = []

        def guarded() -> None:
            try:
                action()
            except BaseException as problem:  # noqa: BLE001  (handed to the test)
                failures.append(problem)

        def in_a_thread() -> None:
            thread = threading.Thread(target=guarded)
            thread.start()
            thread.join(timeout=20)
            assert not thread.is_alive(), "the safety lane waited for the drive lane"
            if failures:
                raise failures[0]

        self.once(bench, place, in_a_thread)


def all_good(health: ColumnHealth) -> bool:
    """Whether no interlock stands in the way."""
    return all(r.condition is Condition.GOOD for r in health.readings().values())
