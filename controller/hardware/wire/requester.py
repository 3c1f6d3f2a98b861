"""The asking side of one lane: a thread that owns the socket, and answers that find their way.

Requests may overlap: each is correlated with its answer by its id, so an answer can neither be
mistaken for another's nor wait behind it.
"""

from __future__ import annotations

import socket as sockets
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any
from uuid import UUID, uuid4

import zmq

from controller.hardware.errors import LinkError, ProtocolError, ReplyTimeoutError, UnreachableError
from controller.hardware.wire.endpoints import Keys
from controller.hardware.wire.failure import Failure, error_of
from controller.hardware.wire.message import (
    Array,
    Reply,
    Request,
    decode,
    encode,
)

Answer = tuple[Any, list[Array]]
MAX_ANSWER_BYTES = 1 << 30


class Pending:
    """A request on its way."""

    def __init__(self, request: Request, frames: list[bytes]) -> None:
        self.request = request
        self.frames = frames
        self.future: Future[Answer] = Future()

    def wait(self, timeout_s: float) -> bool:
        """Whether the answer has come within `timeout_s`."""
        try:
            self.future.exception(timeout=timeout_s)
        except FutureTimeoutError:
            return False
        return True

    def answer(self) -> Answer:
        """What came; raises the error that came instead."""
        return self.future.result(timeout=0)


class Requester:
    """Asks one server on one lane; thread-safe.

    Parameters
    ----------
    endpoint
        Address of the lane.
    keys
        CURVE keys, or None for a server without.
    name
        Of the thread; shows in dumps.
    """

    def __init__(self, endpoint: str, *, keys: Keys | None = None, name: str = "link") -> None:
        self.endpoint = endpoint
        self.session = ""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.identity = b"L" + uuid4().bytes
        self._socket.maxmsgsize = MAX_ANSWER_BYTES
        self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        if keys is not None:
            keys.on_client(self._socket)
        self._socket.connect(endpoint)
        self._wake, self._woken = sockets.socketpair()
        self._woken.setblocking(False)
        self._lock = threading.Lock()
        self._outbox: deque[list[bytes]] = deque()
        self._waiting: dict[UUID, Pending] = {}
        self._seq = 0
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name=f"lodestem {name}", daemon=True)
        self._thread.start()

    def send(
        self,
        verb: str,
        args: dict[str, Any] | None = None,
        *,
        arrays: Sequence[Array] = (),
        epoch: int | None = None,
    ) -> Pending:
        """Send a request and return at once."""
        with self._lock:
            if self._closing:
                raise LinkError(f"the link to {self.endpoint} is closed; connect again")
            self._seq += 1
            request = Request(
                id=uuid4(),
                verb=verb,
                args=args or {},
                session=self.session,
                seq=self._seq,
                epoch=epoch,
            )
            pending = Pending(request, encode(request, arrays))
            self._waiting[request.id] = pending
            self._outbox.append(pending.frames)
        self._signal()
        return pending

    def again(self, pending: Pending) -> None:
        """Send the same request once more: the server answers it, but does not repeat it."""
        with self._lock:
            self._outbox.append(pending.frames)
        self._signal()

    def ask(
        self,
        verb: str,
        args: dict[str, Any] | None = None,
        *,
        arrays: Sequence[Array] = (),
        epoch: int | None = None,
        timeout_s: float,
    ) -> Answer:
        """Send a request and wait for its answer.

        Raises
        ------
        ReplyTimeoutError
            No answer in `timeout_s`: the outcome is unknown.
        MicroscopeError
            Whatever the server raised.
        """
        pending = self.send(verb, args, arrays=arrays, epoch=epoch)
        if not pending.wait(timeout_s):
            self.forget(pending)
            raise ReplyTimeoutError(
                f"no answer from {self.endpoint} to {verb} within {timeout_s:g} s; its outcome is "
                f"unknown. Read the state back before anything else; see whether the server "
                f"runs, and whether this key is allowed there"
            )
        return pending.answer()

    def forget(self, pending: Pending) -> None:
        """Nobody waits for this one any more."""
        with self._lock:
            self._waiting.pop(pending.request.id, None)

    def close(self) -> None:
        """Give up the socket; whoever still waits gets an error. Idempotent."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._signal()
        self._thread.join(timeout=5)

    def _signal(self) -> None:
        try:
            self._wake.send(b"x")
        except OSError:  # closed meanwhile, or already full of signals
            return

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._woken.fileno(), zmq.POLLIN)
        while not self._closing:
            poller.poll(1000)
            self._drain_signals()
            self._flush()
            self._receive()
        with self._lock:
            left = list(self._waiting.values())
            self._waiting.clear()
        self._socket.close()
        self._context.term()
        self._wake.close()
        self._woken.close()
        for pending in left:
            pending.future.set_exception(
                UnreachableError(f"the link to {self.endpoint} was closed")
            )

    def _drain_signals(self) -> None:
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            return

    def _flush(self) -> None:
        while True:
            with self._lock:
                if not self._outbox:
                    return
                frames = self._outbox.popleft()
            try:
                self._socket.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:  # nobody there and the queue is full: the deadline will tell
                return

    def _receive(self) -> None:
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                reply, arrays = decode(Reply, frames)
            except Exception as problem:  # noqa: BLE001  (nothing that comes may end a lane)
                self._refuse(frames, ProtocolError(str(problem)))
                continue
            with self._lock:
                pending = self._waiting.pop(reply.id, None)
            if pending is None:
                continue
            if reply.ok:
                pending.future.set_result((reply.result, arrays))
            else:
                failure = reply.error or Failure(code="Protocol", message="an error without a text")
                pending.future.set_exception(error_of(failure))

    def _refuse(self, frames: Sequence[bytes], problem: ProtocolError) -> None:
        """Hand a damaged answer to whoever it was for, if that can still be told."""
        try:
            head = Reply.model_validate_json(frames[0])
        except (ValueError, IndexError):
            return
        with self._lock:
            pending = self._waiting.pop(head.id, None)
        if pending is not None:
            pending.future.set_exception(problem)
