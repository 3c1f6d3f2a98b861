"""The JEOL driver on a fake made from the public manual; never run on hardware."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.backends.jeol.pyjem import JeolOptions, adapter_on, open_adapter
from controller.backends.jeol.units import (
    StageScale,
    camera_length_mm,
    ours_from_raw,
    raw_from_ours,
)
from controller.backends.laned import LanedAdapter
from controller.backends.site import load_site
from controller.hardware.clock import VirtualClock
from controller.hardware.errors import LimiterHitError, LimitError, ModeError, ProtocolError
from controller.hardware.values import (
    Axis,
    Condition,
    LongOperation,
    Mode,
    OpticsChange,
    PartialPose,
)
from controller.safety.dose import DoseLedger
from controller.safety.gate import GuardedMicroscope
from tests.conformance.adapter_suite import AdapterTests
from tests.conformance.microscope_suite import GENEROUS, MicroscopeTests
from tests.conformance.virtual_lane import Blocking, VirtualLane
from tests.fakes.jeol_fake import JeolFake
from tests.strategies import numbers

SITE = Path(__file__).parents[1] / "fakes" / "jeol_site.yaml"
CONFIRMED = {
    "site": str(SITE),
    "nm_per_unit_xy": 1.0,
    "nm_per_unit_z": 1.0,
    "deg_per_unit": 1.0,
    "units_confirmed_by": "a supervised calibration",
    "exposure_units_per_s": 1e6,
}


def opened(*, blocks: bool = False) -> tuple[LanedAdapter, JeolFake]:
    blocking = Blocking(VirtualClock())
    fake = JeolFake(blocking, blocks=blocks)
    options = JeolOptions.model_validate(CONFIRMED)
    lane = VirtualLane(blocking)
    return adapter_on(load_site(SITE), fake.parts, options, lane, blocking.clock), fake


class TestJeolFakeAdapter(AdapterTests):
    def open_adapter(self, folder: Path) -> LanedAdapter:
        return opened()[0]


class TestJeolFakeMicroscope(MicroscopeTests):
    def open_adapter(self, folder: Path) -> LanedAdapter:
        return opened()[0]


class TestJeolFakeWhoseCallsBlock(MicroscopeTests):
    def open_adapter(self, folder: Path) -> LanedAdapter:
        return opened(blocks=True)[0]


@pytest.mark.parametrize(
    "missing",
    [
        "nm_per_unit_xy",
        "nm_per_unit_z",
        "deg_per_unit",
        "units_confirmed_by",
        "exposure_units_per_s",
    ],
)
def test_without_confirmed_units_nothing_is_opened(missing: str) -> None:
    options = {key: value for key, value in CONFIRMED.items() if key != missing}
    with pytest.raises(ValueError, match=f"jeol cannot be opened: {missing}: Field required"):
        open_adapter(options)


def test_nobody_is_not_a_confirmation() -> None:
    with pytest.raises(ValueError, match="units_confirmed_by: String should have at least 1"):
        open_adapter(CONFIRMED | {"units_confirmed_by": ""})


def test_pyjem_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"PyJEM.TEM3.*JEOL delivers it"):
        open_adapter(CONFIRMED)


@given(
    axis=st.sampled_from(list(Axis)),
    sign=st.sampled_from([-1, 1]),
    value=numbers(-900, 900),
    xy=numbers(0.1, 10),
    deg=numbers(0.1, 10),
)
def test_stage_values_there_and_back(
    axis: Axis, sign: int, value: float, xy: float, deg: float
) -> None:
    scale = StageScale(nm_per_unit_xy=xy, nm_per_unit_z=2.0, deg_per_unit=deg, confirmed_by="x")
    there = raw_from_ours(axis, value, scale, sign)
    assert ours_from_raw(axis, there, scale, sign) == pytest.approx(value, abs=1e-9)
    assert there * value * sign >= 0


def test_a_micrometre_is_a_thousand_nanometres_there() -> None:
    adapter, fake = opened()
    adapter.start_move(Axis.X, 5.0)
    adapter.clock.sleep(3.0)
    assert fake.GetPos()[0] == pytest.approx(-5000.0)
    adapter.write_optics(OpticsChange(beam_shift_nm=(100.0, 0.0)))
    assert fake.counts["CLA1"] == [32768 + 172, 32768 + 69]


def test_a_limiter_stops_everything_and_asks_for_a_person(tmp_path: Path) -> None:
    adapter, fake = opened()
    with DoseLedger(tmp_path / "ledger.sqlite", GENEROUS, adapter.clock) as ledger:
        microscope = GuardedMicroscope(adapter, ledger)
        fake.limiter = 3
        with pytest.raises(LimiterHitError, match="limiter"):
            microscope.stage.move(PartialPose(alpha_deg=10.0))


def test_modes_without_calibration_are_refused() -> None:
    adapter, fake = opened()
    fake.function = 2
    with pytest.raises(ModeError, match="LowMAG"):
        adapter.read_optics()
    fake.function, fake.stem = 0, 1
    with pytest.raises(ModeError, match="STEM"):
        adapter.read_optics()


def test_the_camera_length_follows_its_unit() -> None:
    adapter, _ = opened()
    adapter.write_optics(OpticsChange(mode=Mode.DIFFRACTION))
    assert adapter.read_optics().camera_length_mm == pytest.approx(400)
    assert camera_length_mm(1.2, "m") == pytest.approx(1200)
    assert camera_length_mm(50, "X") is None


def test_the_projector_is_set_by_the_steps_of_the_site_file() -> None:
    adapter, fake = opened()
    adapter.write_optics(OpticsChange(pixel_size_nm=0.28))
    adapter.write_optics(OpticsChange(mode=Mode.DIFFRACTION, detector_sampling_mrad=0.035))
    assert fake.sent == ["selector 20", "selector 9"]
    with pytest.raises(LimitError, match=r"detector_sampling_mrad = 1 is none of the steps"):
        adapter.write_optics(OpticsChange(detector_sampling_mrad=1.0))


def test_flash_and_refill_are_seen_while_they_run() -> None:
    adapter, fake = opened()
    assert adapter.run_operation(LongOperation.REFILL).succeeded
    assert adapter.run_operation(LongOperation.FLASH_LOW).succeeded
    health = adapter.read_health()
    assert health.not_refilling.condition is Condition.BAD
    assert health.no_flash_due.condition is Condition.BAD
    fake.holder = 0
    adapter.clock.sleep(1.0)
    assert adapter.read_health().holder_inserted.condition is Condition.BAD


def test_an_image_of_another_size_is_no_image() -> None:
    adapter, _ = opened()
    job = TestJeolFakeAdapter().camera_job(adapter)
    adapter._instrument._options = JeolOptions.model_validate(CONFIRMED | {"raw_dtype": "uint32"})
    adapter.arm(job)
    with pytest.raises(ProtocolError, match="1536 pixels of uint32"):
        adapter.collect(10.0)


def test_a_pose_of_four_values_is_refused() -> None:
    adapter, fake = opened()
    fake.GetPos = lambda: [0.0, 0.0, 0.0, 0.0]  # type: ignore[method-assign]
    with pytest.raises(ProtocolError, match="not five values"):
        adapter.read_pose()
