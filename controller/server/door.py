"""Who may come in: CURVE keys and the list of those that are allowed, or neither.

The handshake of a key that is not on the list never ends, so nothing of it is read; the attempt is
noted.  Without keys a server listens on loopback only, and only for a simulator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import zmq
from zmq.auth.thread import ThreadAuthenticator

from controller.hardware.errors import NotAuthorisedError, RefusedError
from controller.hardware.wire.endpoints import Endpoints, Keys
from controller.hardware.wire.responder import Passage, Sender
from controller.server.allowed import AllowList
from controller.server.roles import Role
from controller.server.security_log import SecurityLog
from controller.server.verbs import Hello


@dataclass(frozen=True)
class Door:
    """Who may come in: keys and list, or neither (a simulator on loopback)."""

    keys: Keys | None = None
    allowed: AllowList = field(default_factory=AllowList)
    passage: Callable[[], Passage | None] = lambda: None
    """Makes, for each lane, what messages go through: injected faults of the link."""

    def role_of(self, sender: Sender, hello: Hello) -> tuple[str, Role]:
        """Name and role of whoever says hello.

        Raises
        ------
        NotAuthorisedError
            The key is not on the list.
        ValueError
            No such role.
        """
        if self.keys is None:
            return hello.name, Role(hello.role or Role.SCIENTIST)
        client = self.allowed.find(sender.user)
        if client is None:
            raise NotAuthorisedError("this key is not on the list of the server")
        return client.name, client.role


class _Gatekeeper:
    """Tells the authenticator which keys are on the list, and notes the others."""

    def __init__(self, allowed: AllowList, log: SecurityLog) -> None:
        self._allowed = allowed
        self._log = log

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether the client with this z85 key may finish its handshake."""
        text = key.decode("ascii", "replace")
        if self._allowed.find(text) is not None:
            return True
        self._log.refuse(text, "connection", "the key is not on the list")
        return False


def check_door(door: Door, endpoints: Endpoints, *, simulated: bool) -> None:
    """No keys only where it cannot matter.

    Raises
    ------
    RefusedError
        A real instrument, or an address that others can reach, without keys.
    """
    if door.keys is not None:
        return
    if not simulated:
        raise RefusedError(
            "a real instrument is never served without keys; nothing listens. Make keys with "
            "`lodestem keys new`, and name them in the configuration."
        )
    if not endpoints.is_loopback:
        raise RefusedError(
            f"{endpoints.command} can be reached from other machines and there are no keys; "
            f"nothing listens. Listen on tcp://127.0.0.1:PORT, or make keys (`lodestem keys`)."
        )


@contextlib.contextmanager
def authenticated(
    context: zmq.Context[zmq.Socket[bytes]], door: Door, log: SecurityLog
) -> Iterator[None]:
    """Check the keys of everybody who connects to sockets of `context`."""
    if door.keys is None:
        yield
        return
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    try:
        authenticator.configure_curve_callback(
            "*", credentials_provider=_Gatekeeper(door.allowed, log)
        )
        yield
    finally:
        authenticator.stop()
