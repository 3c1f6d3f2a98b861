"""Every route times every role: who is let in is a table, and what is not in it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.routing import Route, WebSocketRoute

from controller.console.app import guarded, make_app
from controller.console.audit import AuditLog
from controller.console.console import Console
from controller.console.gate import COOKIE, Guard
from controller.console.listening import Listening
from controller.console.passwords import Accounts
from controller.console.rights import RIGHTS, Right, may, right_of

ROLES = (None, "viewer", "operator", "scientist", "admin")
TABLE: dict[str, Right] = {
    "GET /": Right.LOOK,
    "GET /login": Right.PUBLIC,
    "GET /help": Right.LOOK,
    "GET /wall": Right.PUBLIC,
    "GET /report/file": Right.LOOK,
    "GET /report/files/{name}": Right.LOOK,
    "GET /{screen}": Right.LOOK,
    "GET /part/{screen}": Right.LOOK,
    "GET /frame/{name}/value": Right.LOOK,
    "GET /frame/{name}/profile": Right.LOOK,
    "GET /frame/{name}/spectrum.png": Right.LOOK,
    "GET /frame/{name}/8bit.png": Right.LOOK,
    "GET /frame/{name}/16bit.png": Right.LOOK,
    "POST /login": Right.PUBLIC,
    "POST /logout": Right.LOOK,
    "POST /api/stop": Right.STOP,
    "POST /api/lease/{what}": Right.DRIVE,
    "POST /api/answer": Right.DRIVE,
    "POST /api/delegate": Right.DRIVE,
    "POST /api/quote": Right.DRIVE,
    "POST /api/queue": Right.DRIVE,
    "POST /api/acknowledge": Right.DRIVE,
    "POST /api/label": Right.DRIVE,
    "POST /api/note": Right.DRIVE,
    "POST /api/replay": Right.LOOK,
    "POST /api/rehearse": Right.DRIVE,
    "POST /api/lockout": Right.CONFIGURE,
    "POST /api/remote": Right.CONFIGURE,
    "POST /api/revoke": Right.ADMIN,
}
BASE = "http://127.0.0.1:8080"


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    accounts = Accounts(tmp_path / "accounts.json")
    accounts.path.write_text(  # type: ignore[union-attr]
        '{"accounts": [{"name": "x", "role": "viewer", "argon2id": "no hash"}]}'
    )
    guard = Guard(accounts=accounts, listening=Listening(), simulated=True)
    console = Console(run_dir=tmp_path, guard=guard, audit=AuditLog(tmp_path / "audit.jsonl"))
    yield console
    console.close()


def client(console: Console, role: str | None) -> tuple[httpx.AsyncClient, str]:
    """A browser of somebody with `role`, and the token of its pages."""
    app = make_app(console)
    transport = httpx.ASGITransport(guarded(app, console), client=("127.0.0.1", 4000))  # type: ignore[arg-type]
    cookies, csrf = {}, ""
    if role is not None:
        cookie, session = console.guard.book.begin("somebody", role, "127.0.0.1", 0.0)  # type: ignore[arg-type]
        cookies, csrf = {COOKIE: cookie}, session.csrf
        console.guard.now_s = lambda: 1.0
    made = httpx.AsyncClient(transport=transport, base_url=BASE, cookies=cookies)
    return made, csrf


def run(work: object) -> object:
    import asyncio

    return asyncio.run(work)  # type: ignore[arg-type]


def test_the_table_names_every_route_and_nothing_else(console: Console) -> None:
    found = {}
    for route in make_app(console).router.routes:
        if isinstance(route, WebSocketRoute) or route.path == "/live":  # type: ignore[attr-defined]
            assert right_of(route.endpoint) is Right.LOOK  # type: ignore[attr-defined]
        elif isinstance(route, Route) or hasattr(route, "methods"):
            for method in route.methods - {"HEAD"}:  # type: ignore[operator]
                found[f"{method} {route.path}"] = right_of(route.endpoint)  # type: ignore[union-attr]
    assert found == TABLE


@pytest.mark.parametrize("role", ROLES)
def test_each_role_is_let_in_where_it_may_and_refused_elsewhere(
    console: Console, role: str | None
) -> None:
    async def knock() -> dict[str, int]:
        made, csrf = client(console, role)
        statuses = {}
        async with made:
            for name in TABLE:
                if name == "POST /logout":
                    continue
                method, path = name.split()
                path = path.replace("{name}", "x").replace("{what}", "ask")
                path = path.replace("{screen}", "align")
                headers = {"origin": BASE, "x-csrf-token": csrf, "hx-request": "true"}
                answer = await made.request(method, path, headers=headers, data={"a": "b"})
                statuses[name] = answer.status_code
        return statuses

    statuses = run(knock())
    assert isinstance(statuses, dict)
    for name, status in statuses.items():
        refused = 401 if role is None else 403
        if may(role, TABLE[name]):  # type: ignore[arg-type]
            wrong_password = name == "POST /login" and status == 401
            assert status not in (401, 403) or wrong_password, (name, role, status)
        else:
            assert status == refused, (name, role, status)


def test_rights_only_grow_with_the_role() -> None:
    sizes = [RIGHTS[role] for role in ROLES]  # type: ignore[index]
    assert all(small < large for small, large in pairwise(sizes))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "https://127.0.0.1:8080"}, 403),
        ({"origin": BASE}, 403),
        ({"origin": BASE, "x-csrf-token": "guessed"}, 403),
        ({"origin": BASE, "x-csrf-token": "right", "host": "evil.example"}, 421),
        ({"origin": BASE, "x-csrf-token": "right"}, 409),
    ],
)
def test_a_write_needs_our_page_our_token_and_our_name(
    console: Console, headers: dict[str, str], status: int
) -> None:
    async def knock() -> int:
        made, csrf = client(console, "operator")
        if headers.get("x-csrf-token") == "right":
            headers["x-csrf-token"] = csrf
        async with made:
            answer = await made.post("/api/queue", headers=headers, data={"what": "pause"})
        return answer.status_code

    assert run(knock()) == status


def test_a_route_that_names_no_right_is_refused_for_everybody(console: Console) -> None:
    async def knock() -> int:
        app = make_app(console)

        async def forgotten() -> dict[str, str]:
            return {}

        app.router.routes.insert(0, Route("/forgotten", forgotten))
        transport = httpx.ASGITransport(guarded(app, console))  # type: ignore[arg-type]
        cookie, _ = console.guard.book.begin("root", "admin", "127.0.0.1", 0.0)
        console.guard.now_s = lambda: 1.0
        async with httpx.AsyncClient(
            transport=transport, base_url=BASE, cookies={COOKIE: cookie}
        ) as made:
            return (await made.get("/forgotten")).status_code

    assert run(knock()) == 403


def test_every_answer_carries_the_strict_policy(console: Console) -> None:
    async def knock() -> httpx.Response:
        made, _ = client(console, "viewer")
        async with made:
            return await made.get("/align")

    answer = run(knock())
    assert isinstance(answer, httpx.Response)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"


def test_a_simulator_on_this_machine_opens_by_itself_until_there_is_an_account(
    tmp_path: Path,
) -> None:
    guard = Guard(accounts=Accounts(tmp_path / "none.json"), listening=Listening(), simulated=True)
    assert guard.opens_by_itself("127.0.0.1")
    assert not guard.opens_by_itself("10.0.0.7")
    guard.simulated = False
    assert not guard.opens_by_itself("127.0.0.1")
    guard.simulated = True
    guard.accounts.add("ann", "viewer", "long enough!")
    assert not guard.opens_by_itself("127.0.0.1")


def test_driving_from_elsewhere_needs_the_switch_and_a_lockout_holds_for_operators(
    tmp_path: Path,
) -> None:
    guard = Guard(accounts=Accounts(None), listening=Listening(), simulated=False)
    _, olga = guard.book.begin("olga", "operator", "10.0.0.7", 0.0)
    _, sara = guard.book.begin("sara", "scientist", "127.0.0.1", 0.0)
    assert "remote driving is switched off" in guard.refusal(olga, Right.DRIVE, "10.0.0.7")
    assert guard.refusal(olga, Right.STOP, "10.0.0.7") == ""
    guard.remote_driving = True
    assert guard.refusal(olga, Right.DRIVE, "10.0.0.7") == ""
    guard.locked_by = "sara: sample change"
    assert "sample change" in guard.refusal(olga, Right.DRIVE, "127.0.0.1")
    assert guard.refusal(sara, Right.DRIVE, "127.0.0.1") == ""


def test_names_have_to_be_told_and_addresses_only_where_it_listens_everywhere(
    tmp_path: Path,
) -> None:
    accounts = Accounts(None)
    here = Guard(accounts=accounts, listening=Listening(), simulated=True)
    assert here.is_our_host("127.0.0.1:8080")
    assert not here.is_our_host("10.0.0.5:8080")
    everywhere = Guard(
        accounts=accounts,
        listening=Listening(host="0.0.0.0"),
        simulated=True,
        hosts=frozenset({"titan.lab"}),
    )
    assert everywhere.is_our_host("10.0.0.5:8080")
    assert everywhere.is_our_host("titan.lab")
    assert not everywhere.is_our_host("evil.example")


def test_a_proxy_vouches_only_from_its_own_address_and_for_known_accounts(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "accounts.json")
    accounts.add("ann", "operator", "long enough!")
    guard = Guard(
        accounts=accounts,
        listening=Listening(),
        simulated=False,
        proxies=frozenset({"10.0.0.1"}),
        proxy_header="x-user",
    )
    headers = Headers({"x-user": "ann"})
    assert guard.proxied(headers, "10.0.0.1") == ("ann", "operator")
    assert guard.proxied(headers, "10.0.0.2") is None
    assert guard.proxied(Headers({"x-user": "eve"}), "10.0.0.1") is None


def test_it_works_under_a_prefix(console: Console) -> None:
    async def knock() -> httpx.Response:
        app = make_app(console)
        transport = httpx.ASGITransport(
            guarded(app, console),  # type: ignore[arg-type]
            root_path="/scope",
            client=("127.0.0.1", 1),
        )
        cookie, _ = console.guard.book.begin("vera", "viewer", "127.0.0.1", 0.0)
        console.guard.now_s = lambda: 1.0
        async with httpx.AsyncClient(
            transport=transport, base_url=BASE, cookies={COOKIE: cookie}
        ) as made:
            return await made.get("/scope/align")

    answer = run(knock())
    assert isinstance(answer, httpx.Response)
    assert answer.status_code == 200
    assert 'href="/scope/static/console.css"' in answer.text
