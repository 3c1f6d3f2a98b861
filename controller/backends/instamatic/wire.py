"""One connection to an instamatic server: one question, one answer, nothing that tells them apart.

The protocol has no frames, no request numbers and no authentication, and a server that serves two
clients may give one the other's answer.  Hence: loopback, one connection that nobody shares, and
after a timeout a new connection, for the late answer would be taken for the next one.
"""

from __future__ import annotations

import json
import pickle
import socket
from typing import Literal

from controller.backends.instamatic.pickles import MAX_BYTES, read_pickle
from controller.hardware.errors import ProtocolError

MAX_REQUEST = 1024
"""Bytes that a server reads of a question."""
OK = 200
Protocol = Literal["pickle", "json"]


class Wire:
    """Asks an instamatic server.

    Parameters
    ----------
    key
        ``func_name`` for the microscope, ``attr_name`` for the camera.
    """

    def __init__(
        self,
        address: tuple[str, int],
        protocol: Protocol,
        timeout_s: float,
        key: str,
    ) -> None:
        self._address = address
        self._protocol = protocol
        self._timeout_s = timeout_s
        self._key = key
        self._socket: socket.socket | None = None

    def ask(self, name: str, *args: object, **kwargs: object) -> object:
        """Call `name` over there and return what it returns.

        Raises
        ------
        ProtocolError
            The server reports an error, or the answer makes no sense.
        OSError
            Unreachable, or no answer in time.
        """
        question = {self._key: name, "args": list(args), "kwargs": kwargs}
        plain = self._protocol == "json"
        data = json.dumps(question).encode() if plain else pickle.dumps(question)
        if len(data) > MAX_REQUEST:
            raise ProtocolError(f"the question {name} is too long for the server; nothing was sent")
        try:
            answer = self._exchange(data)
        except BaseException:
            self.close()
            raise
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            self.close()
            raise ProtocolError(f"{name}: the answer is {answer!r:.80}, not a status and a value")
        status, value = answer
        if status != OK:
            raise ProtocolError(
                f"{name}: the server says {status} {value!r:.200}; the beam is left as it was. "
                f"Read the instrument back.",
                vendor_code=status if isinstance(status, int) else None,
                vendor_text=f"{value!r:.200}",
            )
        return value

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, question: bytes) -> object:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=self._timeout_s)
        self._socket.sendall(question)
        received = b""
        while True:
            chunk = self._socket.recv(2**16)
            if not chunk:
                raise ConnectionResetError("the server closed the connection in an answer")
            received += chunk
            if len(received) > MAX_BYTES:
                raise ProtocolError(f"the answer is longer than {MAX_BYTES} bytes; thrown away")
            try:
                return read_pickle(received) if self._protocol == "pickle" else _json(received)
            except EOFError:
                continue


def _json(data: bytes) -> object:
    try:
        value: object = json.loads(data.decode())
    except (ValueError, UnicodeDecodeError) as problem:
        raise EOFError(str(problem)) from problem
    return value
