"""Accounts, delays, sessions, the audit log, and where the console may listen."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.console.audit import AuditError, AuditLog, read_audit
from controller.console.delays import FREE_FAILURES, LONGEST_S, Delays
from controller.console.listening import Listening, ListenRefusedError
from controller.console.passwords import AccountError, Accounts
from controller.console.sessions import IDLE_S, SessionBook, fits
from controller.console.sessions import LONGEST_S as LONGEST_SESSION_S

KEYS = ("name ann", "address 10.0.0.7")


def test_there_is_no_default_account_and_a_password_is_kept_as_argon2id(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "a" / "accounts.json")
    assert accounts.is_empty
    accounts.add("ann", "operator", "correct horse")
    text = (tmp_path / "a" / "accounts.json").read_text()
    assert "$argon2id$" in text
    assert "correct horse" not in text
    assert stat.S_IMODE((tmp_path / "a" / "accounts.json").stat().st_mode) == 0o600
    found = accounts.check("ann", "correct horse")
    assert found is not None
    assert found.role == "operator"
    assert accounts.check("ann", "wrong") is None
    assert accounts.check("nobody", "correct horse") is None
    accounts.remove("ann")
    assert accounts.is_empty


@pytest.mark.parametrize(
    ("name", "role", "password", "why"),
    [
        ("ann", "operator", "short", "5 characters; at least 10"),
        ("ann", "god", "correct horse", "role"),
        ("<b>", "operator", "correct horse", "name"),
    ],
)
def test_accounts_that_will_not_do_are_refused(
    tmp_path: Path, name: str, role: str, password: str, why: str
) -> None:
    with pytest.raises(AccountError, match=why):
        Accounts(tmp_path / "accounts.json").add(name, role, password)


def test_a_damaged_file_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "accounts.json").write_text("{")
    with pytest.raises(AccountError, match="holds no accounts"):
        Accounts(tmp_path / "accounts.json").check("ann", "correct horse")


def test_a_token_is_shown_once_kept_as_a_hash_and_ends(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "accounts.json")
    token = accounts.add_token("wall", days=1.0)
    now = datetime.now(UTC)
    assert token not in (tmp_path / "accounts.json").read_text()
    assert accounts.check_token(token, now) is not None
    assert accounts.check_token(token, now + timedelta(days=2)) is None
    assert accounts.check_token("guessed", now) is None


def test_delays_grow_after_five_failures_for_name_and_address() -> None:
    delays = Delays()
    for _ in range(FREE_FAILURES - 1):
        delays.failed(KEYS, 0.0)
    assert delays.wait_s(KEYS, 0.0) == 0.0
    waits = []
    for _ in range(14):
        delays.failed(KEYS, 0.0)
        waits.append(delays.wait_s(("address 10.0.0.7",), 0.0))
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_S
    assert delays.wait_s(("name bob", "address 10.0.0.8"), 0.0) == 0.0
    assert delays.wait_s(KEYS, LONGEST_S + 0.1) == 0.0
    delays.succeeded(KEYS)
    assert delays.wait_s(KEYS, 0.0) == 0.0


def test_a_session_ends_when_idle_or_old_and_a_viewer_may_look_on() -> None:
    book = SessionBook()
    cookie, olga = book.begin("olga", "operator", "::1", 0.0)
    screen, _ = book.begin("wall", "viewer", "::1", 0.0)
    assert book.find(cookie, IDLE_S - 1) is not None
    assert book.find(cookie, 2 * IDLE_S - 2, used=False) is not None
    assert book.find(cookie, 2 * IDLE_S) is None
    assert book.find(screen, LONGEST_SESSION_S) is not None
    assert book.find(screen, LONGEST_SESSION_S + 1) is None
    assert fits(olga, olga.csrf)
    assert not fits(olga, "")


def test_a_session_can_be_ended_by_its_public_name() -> None:
    book = SessionBook()
    cookie, olga = book.begin("olga", "operator", "::1", 0.0)
    assert olga.id not in cookie
    assert book.end(olga.id)
    assert book.find(cookie, 1.0) is None
    assert not book.end(olga.id)


def test_sessions_outlive_the_console_and_no_cookie_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    cookie, olga = SessionBook(path).begin("olga", "operator", "::1", 0.0)
    assert cookie not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SessionBook(path).find(cookie, 1.0) is not None
    SessionBook(path).end(olga.id)
    assert SessionBook(path).find(cookie, 1.0) is None
    path.write_text("{")
    assert SessionBook(path).all() == []


def test_the_audit_log_shows_every_alteration(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for n in range(3):
        AuditLog(path).write("stop", who="olga", role="operator", address="::1", result=str(n))
    assert [line["result"] for line in read_audit(path)] == ["0", "1", "2"]
    lines = path.read_text().splitlines()
    for altered in (
        [lines[0], lines[2]],
        [lines[0], lines[1].replace("olga", "otto"), lines[2]],
        [lines[1], lines[0], lines[2]],
    ):
        path.write_text("\n".join(altered) + "\n")
        with pytest.raises(AuditError, match="the chain is broken"):
            read_audit(path)
    assert json.loads(lines[0])["prev"] == "0" * 64


@pytest.mark.parametrize(
    ("listening", "has_account", "simulated", "why"),
    [
        (Listening(host="0.0.0.0"), True, True, "needs TLS"),
        (Listening(host="0.0.0.0", insecure=True), False, True, "there is no account"),
        (Listening(insecure=True), True, False, "for simulators only"),
        (Listening(certificate=Path("c.pem")), True, True, "comes with its key"),
        (Listening(certificate=Path("c.pem"), key=Path("k.pem")), True, True, "no certificate"),
    ],
)
def test_it_refuses_to_listen_where_it_could_be_misused(
    listening: Listening, has_account: bool, simulated: bool, why: str
) -> None:
    with pytest.raises(ListenRefusedError, match=why):
        listening.check(has_account=has_account, simulated=simulated)


def test_it_listens_on_loopback_and_a_simulator_off_it_with_an_account() -> None:
    Listening().check(has_account=False, simulated=False)
    Listening(host="::1").check(has_account=False, simulated=False)
    Listening(host="0.0.0.0", insecure=True).check(has_account=True, simulated=True)
