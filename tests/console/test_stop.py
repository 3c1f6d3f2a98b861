"""STOP, from anywhere, by any line; and what the page says when nobody answers."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.conftest import Note, Served, Visit, console_on, drive, limit, shot, sign_in
from tests.console.stand import Hardware, StandRun, tilt

pytestmark = pytest.mark.console
LIMIT_MS = 250.0
WIDE_MS = 2500.0


def stop_ms(page: Page, hardware: Hardware, press: str = "click") -> float:
    """From the click to the moment the hardware's door was told, ms; one clock, one machine."""
    hardware.stops_s.clear()
    if press == "click":
        page.evaluate(
            "() => document.getElementById('stop').addEventListener('click', "
            "() => { window.clicked = Date.now() }, {once: true, capture: true})"
        )
        page.click("#stop")
    else:
        page.evaluate(
            "() => window.addEventListener('keydown', () => { window.clicked = Date.now() }, "
            "{once: true, capture: true})"
        )
        page.keyboard.press(press)
    expect(page.locator("#stop-bar.confirmed")).to_be_visible()
    return 1e3 * hardware.stops_s[0] - float(page.evaluate("() => window.clicked"))


def test_stop_reaches_the_instrument_at_once_and_the_run_waits(
    stand: Served, visit: Visit, measured: Note
) -> None:
    assert stand.hardware is not None
    page = visit("olga")
    drive(page)
    took_ms = stop_ms(page, stand.hardware)
    measured("stop_ms", took_ms)
    assert took_ms < limit(LIMIT_MS, WIDE_MS)
    expect(page.locator("#chip-word")).to_have_text("STOPPED")
    expect(page.locator("#card-column")).to_contain_text("Resume")
    shot(page, "stopped-driver")
    assert stand.run is not None
    assert stand.run.done[0][1].answer == "withdrawn"


def test_stop_works_with_the_websocket_cut(stand: Served, visit: Visit) -> None:
    assert stand.hardware is not None
    page = visit("olga", screen="log")
    page.context.route_web_socket("**/live", lambda ws: ws.close())
    page.reload()
    page.wait_for_timeout(500)
    stand.hardware.stops_s.clear()
    page.click("#stop")
    expect(page.locator("#stop-bar.confirmed")).to_be_visible()
    took = page.get_attribute("#stop-bar", "data-ms")
    assert took is not None
    assert float(took) < limit(4 * LIMIT_MS, 4 * WIDE_MS)
    assert len(stand.hardware.stops_s) == 1


def test_esc_stops_for_the_driver_also_inside_a_text_field(stand: Served, visit: Visit) -> None:
    assert stand.hardware is not None
    page = visit("olga")
    drive(page)
    page.click("#reject summary")
    page.focus("#reject input[name=reason]")
    took_ms = stop_ms(page, stand.hardware, "Escape")
    assert took_ms < limit(LIMIT_MS, WIDE_MS)


def test_esc_of_a_viewer_only_goes_to_the_button_and_enter_stops(
    stand: Served, visit: Visit
) -> None:
    assert stand.hardware is not None
    page = visit("vera", screen="overview")
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    assert not stand.hardware.stops_s
    assert page.evaluate("() => document.activeElement.id") == "stop"
    page.keyboard.press("Enter")
    expect(page.locator("#stop-bar.confirmed")).to_be_visible()
    assert stand.hardware.stops_s


def test_a_stop_that_nobody_confirms_says_so(stand: Served, visit: Visit) -> None:
    assert stand.hardware is not None
    stand.hardware.deaf = True
    page = visit("olga")
    page.click("#stop")
    expect(page.locator("#stop-bar")).to_contain_text("STOP sent")
    expect(page.locator("#stop-bar")).to_contain_text("NOT CONFIRMED, use the panel", timeout=4000)
    shot(page, "stop-not-confirmed")


