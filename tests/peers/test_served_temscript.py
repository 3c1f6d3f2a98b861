"""``lodestem serve`` before an instrument that nobody here wrote: keys, doctor, pictures, a kill.

Everything is a program of its own: temscript's null microscope behind its HTTP server, the hardware
server with its watchdog, the commands.  Only the client that takes pictures runs in the test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from controller.hardware.errors import AlreadyExposedError, LimitError, MicroscopeError
from controller.hardware.values import Axis, Exposure, Frame, PartialPose, Purpose
from controller.hardware.wire.endpoints import load_keys
from controller.server.client import RemoteMicroscope, connect
from tests.peers.process import free_port, running
from tests.peers.test_temscript import SERVER, SITE, as_an_operator_leaves_it

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
LODESTEM = [sys.executable, "-c", "from controller.cli.main import run_program; run_program()"]
SILENCE_S = 0.5
GENEROUS_S = 3.0
"""The null microscope answers one request at a time, an image among them."""


def lodestem(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*LODESTEM, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


@dataclass
class Site:
    """A microscope PC: the vendor's interface and what lies in its folder."""

    folder: Path
    vendor: Any
    url: str
    server: subprocess.Popen[str] | None = None

    @property
    def doors(self) -> list[str]:
        """The options of every command that talks to the server."""
        return [
            "--hardware", self.url, "--key", "keys/night.key_secret", "--server-key",
            "keys/server.key",
        ]  # fmt: skip

    @contextmanager
    def client(self, name: str = "night") -> Iterator[RemoteMicroscope]:
        keys = self.folder / "keys"
        pair = load_keys(keys / f"{name}.key_secret", keys / "server.key")
        with connect(self.url, keys=pair, name=name, role="agent") as microscope:
            yield microscope


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("pc")
    port = free_port()
    peer = [sys.executable, "-c", SERVER, "--null", "--host", "127.0.0.1", "-p", str(port)]
    with running(peer, port, folder):
        vendor = import_module("temscript").RemoteMicroscope(("127.0.0.1", port))
        as_an_operator_leaves_it(vendor)
        for name in ("server", "night", "stranger"):
            assert lodestem("keys", "new", name, folder=folder).returncode == 0
        allowed = lodestem("keys", "allow", "keys/night.key", "--role", "agent", folder=folder)
        assert allowed.returncode == 0, allowed.stderr
        config = {
            "schema": "lodestem/server/1",
            "driver": {
                "adapter": "thermo-temscript",
                "options": {"site": str(SITE), "host": "127.0.0.1", "port": port},
            },
            "listen": f"tcp://127.0.0.1:{free_port()}",
            "run_dir": "night",
            "budgets": {
                "specimen_e_per_A2": 1e4,
                "before_scan_e_per_A2": 5e3,
                "data_e_per_A2": 5e3,
            },
            "stage_limits": {"alpha_deg": [-25, 25]},
            "keys": {"secret": "keys/server.key_secret", "allowed": "keys/allowed.yaml"},
            "watchdog": {"silence_s": SILENCE_S},
        }
        (folder / "server.yaml").write_text(yaml.safe_dump(config))
        yield Site(folder, vendor, config["listen"])


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    log = (site.folder / "serve.log").open("a")
    process = subprocess.Popen(
        [*LODESTEM, "serve", "server.yaml"], cwd=site.folder, stdout=subprocess.PIPE, stderr=log,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("serving"), (site.folder / "serve.log").read_text()[-2000:]
    assert "CURVE keys; watchdog runs" in line
    site.server = process
    yield site
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    process.wait(30)
    process.stdout.close()
    log.close()


@pytest.fixture
def served(site: Site) -> Iterator[Site]:
    with serving(site):
        yield site


def picture(duration_s: float = 0.1) -> Exposure:
    return Exposure(
        exposure_id=uuid4(), area="S00", purpose=Purpose.SURVEY, detector="CCD",
        duration_s=duration_s,
    )  # fmt: skip


def charged(site: Site) -> dict[str, tuple[str, float, float]]:
    """State, charge and bound of every exposure, e/A2."""
    told = lodestem("ledger", "night", "--json", folder=site.folder)
    assert told.returncode == 0, told.stderr
    return {
        row["exposure_id"]: (
            row["state"].lower(), row["charged_e_per_A2"], row["reserved_e_per_A2"],
        )
        for row in json.loads(told.stdout)["result"]["exposures"]
    }  # fmt: skip


def test_the_doctor_tells_what_this_instrument_is_and_is_not(served: Site) -> None:
    told = lodestem("doctor", *served.doors, "--json", folder=served.folder)
    assert told.returncode == 5, told.stderr  # it has no scans, and was never calibrated
    found = {f["check"]: f for f in json.loads(told.stdout)["result"]["checks"]}
    assert "temscript" in found["instrument"]["detail"]
    assert "(SIMULATOR)" in found["instrument"]["detail"]  # the null microscope says so itself
    assert found["axis alpha_deg"]["detail"].startswith("-25 .. 25")
    assert found["dead man"]["ok"], found["dead man"]
    assert found["valve open"]["ok"]
    assert not found["4D-STEM"]["ok"]
    status = lodestem("status", *served.doors, folder=served.folder)
    assert "nobody drives" in status.stdout, status.stderr


def test_a_client_drives_and_takes_a_picture_through_the_server(served: Site) -> None:
    with served.client() as microscope, microscope.drive():
        microscope.stage.move(PartialPose(x_um=5.0, alpha_deg=3.0))
        assert served.vendor.get_stage_position()["x"] == pytest.approx(5e-6, abs=2e-8)
        with pytest.raises(LimitError, match=r"-25 \.\. 25"):
            microscope.stage.move(PartialPose(alpha_deg=27.0))
        frame = microscope.expose(picture())
        assert isinstance(frame, Frame)
        assert frame.data.shape == (256, 256)
        assert frame.charged_e_per_A2 > 0
        assert frame.pose.get(Axis.X) == pytest.approx(5.0, abs=0.05)
    assert served.vendor.get_beam_blanked() is True
    assert charged(served)[str(frame.exposure_id)][0] == "settled"


def test_a_stranger_and_a_client_without_keys_are_let_nowhere(served: Site) -> None:
    with pytest.raises(MicroscopeError), served.client("stranger"):
        pass
    with pytest.raises(MicroscopeError), connect(served.url, name="nobody"):
        pass
    assert lodestem("stop", *served.doors, folder=served.folder).returncode == 0
    noted = (served.folder / "night" / "security.jsonl").read_text()
    assert "key" in noted


def killed_when_open(site: Site, server: subprocess.Popen[str]) -> float:
    """Kill the server as soon as the vendor says that the beam is on; the UTC of that."""
    until_s = time.monotonic() + 20
    while site.vendor.get_beam_blanked():
        assert time.monotonic() < until_s, "the beam never went on"
        time.sleep(0.01)
    os.kill(server.pid, signal.SIGKILL)
    return time.time()


def test_a_killed_server_leaves_the_instrument_blanked_and_the_exposure_charged(
    site: Site,
) -> None:
    """The watchdog has a connection of its own to the vendor's server."""
    wanted = picture(2.0)
    with serving(site), ThreadPoolExecutor(1) as killer, site.client() as microscope:
        assert site.server is not None
        killed = killer.submit(killed_when_open, site, site.server)
        with pytest.raises(MicroscopeError), microscope.drive():
            microscope.expose(wanted)
        killed_s = killed.result()
    log = site.folder / "night" / "watchdog.jsonl"
    until_s = time.monotonic() + 10
    while not log.is_file() or "fired" not in log.read_text():
        assert time.monotonic() < until_s, "the watchdog wrote nothing down"
        time.sleep(0.05)
    assert site.vendor.get_beam_blanked() is True
    event = next(e for e in map(json.loads, log.read_text().splitlines()) if e["what"] == "fired")
    on_s = datetime.fromisoformat(event["blanked"]).timestamp() - killed_s
    print(f"\nblanked {on_s:.2f} s after the kill, the command took {event['took_s']:.2f} s")  # noqa: T201
    assert on_s < SILENCE_S + GENEROUS_S
    with serving(site):
        state, charge, bound = charged(site)[str(wanted.exposure_id)]
        assert state == "unknown"
        assert charge >= bound
        with site.client() as microscope, microscope.drive(), pytest.raises(AlreadyExposedError):
            microscope.expose(wanted)
