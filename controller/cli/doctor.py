"""``lodestem doctor``: is this installation fit for a night, and how to mend it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import typer

from controller.backends.registry import available_adapters
from controller.cli.output import Exit, InputError, command

NEEDED_GB = 5.0


@dataclass(frozen=True)
class Finding:
    """One check."""

    check: str
    ok: bool
    detail: str
    remedy: str = ""


Instrument = tuple[str, Path | None, Path | None, bool]
"""Address, this client's key, the server's key, and whether to take a dark frame."""


def doctor_command(
    *,
    recover: Path | None,
    as_json: bool,
    calibration: Path | None = None,
    hardware: Instrument | None = None,
) -> None:
    """Check the installation and a calibration file, an instrument, or recover a scan file."""
    with command("doctor", as_json=as_json) as output:
        if recover is not None:
            output.result(*_recover(recover))
            return
        findings = list(checks()) if hardware is None else _instrument(hardware)
        if calibration is not None:
            findings += calibration_checks(calibration, datetime.now(UTC))
        lines = [
            f"{'ok  ' if f.ok else 'FAIL'}  {f.check}: {f.detail}"
            + (f"\n      -> {f.remedy}" if f.remedy and not f.ok else "")
            for f in findings
        ]
        good = all(f.ok for f in findings)
        output.result({"checks": [asdict(f) for f in findings]}, "\n".join(lines), ok=good)
        if not good:
            raise typer.Exit(Exit.FINDINGS)


def _instrument(hardware: Instrument) -> list[Finding]:
    from controller.cli.doctor_hardware import hardware_checks
    from controller.cli.server import client_keys
    from controller.server.client import connect

    url, key, server_key, dark_frame = hardware
    try:
        with connect(url, keys=client_keys(key, server_key), name="doctor") as microscope:
            return list(hardware_checks(microscope, dark_frame=dark_frame))
    except ValueError as error:
        raise InputError(str(error)) from error


def checks() -> Iterator[Finding]:
    """Every check, one finding each."""
    ok = sys.version_info >= (3, 11)
    yield Finding("python", ok, platform.python_version(), "install Python 3.11 or newer")
    for package, extra in (
        ("torch", "sim,recon,models"),
        ("scipy", "all"),
        ("gemmi", "align"),
        ("matplotlib", "report"),
    ):
        present = find_spec(package) is not None
        # the base install is whole without them: a microscope PC serves and drives
        found = "present" if present else f"missing: pip install 'lodestem[{extra}]' if wanted"
        yield Finding(f"package {package}", True, found)
    yield _gpu()
    yield _weights()
    names = sorted(available_adapters())
    yield Finding("instrument drivers", bool(names), ", ".join(names), "reinstall lodestem")
    free_GB = shutil.disk_usage(Path.cwd()).free / 1e9
    yield Finding(
        "disk", free_GB > NEEDED_GB, f"{free_GB:.0f} GB free here", "free some space for data"
    )
    yield _durable_writes()


def calibration_checks(path: Path, now: datetime) -> list[Finding]:
    """One finding per alarm of a calibration file, or that there is none."""
    from controller.calibration.alarms import calibration_alarms
    from controller.calibration.store import CalibrationFileError, load_calibration

    try:
        stored = load_calibration(path)
    except CalibrationFileError as error:
        return [Finding("calibration", False, str(error), "see docs/calibration.md")]
    alarms = calibration_alarms(stored, now)
    if not alarms:
        return [Finding("calibration", True, f"{len(stored.entries)} results in {path}")]
    return [Finding(f"calibration {a.kind}", False, a.message, a.remedy) for a in alarms]


def _gpu() -> Finding:
    if find_spec("torch") is None:
        return Finding("GPU", True, "torch is missing: not looked for")
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", True, torch.cuda.get_device_name(0))
    return Finding("GPU", True, f"none; {os.cpu_count()} CPU cores are used")


def _weights() -> Finding:
    if find_spec("torch") is None:
        return Finding("region model", True, "torch is missing: not looked for")
    from models.weights import WeightsError, load_weights

    try:
        digest = load_weights(None).sha256
    except WeightsError as error:
        return Finding(
            "region model", False, str(error), "reinstall lodestem or run lodestem train"
        )
    return Finding("region model", True, f"sha256 {digest[:16]}")


def _durable_writes() -> Finding:
    try:
        with tempfile.NamedTemporaryFile(dir=Path.cwd()) as probe:
            probe.write(b"lodestem")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return Finding("durable writes", False, str(error), "run in a folder that can be written")
    return Finding("durable writes", True, "this folder can be written and synced")


def _recover(path: Path) -> tuple[dict[str, object], str]:
    from recon.dataset import recover_scan
    from recon.errors import ReconError

    if not path.is_file():
        raise InputError(f"{path} is no file", "give the scan file that a crash left")
    try:
        frames = recover_scan(path)
    except ReconError as error:
        raise InputError(str(error)) from error
    return {"path": str(path), "committed_frames": frames}, f"{path}: {frames} frames recovered"
