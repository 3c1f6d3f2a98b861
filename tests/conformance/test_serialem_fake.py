"""The SerialEM driver on a fake made from the public help; never run on hardware."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from controller.backends.laned import LanedAdapter
from controller.backends.serialem.driver import SerialEMOptions, adapter_on, open_adapter
from controller.backends.serialem.units import defocus_nm, defocus_um
from controller.backends.site import load_site
from controller.hardware.clock import VirtualClock
from controller.hardware.errors import ArmFailedError, ModeError
from controller.hardware.values import Axis, Condition, OpticsChange
from tests.conformance.adapter_suite import AdapterTests
from tests.conformance.microscope_suite import MicroscopeTests
from tests.conformance.virtual_lane import Blocking, VirtualLane
from tests.fakes.serialem_fake import SerialEMFake
from tests.strategies import numbers

SITE = Path(__file__).parents[1] / "fakes" / "serialem_site.yaml"
OPTIONS = {"site": str(SITE), "magnification_index": 22, "camera_length_index": 5}


def opened(*, thermo: bool = True) -> tuple[LanedAdapter, SerialEMFake]:
    blocking = Blocking(VirtualClock())
    fake = SerialEMFake(blocking)
    fake.thermo = thermo
    options = SerialEMOptions.model_validate(OPTIONS)
    lane = VirtualLane(blocking)
    return adapter_on(load_site(SITE), lambda: fake, options, lane, blocking.clock), fake


class TestSerialEMFakeAdapter(AdapterTests):
    def open_adapter(self, folder: Path) -> LanedAdapter:
        return opened()[0]


class TestSerialEMFakeMicroscope(MicroscopeTests):
    def open_adapter(self, folder: Path) -> LanedAdapter:
        return opened()[0]


@given(value=numbers(-1e5, 1e5), scale=numbers(0.5, 2))
def test_defocus_there_and_back_and_underfocus_is_negative_there(
    value: float, scale: float
) -> None:
    there = defocus_um(value, scale)
    assert defocus_nm(there, scale) == pytest.approx(value, abs=1e-6)
    assert value * there <= 0
    assert defocus_um(1500.0, 1.0) == pytest.approx(-1.5)


def test_signs_and_units_arrive() -> None:
    adapter, fake = opened()
    adapter.start_move(Axis.X, 7.0)
    adapter.read_pose()
    adapter.axis_state(Axis.X)
    adapter.start_move(Axis.ALPHA, 10.0)
    adapter.read_pose()
    assert fake.xyz == pytest.approx([-7.0, 0.0, 0.0])
    assert fake.alpha == pytest.approx(-10.0)
    adapter.write_optics(OpticsChange(defocus_nm=800.0, beam_shift_nm=(100.0, 50.0)))
    assert fake.defocus == pytest.approx(-0.8)
    assert fake.beam_shift == pytest.approx((0.1, -0.05))
    assert fake.normalised == [7]


def test_the_blanker_that_cannot_be_read_is_never_called_confirmed() -> None:
    adapter, fake = opened()
    assert adapter.read_blanked() is None
    assert adapter.capabilities.blank.readable is False
    assert fake.blank == 1


def test_a_valve_in_an_unclear_state_is_unknown() -> None:
    adapter, fake = opened()
    fake.valve = -1
    adapter.clock.sleep(1.0)
    assert adapter.read_health().valve_open.condition is Condition.UNKNOWN


def test_on_another_column_what_only_thermo_tells_is_unknown_not_good() -> None:
    adapter, _ = opened(thermo=False)
    health = adapter.read_health()
    for name in ("vacuum_ready", "not_refilling", "no_flash_due"):
        assert health.readings()[name].condition is Condition.UNKNOWN, name
    assert health.dewar_remaining_s is None


def test_low_magnification_and_stem_are_refused() -> None:
    adapter, fake = opened()
    fake.low = 1
    with pytest.raises(ModeError, match="low magnification"):
        adapter.read_optics()
    fake.low, fake.kind = 0, 2
    with pytest.raises(ModeError, match="STEM"):
        adapter.read_optics()


def test_an_exposure_that_did_not_take_is_not_armed() -> None:
    adapter, fake = opened()
    fake.SetExposure = lambda which, seconds: None  # type: ignore[method-assign]
    with pytest.raises(ArmFailedError, match=r"exposure 1 s and binning 1 read back after 0\.2 s"):
        adapter.arm(TestSerialEMFakeAdapter().camera_job(adapter))


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"serialem.*comes with SerialEM"):
        open_adapter(OPTIONS)
    with pytest.raises(ValueError, match="another machine"):
        open_adapter(OPTIONS | {"host": "192.0.2.7"})
