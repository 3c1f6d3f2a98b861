"""Telemetry: what the server tells everybody who listens, without being asked.

A notice carries a number that counts up by one per topic, so that a listener knows what it
missed.  Publishing never waits: whoever listens too slowly loses notices, not the instrument
time.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import zmq

from controller.hardware.clock import Clock
from controller.hardware.values import Exposure
from controller.hardware.wire.endpoints import Keys
from controller.hardware.wire.message import Array, Notice, encode

MOST_WAITING = 200


class Publisher:
    """Publishes on one endpoint; thread-safe.  It is also the auditor of the ledger.

    Raises
    ------
    OSError
        The endpoint cannot be listened on.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: Keys | None = None,
    ) -> None:
        self.clock: Clock | None = None
        """Whose UTC the notices carry; set once the instrument is open."""
        self._socket = context.socket(zmq.PUB)
        self._socket.linger = 0
        self._socket.sndhwm = MOST_WAITING
        if keys is not None:
            keys.on_server(self._socket)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._socket.close()
            raise OSError(error.errno, f"cannot listen on {endpoint}: {error}") from error
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = defaultdict(int)
        self._queue: queue.Queue[list[bytes] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._serve, name="lodestem telemetry", daemon=True)
        self._thread.start()

    def publish(self, topic: str, body: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
        """Tell everybody; returns at once."""
        with self._lock:
            self._numbers[topic] += 1
            utc = "" if self.clock is None else self.clock.utc().isoformat()
            notice = Notice(topic=topic, seq=self._numbers[topic], utc=utc, body=body)
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait([topic.encode(), *encode(notice, arrays)])

    def charged(self, exposure: Exposure, state: str, fluence_e_per_A2: float) -> None:
        """The ledger changed; see `contract.DoseAuditor`."""
        self.publish(
            "dose",
            {
                "exposure": exposure.model_dump(mode="json"),
                "state": state,
                "fluence_e_per_A2": fluence_e_per_A2,
            },
        )

    def close(self) -> None:
        """Publish what waits, and stop. Idempotent."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=1)
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        while (frames := self._queue.get()) is not None:
            with contextlib.suppress(zmq.ZMQError):
                self._socket.send_multipart(frames, zmq.NOBLOCK)
        self._socket.close()
