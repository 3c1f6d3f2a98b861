"""Two browsers: one drives, one looks on; take-over, refusal, lease expiry."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import expect

from controller.decision.operator_lease import ORPHANED_AFTER_S, TAKE_OVER_S
from tests.console.conftest import Served, Visit, drive, shot

pytestmark = pytest.mark.console


def test_one_drives_and_one_watches_and_a_refusal_keeps_it_so(stand: Served, visit: Visit) -> None:
    olga, otto = visit("olga"), visit("otto")
    drive(olga)
    expect(otto.locator("#driver")).to_have_text("olga")
    expect(otto.locator("#approve")).to_be_disabled()
    otto.click("#lease-ask")
    expect(olga.locator("#lease-words")).to_contain_text("otto asks to drive")
    shot(olga, "lease-asked")
    olga.click("#lease-bar button")
    expect(otto.locator("#lease-bar")).to_be_hidden()
    expect(otto.locator("#driver")).to_have_text("olga")


def test_a_take_over_that_nobody_refuses_passes_on(stand: Served, visit: Visit) -> None:
    olga, otto = visit("olga"), visit("otto")
    drive(olga)
    otto.click("#lease-ask")
    began_s = time.monotonic()
    expect(otto.locator("#driver")).to_have_text("otto (you)", timeout=1e3 * (TAKE_OVER_S + 10))
    assert time.monotonic() - began_s > TAKE_OVER_S - 3
    expect(olga.locator("#approve")).to_be_disabled()
    otto.wait_for_selector("#approve:not([disabled])")


def test_a_page_that_is_closed_loses_the_lease_and_the_run_goes_on_waiting(
    stand: Served, visit: Visit
) -> None:
    olga, otto = visit("olga"), visit("otto")
    drive(olga)
    olga.context.close()
    expect(otto.locator("#driver")).to_contain_text(
        "page silent", timeout=1e3 * (ORPHANED_AFTER_S + 10)
    )
    expect(otto.locator("#chip-word")).to_have_text("NEEDS APPROVAL")
    otto.click("#lease-ask")
    expect(otto.locator("#driver")).to_have_text("otto (you)")


def test_a_viewer_may_stop_and_may_not_approve(stand: Served, visit: Visit) -> None:
    page = visit("vera")
    expect(page.locator("#why-not")).to_contain_text("needs operator; you are viewer")
    expect(page.locator("#lease-ask")).to_have_count(0)
    refused = page.evaluate(
        """async () => {
            const c = document.getElementById('card');
            const r = await fetch('/api/answer', {
                method: 'POST',
                headers: {
                    'Content-Type': 'application/x-www-form-urlencoded',
                    'X-CSRF-Token': document.body.dataset.csrf,
                },
                body: new URLSearchParams({
                    answer: 'approve',
                    proposal: c.dataset.proposal,
                    revision: c.dataset.revision,
                }),
            });
            return r.status;
        }"""
    )
    assert refused == 403
    page.click("#stop")
    expect(page.locator("#stop-bar.confirmed")).to_contain_text("Stopped")
    expect(page.locator("#chip-word")).to_have_text("STOPPED")
    shot(page, "stopped-viewer")
    assert stand.hardware is not None
    assert stand.hardware.stops_s
