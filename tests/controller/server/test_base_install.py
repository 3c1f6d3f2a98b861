"""The base install serves, drives and passes `doctor`, with a driver from a package of its own.

Everything that only the extras bring is made impossible to import in every process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FORBIDDEN = (
    "torch", "scipy", "cv2", "gemmi", "matplotlib", "PIL", "numba", "jinja2", "tifffile",
    "mrcfile", "hdf5plugin", "dask", "optuna", "sim_microscope",
)  # fmt: skip

SITE = f"""
import sys
class Without:
    def __init__(self, inner):
        self.inner = inner
    def __getattr__(self, name):
        return getattr(self.inner, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            return None
        return self.inner.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
PLUGIN = """
from controller.hardware.clock import WallClock
from tests.conformance.fake_adapter import FakeAdapter

def open_adapter(options, *, clock=None, run_dir=None):
    return FakeAdapter(clock=WallClock())
"""
DRIVE = """
import sys
from uuid import uuid4
from controller.hardware.values import Exposure, PartialPose, Purpose
from controller.server.client import connect
with connect(sys.argv[1], name="script", role="agent") as microscope, microscope.drive():
    print(microscope.stage.move(PartialPose(x_um=1.0)).achieved.x_um)
    frame = microscope.expose(Exposure(exposure_id=uuid4(), area="S00", purpose=Purpose.SURVEY,
                                       detector="camera", duration_s=0.1))
    print(frame.data.shape, frame.charged_e_per_A2 > 0)
"""


@pytest.fixture
def base(tmp_path: Path) -> dict[str, str]:
    """Environment of a base install with one driver from outside."""
    site = tmp_path / "site"
    info = site / "laboratory-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(SITE)
    (site / "laboratory.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: laboratory\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lodestem.adapters]\nours = laboratory:open_adapter\n")
    return {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}


def lodestem(*arguments: str) -> list[str]:
    return [sys.executable, "-c", f"from controller.cli.main import app; app({list(arguments)!r})"]


@pytest.fixture
def url(tmp_path: Path, base: dict[str, str]) -> Iterator[str]:
    config = tmp_path / "server.yaml"
    address = f"ipc://{tmp_path}/s"
    config.write_text(
        yaml.safe_dump(
            {
                "schema": "lodestem/server/1",
                "driver": {"adapter": "ours"},
                "listen": address,
                "run_dir": "run",
                "budgets": {
                    "specimen_e_per_A2": 100.0,
                    "before_scan_e_per_A2": 1.0,
                    "data_e_per_A2": 90.0,
                },
            }
        )
    )
    server = subprocess.Popen(
        lodestem("serve", str(config)), stdout=subprocess.PIPE, text=True, env=base, cwd=tmp_path
    )
    assert server.stdout is not None
    assert server.stdout.readline().startswith("serving fake paper")
    yield address
    server.terminate()
    assert server.wait(timeout=20) == 0
    server.stdout.close()


def run(command: list[str], env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_it_serves_drives_and_passes_doctor(url: str, base: dict[str, str], tmp_path: Path) -> None:
    driven = run([sys.executable, "-c", DRIVE, url], base, tmp_path)
    assert driven.stdout.splitlines()[1:] == ["(48, 64) True"], driven.stderr
    here = run(lodestem("doctor", "--json"), base, tmp_path)
    assert here.returncode == 0, here.stdout + here.stderr
    found = {c["check"]: c for c in json.loads(here.stdout)["result"]["checks"]}
    assert "ours" in found["instrument drivers"]["detail"]
    assert "missing" in found["package torch"]["detail"]
    there = run(lodestem("doctor", "--hardware", url, "--dark-frame", "--json"), base, tmp_path)
    checks = {c["check"]: c for c in json.loads(there.stdout)["result"]["checks"]}
    assert [c for c in checks.values() if not c["ok"]] == [checks["calibration"]]
    assert checks["dark frame"]["ok"]
    assert there.returncode == 5
    line = run(lodestem("status", "--hardware", url), base, tmp_path)
    assert "nobody drives" in line.stdout
    stopped = run(lodestem("stop", "--hardware", url), base, tmp_path)
    assert stopped.stdout.startswith("stopped in")


def test_a_configuration_that_cannot_work_is_refused_with_every_reason(
    base: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "schema: lodestem/server/1\ndriver: {adapter: ours}\nlisten: somewhere\nrun_dir: run\n"
        "budgets: {specimen_e_per_A2: 1, before_scan_e_per_A2: 5, data_e_per_A2: 1}\n"
        "lease_ttl_s: 30\nlimits: {}\n"
    )
    refused = run(lodestem("serve", str(path)), base, tmp_path)
    assert refused.returncode == 2
    for words in ("lease_ttl_s", "limits: Extra inputs", "before_scan_e_per_A2 = 5"):
        assert words in refused.stderr


def test_keys_from_the_command_line_open_the_door(base: dict[str, str], tmp_path: Path) -> None:
    for name in ("server", "night"):
        made = run(lodestem("keys", "new", name), base, tmp_path)
        assert made.returncode == 0, made.stderr
    secret = tmp_path / "keys" / "night.key_secret"
    assert secret.stat().st_mode & 0o077 == 0
    again = run(lodestem("keys", "new", "night"), base, tmp_path)
    assert again.returncode == 2
    assert "never overwritten" in again.stderr
    allowed = run(lodestem("keys", "allow", "keys/night.key", "--role", "agent"), base, tmp_path)
    assert "as agent" in allowed.stdout, allowed.stderr
    config = tmp_path / "server.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "schema": "lodestem/server/1",
                "driver": {"adapter": "ours"},
                "listen": f"ipc://{tmp_path}/s",
                "run_dir": "run",
                "budgets": {
                    "specimen_e_per_A2": 100.0,
                    "before_scan_e_per_A2": 1.0,
                    "data_e_per_A2": 90.0,
                },
                "keys": {"secret": "keys/server.key_secret", "allowed": "keys/allowed.yaml"},
                "watchdog": None,
            }
        )
    )
    server = subprocess.Popen(
        lodestem("serve", str(config)), stdout=subprocess.PIPE, text=True, env=base, cwd=tmp_path
    )
    try:
        assert server.stdout is not None
        assert "CURVE keys; NO WATCHDOG" in server.stdout.readline()
        ask = lodestem(
            "status", "--hardware", f"ipc://{tmp_path}/s", "--key", "keys/night.key_secret",
            "--server-key", "keys/server.key",
        )  # fmt: skip
        assert "nobody drives" in run(ask, base, tmp_path).stdout
        without = run(lodestem("status", "--hardware", f"ipc://{tmp_path}/s"), base, tmp_path)
        assert without.returncode == 3
        assert "no server answered" in without.stderr
    finally:
        server.terminate()
        server.wait(timeout=20)
        if server.stdout is not None:
            server.stdout.close()
    revoked = run(lodestem("keys", "revoke", "night"), base, tmp_path)
    assert revoked.returncode == 0
    assert "night" not in (tmp_path / "keys" / "allowed.yaml").read_text()
