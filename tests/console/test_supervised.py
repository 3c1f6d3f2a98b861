"""Supervising an alignment in a browser: seen, approved, edited, rejected, delegated."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from playwright.sync_api import Browser, Page, expect

from controller.plan.notifications import NotificationPlan
from controller.record.events import Proposed
from controller.record.journal import read_journal
from controller.record.notify.post import PostOffice
from tests.console.conftest import Served, Visit, console_on, drive, shot
from tests.console.stand import Hardware, StandRun, tilt

pytestmark = pytest.mark.console


def proposal(page: Page) -> str:
    return str(page.get_attribute("#card", "data-proposal"))


def next_card(page: Page, before: str) -> None:
    page.wait_for_function(
        "was => document.getElementById('card')?.dataset.proposal !== was "
        "&& document.getElementById('card')",
        arg=before,
    )


def test_a_proposal_shows_pattern_circle_and_cost_and_is_approved(
    stand: Served, visit: Visit
) -> None:
    page = visit("olga")
    expect(page.locator("#chip-word")).to_have_text("NEEDS APPROVAL")
    expect(page.locator("#beam")).to_have_text("BLANKED")
    expect(page.locator("#pattern-twin")).to_contain_text("spots, circle centre")
    expect(page.locator("#pattern .ln-circle")).to_have_count(1)
    expect(page.locator(".cost")).to_contain_text("e/Å²")
    expect(page.locator("#why-not")).to_have_text("take the lease first")
    expect(page.locator("#approve")).to_be_disabled()
    shot(page, "align-watching")
    drive(page)
    shot(page, "align-proposal")
    before = proposal(page)
    page.click("#approve")
    next_card(page, before)
    assert stand.run is not None
    assert [(name, a.answer, a.by) for name, a in stand.run.done] == [("Tilt", "approve", "olga")]
    expect(page.locator("#card-column")).to_contain_text("reached")


def test_a_circle_is_dragged_quoted_anew_and_approved_as_edited(
    stand: Served, visit: Visit
) -> None:
    page = visit("olga")
    drive(page)
    box = page.locator("#grip").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 25, y + 15, steps=6)
    page.mouse.up()
    expect(page.locator("#quote")).to_contain_text("limits ok")
    expect(page.locator("#approve")).to_be_disabled()
    expect(page.locator("#pattern .ln-edit").first).to_be_visible()
    shot(page, "align-edited")
    before = proposal(page)
    page.click("#approve-edit")
    next_card(page, before)
    assert stand.run is not None
    name, answer = stand.run.done[0]
    assert (name, answer.answer) == ("Tilt", "edit")
    assert set(answer.changes) == {"alpha_deg", "beta_deg"}
    assert answer.changes["alpha_deg"] != 1.0
    labels = (stand.run.folder / "labels.jsonl").read_text().splitlines()
    assert json.loads(labels[0])["what"] == "edit"
    assert "x_px" in json.loads(labels[0])


def test_an_edit_beyond_a_limit_cannot_be_approved(stand: Served, visit: Visit) -> None:
    page = visit("olga")
    drive(page)
    page.click("#edit summary")
    page.fill("#edit input[name=alpha_deg]", "77")
    expect(page.locator("#quote.bad")).to_contain_text("alpha")
    expect(page.locator("#approve-edit")).to_be_disabled()
    shot(page, "align-limit")


def test_a_rejection_keeps_its_reason_with_the_picture(stand: Served, visit: Visit) -> None:
    page = visit("olga")
    drive(page)
    page.click("#reject summary")
    page.select_option("#reject select", "wrong circle")
    page.fill("#reject input[name=reason]", "mirror image")
    before = proposal(page)
    page.click("#reject button[data-answer=reject]")
    next_card(page, before)
    assert stand.run is not None
    answer = stand.run.done[0][1]
    assert (answer.answer, answer.reason) == ("reject", "wrong circle: mirror image")
    label = json.loads((stand.run.folder / "labels.jsonl").read_text().splitlines()[0])
    assert (label["what"], label["category"]) == ("reject", "wrong circle")
    assert label["frame"].endswith("-pattern")


def test_a_stale_approval_is_refused_and_the_page_says_why(stand: Served, visit: Visit) -> None:
    page = visit("olga")
    drive(page)
    old = page.evaluate(
        "() => ({p: document.getElementById('card').dataset.proposal, "
        "r: document.getElementById('card').dataset.revision})"
    )
    page.click("#approve")
    next_card(page, old["p"])
    page.wait_for_selector("#approve:not([disabled])")
    # a page that did not notice: the card of before, sent again
    page.evaluate(
        "old => { const c = document.getElementById('card'); c.dataset.proposal = old.p; "
        "c.dataset.revision = old.r; document.getElementById('approve').disabled = false; "
        "document.getElementById('approve').click(); }",
        old,
    )
    expect(page.locator(".toast.bad")).to_contain_text("not the proposal that was seen")
    shot(page, "align-stale-refused")
    assert stand.run is not None
    assert len(stand.run.done) == 1


def test_a_delegation_counts_down_and_a_breach_returns_to_approval(
    stand: Served, visit: Visit
) -> None:
    assert stand.run is not None
    stand.run.step_s = 1.5
    page = visit("olga")
    drive(page)
    page.click("#delegate summary")
    page.fill("#delegate input[name=moves]", "3")
    page.fill("#delegate input[name=until_error_mrad]", "0")
    page.fill("#delegate input[name=least_confidence]", "0")
    page.click("#delegate-now")
    expect(page.locator(".count-down")).to_contain_text("of 3 moves")
    shot(page, "align-delegated")
    expect(page.locator("#card .why")).to_contain_text("the 3 moves are used up", timeout=20000)
    shot(page, "align-breach")
    assert [a.by for _, a in stand.run.done] == ["olga (delegated)"] * 3
    assert stand.run.done[2][1].reason.startswith("0 of 3 moves")


def test_keys_answer_only_where_the_card_has_the_focus(stand: Served, visit: Visit) -> None:
    page = visit("olga")
    drive(page)
    page.locator("body").press("a")
    assert stand.run is not None
    assert stand.run.done == []
    before = proposal(page)
    page.focus("#card")
    page.keyboard.press("a")
    next_card(page, before)
    assert stand.run.done[0][1].answer == "approve"


def test_skip_withdraws_the_proposal_and_the_run_asks_anew(stand: Served, visit: Visit) -> None:
    page = visit("olga")
    drive(page)
    before = proposal(page)
    page.click("#skip")
    next_card(page, before)
    assert stand.run is not None
    assert stand.run.done[0][1].answer == "withdrawn"
    assert stand.run.belief.target("R1").rejected


def test_nobody_answers_the_beam_stays_blanked_somebody_is_told_and_the_plan_decides(
    browser: Browser, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    plan = NotificationPlan(
        command=("sh", "-c", f'echo "$2" >> {told}', "notice"), approval_waits_min=0.02
    )
    with TemporaryDirectory(prefix="lds") as sockets:
        hardware = Hardware(f"ipc://{sockets}/s")
        with (
            StandRun(tmp_path / "run", [tilt(1.0, -0.5)], wait_s=8.0) as run,
            PostOffice(plan, "night", tmp_path / "run") as post,
            console_on(tmp_path / "run", hardware=hardware.url) as (url, _),
        ):
            journal = run.folder / "journal.jsonl"
            while not any(isinstance(e.event, Proposed) for e in read_journal(journal)):
                pass
            post(next(e for e in read_journal(journal) if isinstance(e.event, Proposed)))
            page = browser.new_context().new_page()
            page.goto(url + "align")
            expect(page.locator("#sentence")).to_contain_text("the run holds")
            expect(page.locator("#card-column")).to_contain_text("hold", timeout=20_000)
            expect(page.locator("#beam")).to_have_text("BLANKED")
            page.context.close()
        hardware.close()
    assert [a.answer for _, a in run.done] == ["silence"]
    assert "Tilt" in told.read_text() or "waits" in told.read_text()
