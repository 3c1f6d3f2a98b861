"""Other people's detector simulators: each in an environment of its own, a process of its own.

``make test-peers`` makes the environments under ``.peers`` (or where ``LODESTEM_PEERS`` says).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PEERS = Path(os.environ.get("LODESTEM_PEERS", Path(__file__).parents[2] / ".peers"))


def program(environment: str, name: str) -> str:
    """Path of a program of a peer; skips the test where the peer is not installed."""
    path = PEERS / environment / "bin" / name
    if not path.exists():
        pytest.skip(f"{name} is not installed in {PEERS / environment}: make test-peers")
    return str(path)


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a peer until the end of the block; it and the processes it made end with it."""
    with log.open("w") as words:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def wait_for_port(port: int, process: subprocess.Popen[str], log: Path) -> None:
    """Wait until something listens; a peer may have to compile first."""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"the peer did not come up: {log.read_text()[-1500:]}")
