"""Text stays text, wrong passwords cost time, strangers stay outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from controller.console.audit import read_audit
from controller.record.events import Fault
from controller.record.inbox import QueueRequest, send
from tests.console.conftest import Served, Visit, console_on, drive, shot, watch
from tests.console.stand import StandRun, tilt

pytestmark = pytest.mark.console
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}'\"&"


def test_hostile_text_stays_text_on_every_screen(browser: Browser, tmp_path: Path) -> None:
    trouble: list[str] = []
    folder = tmp_path / "run"
    with StandRun(folder, [tilt(1.0, -0.5)]) as run, console_on(folder) as (url, _):
        send(folder, QueueRequest(what="skip", by=HOSTILE[:60], target="R2", reason=HOSTILE))
        run.night.say(
            Fault(
                error="ValveClosed",
                message=HOSTILE,
                action="Tilt",
                target=None,
                beam_state="blanked",
                dose_state="none",
                handled=HOSTILE,
            )
        )
        note = {"utc": "2026-01-01T20:00:00", "by": HOSTILE, "text": HOSTILE}
        (folder / "notes.jsonl").write_text(json.dumps(note) + "\n")
        context = browser.new_context()
        page = context.new_page()
        watch(page, url, trouble)
        alerts: list[str] = []
        page.on("dialog", lambda d: (alerts.append(d.message), d.dismiss()))
        for screen in ("overview", "align", "log", "report", "map"):
            page.goto(url + screen)
            page.wait_for_timeout(500)
            assert page.locator("img[src=x]").count() == 0
            assert page.locator("main script").count() == 0
        page.goto(url + "log")
        expect(page.locator("main")).to_contain_text("{{7*7}}")
        expect(page.locator("main")).to_contain_text("<script>alert(2)</script>")
        shot(page, "hostile-log")
        assert alerts == []
        context.close()
    assert trouble == []


def test_wrong_passwords_cost_more_and_more(stand: Served, browser: Browser) -> None:
    context = browser.new_context()
    context.set_default_timeout(15000)
    page = context.new_page()

    def enter(password: str) -> str:
        page.goto(stand.url + "login")
        page.fill("input[name=name]", "olga")
        page.fill("input[name=password]", password)
        page.click("form button.primary")
        page.wait_for_load_state()
        found = page.locator(".refusal")
        return found.inner_text() if found.count() else ""

    said = [enter("wrong password")]
    while "wait" not in said[-1] and len(said) < 15:
        said.append(enter("wrong password"))
    assert set(said[:5]) == {"name and password do not fit"}
    assert "too many wrong passwords: wait" in said[-1]
    # the right one is not even looked at before that
    assert "wait" in enter("correct horse") or len(said) < 8
    shot(page, "sign-in-wait")
    context.close()
    lines = read_audit(stand.console.run_dir.parent / "audit.jsonl")
    assert [line["result"] for line in lines].count("refused") >= 5


def test_what_people_do_is_in_the_audit_log(stand: Served, visit: Visit) -> None:
    page = visit("olga")
    drive(page)
    page.click("#approve")
    expect(page.locator("#card-column")).to_contain_text("Past moves")
    page.wait_for_timeout(500)
    lines = read_audit(stand.console.run_dir.parent / "audit.jsonl")
    done = {line["what"]: line for line in lines}
    assert done["/api/lease/ask"]["who"] == "olga"
    answer = done["/api/answer"]
    assert (answer["role"], answer["result"]) == ("operator", "done")
    assert len(answer["asked"]["proposal"]) == 64


def test_a_page_elsewhere_gets_no_live_line(stand: Served, visit: Visit) -> None:
    page = visit("olga")
    cookie = "; ".join(f"{c['name']}={c['value']}" for c in page.context.cookies())
    address = stand.url.replace("http", "ws") + "live"
    with connect(
        address, origin=stand.url.strip("/"), additional_headers={"cookie": cookie}
    ) as ours:
        assert json.loads(ours.recv())["kind"] in ("state", "clear")
    with (
        pytest.raises(InvalidStatus, match="403"),
        connect(address, origin="http://evil.example", additional_headers={"cookie": cookie}),
    ):
        pass
    with pytest.raises(InvalidStatus), connect(address, origin=stand.url.strip("/")):
        pass


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--host", "0.0.0.0"], "needs TLS"),
        (["--host", "0.0.0.0", "--insecure"], "no account"),
    ],
)
def test_it_does_not_start_where_it_could_be_misused(
    tmp_path: Path, options: list[str], why: str
) -> None:
    with StandRun(tmp_path / "run", [tilt(1.0, -0.5)]):
        pass
    program = "from controller.cli.main import run_program; run_program()"
    arguments = ["assist", "--replay", str(tmp_path / "run"), "--headless"]
    arguments += ["--accounts", str(tmp_path / "none.json"), *options]
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2
    assert why in ended.stderr
