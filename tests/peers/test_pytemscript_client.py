"""pytemscript's own client class, over its own wire format, against a column of ours.

pytemscript's server needs Windows and COM, so the column behind the socket is a fake; the client,
its units, its validation and its framing are the package's.
"""

from __future__ import annotations

import math
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from controller.backends.laned import LanedAdapter
from controller.backends.thermo.pytemscript import open_adapter
from controller.hardware.contract import Adapter
from controller.hardware.errors import ProtocolError
from controller.hardware.values import Axis, OpticsChange
from tests.conformance.adapter_suite import AdapterTests
from tests.conformance.microscope_suite import MicroscopeTests

pytestmark = pytest.mark.peers

SITE = Path(__file__).parent / "pytemscript_com.yaml"


class Stage:
    """Scripting's stage: metres and radians."""

    Status, Holder = 0, 2
    ENDS = ((1, 1e-3, 1), (2, 1e-3, 1), (4, 375e-6, 1), (8, math.radians(80), 2), (16, 0.5, 2))

    def __init__(self) -> None:
        self.Position = SimpleNamespace(X=0.0, Y=0.0, Z=0.0, A=0.0, B=0.0)

    def AxisData(self, axis: int) -> SimpleNamespace:  # noqa: N802
        _, end, unit = next(row for row in self.ENDS if row[0] == axis)
        return SimpleNamespace(MinPos=-end, MaxPos=end, UnitType=unit)

    def GoTo(self, position: SimpleNamespace, axes: int) -> None:  # noqa: N802
        time.sleep(0.02)
        self.Position = position


def pair() -> SimpleNamespace:
    return SimpleNamespace(X=0.0, Y=0.0)


def column() -> SimpleNamespace:
    """As much of the COM tree as the driver asks for."""
    camera = SimpleNamespace(
        Info=SimpleNamespace(
            Name="BM-Ceta",
            Height=512,
            Width=512,
            PixelSize=SimpleNamespace(X=14e-6, Y=14e-6),
            Binnings=[1, 2, 4, 8],
            ShutterModes=[0],
            ShutterMode=0,
        ),
        AcqParams=SimpleNamespace(
            MinPreExposureTime=0.0,
            MaxPreExposureTime=0.0,
            MinPreExposurePauseTime=0.0,
            MaxPreExposurePauseTime=0.0,
        ),
    )
    return SimpleNamespace(
        Stage=Stage(),
        Configuration=SimpleNamespace(CondenserLensSystem=1, ProductFamily=1),
        Vacuum=SimpleNamespace(Status=5, PVPRunning=False, ColumnValvesOpen=True),
        Gun=SimpleNamespace(HTState=3, HTValue=300000.0),
        Camera=SimpleNamespace(MainScreen=2),
        InstrumentModeControl=SimpleNamespace(InstrumentMode=0),
        Illumination=SimpleNamespace(
            BeamBlanked=False, SpotsizeIndex=1, Intensity=0.0, Shift=pair()
        ),
        Projection=SimpleNamespace(
            Mode=1, Defocus=0.0, Magnification=50000.0, CameraLength=0.8, ImageShift=pair()
        ),
        BlankerShutter=SimpleNamespace(ShutterOverrideOn=False),
        Acquisition=SimpleNamespace(Cameras=[camera]),
        NormalizeAll=lambda: None,
    )


