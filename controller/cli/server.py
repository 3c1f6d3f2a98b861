"""What ``lodestem serve``, ``simulate --listen``, ``keys``, ``stop`` and ``status`` do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from controller.cli.output import InputError, Output, command
from controller.hardware.errors import UnreachableError
from controller.hardware.values import Condition
from controller.hardware.wire.endpoints import Keys, load_keys, make_keys, public_text
from controller.injection.night import hooks_for
from controller.server.allowed import AllowList, Client, load_allowed, save_allowed
from controller.server.client import RemoteMicroscope, connect, stop_now
from controller.server.config import ServerConfig, load_server_config
from controller.server.roles import Role
from controller.server.serve import Running, serving

COLUMN_S = 60.0
"""A simulated column has to be there within this: it imports PyTorch first."""
SIMULATED_BUDGETS = {
    "specimen_e_per_A2": 500.0,
    "before_scan_e_per_A2": 5.0,
    "data_e_per_A2": 400.0,
}
"""Of a simulated microscope that is served without a configuration, e/Å²."""


def serve_command(path: Path, *, check: bool, as_json: bool) -> None:
    """Serve the instrument of a configuration until a signal comes."""
    with command("serve", as_json=as_json) as output:
        config = _config(path)
        if check:
            output.result({"valid": True}, f"{path} is a valid server configuration")
            return
        asked = config.driver.options.get("faults", ())
        _serve(config, output, asked if isinstance(asked, tuple | list) else ())


def serve_simulated_command(
    scenario: str,
    *,
    listen: str,
    run_dir: Path,
    seed: int,
    faults: tuple[str, ...],
    speed: float,
    column: str | None,
    as_json: bool,
) -> None:
    """Serve a simulated microscope whose column lives in a process of its own."""
    with command("simulate", as_json=as_json) as output:
        run_dir.mkdir(parents=True, exist_ok=True)
        options = {"scenario": scenario, "seed": seed, "realtime": True, "speed": speed}
        if faults:
            options["faults"] = list(faults)
        with hosted_column(options, run_dir=run_dir, address=column) as address:
            config = ServerConfig.model_validate(
                {
                    "schema": "lodestem/server/1",
                    "driver": {"adapter": "column", "options": {"address": address}},
                    "listen": listen,
                    "run_dir": run_dir,
                    "budgets": SIMULATED_BUDGETS,
                }
            )
            _serve(config, output, faults)


@contextmanager
def hosted_column(
    options: dict[str, Any], *, run_dir: Path, address: str | None = None
) -> Iterator[str]:
    """Start a simulated column, or hold on to one that lives already; its address.

    A column that was started here ends here; one that lived before lives on.
    """
    if address is not None:
        yield address
        return
    made = f"ipc://{run_dir.resolve()}/column"
    process = start_column(options, address=made, run_dir=run_dir)
    try:
        _await_column(process, made)
        yield made
    finally:
        process.terminate()
        process.wait(timeout=30)


def start_column(
    options: dict[str, Any], *, address: str, run_dir: Path | None
) -> subprocess.Popen[bytes]:
    """A process that hosts the simulator and outlives this one if it is killed."""
    arguments = [sys.executable, "-m", "controller.backends.column_host", "--backend", "sim"]
    arguments += ["--options", json.dumps(options), "--listen", address]
    if run_dir is not None:
        arguments += ["--run-dir", str(run_dir)]
    return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, start_new_session=True)


def _await_column(process: subprocess.Popen[bytes], address: str) -> None:
    from controller.backends.column import ColumnAdapter

    end_s = time.monotonic() + COLUMN_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            raise InputError(
                "the simulated column ended at once; its message is above", "correct the options"
            )
        try:
            ColumnAdapter(address).close()
        except UnreachableError:
            continue
        return
    raise UnreachableError(f"the simulated column did not come up within {COLUMN_S:g} s")


def _serve(config: ServerConfig, output: Output, faults: Sequence[str] = ()) -> None:
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        with serving(config, hooks_for(faults)) as running:
            _announce(config, running, output)
            guarded = running.watchdog is not None
            while not ended.wait(0.2):
                if guarded and running.watchdog is not None and running.watchdog.poll() is not None:
                    guarded = False
                    output.warn(
                        "the watchdog has ended: if this server dies, nobody blanks. Start anew."
                    )
    except ValueError as error:
        raise InputError(str(error), "nothing is served") from error
    output.say("blanked and stopped serving")


def _announce(config: ServerConfig, running: Running, output: Output) -> None:
    made = running.session.microscope.capabilities
    guard = "watchdog runs" if running.watchdog is not None else "NO WATCHDOG"
    doors = "CURVE keys" if config.keys is not None else "no keys: simulator on loopback"
    output.result(
        {"listen": config.listen, "instrument": f"{made.vendor} {made.model}", "pid": os.getpid()},
        f"serving {made.vendor} {made.model}{' (SIMULATOR)' if made.simulated else ''} on "
        f"{config.listen} ({doors}; {guard})",
    )
    sys.stdout.flush()


def stop_command(
    hardware: str, *, key: Path | None, server_key: Path | None, why: str, as_json: bool
) -> None:
    """STOP from any shell."""
    with command("stop", as_json=as_json) as output:
        began_s = time.monotonic()
        try:
            stop_now(hardware, why, keys=client_keys(key, server_key))
        except ValueError as error:
            raise InputError(str(error)) from error
        took_ms = 1e3 * (time.monotonic() - began_s)
        output.result({"stopped": True, "took_ms": took_ms}, f"stopped in {took_ms:.0f} ms")


def status_command(
    hardware: str, *, key: Path | None, server_key: Path | None, watch: bool, as_json: bool
) -> None:
    """One line of state, or one a second."""
    with command("status", as_json=as_json) as output:
        try:
            with connect(hardware, keys=client_keys(key, server_key), name="status") as microscope:
                while True:
                    state = state_of(microscope)
                    output.result(state, in_words(state))
                    if not watch:
                        return
                    time.sleep(1)
        except ValueError as error:
            raise InputError(str(error)) from error


def state_of(microscope: RemoteMicroscope) -> dict[str, Any]:
    """What a person wants to know at a glance."""
    health = microscope.column.health()
    bad = {
        name: reading.detail or reading.condition.value
        for name, reading in health.readings().items()
        if reading.condition is not Condition.GOOD
    }
    return {
        "instrument": f"{microscope.capabilities.vendor} {microscope.capabilities.model}",
        "simulated": microscope.capabilities.simulated,
        "service": microscope.service_state(),
        "pose": microscope.stage.pose().model_dump(mode="json"),
        "mode": microscope.optics.state().mode.value,
        "not_fit": bad,
    }


def in_words(state: dict[str, Any]) -> str:
    """`state_of` as one line."""
    service, pose = state["service"], state["pose"]
    lease = service["lease"]
    who = "nobody drives" if lease is None else f"{lease['holder']} drives (step {lease['step']})"
    busy = f", {service['busy']} under way" if service["busy"] else ""
    hold = f"; SAFE HOLD: {service['safe_hold']}" if service["safe_hold"] else ""
    fit = "fit" if not state["not_fit"] else "NOT FIT: " + ", ".join(state["not_fit"])
    return (
        f"{state['instrument']}{' (SIMULATOR)' if state['simulated'] else ''}: {who}{busy}{hold}; "
        f"x {pose['x_um']:.2f}, y {pose['y_um']:.2f}, z {pose['z_um']:.2f} um, "
        f"alpha {pose['alpha_deg']:.2f} deg, {state['mode']}; {fit}"
    )


def client_keys(key: Path | None, server_key: Path | None) -> Keys | None:
    """A client's keys from its files.

    Raises
    ------
    InputError
        Only one of them, or a file that holds no key.
    """
    if key is None and server_key is None:
        return None
    if key is None or server_key is None:
        raise InputError(
            "keys come in twos: --key for this client and --server-key for the server",
            "without both only a simulator on this machine answers",
        )
    try:
        return load_keys(key, server_key)
    except (OSError, ValueError) as error:
        raise InputError(str(error), "make keys with `lodestem keys new`") from error


def new_key_command(name: str, *, folder: Path, as_json: bool) -> None:
    """Make a key pair."""
    with command("keys", as_json=as_json) as output:
        try:
            public, secret = make_keys(folder, name)
        except (ValueError, FileExistsError) as error:
            raise InputError(str(error)) from error
        output.say(f"keep {secret} on this machine; {public} is what others need")
        output.result({"public": str(public), "secret": str(secret)}, str(public))


def allow_command(key: Path, *, role: str, allowed: Path, name: str | None, as_json: bool) -> None:
    """Put a client on the list."""
    with command("keys", as_json=as_json) as output:
        try:
            client = Client(name=name or key.stem, role=Role(role), key=public_text(key))
            before = load_allowed(allowed) if allowed.exists() else AllowList()
            others = tuple(c for c in before.clients if c.name != client.name)
            save_allowed(allowed, AllowList(clients=(*others, client)))
        except (ValueError, OSError) as error:
            raise InputError(str(error), f"roles are {', '.join(Role)}") from error
        output.result(
            {"name": client.name, "role": client.role.value, "list": str(allowed)},
            f"{client.name} may connect as {client.role.value}, from the next start of the server",
        )


def revoke_command(name: str, *, allowed: Path, as_json: bool) -> None:
    """Take a client off the list."""
    with command("keys", as_json=as_json) as output:
        try:
            before = load_allowed(allowed)
        except (ValueError, OSError) as error:
            raise InputError(str(error)) from error
        left = tuple(client for client in before.clients if client.name != name)
        if len(left) == len(before.clients):
            raise InputError(
                f"{name!r} is not on {allowed}",
                f"listed: {', '.join(c.name for c in before.clients) or 'nobody'}",
            )
        save_allowed(allowed, AllowList(clients=left))
        output.result({"name": name, "list": str(allowed)}, f"{name} is off the list")


def _config(path: Path) -> ServerConfig:
    try:
        return load_server_config(path)
    except (ValueError, OSError) as error:
        raise InputError(str(error), "nothing is served; see docs/server.md") from error
