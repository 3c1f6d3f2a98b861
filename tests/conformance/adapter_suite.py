"""What a driver must do before a guard can be put around it.

What an instrument cannot do is not skipped: the driver has to say so in its capabilities, and the
suite then asks that it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from controller.hardware.contract import Adapter
from controller.hardware.errors import UnsupportedError
from controller.hardware.values import (
    Axis,
    DetectorJob,
    LongOperation,
    Mode,
    OpticsChange,
    Scan,
)
from tests.conformance.microscope_suite import all_good

JOB = UUID(int=77)


class AdapterTests:
    """Inherit, and override `open_adapter`."""

    scan = Scan(shape=(3, 5), step_A=20.0, dwell_s=1e-3)
    frame_s = 0.2
    collect_s = 10.0
    sees_the_beam = True
    """False for a peer whose camera shows the same with the beam on and off; that is tested too."""

    def open_adapter(self, folder: Path) -> Adapter:
        raise NotImplementedError

    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Iterator[Adapter]:
        opened = self.open_adapter(tmp_path)
        yield opened
        opened.close()

    def camera_job(self, adapter: Adapter) -> DetectorJob:
        mode = adapter.read_optics().mode
        detector = next(d for d in adapter.capabilities.detectors if mode in d.modes)
        return DetectorJob(exposure_id=JOB, detector=detector.name, frame_s=self.frame_s)

    def finish(self, adapter: Adapter, axis: Axis) -> float:
        for _ in range(2000):
            if not adapter.axis_state(axis).moving:
                break
            adapter.clock.sleep(0.1)
        adapter.clock.sleep(1.0)
        return adapter.read_pose().get(axis)

    def test_it_opens_blanked_and_fit(self, adapter: Adapter) -> None:
        assert adapter.read_blanked() is not False
        assert all_good(adapter.read_health())

    def test_what_it_says_of_itself_is_consistent(self, adapter: Adapter) -> None:
        capabilities = adapter.capabilities
        assert {Axis.X, Axis.Y} <= set(capabilities.axes)
        assert len({d.name for d in capabilities.detectors}) == len(capabilities.detectors)
        for detector in capabilities.detectors:
            assert detector.modes <= capabilities.modes
        assert adapter.read_optics().mode in capabilities.modes
        assert adapter.read_optics().probe_current_pA <= capabilities.max_current_pA
        for axis, (low, high) in adapter.holder_limits().ranges.items():
            assert axis in capabilities.axes
            assert low <= high

    @pytest.mark.parametrize(("axis", "by"), [(Axis.X, 3.0), (Axis.Y, -2.0), (Axis.ALPHA, 2.0)])
    def test_an_axis_goes_where_it_is_sent_and_takes_time(
        self, adapter: Adapter, axis: Axis, by: float
    ) -> None:
        if axis not in adapter.capabilities.axes:
            with pytest.raises(UnsupportedError, match=axis.value):
                adapter.start_move(axis, by)
            return
        start = adapter.read_pose().get(axis)
        began_s = adapter.clock.now_s()
        adapter.start_move(axis, start + by)
        assert adapter.clock.now_s() - began_s < 1.0
        assert self.finish(adapter, axis) == pytest.approx(start + by, abs=0.3)
        assert adapter.clock.now_s() > began_s

    def test_halt_stops_the_stage_on_its_way_where_it_can(self, adapter: Adapter) -> None:
        """Where it cannot, halting does no harm and the stage tells where it ended."""
        axis, by = (Axis.ALPHA, 20.0) if Axis.ALPHA in adapter.capabilities.axes else (Axis.X, 20.0)
        start = adapter.read_pose().get(axis)
        by = -by if start > 0 else by
        adapter.start_move(axis, start + by)
        adapter.clock.sleep(0.5)
        adapter.halt()
        ended = abs(self.finish(adapter, axis) - start)
        if adapter.capabilities.axes[axis].can_stop:
            assert ended < 0.95 * abs(by)
        else:
            assert ended == pytest.approx(abs(by), abs=0.3)

    def test_blanking_is_idempotent(self, adapter: Adapter) -> None:
        adapter.blank_beam()
        adapter.blank_beam()
        assert adapter.read_blanked() is not False

    def test_the_blanker_reads_open_while_the_beam_is_open(self, adapter: Adapter) -> None:
        adapter.arm(self.camera_job(adapter))
        adapter.open_beam()
        assert adapter.read_blanked() is not True
        adapter.blank_beam()
        adapter.clock.sleep(10 * adapter.capabilities.blank.latency_s)
        assert adapter.read_blanked() is not False
        adapter.abort()

    def test_a_frame_that_was_exposed_comes_after_blanking(self, adapter: Adapter) -> None:
        job = self.camera_job(adapter)
        detector = adapter.capabilities.detector(job.detector)
        adapter.arm(job)
        adapter.open_beam()
        adapter.clock.sleep(job.frame_s)
        adapter.blank_beam()
        bright = adapter.collect(self.collect_s)
        assert bright.job_id == JOB
        assert bright.data.shape == detector.shape

        adapter.arm(job)
        adapter.clock.sleep(job.frame_s)
        dark = adapter.collect(self.collect_s)

        if self.sees_the_beam:
            assert bright.data.astype(float).mean() > dark.data.astype(float).mean()
            electrons = (dark.data.astype(float) - detector.offset) / detector.gain
            assert abs(np.median(electrons)) < 1.0
        else:
            assert bright.data.mean() == pytest.approx(dark.data.mean(), rel=0.5, abs=1)

    def test_abort_is_idempotent_and_the_next_exposure_works(self, adapter: Adapter) -> None:
        adapter.arm(self.camera_job(adapter))
        adapter.abort()
        adapter.abort()
        job = self.camera_job(adapter)
        adapter.arm(job)
        adapter.open_beam()
        adapter.clock.sleep(job.frame_s)
        adapter.blank_beam()
        assert adapter.collect(self.collect_s).job_id == JOB

    def test_a_scan_streams_every_position_once(self, adapter: Adapter) -> None:
        if adapter.capabilities.scan is None:
            job = self.camera_job(adapter)
            with pytest.raises(UnsupportedError, match="scan"):
                adapter.arm(
                    DetectorJob(
                        JOB, job.detector, self.scan.dwell_s, self.scan.positions, self.scan
                    )
                )
            return
        adapter.write_optics(OpticsChange(mode=Mode.STEM))
        detector = next(d for d in adapter.capabilities.detectors if d.can_scan)
        adapter.arm(
            DetectorJob(JOB, detector.name, self.scan.dwell_s, self.scan.positions, self.scan)
        )
        adapter.open_beam()
        following = 0
        for batch in adapter.stream(60.0):
            assert batch.job_id == JOB
            assert batch.first_sequence == following
            assert batch.data.shape[1:] == detector.shape
            following += len(batch.data)
        adapter.blank_beam()
        assert following == self.scan.positions

    def test_a_mode_that_is_not_there_is_refused(self, adapter: Adapter) -> None:
        for mode in set(Mode) - adapter.capabilities.modes:
            with pytest.raises(UnsupportedError, match=mode.value):
                adapter.write_optics(OpticsChange(mode=mode))

    def test_a_beam_shift_is_read_back(self, adapter: Adapter) -> None:
        if "beam_shift_nm" not in adapter.capabilities.settings:
            with pytest.raises(UnsupportedError, match="beam_shift_nm"):
                adapter.write_optics(OpticsChange(beam_shift_nm=(40.0, -25.0)))
            return
        adapter.write_optics(OpticsChange(beam_shift_nm=(40.0, -25.0)))
        assert adapter.read_optics().beam_shift_nm == pytest.approx((40.0, -25.0), abs=5)

    def test_the_valve_is_a_second_guard_where_it_is_offered(self, adapter: Adapter) -> None:
        valve = {LongOperation.CLOSE_VALVE, LongOperation.OPEN_VALVE}
        missing = valve - adapter.capabilities.long_operations
        for operation in missing:
            with pytest.raises(UnsupportedError, match=operation.value):
                adapter.run_operation(operation)
        if missing:
            return
        assert adapter.run_operation(LongOperation.CLOSE_VALVE).succeeded
        assert not all_good(adapter.read_health())
        assert adapter.run_operation(LongOperation.OPEN_VALVE).succeeded
        assert all_good(adapter.read_health())
