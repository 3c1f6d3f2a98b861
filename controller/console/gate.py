"""The one door of the console: who asks, from which page, with which right.  Default deny.

Every request passes here before anything else sees it.  A route that names no right is refused,
so is every host that is not ours (another name may have been bound to this address), every write
without the page's token, and every write or WebSocket from another origin.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Match

from controller.console.forms import read_form
from controller.console.listening import Listening, is_address, is_loopback
from controller.console.passwords import Accounts, UserRole
from controller.console.rights import NEEDED, Right, may, right_of
from controller.console.sessions import Session, SessionBook, fits

COOKIE = "lodestem_session"
TOKEN_HEADER = "x-csrf-token"
STATIC = "/static/"
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass
class Guard:
    """What the gate goes by."""

    accounts: Accounts
    listening: Listening
    simulated: bool
    book: SessionBook = field(default_factory=SessionBook)
    hosts: frozenset[str] = frozenset()
    """Further names under which a proxy serves this console."""
    proxies: frozenset[str] = frozenset()
    """Addresses whose header names who is signed in; nobody else's is believed."""
    proxy_header: str = ""
    remote_driving: bool = False
    """Set at the instrument's own console only; off after every start."""
    locked_by: str = ""
    """Who has locked driving, and why; empty: nobody."""
    now_s: Callable[[], float] = time.time
    """Wall time: sessions outlive a process."""

    def session_of(self, connection: HTTPConnection, *, used: bool = True) -> Session | None:
        """Who asks, or None."""
        return self.book.find(connection.cookies.get(COOKIE), self.now_s(), used=used)

    def opens_by_itself(self, address: str) -> bool:
        """Whether a page needs no password: a simulator, this machine, and no account made."""
        return (
            self.simulated
            and self.listening.is_loopback
            and is_loopback(address)
            and self.accounts.is_empty
        )

    def proxied(self, headers: Headers, address: str) -> tuple[str, UserRole] | None:
        """Name and role that the facility's proxy vouches for."""
        if not self.proxy_header or address not in self.proxies:
            return None
        name = headers.get(self.proxy_header, "")
        found = next((a for a in self.accounts.read().accounts if a.name == name), None)
        return None if found is None else (found.name, found.role)

    def refusal(self, session: Session | None, right: Right, address: str) -> str:
        """Why not, or empty."""
        role = None if session is None else session.role
        if not may(role, right):
            who = "not signed in" if session is None else session.role
            return f"needs {NEEDED.get(right, 'nobody')}; you are {who}"
        if right is Right.DRIVE and self.locked_by and role not in ("scientist", "admin"):
            return f"driving is locked: {self.locked_by}"
        if right is Right.DRIVE and not is_loopback(address) and not self.remote_driving:
            return (
                "remote driving is switched off; it is switched on at the instrument's own "
                "console (Settings)"
            )
        return ""

    def is_our_host(self, host: str) -> bool:
        """Whether a Host header names this console.

        Names have to be told (another page may point its own name here); addresses cannot lie.
        """
        name = urlsplit(f"//{host}").hostname or ""
        known = name in self.hosts or name == self.listening.host or is_loopback(name)
        return known or (self.listening.is_everywhere and is_address(name))


class Gate:
    """ASGI middleware round the whole console."""

    def __init__(self, app: Asgi, *, guard: Guard, routes: Callable[[], list[BaseRoute]]) -> None:
        self._app = app
        self._guard = guard
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in, or refuse."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        refused, cookie = await self._judge(scope, receive, connection)
        if refused is not None and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4403, "reason": "refused"})
            return
        answer = _with_headers(send, cookie, secure=connection.url.scheme == "https")
        if refused is not None:
            await refused(scope, receive, answer)
            return
        await self._app(scope, receive, answer if scope["type"] == "http" else send)

    async def _judge(
        self, scope: Scope, receive: Receive, connection: HTTPConnection
    ) -> tuple[Response | None, str]:
        """A refusal, or None; and a cookie to set, or empty."""
        guard, headers = self._guard, connection.headers
        address = "" if connection.client is None else connection.client.host
        if not guard.is_our_host(headers.get("host", "")):
            return _no(421, "this console does not go by that name"), ""
        path = connection.url.path.removeprefix(scope.get("root_path", ""))
        if path.startswith(STATIC) and scope.get("method") in ("GET", "HEAD"):
            return None, ""
        right = self._right(scope)
        if right is None:
            return _no(403, "there is nothing here, or it asks for nobody"), ""
        session = guard.session_of(connection, used=not path.startswith("/part/"))
        cookie = ""
        if session is None:
            cookie, session = self._new_session(headers, address)
        scope.setdefault("state", {})["session"] = session
        scope["state"]["guard"] = guard
        why = guard.refusal(session, right, address)
        if why:
            return self._turned_away(scope, session, why), cookie
        writes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if writes and not _same_origin(headers, connection):
            return _no(403, "a write from another page is refused"), cookie
        if scope["type"] == "http" and writes and session is not None:
            token = headers.get(TOKEN_HEADER) or await _form_token(scope, receive)
            if not fits(session, token):
                return _no(403, "the page is out of date: load it again"), cookie
        return None, cookie

    def _right(self, scope: Scope) -> Right | None:
        for route in self._routes():
            match, child = route.matches(scope)
            if match is Match.FULL:
                return right_of(child.get("endpoint"))
        return None

    def _new_session(self, headers: Headers, address: str) -> tuple[str, Session | None]:
        guard = self._guard
        vouched = guard.proxied(headers, address)
        if vouched is not None:
            return guard.book.begin(*vouched, address, guard.now_s())
        if guard.opens_by_itself(address):
            return guard.book.begin("local operator", "operator", address, guard.now_s())
        return "", None

    def _turned_away(self, scope: Scope, session: Session | None, why: str) -> Response:
        wants_page = scope["type"] == "http" and scope["method"] == "GET"
        fragment = Headers(scope=scope).get("hx-request") == "true"
        if session is None and wants_page and not fragment:
            return RedirectResponse(f"{scope.get('root_path', '')}/login", status_code=303)
        return _no(401 if session is None else 403, why)


def _no(status: int, why: str) -> Response:
    return JSONResponse({"why": why}, status_code=status)


def _same_origin(headers: Headers, connection: HTTPConnection) -> bool:
    origin = headers.get("origin")
    if origin is None:
        return False
    parts = urlsplit(origin)
    secure = connection.url.scheme in ("https", "wss")
    return parts.netloc == headers.get("host") and parts.scheme == ("https" if secure else "http")


async def _form_token(scope: Scope, receive: Receive) -> str:
    """The token of a form without script; the body is kept for the endpoint."""
    return (await read_form(Request(scope, receive))).get("csrf", "")


def _with_headers(send: Send, cookie: str, *, secure: bool) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
            if cookie:
                headers.append("set-cookie", cookie_line(cookie, secure=secure))
        await send(message)

    return wrapped


def cookie_line(cookie: str, *, secure: bool) -> str:
    """The session cookie as a header."""
    safe = "; Secure" if secure else ""
    return f"{COOKIE}={cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200{safe}"
