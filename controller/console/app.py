"""The console as an ASGI application: pages, fragments, writes, the live line, behind the gate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.resources import files

from fastapi import FastAPI
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.staticfiles import StaticFiles

from controller.console.console import Console
from controller.console.gate import Asgi, Gate
from controller.console.live import live_route
from controller.console.pages import page_routes
from controller.console.picture_routes import picture_routes
from controller.console.writes import write_routes


def make_app(console: Console) -> FastAPI:
    """The application of one console.

    No schema and no documentation pages: those of the framework load from elsewhere.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pump = asyncio.create_task(console.pump())
        try:
            yield
        finally:
            pump.cancel()
            with suppress(asyncio.CancelledError):
                await pump
            console.close()

    app = FastAPI(
        title="lodestem console",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
    )
    app.state.console = console
    app.state.templates = templates()
    for routes in (page_routes, picture_routes, write_routes, live_route):
        app.router.routes.extend(routes(console).routes)
    static = files("controller.console").joinpath("static")
    app.mount("/static", StaticFiles(directory=str(static)), name="static")
    return app


def guarded(app: FastAPI, console: Console) -> Asgi:
    """The application behind its gate: the only thing that is ever served."""
    return Gate(app, guard=console.guard, routes=lambda: app.router.routes)


def templates() -> Environment:
    """Jinja2 with everything escaped and nothing undefined."""
    made = Environment(
        loader=PackageLoader("controller.console", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["num"] = _number
    made.filters["dose"] = _dose
    return made


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}"


def _dose(value: float) -> str:
    """A fluence in e/Å² with three figures."""
    return f"{value:.3g}"
