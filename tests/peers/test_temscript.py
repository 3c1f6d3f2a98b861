"""temscript's null microscope, over its own HTTP server and in process.

Nobody here wrote it: it speaks metres and radians, clamps without a word, has no stage that takes
time and no beam that its camera would see.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from controller.backends.lane import ThreadLane
from controller.backends.laned import LanedAdapter
from controller.backends.registry import available_adapters, load_adapter_factory
from controller.backends.site import load_site
from controller.backends.thermo.temscript import adapter_on, open_adapter
from controller.hardware.clock import WallClock
from controller.hardware.contract import Adapter
from controller.hardware.errors import (
    ArmFailedError,
    LimitError,
    ModeError,
    NotReachedError,
    ProtocolError,
    UnreachableError,
)
from controller.hardware.values import (
    Axis,
    DetectorJob,
    Exposure,
    Frame,
    Mode,
    OpticsChange,
    PartialPose,
    Purpose,
    Scan,
    Settle,
)
from controller.safety.dose import DoseLedger
from controller.safety.gate import GuardedMicroscope
from controller.safety.limits import DoseLimits
from controller.server.session import open_session
from tests.conformance.adapter_suite import AdapterTests
from tests.conformance.microscope_suite import MicroscopeTests
from tests.peers.process import free_port, running

pytestmark = pytest.mark.peers

SITE = Path(__file__).parent / "temscript_null.yaml"
SERVER = "from temscript.server import run_server; run_server()"
LIMITS = DoseLimits(specimen_e_per_A2=1e4, before_scan_e_per_A2=5e3, data_e_per_A2=5e3)


def as_an_operator_leaves_it(microscope: Any) -> None:
    """Valves open, screen up: the null microscope starts with both the other way."""
    microscope.set_column_valves_open(True)
    microscope.set_screen_position("UP")
    microscope.set_projection_mode("IMAGING")
    microscope.set_spot_size_index(1)
    microscope.set_intensity(0.0)
    microscope.set_beam_shift((0.0, 0.0))


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    number = free_port()
    command = [sys.executable, "-c", SERVER, "--null", "--host", "127.0.0.1", "-p", str(number)]
    with running(command, number, tmp_path_factory.mktemp("temscript")):
        yield number


def over_http(port: int) -> LanedAdapter:
    temscript = import_module("temscript")
    as_an_operator_leaves_it(temscript.RemoteMicroscope(("127.0.0.1", port)))
    return open_adapter({"site": str(SITE), "host": "127.0.0.1", "port": port})


def in_process() -> LanedAdapter:
    microscope = import_module("temscript.null_microscope").NullMicroscope()
    as_an_operator_leaves_it(microscope)
    return adapter_on(load_site(SITE), lambda: microscope, ThreadLane("null"), WallClock())


class _Peer:
    scan = Scan(shape=(3, 5), step_A=20.0, dwell_s=2e-3)
    sees_the_beam = False

    @pytest.fixture(autouse=True)
    def _opened_how(self, port: int) -> None:
        self.opened: Callable[[], LanedAdapter] = lambda: over_http(port)

    def open_adapter(self, folder: Path) -> Adapter:
        return self.opened()


class TestTemscriptServerAsAdapter(_Peer, AdapterTests):
    pass


class TestTemscriptServerAsMicroscope(_Peer, MicroscopeTests):
    pass


class TestTemscriptModuleAsAdapter(AdapterTests):
    sees_the_beam = False
    scan = Scan(shape=(3, 5), step_A=20.0, dwell_s=2e-3)

    def open_adapter(self, folder: Path) -> Adapter:
        return in_process()


class TestTemscriptModuleAsMicroscope(MicroscopeTests):
    scan = Scan(shape=(3, 5), step_A=20.0, dwell_s=2e-3)

    def open_adapter(self, folder: Path) -> Adapter:
        return in_process()


@pytest.fixture
def adapter(port: int) -> Iterator[LanedAdapter]:
    opened = over_http(port)
    yield opened
    opened.close()


def test_the_silent_clamp_is_caught_by_reading_back_and_nothing_is_exposed(
    adapter: LanedAdapter, tmp_path: Path
) -> None:
    """A column that reports wider limits than it keeps: the null microscope stops at 30 degrees."""
    info = adapter.capabilities.axes[Axis.ALPHA].replace(low=-60.0, high=60.0)
    axes = adapter.capabilities.axes | {Axis.ALPHA: info}
    adapter._capabilities = adapter.capabilities.replace(axes=axes)
    adapter._holder = adapter.holder_limits().replace(ranges={Axis.ALPHA: (-60.0, 60.0)})
    with DoseLedger(tmp_path / "ledger.sqlite", LIMITS, adapter.clock) as ledger:
        microscope = GuardedMicroscope(adapter, ledger)
        with pytest.raises(NotReachedError, match=r"stands idle at 30, 20 from its target 50") as e:
            microscope.stage.move(PartialPose(alpha_deg=50.0), settle=Settle(poll_interval_s=0.5))
        assert e.value.residual["alpha_deg"] == pytest.approx(-20.0, abs=0.01)
        assert adapter.read_blanked() is True
        assert ledger.records() == []
        microscope.stage.move(PartialPose(alpha_deg=0.0))


def test_without_that_the_limits_of_site_and_vendor_refuse_before_anything_moves(
    adapter: LanedAdapter, tmp_path: Path
) -> None:
    with DoseLedger(tmp_path / "ledger.sqlite", LIMITS, adapter.clock) as ledger:
        microscope = GuardedMicroscope(adapter, ledger)
        assert microscope.stage.limits().ranges[Axis.ALPHA] == pytest.approx((-29.0, 29.0))
        with pytest.raises(LimitError, match="alpha_deg = 50 is outside"):
            microscope.stage.move(PartialPose(alpha_deg=50.0))


def test_our_units_and_signs_arrive_as_metres_radians_and_overfocus(
    adapter: LanedAdapter, port: int
) -> None:
    there = import_module("temscript").RemoteMicroscope(("127.0.0.1", port))
    adapter.start_move(Axis.Y, 12.0)
    adapter.read_pose()
    adapter.axis_state(Axis.Y)
    adapter.start_move(Axis.ALPHA, 9.0)
    adapter.read_pose()
    adapter.write_optics(OpticsChange(defocus_nm=400.0, beam_shift_nm=(100.0, 0.0)))

    assert there.get_stage_position()["y"] == pytest.approx(-12e-6)
    assert there.get_stage_position()["a"] == pytest.approx(0.15708, abs=1e-4)
    assert there.get_defocus() == pytest.approx(-400e-9)
    assert there.get_beam_shift() == pytest.approx([80e-9, 60e-9])
    adapter.write_optics(OpticsChange(defocus_nm=0.0))


def test_a_beam_that_somebody_spread_by_hand_is_refused(adapter: LanedAdapter, port: int) -> None:
    there = import_module("temscript").RemoteMicroscope(("127.0.0.1", port))
    there.set_intensity(0.2)
    with pytest.raises(ModeError, match="none of the 2 calibrated illuminations"):
        adapter.read_optics()
    adapter.write_optics(OpticsChange(mode=Mode.IMAGE, beam_diameter_nm=5000.0))
    assert adapter.read_optics().probe_current_pA == 20.0


def test_the_projector_goes_to_a_step_of_the_site_file_and_is_read_back(
    adapter: LanedAdapter, port: int
) -> None:
    there = import_module("temscript").RemoteMicroscope(("127.0.0.1", port))
    adapter.write_optics(OpticsChange(mode=Mode.IMAGE, pixel_size_nm=3.8))
    assert there.get_magnification_index() == 5
    assert adapter.read_optics().pixel_size_nm == pytest.approx(3.84)
    with pytest.raises(LimitError, match=r"pixel_size_nm = 7 is none of the steps"):
        adapter.write_optics(OpticsChange(pixel_size_nm=7.0))
    adapter.write_optics(OpticsChange(pixel_size_nm=1.92))


def test_an_image_shift_that_is_not_calibrated_may_not_move(
    adapter: LanedAdapter, port: int
) -> None:
    there = import_module("temscript").RemoteMicroscope(("127.0.0.1", port))
    adapter.read_optics()
    there.set_image_shift((1e-7, 0.0))
    with pytest.raises(ModeError, match="image_shift_nm is not calibrated"):
        adapter.read_optics()
    there.set_image_shift((0.0, 0.0))


def test_an_exposure_that_did_not_take_is_not_armed(adapter: LanedAdapter, port: int) -> None:
    site = load_site(SITE)
    camera = site.detectors[0].model_copy(update={"binning": 0})
    adapter._instrument._site = site.model_copy(update={"detectors": (camera,)})
    with pytest.raises((ArmFailedError, ProtocolError)):
        adapter.arm(DetectorJob(UUID(int=3), "CCD", 0.1))


def test_a_closed_valve_and_a_lowered_screen_are_seen(adapter: LanedAdapter, port: int) -> None:
    there = import_module("temscript").RemoteMicroscope(("127.0.0.1", port))
    there.set_screen_position("DOWN")
    there.set_column_valves_open(False)
    adapter.clock.sleep(0.3)
    health = adapter.read_health()
    assert health.screen_up.condition.value == "bad"
    assert health.valve_open.condition.value == "bad"
    assert health.gun_on.detail == "attested by the site file, not read"


def test_a_server_that_is_gone_is_unreachable(tmp_path: Path) -> None:
    number = free_port()
    command = [sys.executable, "-c", SERVER, "--null", "--host", "127.0.0.1", "-p", str(number)]
    with running(command, number, tmp_path):
        adapter = over_http(number)
    with pytest.raises(UnreachableError, match="cannot be reached"):
        adapter.read_pose()


def test_every_driver_is_found_by_its_name() -> None:
    """Needs lodestem installed, as ``make test-peers`` does."""
    assert {"thermo-temscript", "thermo-pytemscript", "instamatic", "nion", "jeol", "serialem"} <= (
        set(available_adapters())
    )
    assert load_adapter_factory("thermo-temscript") is open_adapter


def test_a_session_opens_it_by_name_moves_exposes_and_charges(port: int, tmp_path: Path) -> None:
    temscript = import_module("temscript")
    as_an_operator_leaves_it(temscript.RemoteMicroscope(("127.0.0.1", port)))
    options = {"site": str(SITE), "host": "127.0.0.1", "port": port}
    with open_session(
        "thermo-temscript", options, run_dir=tmp_path / "run", dose_limits=LIMITS
    ) as session:
        microscope = session.microscope
        moved = microscope.stage.move(PartialPose(x_um=2.5, alpha_deg=3.0))
        frame = microscope.expose(
            Exposure(
                exposure_id=UUID(int=11),
                area="S00",
                purpose=Purpose.SURVEY,
                detector="CCD",
                duration_s=0.1,
            )
        )
        assert abs(moved.residual[Axis.ALPHA]) < 0.01
        assert isinstance(frame, Frame)
        assert frame.data.shape == (256, 256)
        assert session.ledger.records()[0].charged_e_per_A2 == frame.charged_e_per_A2 > 0
    assert temscript.RemoteMicroscope(("127.0.0.1", port)).get_beam_blanked() is True


def test_another_machine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"another machine.*allow_remote"):
        open_adapter({"site": str(SITE), "host": "192.0.2.7"})
