"""A Merlin on loopback, as its manual and LiberTEM-live's simulator behave, with faults on demand.

It sends what a test puts into it; it is ours, so it proves the client's logic and not the protocol
(for that, ``tests/peers``).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.controller.backends.detectors.merlin_bytes import acquisition, frame


@dataclass
class FakeMerlin:
    """Answers commands, and sends `stream()` on the data connection when it is triggered."""

    counts: NDArray[np.generic]
    depth: int = 12
    parameters: dict[str, str] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)
    """Answer this name with this code."""
    alter: dict[str, str] = field(default_factory=dict)
    """Take another value than was set."""
    counts_comma: bool = True
    confirms: bool = True
    frames_in_header: int | None = None
    old: bytes = b""
    """What is still under way when a client connects."""
    numbers: Callable[[int], list[int]] = lambda n: list(range(1, n + 1))
    close_after: int | None = None
    extra: bytes = b""
    commands: list[str] = field(default_factory=list)
    _data: socket.socket | None = None
    _closing: threading.Event = field(default_factory=threading.Event)
    _connected: threading.Event = field(default_factory=threading.Event)

    def stream(self) -> bytes:
        numbers = self.numbers(len(self.counts))
        sent = [frame(n, self.counts[(n - 1) % len(self.counts)], self.depth) for n in numbers]
        return b"".join(sent[: self.close_after]) + self.extra

    # --- inside ------------------------------------------------------------------------------

    def serve_data(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if self._data is not None:
                self._data.close()
            self._data = connection
            with suppress(OSError):
                connection.sendall(self.old)
            self._connected.set()

    def serve_control(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):  # whoever asked has hung up
                while request := connection.recv(4096):
                    connection.sendall(self._answer(request[15:].decode()))

    def _answer(self, request: str) -> bytes:
        verb, name, *value = request.split(",")
        self.commands.append(request)
        code = self.refuse.get(name, 0)
        answer = [verb, name, str(code)]
        if verb == "SET" and not code:
            self.parameters[name] = self.alter.get(name, value[0])
        elif verb == "GET":
            answer = [verb, name, self.parameters.get(name, "undef"), str(code)]
        elif verb == "CMD" and not code:
            self._connected.wait(5)
            self._act(name)
        body = ",".join(answer)
        return f"MPX,{len(body) + self.counts_comma:010d},{body}".encode()

    def _act(self, name: str) -> None:
        if self._data is None:
            return
        if name == "STARTACQUISITION" and self.confirms:
            asked = int(self.parameters.get("NUMFRAMESTOACQUIRE", "0"))
            self._data.sendall(acquisition(self.frames_in_header or asked, self.depth))
        if name == "SOFTTRIGGER":
            threading.Thread(target=self._send, daemon=True).start()

    def trigger(self) -> None:
        """A pulse of the scan engine."""
        self._act("SOFTTRIGGER")

    def _send(self) -> None:
        with suppress(OSError):  # whoever listened has hung up
            if self._data is not None:
                self._data.sendall(self.stream())
            if self._data is not None and self.close_after is not None:
                self._data.shutdown(socket.SHUT_RDWR)
                self._connected.clear()


@contextmanager
def serving(merlin: FakeMerlin) -> Iterator[tuple[int, int]]:
    """Serve until the end of the block; gives (control port, data port)."""
    rows, columns = merlin.counts.shape[1:]
    merlin.parameters |= {"IMAGEX": str(columns), "IMAGEY": str(rows)}
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for serve, listener in zip((merlin.serve_control, merlin.serve_data), listeners, strict=True):
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
    try:
        yield listeners[0].getsockname()[1], listeners[1].getsockname()[1]
    finally:
        merlin._closing.set()
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        if merlin._data is not None:
            merlin._data.close()
