"""Who is connected: what each may do, which messages are new, and what was answered.

A message carries the session that the server's hello gave out and a number that counts up.  A
number that was seen before is a repetition: it is answered again, from memory, and never carried
out.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from uuid import UUID

from controller.hardware.errors import NotAuthorisedError, StaleEpochError
from controller.hardware.wire.message import Request
from controller.hardware.wire.responder import Sender
from controller.server.roles import Role

MOST_SESSIONS = 256
MOST_OF_ONE_KEY = 64
ANSWERS_KEPT = 32
BYTES_KEPT = 1 << 20
"""Larger answers are kept one at a time: the last picture."""


@dataclass
class Peer:
    """One connection of one client."""

    session: str
    user: str
    """The key that it proved, or empty."""
    name: str
    role: Role
    seen: dict[str, int] = field(default_factory=dict)
    """Highest number by lane."""
    answers: OrderedDict[UUID, list[bytes] | None] = field(default_factory=OrderedDict)
    """What was answered, by id; None while it is being worked on."""


class Sessions:
    """All connections; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._peers: OrderedDict[str, Peer] = OrderedDict()

    def begin(self, sender: Sender, name: str, role: Role, *, keep: str = "") -> Peer:
        """A new session; those unused for longest are forgotten, never `keep`, which drives."""
        peer = Peer(secrets.token_hex(16), sender.user, name, role)
        with self._lock:
            self._peers[peer.session] = peer
            own = [p.session for p in self._peers.values() if p.user == sender.user]
            for session in own[:-MOST_OF_ONE_KEY]:
                if session != keep:
                    del self._peers[session]
            for session in list(self._peers):
                if len(self._peers) <= MOST_SESSIONS:
                    break
                if session != keep:
                    del self._peers[session]
        return peer

    def find(self, sender: Sender, session: str) -> Peer:
        """The session, if it is this sender's.

        Raises
        ------
        StaleEpochError
            Unknown: the server was started since.
        NotAuthorisedError
            Somebody else's.
        """
        with self._lock:
            peer = self._peers.get(session)
            if peer is not None:
                self._peers.move_to_end(session)
        if peer is None:
            raise StaleEpochError(
                "the message belongs to no session of this server, which may have been started "
                "anew; nothing was done. Connect again and read the state back."
            )
        if peer.user != sender.user:
            raise NotAuthorisedError("the session is somebody else's; nothing was done")
        return peer

    def is_new(self, peer: Peer, lane: str, request: Request) -> list[bytes] | bool | None:
        """True for a new message; else what it was answered, or None if that is to come.

        Raises
        ------
        StaleEpochError
            An old message whose answer is not at hand any more.
        """
        with self._lock:
            if request.seq > peer.seen.get(lane, 0):
                peer.seen[lane] = request.seq
                peer.answers[request.id] = None
                while len(peer.answers) > ANSWERS_KEPT:
                    peer.answers.popitem(last=False)
                return True
            if request.id in peer.answers:
                return peer.answers[request.id]
        raise StaleEpochError(
            f"message {request.seq} is not newer than {peer.seen[lane]}: it comes from the past; "
            f"nothing was done"
        )

    def answered(self, peer: Peer, request: Request, frames: list[bytes]) -> None:
        """Remember an answer."""
        large = sum(len(frame) for frame in frames) > BYTES_KEPT
        with self._lock:
            if large:
                for other, kept in list(peer.answers.items()):
                    if kept is not None and sum(len(f) for f in kept) > BYTES_KEPT:
                        del peer.answers[other]
            peer.answers[request.id] = frames

    def count(self) -> int:
        """How many sessions are known."""
        with self._lock:
            return len(self._peers)
