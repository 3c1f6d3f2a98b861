"""Who is signed in: sessions with an end, listed and revocable; they outlive the console's process.

Kept are hashes of cookies, never the cookies.  Time is an argument.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from controller.console.passwords import UserRole

LONGEST_S = 12 * 3600.0
IDLE_S = 3600.0
MOST = 500
KEPT_EVERY_S = 60.0
"""A session's last use is written down no more often."""


@dataclass(frozen=True)
class Session:
    """One browser of one person."""

    id: str
    """Known to others, as in the audit log; does not let anybody in."""
    name: str
    role: UserRole
    address: str
    begun_s: float
    used_s: float
    csrf: str

    def is_over(self, now_s: float) -> bool:
        """Whether it has to sign in again; viewers may look on for the whole time."""
        idle = self.role != "viewer" and now_s - self.used_s > IDLE_S
        return idle or not now_s - self.begun_s <= LONGEST_S


class SessionBook:
    """All sessions.

    Parameters
    ----------
    path
        Where they are kept; None: nowhere.  A file that cannot be read is as good as none:
        everybody signs in again.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._by_hash: dict[str, Session] = {}
        self._kept_s = 0.0
        if path is not None and path.exists():
            with suppress(OSError, ValueError, TypeError):
                kept = json.loads(path.read_text(encoding="utf-8"))
                self._by_hash = {key: Session(**fields) for key, fields in kept.items()}

    def begin(self, name: str, role: UserRole, address: str, now_s: float) -> tuple[str, Session]:
        """A new session and the cookie that stands for it."""
        if len(self._by_hash) >= MOST:
            oldest = min(self._by_hash, key=lambda key: self._by_hash[key].used_s)
            del self._by_hash[oldest]
        cookie = secrets.token_urlsafe(32)
        session = Session(
            id=secrets.token_hex(8),
            name=name,
            role=role,
            address=address,
            begun_s=now_s,
            used_s=now_s,
            csrf=secrets.token_urlsafe(24),
        )
        self._by_hash[_hash(cookie)] = session
        self._keep(now_s)
        return cookie, session

    def find(self, cookie: str | None, now_s: float, *, used: bool = True) -> Session | None:
        """The session of a cookie; `used` False where a page asks by itself."""
        key = _hash(cookie or "")
        session = self._by_hash.get(key)
        if session is None:
            return None
        if session.is_over(now_s):
            del self._by_hash[key]
            return None
        if used:
            session = self._by_hash[key] = replace(session, used_s=now_s)
            if now_s - self._kept_s > KEPT_EVERY_S:
                self._keep(now_s)
        return session

    def end(self, session_id: str) -> bool:
        """Sign out; whether there was such a session."""
        found = [key for key, session in self._by_hash.items() if session.id == session_id]
        for key in found:
            del self._by_hash[key]
        self._keep(self._kept_s)
        return bool(found)

    def _keep(self, now_s: float) -> None:
        self._kept_s = now_s
        if self._path is None:
            return
        fresh = self._path.with_suffix(".part")
        kept = {key: asdict(session) for key, session in self._by_hash.items()}
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump(kept, out)
        fresh.replace(self._path)

    def all(self) -> list[Session]:
        """Everybody, newest first."""
        return sorted(self._by_hash.values(), key=lambda s: -s.begun_s)


def fits(session: Session, token: str) -> bool:
    """Whether a form's token is this session's."""
    return hmac.compare_digest(session.csrf, token)


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
