"""Programs of others, run as they are: started on a free port, ended by their own id."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: list[str],
    port: int,
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
    wait_s: float = 90.0,
) -> Iterator[None]:
    """Run `command` in `folder` until the end of the block; it has to listen on `port`."""
    log = folder / f"peer-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        until = time.monotonic() + wait_s
        while not _listens(port):
            assert process.poll() is None, f"the peer ended: {log.read_text()[-2000:]}"
            assert time.monotonic() < until, f"no answer in {wait_s} s: {log.read_text()[-2000:]}"
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
