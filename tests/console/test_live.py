"""Pictures five times a second for four viewers, and what a page costs."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from playwright.sync_api import Browser, Page

from tests.console.conftest import Note, console_on, limit, watch
from tests.console.stand import Hardware, StandRun, tilt

pytestmark = pytest.mark.console
VIEWERS = 4
SECONDS = 12
WINDOWS = 4
"""A machine that others work on has quiet moments: the promise has to hold in one of so many."""
LEAST_HZ = 4.0
P95_MS = 400.0
WIDE_HZ, WIDE_MS = 1.5, 4000.0
PAGE_BYTES = 400_000
HEAP_BYTES = 20_000_000
RECORD = """async () => {
    const { live, serverNow } = await import('/static/shell.js');
    window.seen = [];
    live.addEventListener('picture', (event) => {
        const header = event.detail.header;
        if (header.live) window.seen.push(serverNow() - Date.parse(header.utc));
    });
}"""


def window(pages: list[Page]) -> tuple[list[float], float]:
    """Pictures a second for each viewer, and the delay that 95 % of them stay below, ms."""
    for page in pages:
        page.evaluate("() => { window.seen.length = 0 }")
    began_s = time.monotonic()
    pages[0].wait_for_timeout(1000 * SECONDS)
    delays = [[float(ms) for ms in page.evaluate("() => window.seen")] for page in pages]
    took_s = time.monotonic() - began_s
    every = sorted(ms for seen in delays for ms in seen)
    return [len(seen) / took_s for seen in delays], every[int(0.95 * len(every))]


@pytest.mark.timeout(600)
def test_four_viewers_get_four_pictures_a_second_without_delay(
    browser: Browser, tmp_path: Path, measured: Note
) -> None:
    trouble: list[str] = []
    with TemporaryDirectory(prefix="lds") as sockets:
        hardware = Hardware(f"ipc://{sockets}/s", frames_hz=5.0, size=512)
        with (
            StandRun(tmp_path / "run", [tilt(1.0, -0.5)]),
            console_on(tmp_path / "run", hardware=hardware.url) as (url, _),
        ):
            pages = []
            for _ in range(VIEWERS):
                page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
                watch(page, url, trouble)
                page.goto(url + "align")
                pages.append(page)
            pages[0].wait_for_timeout(3000)
            for page in pages:
                page.evaluate(RECORD)
            for _ in range(WINDOWS):
                rates_hz, p95_ms = window(pages)
                measured("rates_hz", rates_hz)
                measured("p95_ms", p95_ms)
                least_hz, most_ms = limit(LEAST_HZ, WIDE_HZ), limit(P95_MS, WIDE_MS)
                if min(rates_hz) >= least_hz and p95_ms < most_ms:
                    break
            for page in pages:
                page.context.close()
        hardware.close()
    assert min(rates_hz) >= least_hz, (rates_hz, p95_ms)
    assert p95_ms < most_ms, (rates_hz, p95_ms)
    assert trouble == []


def test_a_page_is_light(browser: Browser, tmp_path: Path, measured: Note) -> None:
    with (
        StandRun(tmp_path / "run", [tilt(1.0, -0.5)]),
        console_on(tmp_path / "run") as (url, _),
    ):
        page = browser.new_context().new_page()
        sizes: list[int] = []
        page.on("response", lambda r: sizes.append(len(r.body())) if r.status == 200 else None)
        page.goto(url + "align")
        page.wait_for_timeout(1500)
        page.context.close()
    measured("page_bytes", sum(sizes))
    assert sum(sizes) < PAGE_BYTES


@pytest.mark.timeout(600)
def test_the_heap_stays_where_it_was(browser: Browser, tmp_path: Path, measured: Note) -> None:
    with TemporaryDirectory(prefix="lds") as sockets:
        hardware = Hardware(f"ipc://{sockets}/s", frames_hz=5.0, size=512)
        with (
            StandRun(tmp_path / "run", [tilt(1.0, -0.5)]),
            console_on(tmp_path / "run", hardware=hardware.url) as (url, _),
        ):
            page = browser.new_context().new_page()
            page.goto(url + "align")
            page.wait_for_timeout(5000)
            began = heap_bytes(page)
            page.wait_for_timeout(180_000)
            ended = heap_bytes(page)
            page.context.close()
        hardware.close()
    measured("heap_growth_bytes", ended - began)
    assert ended - began < HEAP_BYTES


def heap_bytes(page: Page) -> int:
    """Used by scripts, after the garbage was collected."""
    return int(page.evaluate("() => { window.gc?.(); return performance.memory.usedJSHeapSize }"))
