"""Put a server together: instrument, ledger, door, lanes, pulse, watchdog; and apart again."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import zmq

from controller.backends.detectors.config import DETECTOR_FILE
from controller.hardware.errors import RefusedError
from controller.hardware.wire.endpoints import Endpoints, load_keys
from controller.server.allowed import load_allowed
from controller.server.config import Driver, ServerConfig, WatchdogConfig
from controller.server.door import Door, authenticated
from controller.server.publisher import Publisher
from controller.server.security_log import SecurityLog
from controller.server.service import Service
from controller.server.session import Session, SessionHooks, open_session
from controller.server.watchdog import Pulse, beam_off_after

WATCHDOG_FILE = "watchdog.jsonl"
SECURITY_FILE = "security.jsonl"
READY_S = 30.0
NO_HOOKS = SessionHooks()


@dataclass(frozen=True)
class Running:
    """A server at work."""

    service: Service
    session: Session
    watchdog: subprocess.Popen[str] | None


@contextmanager
def serving(config: ServerConfig, hooks: SessionHooks = NO_HOOKS) -> Iterator[Running]:
    """Serve inside the ``with``; blanked and halted at its end.

    Parameters
    ----------
    hooks
        For injected faults, which only a simulated instrument has.

    Raises
    ------
    RefusedError
        No keys where keys are needed, or the watchdog does not start.
    UnknownAdapterError, ValueError, LimitError, StorageError, UnreachableError
        As `open_session`.
    OSError
        An endpoint or a key file cannot be used.
    """
    endpoints = Endpoints.of(config.listen)
    door = _door(config)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    security = SecurityLog(config.run_dir / SECURITY_FILE)
    with ExitStack() as stack:
        context: zmq.Context[zmq.Socket[bytes]] = stack.enter_context(zmq.Context())
        stack.enter_context(authenticated(context, door, security))
        publisher = Publisher(endpoints.telemetry, context=context, keys=door.keys)
        stack.callback(publisher.close)
        session = stack.enter_context(
            open_session(
                config.driver.adapter,
                config.driver.options,
                run_dir=config.run_dir,
                dose_limits=config.budgets,
                site_limits=config.site_limits,
                auditor=publisher,
                beam_off=beam_off_after(config.run_dir / WATCHDOG_FILE),
                hooks=hooks,
            )
        )
        holder: list[Service] = []
        watchdogs: list[subprocess.Popen[str]] = []
        stack.callback(_let_end, watchdogs)
        pulse = Pulse(lambda: bool(holder) and holder[0].is_alive, context=context)
        stack.callback(pulse.close)  # says good-bye: the watchdog ends by itself
        if config.watchdog is not None:
            watchdogs.append(
                start_watchdog(config.watchdog, config.driver, pulse.endpoint, config.run_dir)
            )
        service = Service(
            session.microscope,
            endpoints,
            context=context,
            publisher=publisher,
            door=replace(door, passage=lambda: hooks.link(session.injected)),
            security=security,
            lease_ttl_s=config.lease_ttl_s,
            dead_man=lambda: any(process.poll() is None for process in watchdogs),
        )
        holder.append(service)
        # the reverse order: pulses go on until nothing can open the beam any more
        stack.callback(service.close)
        yield Running(service, session, watchdogs[0] if watchdogs else None)


def start_watchdog(
    config: WatchdogConfig, driver: Driver, pulse: str, run_dir: Path
) -> subprocess.Popen[str]:
    """Start the second guard and wait until it holds its own connection.

    Raises
    ------
    RefusedError
        It did not come up.
    """
    second = config.driver or driver
    unused = ("end", DETECTOR_FILE)  # it only blanks
    options = {k: v for k, v in second.options.items() if k not in unused}
    command = [sys.executable, "-m", "controller.server.watchdog", "--pulse", pulse]
    command += ["--backend", second.adapter, "--options", json.dumps(options)]
    command += ["--log", str(run_dir / WATCHDOG_FILE), "--silence", str(config.silence_s)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, start_new_session=True
    )
    if _first_line(process) != "ready":
        process.kill()
        raise RefusedError(
            f"the watchdog did not come up within {READY_S:g} s; nothing is served. See whether "
            f"driver {second.adapter!r} allows a second connection, or name another in "
            f"watchdog.driver"
        )
    return process


def _first_line(process: subprocess.Popen[str]) -> str:
    lines: list[str] = []

    def read() -> None:
        if process.stdout is not None:
            lines.append(process.stdout.readline().strip())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(READY_S)
    return lines[0] if lines else ""


def _let_end(watchdogs: list[subprocess.Popen[str]]) -> None:
    """After the good-bye they end by themselves."""
    for watchdog in watchdogs:
        try:
            watchdog.wait(timeout=5)
        except subprocess.TimeoutExpired:
            watchdog.kill()
            watchdog.wait()
        if watchdog.stdout is not None:
            watchdog.stdout.close()


def _door(config: ServerConfig) -> Door:
    if config.keys is None:
        return Door()
    return Door(load_keys(config.keys.secret), load_allowed(config.keys.allowed))