def test_going_on_after_a_stop_asks(stand: Served, visit: Visit) -> None:
    page = visit("olga")
    drive(page)
    page.click("#stop")
    expect(page.locator("#chip-word")).to_have_text("STOPPED")
    page.click("#card-column button[data-queue=go_on]")
    expect(page.locator("#question")).to_contain_text("moves stage and beam again")
    # a question never stands before STOP
    page.click("#stop")
    expect(page.locator("#stop-bar.confirmed")).to_be_visible()
    page.click("#question .primary")
    expect(page.locator("#chip-word")).to_have_text("NEEDS APPROVAL")


@pytest.mark.parametrize("opened", ["palette", "tour", "who"])
def test_nothing_that_opens_ever_stands_before_stop(
    stand: Served, visit: Visit, opened: str
) -> None:
    assert stand.hardware is not None
    page = visit("olga", screen="overview")
    if opened == "palette":
        page.keyboard.press("Control+k")
    else:
        page.click(".who summary")
    if opened == "tour":
        page.click("#tour-open")
    shot(page, f"open-{opened}")
    page.click("#stop")
    expect(page.locator("#stop-bar.confirmed")).to_be_visible()
    assert stand.hardware.stops_s


def test_stop_works_without_any_script(stand: Served, visit: Visit) -> None:
    assert stand.hardware is not None
    page = visit("vera", screen="overview")
    state = page.context.storage_state()
    bare = page.context.browser.new_context(java_script_enabled=False, storage_state=state)  # type: ignore[union-attr]
    plain = bare.new_page()
    plain.goto(stand.url + "overview")
    plain.click("#stop")
    expect(plain.locator("h1")).to_have_text("Stopped")
    bare.close()
    assert stand.hardware.stops_s


def test_a_hardware_server_that_is_gone_is_said_and_comes_back_by_itself(
    stand: Served, visit: Visit
) -> None:
    assert stand.hardware is not None
    page = visit("olga")
    drive(page)
    stand.hardware.close()
    expect(page.locator("#chip-word")).to_have_text("OFFLINE", timeout=6000)
    expect(page.locator("#beam")).to_have_text("UNKNOWN")
    expect(page.locator("#pattern")).to_have_class(re.compile("stale"))
    expect(page.locator("#approve")).to_be_disabled()
    expect(page.locator("#stop")).to_be_enabled()
    shot(page, "offline")
    again = Hardware(stand.hardware.url)
    try:
        expect(page.locator("#chip-word")).to_have_text("NEEDS APPROVAL", timeout=10000)
        page.wait_for_selector("#approve:not([disabled])")
    finally:
        again.close()


def test_a_console_that_dies_is_said_at_once_and_its_successor_is_found_by_itself(
    browser: Browser, tmp_path: Path
) -> None:
    """The run goes on meanwhile; the driver still drives, without signing in again."""
    folder = tmp_path / "run"
    with TemporaryDirectory(prefix="lds") as sockets:
        hardware = Hardware(f"ipc://{sockets}/s")
        with StandRun(folder, [tilt(1.0, -0.5)]):
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            page = context.new_page()
            with console_on(folder, people=True, hardware=hardware.url) as (url, console):
                port = console.guard.listening.port
                sign_in(page, url, "olga")
                page.goto(url + "align")
                drive(page)
            expect(page.locator("#lost")).to_contain_text("No connection since")
            expect(page.locator("#pattern")).to_have_class(re.compile("stale"))
            expect(page.locator("#approve")).to_be_disabled()
            expect(page.locator("#beam")).to_have_text("UNKNOWN")
            shot(page, "connection-lost")
            with console_on(folder, people=True, hardware=hardware.url, port=port):
                expect(page.locator("#lost")).to_be_hidden(timeout=15_000)
                page.wait_for_selector("#approve:not([disabled])")
                expect(page.locator("#driver")).to_have_text("olga (you)")
                context.close()
        hardware.close()
