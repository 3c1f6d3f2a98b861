"""The pytemscript driver on a fake made from documentation; never run on hardware."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.backends.laned import LanedAdapter
from controller.backends.site import load_site
from controller.backends.thermo.pytemscript import adapter_on, open_adapter
from controller.hardware.clock import VirtualClock
from controller.hardware.errors import ArmFailedError, ModeError, ProtocolError
from controller.hardware.values import (
    Axis,
    Condition,
    LongOperation,
    Mode,
    OpticsChange,
)
from tests.conformance.adapter_suite import AdapterTests
from tests.conformance.microscope_suite import MicroscopeTests
from tests.conformance.virtual_lane import Blocking, VirtualLane
from tests.fakes.pytemscript_fake import PytemscriptFake

SITE = Path(__file__).parents[1] / "fakes" / "thermo_site.yaml"


def opened() -> tuple[LanedAdapter, PytemscriptFake]:
    blocking = Blocking(VirtualClock())
    fake = PytemscriptFake(blocking)
    adapter = adapter_on(load_site(SITE), lambda: fake, VirtualLane(blocking), blocking.clock)
    return adapter, fake


class TestPytemscriptFakeAdapter(AdapterTests):
    def open_adapter(self, folder: Path) -> LanedAdapter:
        return opened()[0]


class TestPytemscriptFakeMicroscope(MicroscopeTests):
    def open_adapter(self, folder: Path) -> LanedAdapter:
        return opened()[0]


@pytest.fixture
def pair() -> tuple[LanedAdapter, PytemscriptFake]:
    return opened()


Pair = tuple[LanedAdapter, PytemscriptFake]


def test_signs_and_units_there(pair: Pair) -> None:
    adapter, fake = pair
    adapter.start_move(Axis.Y, 12.0)
    assert adapter.read_pose().y_um == pytest.approx(12.0)
    assert fake.stage.position["y"] == pytest.approx(-12.0)
    adapter.write_optics(OpticsChange(defocus_nm=400.0, beam_shift_nm=(100.0, 0.0)))
    assert fake.optics.projection.defocus == pytest.approx(-0.4)
    shift = fake.optics.illumination.beam_shift
    assert (shift.x, shift.y) == pytest.approx((0.08, 0.06))
    assert fake.optics.normalised == 1


def test_the_word_error_is_not_a_blanked_beam(pair: Pair) -> None:
    adapter, fake = pair
    fake.optics.is_beam_blanked = "ERROR"
    with pytest.raises(ProtocolError, match="the blanker reads 'ERROR'"):
        adapter.read_blanked()


def test_a_blanker_that_answers_nonsense_keeps_the_beam_from_opening(pair: Pair) -> None:
    adapter, fake = pair
    fake.optics.is_shutter_override_on = True
    job = TestPytemscriptFakeAdapter().camera_job(adapter)
    with pytest.raises(ArmFailedError, match="shutter override"):
        adapter.arm(job)
    with pytest.raises(ArmFailedError, match="no exposure is armed"):
        adapter.open_beam()
    assert fake.optics.is_beam_blanked is True


def test_the_beam_does_not_open_while_the_vendor_would_wait_for_a_pump(pair: Pair) -> None:
    adapter, fake = pair
    adapter.arm(TestPytemscriptFakeAdapter().camera_job(adapter))
    fake.vacuum.is_buffer_running = True
    with pytest.raises(ModeError, match=r"with the beam open; the beam stays blanked"):
        adapter.open_beam()
    assert fake.optics.is_beam_blanked is True


def test_gun_dewar_and_flash_are_read(pair: Pair) -> None:
    adapter, fake = pair
    fake.gun.feg_state = "NOT_EMITTING"
    fake.temperature.is_dewar_filling = True
    fake.gun.advised = True
    fake.vacuum.is_buffer_running = True
    adapter.clock.sleep(1.0)
    health = adapter.read_health()
    for name in ("gun_on", "not_refilling", "no_flash_due", "vacuum_ready"):
        assert health.readings()[name].condition is Condition.BAD, name
    assert health.dewar_remaining_s == 3600


def test_what_this_column_has_not_is_not_offered_and_reads_unknown() -> None:
    blocking = Blocking(VirtualClock())
    fake = PytemscriptFake(blocking)
    del fake.temperature
    fake.gun.is_flashing_advised = _absent  # type: ignore[method-assign]
    fake.stage.limits["b"] = {"min": 0, "max": 0, "unit": "UNKNOWN"}
    adapter = adapter_on(load_site(SITE), lambda: fake, VirtualLane(blocking), blocking.clock)
    assert LongOperation.REFILL not in adapter.capabilities.long_operations
    assert LongOperation.FLASH_LOW not in adapter.capabilities.long_operations
    assert Axis.BETA not in adapter.capabilities.axes
    assert adapter.read_pose().beta_deg is None
    assert adapter.read_health().no_flash_due.condition is Condition.UNKNOWN


def _absent(kind: int) -> bool:
    raise NotImplementedError("Source/C-FEG interface is not available")


def test_stem_is_refused(pair: Pair) -> None:
    adapter, fake = pair
    fake.optics.instrument_mode = "STEM"
    with pytest.raises(ModeError, match="STEM mode"):
        adapter.read_optics()


def test_a_valve_that_will_not_open_is_no_success(pair: Pair) -> None:
    adapter, fake = pair
    fake.vacuum.is_column_open = False
    fake.vacuum.status = "BUSY"
    result = adapter.run_operation(LongOperation.OPEN_VALVE)
    assert not result.succeeded
    assert "not READY" in result.detail


def test_during_a_blocking_move_health_grows_old_and_the_blanker_reads_unknown(pair: Pair) -> None:
    adapter, _ = pair
    adapter.start_move(Axis.ALPHA, 40.0)
    adapter.clock.sleep(5.0)
    assert adapter.axis_state(Axis.ALPHA).moving
    assert adapter.read_blanked() is None
    assert adapter.read_health().vacuum_ready.age_s >= 5.0
    with pytest.raises(ModeError, match="the move before has not ended"):
        adapter.start_move(Axis.X, 1.0)
    adapter.clock.sleep(5.0)
    assert not adapter.axis_state(Axis.ALPHA).moving
    assert adapter.read_blanked() is True
    assert adapter.read_pose().alpha_deg == pytest.approx(40.0)


def test_pixel_size_and_camera_length_come_from_what_is_indicated(pair: Pair) -> None:
    adapter, _ = pair
    assert adapter.read_optics().pixel_size_nm == pytest.approx(8 * 14e3 / 50000)
    adapter.write_optics(OpticsChange(mode=Mode.DIFFRACTION))
    state = adapter.read_optics()
    assert state.camera_length_mm == pytest.approx(800)
    assert state.detector_sampling_mrad == pytest.approx(8 * 14 / 800)
    assert state.pixel_size_nm is None


def test_a_package_that_is_not_there_is_named_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"pytemscript.* cannot be imported.*pip install"):
        open_adapter({"site": str(SITE)})


def test_a_misspelt_option_is_named() -> None:
    with pytest.raises(ValueError, match=r"thermo-pytemscript cannot be opened: conection"):
        open_adapter({"site": str(SITE), "conection": "socket"})
