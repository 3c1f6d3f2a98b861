"""Every screen in every state: drawn, accessible, usable when enlarged, and kept as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from controller.record.events import CalibrationAlarmed, Fault
from controller.record.report import build_report
from tests.console.conftest import (
    Served,
    Visit,
    chromium,
    console_on,
    shot,
    sign_in,
    watch,
)
from tests.console.stand import StandRun, tilt
from tests.controller.record.conftest import Night, pose

pytestmark = pytest.mark.console
AXE = Path(__file__).with_name("axe") / "axe.min.js"
SCREENS = ("overview", "map", "align", "acquire", "report", "log", "settings", "help", "wall")


def violations(page: Page) -> list[str]:
    """Serious and critical findings of axe."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate(
        "async () => (await axe.run(document, {iframes: false})).violations"
        ".filter(v => ['serious', 'critical'].includes(v.impact))"
        ".map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(' | '))"
    )
    return list(found)


def widest_px(page: Page) -> tuple[int, int]:
    """Width of the content and of the window."""
    return tuple(  # type: ignore[return-value]
        page.evaluate("() => [document.documentElement.scrollWidth, window.innerWidth]")
    )


@contextmanager
def open_page(browser: Browser, url: str, trouble: list[str], **options: Any) -> Iterator[Page]:
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | options)
    context.set_default_timeout(15000)
    page = context.new_page()
    watch(page, url, trouble)
    yield page
    context.close()


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A night that is over, with faults, a scan and its report."""
    night = Night(tmp_path / "night")
    night.start("supervised")
    night.survey([(120.0, 90.0), (240.0, 250.0), (90.0, 300.0)], ["R1", "R2", "R3"])
    night.begin("Visit", "R1", "best of those left")
    night.end()
    night.pattern("R1", 3.1, pose())
    night.tilt("R1", 2.2, -1.4)
    night.pattern("R1", 0.21, pose(2.2, -1.4))
    night.pattern("R1", 0.03, pose(2.2, -1.4))
    night.scan("R1")
    night.say(
        Fault(
            error="ValveClosed",
            message="Column valves were closed from outside.",
            action="Visit",
            target="R2",
            beam_state="blanked",
            dose_state="none",
            handled="wait (rule ValveClosed, occurrence 1 of 20)",
        )
    )
    night.say(
        CalibrationAlarmed(
            calibration="tilt-axes",
            code="stale",
            severity="major",
            message="the tilt axes were measured 93 days ago (at most 90)",
            remedy="calibrate the tilt axes",
        )
    )
    night.lose("R2")
    build_report(night.folder)
    night.journal.close()
    return night.folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("theme", ["dark", "light"])
def test_every_screen_is_accessible_and_asks_no_other_host(
    browser: Browser, finished: Path, theme: str
) -> None:
    trouble: list[str] = []
    with (
        console_on(finished, replay=True) as (url, _),
        open_page(browser, url, trouble) as page,
    ):
        page.goto(url + "overview")
        page.evaluate("t => localStorage.setItem('lodestem-theme', t)", theme)
        bad = {}
        for screen in SCREENS:
            page.goto(url + screen)
            page.wait_for_timeout(700)
            shot(page, f"replay-{screen}-{theme}")
            bad[screen] = violations(page)
    assert {k: v for k, v in bad.items() if v} == {}
    assert trouble == []


@pytest.mark.timeout(600)
def test_the_screens_of_a_run_under_way_are_accessible_in_each_state(
    stand: Served, visit: Visit
) -> None:
    page = visit("olga")
    bad = {}
    for screen in ("overview", "map", "align", "log", "settings"):
        page.goto(stand.url + screen)
        page.wait_for_timeout(700)
        shot(page, f"approval-{screen}")
        bad[screen] = violations(page)
    page.click("#stop")
    expect(page.locator("#chip-word")).to_have_text("STOPPED")
    for screen in ("overview", "align"):
        page.goto(stand.url + screen)
        page.wait_for_timeout(500)
        shot(page, f"stopped-{screen}")
        bad[f"stopped {screen}"] = violations(page)
    assert {k: v for k, v in bad.items() if v} == {}


def test_the_sign_in_page_is_accessible(stand: Served, browser: Browser) -> None:
    trouble: list[str] = []
    with open_page(browser, stand.url, trouble) as page:
        page.goto(stand.url)
        assert page.url.endswith("/login")
        shot(page, "sign-in")
        assert violations(page) == []
    assert trouble == []


def test_before_a_run_every_screen_says_what_to_do(browser: Browser, tmp_path: Path) -> None:
    trouble: list[str] = []
    folder = tmp_path / "empty"
    folder.mkdir()
    bad = {}
    with console_on(folder) as (url, _), open_page(browser, url, trouble) as page:
        for screen in SCREENS:
            page.goto(url + screen)
            page.wait_for_timeout(300)
            shot(page, f"empty-{screen}")
            bad[screen] = violations(page)
        page.goto(url + "overview")
        expect(page.locator("main")).to_contain_text("Try the demo")
    assert {k: v for k, v in bad.items() if v} == {}
    assert trouble == []


@pytest.mark.parametrize(
    ("name", "width", "height", "scale"),
    [("zoom-200", 720, 450, 2), ("tablet", 820, 1180, 1), ("tablet-wide", 1180, 820, 1)],
)
def test_it_is_usable_enlarged_and_on_a_tablet(
    stand: Served, browser: Browser, name: str, width: int, height: int, scale: int
) -> None:
    """200 % of a 1440 px window leaves 720 CSS pixels."""
    trouble: list[str] = []
    size = {"width": width, "height": height}
    with open_page(browser, stand.url, trouble, viewport=size, device_scale_factor=scale) as page:
        sign_in(page, stand.url, "olga")
        for screen in ("overview", "map", "align", "log", "settings"):
            page.goto(stand.url + screen)
            page.wait_for_timeout(500)
            shot(page, f"{name}-{screen}")
            content, window = widest_px(page)
            assert content <= window + 1, (screen, content, window)
            stop = page.locator("#stop").bounding_box()
            assert stop is not None
            assert stop["width"] >= 180
            assert stop["height"] >= 44
            assert stop["x"] >= 0
            assert stop["x"] + stop["width"] <= window
            assert 0 <= stop["y"] < height
    assert trouble == []


def test_a_replay_can_be_wound_back(browser: Browser, finished: Path) -> None:
    trouble: list[str] = []
    with (
        console_on(finished, replay=True) as (url, _),
        open_page(browser, url, trouble) as page,
    ):
        page.goto(url + "align")
        expect(page.locator("#mode")).to_have_text("REPLAY")
        expect(page.locator("#pattern-twin")).to_contain_text("0.52 mrad")
        page.evaluate(
            "() => { const s = document.getElementById('slider'); s.value = '250'; "
            "s.dispatchEvent(new Event('input')); }"
        )
        expect(page.locator("#pattern-twin")).not_to_contain_text("0.52 mrad")
        shot(page, "replay-wound-back")
        page.click("#stop")
        expect(page.locator("#stop-bar")).to_contain_text("this is a replay")


def test_alarms_are_acknowledged_once_and_stay_so(browser: Browser, tmp_path: Path) -> None:
    trouble: list[str] = []
    folder = tmp_path / "run"
    with (
        StandRun(folder, [tilt(1.0, -0.5)]) as run,
        console_on(folder) as (url, _),
        open_page(browser, url, trouble) as page,
    ):
        run.night.say(
            CalibrationAlarmed(
                calibration="camera",
                code="contradicted",
                severity="major",
                message="rings say 2 % longer",
                remedy="calibrate the camera",
            )
        )
        page.goto(url + "log")
        expect(page.locator("#alarm-count")).to_have_text("1!")
        page.click(".alarm details summary")
        shot(page, "alarm")
        page.click("button[data-ack]")
        expect(page.locator(".alarm.seen")).to_contain_text("acknowledged by local operator")
        expect(page.locator("#alarm-count")).to_be_hidden()
    assert trouble == []


def test_chromium_is_there() -> None:
    assert chromium() is None or Path(str(chromium())).exists()
