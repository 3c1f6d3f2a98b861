"""The answering side of one lane: a thread that owns the socket and hands requests on.

The thread never works itself: a handler that returns at once gets every message, and answers
from whatever thread it likes, whenever it is done.
"""

from __future__ import annotations

import contextlib
import logging
import socket as sockets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import zmq

from controller.hardware.wire.endpoints import Keys
from controller.hardware.wire.failure import failure_of
from controller.hardware.wire.message import Array, Reply, Request, decode, encode

log = logging.getLogger("lodestem.wire")

MAX_REQUEST_BYTES = 1 << 22
"""Larger messages end the connection before they are read."""


@dataclass(frozen=True)
class Sender:
    """Where a message came from: the connection, and the key that the other side proved."""

    identity: bytes
    user: str


class Asked:
    """A request that waits for its answer; answer it once."""

    def __init__(
        self, request: Request, arrays: list[Array], sender: Sender, post: Callable[..., None]
    ) -> None:
        self.request = request
        self.arrays = arrays
        self.sender = sender
        self._post = post

    def answer(self, result: Any = None, arrays: Sequence[Array] = ()) -> None:  # noqa: ANN401
        """Send the result."""
        self.send(self.written(result, arrays))

    def fail(self, problem: BaseException) -> None:
        """Send an error."""
        self.send(self.failed(problem))

    def written(self, result: Any = None, arrays: Sequence[Array] = ()) -> list[bytes]:  # noqa: ANN401
        """The answer as it will travel."""
        return encode(Reply(id=self.request.id, ok=True, result=result), arrays)

    def failed(self, problem: BaseException) -> list[bytes]:
        """An error as it will travel."""
        return encode(Reply(id=self.request.id, ok=False, error=failure_of(problem)))

    def send(self, frames: list[bytes]) -> None:
        """Send an answer that was written before."""
        self._post(self.sender.identity, frames)


Handler = Callable[[Asked], None]
Direction = Literal["request", "reply"]


class Passage(Protocol):
    """What lies between the socket and the lane; only injected faults ever put something there."""

    def passes(self, direction: Direction, message: list[Any]) -> list[list[Any]]:
        """What arrives instead of `message`, in this order; nothing if it is lost."""


class _Clear:
    def passes(self, direction: Direction, message: list[Any]) -> list[list[Any]]:
        return [message]


Refused = Callable[[Sender, str], None]


def _nobody(sender: Sender, why: str) -> None:
    log.warning("a message from %s was refused: %s", sender.user or "nobody", why)


class Responder:
    """Listens on one endpoint.

    Parameters
    ----------
    handler
        Called in the thread of the socket with every message that is understood; must not block.
    refused
        Told of every message that is not.
    max_bytes
        Largest part that is read at all.
    passage
        For injected faults of the link; None: everything passes.

    Raises
    ------
    OSError
        The endpoint cannot be listened on.
    """

    def __init__(
        self,
        endpoint: str,
        handler: Handler,
        *,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: Keys | None = None,
        refused: Refused = _nobody,
        max_bytes: int = MAX_REQUEST_BYTES,
        name: str = "lane",
        passage: Passage | None = None,
    ) -> None:
        self._passage = passage or _Clear()
        self._handler = handler
        self._refused = refused
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 200
        self._socket.maxmsgsize = max_bytes
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        if keys is not None:
            keys.on_server(self._socket)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._socket.close()
            raise OSError(error.errno, f"cannot listen on {endpoint}: {error}") from error
        self.endpoint = str(self._socket.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")
        self._wake, self._woken = sockets.socketpair()
        self._woken.setblocking(False)
        self._outbox: deque[list[bytes]] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name=f"lodestem {name}", daemon=True)
        self._thread.start()

    def post(self, identity: bytes, frames: list[bytes]) -> None:
        """Send to one peer, from any thread; lost without a word if the peer is gone."""
        self._outbox.append([identity, *frames])
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    @property
    def is_alive(self) -> bool:
        """Whether the thread of the socket still runs: a port alone proves nothing."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop listening; what waits to be sent is sent. Idempotent."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._woken.fileno(), zmq.POLLIN)
        while not self._closing:
            poller.poll(1000)
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
            self._flush()
            self._receive()
        self._flush()
        self._socket.close()
        self._wake.close()
        self._woken.close()

    def _flush(self) -> None:
        while self._outbox:
            for frames in self._passage.passes("reply", list(self._outbox.popleft())):
                with contextlib.suppress(zmq.ZMQError):  # the peer is gone
                    self._socket.send_multipart(frames, zmq.NOBLOCK)

    def _receive(self) -> None:
        for _ in range(100):  # then let the answers out
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            for passed in self._passage.passes("request", list(frames)):
                self._take(passed)

    def _take(self, frames: list[zmq.Frame]) -> None:
        sender = Sender(frames[0].bytes, _user(frames))
        try:
            request, arrays = decode(Request, [frame.bytes for frame in frames[1:]])
        except Exception as problem:  # noqa: BLE001  (nothing that comes may end a lane)
            self._refused(sender, str(problem))
            return
        asked = Asked(request, arrays, sender, self.post)
        try:
            self._handler(asked)
        except Exception as problem:  # one bad message must not end the lane
            log.exception("the handler failed on %s", request.verb)
            asked.fail(problem)


def _user(frames: Sequence[zmq.Frame]) -> str:
    try:
        return str(frames[-1].get("User-Id"))
    except zmq.ZMQError:  # without CURVE nobody has an identity
        return ""
