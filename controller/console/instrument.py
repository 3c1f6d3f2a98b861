"""What the console hears from the hardware server, and its one word to it: STOP.

Telemetry is only listened to.  STOP has a socket of its own that is used for nothing else.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zmq

from controller.hardware.errors import MicroscopeError, ProtocolError
from controller.hardware.values import Frame
from controller.hardware.wire.endpoints import Endpoints, Keys
from controller.hardware.wire.message import Notice, decode
from controller.hardware.wire.picture import picture_in
from controller.hardware.wire.requester import Requester

CONFIRM_S = 1.0
"""A STOP that was not confirmed by then is said to be so."""
LATE_S = 5.0


@dataclass(frozen=True)
class Heard:
    """The newest status, and when it came."""

    at_s: float = float("-inf")
    """Monotonic seconds of this process."""
    body: dict[str, Any] = field(default_factory=dict)

    def age_s(self, now_s: float) -> float:
        """How long ago."""
        return now_s - self.at_s

    @property
    def blanked(self) -> bool | None:
        """Whether the beam is blanked; None where nobody can tell."""
        found = self.body.get("blanked")
        return found if isinstance(found, bool) else None


class Telemetry:
    """Listens in a thread of its own.

    Parameters
    ----------
    on_frame
        Called in that thread with every picture.
    """

    def __init__(
        self,
        url: str,
        *,
        keys: Keys | None = None,
        on_frame: Callable[[Frame], None] = lambda frame: None,
    ) -> None:
        self.heard = Heard()
        self._on_frame = on_frame
        self._closing = threading.Event()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.linger = 0
        self._socket.rcvhwm = 20
        if keys is not None:
            keys.on_client(self._socket)
        for topic in (b"status", b"frame"):
            self._socket.subscribe(topic)
        self._socket.connect(Endpoints.of(url).telemetry)
        self._thread = threading.Thread(target=self._serve, name="console telemetry", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._closing.set()
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        while not self._closing.is_set():
            if self._socket.poll(200):
                for frames in self._newest().values():
                    with contextlib.suppress(ProtocolError, ValueError):
                        self._take(frames)
        self._socket.close()
        self._context.term()

    def _newest(self) -> dict[bytes, list[bytes]]:
        """The newest message of each topic; older ones are passed over, never queued up."""
        found: dict[bytes, list[bytes]] = {}
        with contextlib.suppress(zmq.Again):
            while True:
                topic, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
                found[topic] = frames
        return found

    def _take(self, frames: list[bytes]) -> None:
        notice, arrays = decode(Notice, frames)
        if notice.topic == "status":
            self.heard = Heard(time.monotonic(), notice.body)
        elif notice.topic == "frame":
            self._on_frame(picture_in(notice.body, arrays))


@dataclass(frozen=True)
class Stopped:
    """What came of a STOP."""

    confirmed: bool
    took_ms: float
    words: str


class StopLine:
    """The socket for STOP; thread-safe, connected before it is needed."""

    def __init__(self, url: str, *, keys: Keys | None = None) -> None:
        self._requester = Requester(Endpoints.of(url).safety, keys=keys, name="STOP")

    def stop(self, why: str, meanwhile: Callable[[], object] = lambda: None) -> Stopped:
        """Blank, halt, abort; waits for the instrument's word at most `CONFIRM_S`.

        Parameters
        ----------
        meanwhile
            Called once the word is on its way.
        """
        began_s = time.monotonic()
        try:
            pending = self._requester.send("stop", {"why": why[:500]})
            meanwhile()
            if not pending.wait(CONFIRM_S):
                self._requester.forget(pending)
                return Stopped(False, 1e3 * CONFIRM_S, "NOT CONFIRMED, use the panel")
            pending.answer()
        except MicroscopeError as problem:
            took_ms = 1e3 * (time.monotonic() - began_s)
            return Stopped(False, took_ms, f"NOT CONFIRMED, use the panel ({problem})")
        took_ms = 1e3 * (time.monotonic() - began_s)
        return Stopped(True, took_ms, f"beam blanked and stage halted after {took_ms:.0f} ms")

    def close(self) -> None:
        """Give up the socket. Idempotent."""
        self._requester.close()