class Server:
    """Answers pytemscript's socket client; one client at a time, as its own server does."""

    def __init__(self) -> None:
        self.tem = column()
        self.broken: set[str] = set()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listening.getsockname()[1]
        self._misc = import_module("pytemscript.utils.misc")
        self._image = import_module("pytemscript.modules.extras").Image
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection = self.listening.accept()[0]
            except OSError:
                return
            with connection:
                while data := self._misc.receive_data(connection):
                    asked = pickle.loads(bytes(data))
                    answer = self._answer(asked["method"], asked.get("body"))
                    kind = "data" if isinstance(answer, self._image) else "msg"
                    self._misc.send_data(connection, pickle.dumps(answer), kind)

    def _answer(self, method: str, body: Any) -> Any:
        if body is None:
            return False  # has_advanced_iface and its like
        try:
            return self._act(method, body.attr, dict(body.kwargs))
        except (AttributeError, ValueError):
            return "ERROR"

    def _act(self, method: str, name: str, wanted: dict[str, Any]) -> Any:
        if name in self.broken:
            raise AttributeError(name)
        path = name.removeprefix("tem.").removesuffix("()")
        if method == "has":
            return path.startswith("Stage")
        if method == "set":
            return self._set(path, wanted["value"])
        thing: Any = self.tem
        for part in path.split("."):
            thing = getattr(thing, part)
        if method == "get":
            return thing
        if method == "exec":
            return thing()
        made, how = wanted.pop("obj_cls"), wanted.pop("obj_method")
        if how == "acquire":
            return self._acquire()
        return getattr(made(thing), how)(**wanted)

    def _set(self, path: str, value: Any) -> None:
        *way, last = path.split(".")
        thing: Any = self.tem
        for part in way:
            thing = getattr(thing, part)
        if hasattr(value, "get"):
            x, y = value.get()
            value = SimpleNamespace(X=x, Y=y)
        setattr(thing, last, value)

    def _acquire(self) -> Any:
        parameters = self.tem.Acquisition.Cameras[0].AcqParams
        time.sleep(parameters.ExposureTime)
        lit = not self.tem.Illumination.BeamBlanked and self.tem.Vacuum.ColumnValvesOpen
        side = 512 // parameters.Binning
        data = np.full((side, side), 400 if lit else 100, np.uint16)
        return self._image(data, "BM-Ceta", {"width": side, "height": side})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:  # the client writes its log where it stands
        patch.chdir(tmp_path_factory.mktemp("pytemscript"))
        opened = Server()
        yield opened
        opened.listening.close()


def opened(server: Server) -> LanedAdapter:
    server.tem = column()
    server.broken = set()
    return open_adapter({"site": str(SITE), "connection": "socket", "port": server.port})


class _Client:
    @pytest.fixture(autouse=True)
    def _served(self, server: Server) -> None:
        self.server = server

    def open_adapter(self, folder: Path) -> Adapter:
        return opened(self.server)


class TestPytemscriptClientAdapter(_Client, AdapterTests):
    pass


class TestPytemscriptClientMicroscope(_Client, MicroscopeTests):
    pass


@pytest.fixture
def adapter(server: Server) -> Iterator[LanedAdapter]:
    made = opened(server)
    yield made
    made.close()


def test_our_units_and_signs_arrive_in_the_scripting_interface(
    adapter: LanedAdapter, server: Server
) -> None:
    adapter.start_move(Axis.Y, 12.0)
    adapter.read_pose()
    adapter.axis_state(Axis.Y)
    adapter.start_move(Axis.ALPHA, 9.0)
    adapter.read_pose()
    assert pytest.approx(-12e-6) == server.tem.Stage.Position.Y
    assert pytest.approx(math.radians(9.0)) == server.tem.Stage.Position.A
    adapter.write_optics(OpticsChange(defocus_nm=400.0, beam_shift_nm=(100.0, 0.0)))
    assert server.tem.Projection.Defocus == pytest.approx(-400e-9)
    shift = server.tem.Illumination.Shift
    assert pytest.approx((80e-9, 60e-9)) == (shift.X, shift.Y)


def test_the_word_error_of_its_server_is_not_a_blanked_beam(
    adapter: LanedAdapter, server: Server
) -> None:
    server.broken = {"tem.Illumination.BeamBlanked"}
    with pytest.raises(ProtocolError, match="the blanker reads 'ERROR'"):
        adapter.read_blanked()
    server.broken = set()
