"""A process of its own that takes the beam off when the hardware server falls silent.

The server pulses; when the pulses stop, because it was killed, stopped, swapped out or lost a
thread that safety hangs on, this process blanks through a connection of its own, closes the valve
if the blanker does not confirm, halts the stage, and writes down when.  The ledger reads that on
the next start: what was left open is charged until then.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import zmq

from controller.backends.registry import load_adapter_factory
from controller.hardware.contract import Adapter
from controller.safety.blanking import BeamGuard

log = logging.getLogger("lodestem.watchdog")

PULSE_S = 0.05
LOOK_S = 0.1
"""How long nothing may come before it is asked whether there still is a server."""
SILENCE_S = 0.5
"""Pulses that stay away for longer mean that nobody is there."""
BYE = b"bye"


class Pulse:
    """What the server sends: alive, as long as `is_alive` says so."""

    def __init__(
        self, is_alive: Callable[[], bool], *, context: zmq.Context[zmq.Socket[bytes]]
    ) -> None:
        self._is_alive = is_alive
        self._socket = context.socket(zmq.PUB)
        self._socket.linger = 200
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lodestem pulse", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._closing.wait(PULSE_S):
            if self._is_alive():
                self._socket.send(b"alive")
        self._socket.send(BYE)
        self._socket.close()

    def close(self) -> None:
        """Say good-bye: whoever listens need not act. Idempotent."""
        self._closing.set()
        self._thread.join(timeout=5)


class Watchdog:
    """Listens for pulses and acts once when they stop.

    Parameters
    ----------
    adapter
        A connection of its own to the instrument.
    path
        Gets one JSON object a line, synced, for everything it does.
    """

    def __init__(self, adapter: Adapter, path: Path, *, silence_s: float = SILENCE_S) -> None:
        self._adapter = adapter
        self._path = path
        self._silence_s = silence_s

    def watch(self, endpoint: str, *, ended: threading.Event) -> None:
        """Watch until the server says good-bye or is gone for good."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.SUB)
        socket.linger = 0
        socket.subscribe(b"")
        socket.connect(endpoint)
        server = os.getppid()
        heard_s: float | None = None
        fired = False
        try:
            while not ended.is_set():
                if socket.poll(self._patience_ms(heard_s, fired=fired)):
                    if socket.recv() == BYE:
                        self.fire("the server has ended; to be sure", note=False)
                        return
                    heard_s = time.monotonic()
                    if fired:
                        self._note({"what": "the server pulses again"})
                    fired = False
                    continue
                if heard_s is None or fired:
                    if os.getppid() != server:  # nobody left to come back
                        return
                    continue
                silent_s = time.monotonic() - heard_s
                if silent_s > self._silence_s:
                    outcome = self.fire(f"the server has been silent for {silent_s:.2f} s")
                    fired = outcome["blanked"] is not None  # else again, until it works
        finally:
            socket.close()
            context.term()

    def _patience_ms(self, heard_s: float | None, *, fired: bool) -> int:
        """How long to wait for a pulse: no longer than until it is missed."""
        if heard_s is None or fired:
            return round(1e3 * LOOK_S)
        left_s = heard_s + self._silence_s - time.monotonic()
        return max(1, math.ceil(1e3 * min(LOOK_S, left_s)))

    def fire(self, why: str, *, note: bool = True) -> dict[str, Any]:
        """Blank, halt, write it down."""
        began_s = time.monotonic()
        fired = datetime.now(UTC)
        with suppress(Exception):
            self._adapter.blank_beam()  # before any question is asked
        try:
            outcome = BeamGuard(self._adapter).blank().model_dump(mode="json")
        except Exception as problem:  # whatever fails, the stage is halted and it is written down
            log.exception("the watchdog could not blank")
            outcome = {"blanked": False, "error": f"{type(problem).__name__}: {problem}"}
        took_s = time.monotonic() - began_s
        blanked = datetime.now(UTC)
        try:
            self._adapter.halt()
        except Exception:
            log.exception("the watchdog could not halt the stage")
        event = {
            "what": "fired",
            "why": why,
            "fired": fired.isoformat(),
            "blanked": blanked.isoformat() if outcome["blanked"] else None,
            "took_s": took_s,
            "outcome": outcome,
        }
        if note or not outcome["blanked"]:
            self._note(event)
        return event

    def _note(self, event: dict[str, Any]) -> None:
        line = json.dumps({"utc": datetime.now(UTC).isoformat(), **event})
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            log.exception("the watchdog could not write %s: %s", self._path, line)


def beam_off_after(path: Path) -> Callable[[datetime], datetime | None]:
    """When the watchdog took off a beam that was opened at a given UTC, by its file."""

    def find(opened: datetime) -> datetime | None:
        if not path.is_file():
            return None
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                event = json.loads(line)
                blanked = datetime.fromisoformat(event["blanked"])
            except (ValueError, KeyError, TypeError):  # another event, or a torn last line
                continue
            if blanked >= opened:
                return blanked
        return None

    return find


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch one server: ``python -m controller.server.watchdog``; started by it."""
    parser = argparse.ArgumentParser(description=__doc__, prog="watchdog")
    parser.add_argument("--pulse", required=True, help="where the server pulses")
    parser.add_argument("--backend", required=True, help="driver of the second connection")
    parser.add_argument("--options", default="{}", help="options of that driver, JSON")
    parser.add_argument("--log", type=Path, required=True, help="file for what it does")
    parser.add_argument("--silence", type=float, default=SILENCE_S, help="seconds")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    options = {
        k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(given.options).items()
    }
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # only the server sends it away
        signal.signal(number, signal.SIG_IGN)
    adapter = load_adapter_factory(given.backend)(options)
    watchdog = Watchdog(adapter, given.log, silence_s=given.silence)
    print("ready", flush=True)  # noqa: T201  (the server waits for this line)
    watchdog.watch(given.pulse, ended=ended)
    return 0


if __name__ == "__main__":
    sys.exit(main())
