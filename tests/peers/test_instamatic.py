"""instamatic's own servers with its simulated microscope and camera.

Nobody here wrote them: they take nanometres and degrees, accept any angle, move with a finite
speed, know no valve, and their camera shows noise whether the beam is on or off.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from controller.backends.instamatic.driver import open_adapter
from controller.backends.instamatic.wire import Wire
from controller.backends.laned import LanedAdapter
from controller.hardware.contract import Adapter
from controller.hardware.errors import BlankUnconfirmedError, LimitError, ModeError
from controller.hardware.values import Axis, Mode, OpticsChange, PartialPose
from controller.safety.dose import DoseLedger
from controller.safety.gate import GuardedMicroscope
from controller.safety.limits import DoseLimits
from tests.conformance.adapter_suite import AdapterTests
from tests.conformance.microscope_suite import MicroscopeTests
from tests.peers.process import free_port, running

pytestmark = pytest.mark.peers

SITE = Path(__file__).parent / "instamatic_sim.yaml"
LIMITS = DoseLimits(specimen_e_per_A2=1e4, before_scan_e_per_A2=5e3, data_e_per_A2=5e3)
Ports = tuple[int, int]


def configured(folder: Path, ports: Ports, protocol: str) -> dict[str, str]:
    """A configuration of instamatic in `folder`, which off Windows has to be made by hand."""
    spec = find_spec("instamatic")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent / "config"
    config = folder / "config"
    for part in ("microscope", "calibration", "camera"):
        shutil.copytree(package / part, config / part)
    shutil.copy(package / "defaults.yaml", config)
    shutil.copy(config / "camera" / "simulate.yaml", config / "camera" / "emulator.yaml")
    settings = yaml.safe_load((package / "settings.yaml").read_text())
    settings |= {
        "data_directory": str(folder / "data"),
        "tem_server_port": ports[0],
        "cam_server_port": ports[1],
        "tem_communication_protocol": protocol,
    }
    (config / "settings.yaml").write_text(yaml.safe_dump(settings))
    for part in ("logs", "alignments", "scripts", "data"):
        (folder / part).mkdir()
    return dict(os.environ) | {"instamatic": str(folder)}


WITHOUT_WINDOWS_TIMERS = """
import sys, types
timers = types.ModuleType("instamatic.utils.high_precision_timers")
timers.enable = lambda: None
sys.modules["instamatic.utils.high_precision_timers"] = timers
import instamatic.utils
instamatic.utils.high_precision_timers = timers
"""
"""The camera server asks Windows for finer timers when it is imported, and ends elsewhere."""


def serve(stack: ExitStack, folder: Path, protocol: str) -> Ports:
    ports = free_port(), free_port()
    env = configured(folder, ports, protocol)
    for module, option, port in (("tem_server", "-t", ports[0]), ("cam_server", "-c", ports[1])):
        code = f"{WITHOUT_WINDOWS_TIMERS}\nfrom instamatic.server.{module} import main; main()"
        command = [sys.executable, "-c", code, option, "simulate"]
        stack.enter_context(running(command, port, folder, env=env))
    return ports


def prepared(ports: Ports, protocol: str = "pickle") -> LanedAdapter:
    """As an operator leaves it: the simulated microscope starts with random lenses and stage."""
    tem = Wire(("127.0.0.1", ports[0]), protocol, 30.0, "func_name")  # type: ignore[arg-type]
    tem.ask("setFunctionMode", "mag1")
    tem.ask("setBrightness", 30000)
    tem.ask("setBeamShift", 32768, 32768)
    tem.ask("setSpotSize", 1)
    tem.ask("setScreenPosition", "up")
    tem.ask("setStagePosition", x=1000, y=1000, z=0, a=1.0, b=0.0)
    tem.close()
    return open_adapter(
        {"site": str(SITE), "port": ports[0], "camera_port": ports[1], "protocol": protocol}
    )


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with ExitStack() as stack:
        yield serve(stack, tmp_path_factory.mktemp("instamatic"), "pickle")


class _Peer:
    sees_the_beam = False

    @pytest.fixture(autouse=True)
    def _served(self, ports: Ports) -> None:
        self.ports = ports

    def open_adapter(self, folder: Path) -> Adapter:
        return prepared(self.ports)


class TestInstamaticAdapter(_Peer, AdapterTests):
    pass


class TestInstamaticMicroscope(_Peer, MicroscopeTests):
    pass


@pytest.fixture
def adapter(ports: Ports) -> Iterator[LanedAdapter]:
    opened = prepared(ports)
    yield opened
    opened.close()


def test_our_units_and_signs_arrive_as_nanometres_and_counts(
    adapter: LanedAdapter, ports: Ports
) -> None:
    adapter.start_move(Axis.X, 12.3456)
    while adapter.axis_state(Axis.X).moving:
        adapter.clock.sleep(0.1)
    adapter.write_optics(OpticsChange(beam_shift_nm=(100.0, 0.0)))
    adapter.close()
    tem = Wire(("127.0.0.1", ports[0]), "pickle", 30.0, "func_name")
    position = tem.ask("getStagePosition")
    assert isinstance(position, tuple)
    assert position[0] == -12346
    assert tem.ask("getBeamShift") == (32768 + 172, 32768 + 69)
    tem.close()


def test_any_angle_that_the_server_would_accept_is_refused_here(
    adapter: LanedAdapter, tmp_path: Path
) -> None:
    with DoseLedger(tmp_path / "ledger.sqlite", LIMITS, adapter.clock) as ledger:
        microscope = GuardedMicroscope(adapter, ledger)
        with pytest.raises(LimitError, match=r"alpha_deg = 500 is outside -60 \.\. 60"):
            microscope.stage.move(PartialPose(alpha_deg=500.0))
    with pytest.raises(LimitError, match="nothing has moved"):
        adapter.start_move(Axis.ALPHA, 500.0)


def test_a_camera_that_does_not_see_the_blanker_cannot_verify_it(
    adapter: LanedAdapter, tmp_path: Path
) -> None:
    with DoseLedger(tmp_path / "ledger.sqlite", LIMITS, adapter.clock) as ledger:
        microscope = GuardedMicroscope(adapter, ledger)
        with pytest.raises(BlankUnconfirmedError, match="a frame shows"):
            microscope.verify_blanker("camera", duration_s=0.1)


def test_a_function_mode_without_calibration_is_refused(
    adapter: LanedAdapter, ports: Ports
) -> None:
    adapter.write_optics(OpticsChange(mode=Mode.DIFFRACTION))
    assert adapter.read_optics().camera_length_mm == pytest.approx(300)
    adapter._instrument._tem.ask("setFunctionMode", "lowmag")
    with pytest.raises(ModeError, match="lowmag"):
        adapter.read_optics()
    adapter._instrument._tem.ask("setFunctionMode", "mag1")


def test_a_server_that_speaks_json_needs_no_pickle(tmp_path: Path) -> None:
    with ExitStack() as stack:
        opened = prepared(serve(stack, tmp_path, "json"), "json")
        assert opened.read_pose().x_um == pytest.approx(-1.0, abs=0.01)
        assert opened.read_blanked() is True
        job = AdapterTests().camera_job(opened)
        opened.arm(job)
        assert opened.collect(20.0).data.shape == (516, 516)
        opened.close()
