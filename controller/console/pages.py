"""The screens and the fragments that they renew themselves with; nothing here changes anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from controller.console.console import Console
from controller.console.gate import cookie_line
from controller.console.night import Night
from controller.console.rehearsal import rehearsal_of
from controller.console.rendering import SCREENS, render
from controller.console.rights import Right, needs
from controller.console.views.acquire import acquire_view
from controller.console.views.align import align_view
from controller.console.views.log import log_view
from controller.console.views.queue import queue_view
from controller.console.views.regions import map_view
from controller.console.views.settings import settings_view

REPORT_FOLDER = "report_files"


def page_routes(console: Console) -> APIRouter:
    """GET routes of pages."""
    router = APIRouter()

    @router.get("/")
    @needs(Right.LOOK)
    async def home(request: Request) -> Response:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/overview", status_code=303)

    @router.get("/login")
    @needs(Right.PUBLIC)
    async def login(request: Request) -> HTMLResponse:
        return render(request, "login.html", trouble="", wait_s=0)

    @router.get("/help")
    @needs(Right.LOOK)
    async def keys_and_help(request: Request) -> HTMLResponse:
        return render(request, "help.html", screen="help")

    @router.get("/wall")
    @needs(Right.PUBLIC)
    async def wall(request: Request, token: str = "") -> Response:
        return _wall(console, request, token)

    @router.get("/report/file")
    @needs(Right.LOOK)
    async def report_file() -> Response:
        return _report(console)

    @router.get("/report/files/{name}")
    @needs(Right.LOOK)
    async def report_picture(name: str) -> Response:
        folder = (console.run_dir / REPORT_FOLDER).resolve()
        path = (folder / name).resolve()
        if path.parent != folder or path.suffix != ".png" or not path.is_file():
            return Response("no such picture", status_code=404)
        return FileResponse(path)

    @router.get("/{screen}")
    @needs(Right.LOOK)
    async def page(request: Request, screen: str) -> Response:
        return _screen(console, request, screen, f"{screen}.html")

    @router.get("/part/{screen}")
    @needs(Right.LOOK)
    async def part(request: Request, screen: str) -> Response:
        return _screen(console, request, screen, f"part_{screen}.html")

    return router


def _screen(console: Console, request: Request, screen: str, template: str) -> Response:
    if screen not in _FACTS:
        return Response("no such screen", status_code=404)
    return render(
        request, template, screen=screen, **_FACTS[screen](console.night, request.query_params)
    )


def _report(console: Console) -> Response:
    path = console.run_dir / "report.html"
    if not path.is_file():
        return Response("the report is written when the run ends", status_code=404)
    # the file carries its own style and needs no script: it may not have one here either
    policy = "default-src 'none'; img-src data: 'self'; style-src 'unsafe-inline'"
    return FileResponse(
        path,
        media_type="text/html",
        headers={
            "content-security-policy": f"{policy}; frame-ancestors 'self'; sandbox",
            "x-frame-options": "SAMEORIGIN",
        },
    )


def _wall(console: Console, request: Request, token: str) -> Response:
    """Anybody with a token that looks only; it becomes a viewer's session."""
    session = request.scope["state"].get("session")
    if session is not None:
        return render(request, "wall.html", screen="wall")
    known = console.guard.accounts.check_token(token, datetime.now(UTC)) if token else None
    base = request.scope.get("root_path", "")
    if known is None:
        return RedirectResponse(f"{base}/login", status_code=303)
    address = "" if request.client is None else request.client.host
    cookie, _ = console.guard.book.begin(
        f"wall {known.name}", "viewer", address, console.guard.now_s()
    )
    answer = RedirectResponse(f"{base}/wall", status_code=303)
    answer.headers["set-cookie"] = cookie_line(cookie, secure=request.url.scheme == "https")
    return answer


def notes_of(run_dir: Path) -> list[dict[str, Any]]:
    """The notes on a run, newest first; a torn line is passed over."""
    path = run_dir / "notes.jsonl"
    notes: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with suppress(ValueError):
            notes.insert(0, json.loads(line))
    return notes


Facts = Callable[[Night | None, Any], dict[str, Any]]


def _overview(night: Night | None, query: Any) -> dict[str, Any]:  # noqa: ANN401  (query parameters)
    return {
        "view": None if night is None else queue_view(night),
        "rehearsal": None if night is None else rehearsal_of(night.folder),
    }


def _align(night: Night | None, query: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"view": None if night is None else align_view(night)}


def _map(night: Night | None, query: Any) -> dict[str, Any]:  # noqa: ANN401
    view = None
    if night is not None:
        view = map_view(night, tile=query.get("tile", ""), region=query.get("region", ""))
    return {"view": view}


def _acquire(night: Night | None, query: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"view": None if night is None else acquire_view(night)}


def _log(night: Night | None, query: Any) -> dict[str, Any]:  # noqa: ANN401
    chosen = {name: query.get(name, "") for name in ("level", "region", "text")}
    return {"lines": [] if night is None else log_view(night, **chosen), "chosen": chosen}


def _settings(night: Night | None, query: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"view": None if night is None else settings_view(night)}


def _report_facts(night: Night | None, query: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "is_there": night is not None and (night.folder / "report.html").is_file(),
        "notes": [] if night is None else notes_of(night.folder),
    }


_FACTS: dict[str, Facts] = {
    "overview": _overview,
    "align": _align,
    "map": _map,
    "acquire": _acquire,
    "report": _report_facts,
    "log": _log,
    "settings": _settings,
}
if set(_FACTS) != {name for name, _ in SCREENS}:
    raise RuntimeError("a screen without facts, or facts without a screen")
