"""A real browser on a real console; what is marked `console` runs by `make test-console` only."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from controller.console.app import guarded, make_app
from controller.console.audit import AuditLog
from controller.console.console import Console
from controller.console.gate import Guard
from controller.console.listening import Listening
from controller.console.passwords import Accounts
from controller.console.sessions import SessionBook
from tests.console.stand import Hardware, StandRun, steps

SHOTS = Path(os.environ.get("LODESTEM_SHOTS", "runs/console-screens"))
PASSWORD = "correct horse"
PEOPLE = {
    "vera": "viewer",
    "olga": "operator",
    "otto": "operator",
    "sara": "scientist",
    "adam": "admin",
}


def chromium() -> str | None:
    """Chromium of this machine; None: the one that came with Playwright."""
    return os.environ.get("LODESTEM_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        arguments = [
            "--no-sandbox",
            "--disable-gpu",
            "--enable-precise-memory-info",
            "--js-flags=--expose-gc",
        ]
        launched = play.chromium.launch(executable_path=chromium(), args=arguments)
        yield launched
        launched.close()


@dataclass
class Served:
    """A console at work."""

    url: str
    console: Console
    run: StandRun | None
    hardware: Hardware | None
    accounts: Accounts


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve(console: Console, port: int) -> Iterator[str]:
    app = make_app(console)
    config = uvicorn.Config(
        guarded(app, console),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        ws="websockets-sansio",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


@cache
def accounts_of_the_tests() -> str:
    """The accounts file, made once: hashing is slow on purpose."""
    with TemporaryDirectory() as folder:
        accounts = Accounts(Path(folder) / "accounts.json")
        for name, role in PEOPLE.items():
            accounts.add(name, role, PASSWORD)
        return (Path(folder) / "accounts.json").read_text(encoding="utf-8")


@contextmanager
def console_on(
    folder: Path,
    *,
    people: bool = False,
    hardware: str | None = None,
    replay: bool = False,
    port: int | None = None,
) -> Iterator[tuple[str, Console]]:
    """Serve a console on a run folder."""
    port = port or free_port()
    accounts = Accounts(folder.parent / "accounts.json")
    if people and accounts.path is not None:
        accounts.path.write_text(accounts_of_the_tests(), encoding="utf-8")
    guard = Guard(accounts=accounts, listening=Listening(port=port), simulated=True)
    guard.book = SessionBook(folder.parent / "sessions.json")
    console = Console(
        run_dir=folder,
        guard=guard,
        audit=AuditLog(folder.parent / "audit.jsonl"),
        hardware=hardware,
        replay=replay,
    )
    with serve(console, port) as url:
        yield url, console


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Served]:
    """A console with accounts on a supervised run and its instrument."""
    with TemporaryDirectory(prefix="lds") as sockets:
        hardware = Hardware(f"ipc://{sockets}/s")
        with (
            StandRun(tmp_path / "run", steps(12)) as run,
            console_on(tmp_path / "run", people=True, hardware=hardware.url) as (url, console),
        ):
            yield Served(url, console, run, hardware, console.guard.accounts)
        hardware.close()


CROWDED = 1.5
"""Load per core above which the machine belongs to others, too, and promises cannot be measured."""


def limit(promised: float, wide: float) -> float:
    """The promised limit on a machine that is ours, a wide one where others work on it."""
    crowded = os.getloadavg()[0] > CROWDED * (os.cpu_count() or 1)
    return wide if crowded else promised


Visit = Callable[..., Page]
Note = Callable[[str, object], None]


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Note:
    """Keep a figure beside the pictures."""

    def note(name: str, value: object) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        with (SHOTS / "measured.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": request.node.name, name: value}) + "\n")

    return note


@pytest.fixture
def visit(browser: Browser, stand: Served) -> Iterator[Visit]:
    """Open a page as somebody, in a browser of their own; fails on console errors at the end."""
    contexts: list[BrowserContext] = []
    trouble: list[str] = []

    def go(name: str, screen: str = "align", **options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | options)
        contexts.append(context)
        context.set_default_timeout(15000)
        page = context.new_page()
        watch(page, stand.url, trouble)
        sign_in(page, stand.url, name)
        page.goto(stand.url + screen)
        page.wait_for_function("document.getElementById('chip-word').textContent !== ''")
        return page

    yield go
    for context in contexts:
        context.close()
    assert not trouble, "\n".join(trouble)


def sign_in(page: Page, url: str, name: str, password: str = PASSWORD) -> None:
    page.goto(url + "login")
    page.fill("input[name=name]", name)
    page.fill("input[name=password]", password)
    page.click("form button.primary")


EXPECTED = ("409", "422", "403", "429", "401", "503", "WebSocket", "ERR_CONNECTION", "404")
"""Refusals and cut lines are what tests are about; the browser notes them in its console."""


def watch(page: Page, url: str, trouble: list[str]) -> None:
    """Note scripts that fail, breaches of the policy, and requests to any other host."""

    def on_console(message: object) -> None:
        text = str(getattr(message, "text", ""))
        if getattr(message, "type", "") == "error" and not any(e in text for e in EXPECTED):
            trouble.append(f"console: {text}")

    def on_request(request: object) -> None:
        target = str(getattr(request, "url", ""))
        own = url.removeprefix("http://")
        if not target.startswith((url, f"ws://{own}", "blob:", "data:")):
            trouble.append(f"foreign: {target}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: trouble.append(f"page: {error}"))
    page.on("request", on_request)


def shot(page: Page, name: str) -> None:
    """Keep a picture of the screen."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def drive(page: Page) -> None:
    """Take the lease and wait until the card can be answered."""
    page.click("#lease-ask")
    page.wait_for_selector("#approve:not([disabled])")
