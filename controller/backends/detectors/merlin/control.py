"""Merlin's command connection: ``GET``, ``SET`` and ``CMD``, each with an answer and a code."""

from __future__ import annotations

import socket
import threading

from controller.backends.detectors.merlin.framing import PREFIX_BYTES, wrap
from controller.hardware.clock import Clock
from controller.hardware.errors import (
    ArmFailedError,
    LinkError,
    ProtocolError,
    ReplyTimeoutError,
    UnreachableError,
)

MAX_REPLY_BYTES = 1 << 16
CODES = {1: "system busy", 2: "unrecognised command", 3: "parameter out of range"}
_FIELDS = {"GET": 4, "SET": 3, "CMD": 3}


class MerlinControl:
    """Asks and commands, one at a time; any thread may."""

    def __init__(self, host: str, port: int, timeout_s: float, clock: Clock) -> None:
        self._address = (host, port)
        self._timeout_s = timeout_s
        self._clock = clock
        self._socket: socket.socket | None = None
        self._turn = threading.Lock()

    def get(self, name: str) -> str:
        """Value of a parameter.

        Raises
        ------
        ArmFailedError
            Merlin refuses.
        LinkError
            No connection, no answer in time, or no answer of this protocol.
        """
        return self._ask("GET", name, f"GET,{name}")

    def set(self, name: str, value: str | int | float) -> None:
        """Set a parameter; raises like `get`."""
        self._ask("SET", name, f"SET,{name},{value}")

    def command(self, name: str) -> None:
        """Run a command such as ``STARTACQUISITION``; raises like `get`."""
        self._ask("CMD", name, f"CMD,{name}")

    def close(self) -> None:
        """Hang up. Idempotent."""
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def _ask(self, verb: str, name: str, body: str) -> str:
        with self._turn:
            try:
                fields = self._exchange(verb, body)
            except (OSError, LinkError) as problem:
                self.close()  # a late answer must not be taken for that of the next question
                raise self._as_link_error(body, problem) from problem
        if fields[:2] != [verb, name] or not fields[-1].strip().isdigit():
            self.close()
            raise ProtocolError(
                f"Merlin answered {','.join(fields)!r} to {body!r}; its state is unknown. Look "
                f"whether another program uses the command port."
            )
        code = int(fields[-1])
        if code:
            raise ArmFailedError(
                f"Merlin refuses {body!r}: {CODES.get(code, 'unknown code')} ({code}); the "
                f"detector is not armed. Look at its own screen, then arm again.",
                vendor_code=code,
                vendor_text=",".join(fields),
            )
        return ",".join(fields[2:-1])

    def _exchange(self, verb: str, body: str) -> list[str]:
        deadline_s = self._clock.now_s() + self._timeout_s
        connection = self._socket  # `close` of another thread makes it fail, not vanish
        if connection is None:
            connection = self._socket = socket.create_connection(self._address, self._timeout_s)
        connection.settimeout(self._timeout_s)
        connection.sendall(wrap(body.encode("ascii")))
        reply = b""
        while (fields := _whole_reply(reply, _FIELDS[verb])) is None:
            left_s = deadline_s - self._clock.now_s()
            if not left_s > 0:
                raise TimeoutError(f"no answer within {self._timeout_s:g} s")
            connection.settimeout(left_s)
            piece = connection.recv(4096)
            if not piece:
                raise ConnectionResetError("Merlin closed the command connection")
            reply += piece
        return fields

    def _as_link_error(self, body: str, problem: OSError | LinkError) -> LinkError:
        if isinstance(problem, LinkError):
            return problem
        host, port = self._address
        if isinstance(problem, TimeoutError):
            return ReplyTimeoutError(
                f"Merlin at {host}:{port} did not answer {body!r} within {self._timeout_s:g} s; "
                f"whether it was carried out is unknown. Read its state before anything else."
            )
        return UnreachableError(
            f"Merlin's command port {host}:{port} failed on {body!r}: {problem}; nothing was "
            f"armed. Start the Merlin software, or correct `host` and `control_port`."
        )


def _whole_reply(reply: bytes, n_fields: int) -> list[str] | None:
    """The fields of an answer, or None while it is not whole.

    Some servers do not count the comma in the length, so the last byte, the code itself, may lie
    one beyond it: an answer is whole when its last field is not empty.
    """
    if len(reply) < PREFIX_BYTES:
        return None
    digits = reply[4:14]
    if not (reply.startswith(b"MPX,") and digits.isdigit() and int(digits) <= MAX_REPLY_BYTES):
        raise ProtocolError(
            f"{reply[:40]!r} is no answer of Merlin; its state is unknown. Look what listens there."
        )
    body = reply[PREFIX_BYTES:]
    if len(body) < int(digits) - 1:
        return None
    fields = body.decode("ascii", errors="replace").split(",")
    return fields if len(fields) >= n_fields and fields[-1].strip() else None
