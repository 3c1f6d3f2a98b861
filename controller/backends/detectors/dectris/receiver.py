"""The one socket that a DECTRIS stream is received on.

The detector PUSHes, and PUSH deals its messages out in turn to everybody who listens: a second
client takes half of the frames without a word.  So there is exactly one socket for as long as the
detector is held, also between series, where it takes in what nobody waits for any more.
"""

from __future__ import annotations

import zmq

from controller.hardware.errors import UnreachableError

QUEUE_BYTES = 1 << 30
"""Memory that frames may take up while they wait to be counted."""
FEWEST_QUEUED = 64
MAX_PARTS = 8


class StreamReceiver:
    """Receives whole messages; one thread at a time.

    Parameters
    ----------
    max_message_bytes
        A longer part ends the connection (ZeroMQ then connects again), and is never stored.
    """

    def __init__(self, host: str, port: int, max_message_bytes: int) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
        self._socket.setsockopt(zmq.RCVHWM, max(FEWEST_QUEUED, QUEUE_BYTES // max_message_bytes))
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self._wait_ms = -1
        try:
            self._socket.connect(f"tcp://{host}:{port}")
        except zmq.ZMQError as problem:
            self.close()
            raise UnreachableError(
                f"the stream tcp://{host}:{port} cannot be used: {problem}; nothing was armed. "
                f"Correct `host` and `stream_port`."
            ) from problem

    def receive(self, wait_s: float) -> list[memoryview] | None:
        """The parts of the next message, or None if none came within `wait_s`."""
        wait_ms = round(1e3 * wait_s)
        try:
            if wait_ms != self._wait_ms:
                self._socket.setsockopt(zmq.RCVTIMEO, wait_ms)
                self._wait_ms = wait_ms
            return self._parts()
        except zmq.Again:
            return None
        except zmq.ZMQError as problem:
            raise UnreachableError(
                f"the stream socket failed: {problem}; what came is kept. Arm again."
            ) from problem

    def _parts(self) -> list[memoryview]:
        """All parts of a message that begins to come.

        ``recv_multipart`` asks the socket after each part whether there are more, which takes as
        long as receiving it.
        """
        part = self._socket.recv(copy=False)
        parts = [part.buffer]
        while part.more:
            part = self._socket.recv(copy=False)
            if len(parts) < MAX_PARTS:
                parts.append(part.buffer)
        return parts

    def drain(self) -> int:
        """Throw away what waits; returns how many messages that were."""
        count = 0
        while self.receive(0.0) is not None:
            count += 1
        return count

    def close(self) -> None:
        """Let go of the socket. Idempotent."""
        self._socket.close()
        self._context.term()
