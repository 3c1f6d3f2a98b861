"""nionswift-usim, headless: a STEM with a blanker that its camera sees, defocus, and 4D scans.

Nobody here wrote it.  It has no height, no tilt and no valve, which the driver has to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from controller.backends.laned import LanedAdapter
from controller.backends.nion.driver import c10_m, defocus_nm, open_adapter
from controller.hardware.contract import Adapter
from controller.hardware.errors import ProtocolError, UnsupportedError
from controller.hardware.values import (
    Axis,
    DetectorJob,
    Mode,
    OpticsChange,
    PartialPose,
    Scan,
)
from controller.safety.dose import DoseLedger
from controller.safety.gate import GuardedMicroscope
from controller.safety.limits import DoseLimits
from tests.conformance.adapter_suite import AdapterTests
from tests.conformance.microscope_suite import MicroscopeTests

pytestmark = pytest.mark.peers

SITE = Path(__file__).parent / "nion_usim.yaml"
LIMITS = DoseLimits(specimen_e_per_A2=1e6, before_scan_e_per_A2=5e5, data_e_per_A2=5e5)
SCAN = Scan(shape=(3, 5), step_A=20.0, dwell_s=0.03, flyback_s=1.0)


@pytest.fixture(scope="module")
def usim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """usim deletes and makes ``test_data`` where it stands: in a folder of its own."""
    setup = import_module("nion.swift.test.TestContext").TestSetup()  # keeps the event loop
    configuration = import_module("nion.usim_device.DeviceConfiguration")
    context = import_module("nion.instrumentation.test.AcquisitionTestContext")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("usim"))
        devices = configuration.AcquisitionContextConfiguration()
        with context.AcquisitionTestContext(devices) as running:
            yield running
    del setup


def prepared(usim: Any) -> LanedAdapter:
    """Out of focus: in focus every pixel sees the same point of a random, maybe opaque, sample."""
    for name, value in (("BeamCurrent", 2e-12), ("C10", 5e-7), ("ConvergenceAngle", 0.04)):
        assert usim.instrument.SetVal(name, value)
    for name in ("stage_position_m", "beam_shift_m"):
        for axis in "xy":
            assert usim.instrument.SetVal(f"{name}.{axis}", 0.0)
    return open_adapter({"site": str(SITE)})


class _Peer:
    scan = SCAN
    frame_s = image_duration_s = 0.5
    scan_optics = OpticsChange(mode=Mode.STEM)

    @pytest.fixture(autouse=True)
    def _running(self, usim: Any) -> None:
        self.usim = usim

    def open_adapter(self, folder: Path) -> Adapter:
        return prepared(self.usim)


class TestUsimAdapter(_Peer, AdapterTests):
    pass


class TestUsimMicroscope(_Peer, MicroscopeTests):
    pass


@pytest.fixture
def adapter(usim: Any) -> Iterator[LanedAdapter]:
    opened = prepared(usim)
    yield opened
    opened.close()


def test_its_dark_frame_verifies_the_blanker(adapter: LanedAdapter, tmp_path: Path) -> None:
    with DoseLedger(tmp_path / "ledger.sqlite", LIMITS, adapter.clock) as ledger:
        microscope = GuardedMicroscope(adapter, ledger)
        check = microscope.verify_blanker("ronchigram", duration_s=0.2)
    assert check.verified
    assert check.open_electrons_per_pixel > 1
    assert check.electrons_per_pixel < 0.1


def test_what_it_has_not_is_missing(adapter: LanedAdapter, tmp_path: Path) -> None:
    assert set(adapter.capabilities.axes) == {Axis.X, Axis.Y}
    assert adapter.capabilities.modes == {Mode.STEM}
    with DoseLedger(tmp_path / "ledger.sqlite", LIMITS, adapter.clock) as ledger:
        microscope = GuardedMicroscope(adapter, ledger)
        with pytest.raises(UnsupportedError, match="no axis alpha_deg"):
            microscope.stage.move(PartialPose(alpha_deg=1.0))


def test_underfocus_is_negative_c10(adapter: LanedAdapter, usim: Any) -> None:
    adapter.write_optics(OpticsChange(defocus_nm=120.0))
    assert usim.instrument.TryGetVal("C10")[1] == pytest.approx(-120e-9)
    assert defocus_nm(c10_m(37.5)) == pytest.approx(37.5)
    assert adapter.read_optics().defocus_nm == pytest.approx(120.0)


def test_signs_and_units_arrive(adapter: LanedAdapter, usim: Any) -> None:
    adapter.start_move(Axis.Y, 3.0)
    adapter.read_pose()
    assert usim.instrument.TryGetVal("stage_position_m.y")[1] == pytest.approx(-3e-6)
    state = adapter.read_optics()
    assert state.convergence_semiangle_mrad == pytest.approx(40)
    assert state.energy_keV == pytest.approx(100)
    assert state.detector_sampling_mrad == pytest.approx(0.393, abs=0.001)


def test_a_scan_of_a_wide_field_is_not_transposed(adapter: LanedAdapter) -> None:
    scan = Scan(shape=(2, 7), step_A=15.0, dwell_s=0.03)
    adapter.arm(DetectorJob(UUID(int=5), "ronchigram", scan.dwell_s, scan.positions, scan))
    adapter.open_beam()
    frames = np.concatenate([batch.data for batch in adapter.stream(60.0)])
    adapter.blank_beam()
    assert frames.shape == (14, 512, 512)
    assert frames.dtype == np.uint32
    assert frames.mean() > 0
    parameters = adapter._instrument._parts.scan.get_frame_parameters(2)
    parameters.pixel_size = type(parameters.pixel_size)(2, 7)
    parameters.fov_nm = 3.0
    size = parameters.fov_size_nm
    assert size.width / 7 == pytest.approx(size.height / 2)


def test_a_control_that_is_not_there_is_named(adapter: LanedAdapter) -> None:
    with pytest.raises(ProtocolError, match="the control 'moon' cannot be read"):
        adapter._instrument._value("moon")
    with pytest.raises(ProtocolError, match="did not take"):
        adapter._instrument._set("moon", 1.0)


def test_a_camera_that_does_not_run_is_named(usim: Any) -> None:
    with pytest.raises(ValueError, match=r"camera 'none'.*usim_ronchigram_camera"):
        open_adapter({"site": str(SITE), "camera": "none"})
