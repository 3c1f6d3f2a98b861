"""Real processes, real time, kill -9 at random instants: the beam goes off, the ledger stays right.

The simulated column lives in a process of its own and stays unblanked until something blanks it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.backends.column import ColumnAdapter
from controller.hardware.errors import AlreadyExposedError, LinkError, MicroscopeError
from controller.hardware.values import Exposure, Purpose
from controller.server.client import connect

pytestmark = pytest.mark.live

SILENCE_S = 0.5
LEASE_S = 0.5
PROMISED_S = 0.25
"""Asked for by `make soak`, which runs on a machine of its own."""
GENEROUS_S = 2.0
"""Asked for by `make test`: a busy machine is no defect."""
PULSE_S = 0.05
"""How far apart pulses are: silence is counted from the last one."""
POLL_S = 0.01


@dataclass
class Rig:
    """A column, its server, and what was seen of the beam."""

    folder: Path
    column: ColumnAdapter
    url: str
    server: subprocess.Popen[str] | None = None
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start_server(self) -> subprocess.Popen[str]:
        path = self.folder / "server.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "schema": "lodestem/server/1",
                    "driver": {
                        "adapter": "column",
                        "options": {"address": f"ipc://{self.folder}/column"},
                    },
                    "listen": self.url,
                    "run_dir": "run",
                    "budgets": {
                        "specimen_e_per_A2": 1e5,
                        "before_scan_e_per_A2": 1e5,
                        "data_e_per_A2": 1e5,
                    },
                    "lease_ttl_s": LEASE_S,
                    "watchdog": {"silence_s": SILENCE_S},
                }
            )
        )
        command = [
            sys.executable,
            "-c",
            f"from controller.cli.main import app; app(['serve', {str(path)!r}])",
        ]
        self.server = self._start(command, "serving")
        return self.server

    def start_client(self, seed: int) -> subprocess.Popen[str]:
        script = Path(__file__).with_name("driving_client.py")
        return self._start([sys.executable, str(script), self.url, str(seed)], "driving")

    def _start(self, command: list[str], ready: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )  # fmt: skip
        self.started.append(process)
        line = "" if process.stdout is None else process.stdout.readline()
        assert line.startswith(ready), f"{command}: {line!r}"
        return process

    def witness(self) -> dict[str, Any]:
        return dict(self.column.extra("witness"))

    def wait_until_dark(self, within_s: float) -> float:
        """Monotonic instant at which the beam was seen to be off, to stay off for a while."""
        end_s = time.monotonic() + within_s
        while time.monotonic() < end_s:
            if not self.witness()["beam_on"]:
                return time.monotonic()
            time.sleep(POLL_S)
        raise AssertionError(f"the beam was still on after {within_s} s")

    def openings(self) -> list[tuple[float, float]]:
        """Intervals of the beam in monotonic seconds of this machine."""
        seen = self.witness()
        ahead = seen["monotonic_s"] - seen["now_s"]
        return [(on + ahead, off + ahead) for on, off in seen["openings_s"]]

    def states(self) -> dict[str, str]:
        path = self.folder / "run" / "ledger.sqlite"
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            table = next(
                name
                for (name,) in db.execute("select name from sqlite_master where type='table'")
                if "state" in [column[1] for column in db.execute(f"pragma table_info({name})")]
            )
            rows = db.execute(f"select exposure_id, state from {table} order by rowid").fetchall()
        return {str(exposure_id): str(state) for exposure_id, state in rows}

    def end(self, process: subprocess.Popen[str], number: signal.Signals) -> None:
        os.kill(process.pid, number)
        process.wait(timeout=20)
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("k")
    options = {"scenario": "easy", "seed": 3, "realtime": True, "speed": 1.0}
    host = subprocess.Popen(
        [
            sys.executable, "-m", "controller.backends.column_host", "--backend", "sim",
            "--options", json.dumps(options), "--listen", f"ipc://{folder}/column",
        ],
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    for _ in range(12):
        try:
            column = ColumnAdapter(f"ipc://{folder}/column")
            break
        except LinkError:
            assert host.poll() is None
    rig = Rig(folder, column, f"ipc://{folder}/server")
    yield rig
    for process in rig.started:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=20)
        if process.stdout is not None:
            process.stdout.close()
    column.close()
    host.terminate()
    host.wait(timeout=20)


@pytest.fixture
def serving(rig: Rig) -> Iterator[Rig]:
    rig.start_server()
    yield rig
    if rig.server is not None and rig.server.poll() is None:
        rig.end(rig.server, signal.SIGTERM)


def kill_clients(rig: Rig, count: int, number: signal.Signals, slack_s: float) -> list[float]:
    """Kill or stop `count` clients at random instants; how long the beam stayed on after each."""
    rng = random.Random(11)
    late = []
    for seed in range(count):
        client = rig.start_client(seed)
        time.sleep(rng.uniform(0.0, 1.5))
        killed_s = time.monotonic()
        os.kill(client.pid, number)
        time.sleep(LEASE_S + PROMISED_S + 0.3)
        rig.wait_until_dark(slack_s)
        after = [(on, off) for on, off in rig.openings() if off > killed_s]
        late.append(max((off - killed_s for on, off in after), default=0.0))
        late_s = killed_s + LEASE_S + slack_s
        assert not [on for on, off in after if on > late_s], "opened after the lease"
        assert not rig.witness()["beam_on"]
        rig.end(client, signal.SIGKILL)
    assert "OPENING" not in {state.upper() for state in rig.states().values()}
    return late


def check_client_kills(rig: Rig, count: int, number: signal.Signals, slack_s: float) -> None:
    late = kill_clients(rig, count, number, slack_s)
    print(f"\n{count} clients {number.name}: beam on for at most {max(late):.3f} s afterwards")  # noqa: T201
    assert max(late) <= LEASE_S + slack_s


def test_a_killed_client_leaves_the_beam_blanked(serving: Rig) -> None:
    check_client_kills(serving, 6, signal.SIGKILL, GENEROUS_S)


def test_a_client_that_is_stopped_leaves_the_beam_blanked(serving: Rig) -> None:
    check_client_kills(serving, 3, signal.SIGSTOP, GENEROUS_S)


def again(exposure_id: str, detector: str) -> Exposure:
    return Exposure(
        exposure_id=exposure_id,
        area="S00",
        purpose=Purpose.SURVEY,
        detector=detector,
        duration_s=0.3,
    )


def check_server_kills(rig: Rig, count: int, number: signal.Signals, slack_s: float) -> None:
    rng = random.Random(12)
    late = []
    for seed in range(count):
        if rig.server is None or rig.server.poll() is not None:
            rig.start_server()
        server = rig.server
        assert server is not None
        client = rig.start_client(100 + seed)
        time.sleep(rng.uniform(0.0, 1.5))
        before = rig.states()
        killed_s = time.monotonic()
        os.kill(server.pid, number)
        time.sleep(SILENCE_S + PULSE_S + PROMISED_S + 0.1)
        rig.wait_until_dark(slack_s)
        after = [off - killed_s for _, off in rig.openings() if off > killed_s]
        late.append(max(after, default=0.0))
        rig.end(client, signal.SIGKILL)
        if number is signal.SIGSTOP:
            os.kill(server.pid, signal.SIGCONT)
            time.sleep(0.3)
            continue
        rig.end(server, signal.SIGKILL)
        openings = len(rig.openings())
        rig.start_server()
        states = rig.states()
        assert set(before) <= set(states)
        assert not {"OPENING", "RESERVED"} & {state.upper() for state in states.values()}
        last = list(states)[-1] if states else None
        if last is not None:
            with (
                pytest.raises(MicroscopeError) as refused,
                connect(rig.url) as microscope,
                microscope.drive(),
            ):
                microscope.expose(again(last, microscope.capabilities.detectors[0].name))
            assert isinstance(refused.value, AlreadyExposedError)
        assert len(rig.openings()) == openings, "an exposure was repeated"
    print(f"\n{count} servers {number.name}: beam on for at most {max(late):.3f} s afterwards")  # noqa: T201
    assert max(late) <= SILENCE_S + PULSE_S + slack_s


def test_a_killed_server_leaves_the_beam_blanked_and_the_ledger_right(rig: Rig) -> None:
    check_server_kills(rig, 5, signal.SIGKILL, GENEROUS_S)


def test_a_server_that_is_stopped_leaves_the_beam_blanked(rig: Rig) -> None:
    check_server_kills(rig, 2, signal.SIGSTOP, GENEROUS_S)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_a_hundred_killed_clients(serving: Rig) -> None:
    check_client_kills(serving, 100, signal.SIGKILL, PROMISED_S)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_a_hundred_stopped_clients(serving: Rig) -> None:
    check_client_kills(serving, 100, signal.SIGSTOP, PROMISED_S)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_a_hundred_killed_servers(rig: Rig) -> None:
    check_server_kills(rig, 100, signal.SIGKILL, PROMISED_S)


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_a_hundred_stopped_servers(rig: Rig) -> None:
    check_server_kills(rig, 100, signal.SIGSTOP, PROMISED_S)
