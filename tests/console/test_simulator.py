"""The whole of it: `lodestem assist` on the simulated microscope, in a real browser."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from controller.record.events import Answered, Moved, QueueChanged, RunEnded, TiltFitted
from controller.record.journal import read_journal
from tests.console.conftest import Note, drive, free_port, limit, shot, watch

pytestmark = pytest.mark.console
PLAN = """\
schema: lodestem/plan/1
name: supervised alignment
seed: 1
instrument: {backend: sim, options: {scenario: easy, seed: 1}}
sample: {material: UiO-66}
survey: {field_um: [4.8, 4.8], pixel_size_nm: 10, flux_e_per_A2_s: 1.0e-3, electrons_per_px: 4}
targets: {wanted: 1}
alignment: {budget_e_per_A2: 0.5}
scan: {shape: [44, 44], step_A: 1.5, fluence_e_per_A2: 120}
agent: {look_first: false}
approval: {wait_s: 900, on_silence: skip}
budget: {time_h: 4}
"""
READING_MS = 400_000
"""A pattern is read by thousands of simulated ones; the machines of CI are slow."""


@dataclass
class Assisted:
    """`lodestem assist` at work."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    def events(self, kind: type) -> list[object]:
        path = self.folder / "journal.jsonl"
        found = [entry.event for entry in read_journal(path)] if path.exists() else []
        return [event for event in found if isinstance(event, kind)]


@pytest.fixture
def assisted(tmp_path: Path) -> Iterator[Assisted]:
    plan, folder, port = tmp_path / "plan.yaml", tmp_path / "run", free_port()
    plan.write_text(PLAN)
    program = "from controller.cli.main import run_program; run_program()"
    arguments = ["assist", str(plan), "--out", str(folder), "--port", str(port), "--headless"]
    arguments += ["--speed", "5", "--accounts", str(tmp_path / "none.json")]
    with (tmp_path / "assist.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdout=log, stderr=log
        )
    try:
        deadline_s = time.monotonic() + 300
        while b"console at" not in (tmp_path / "assist.log").read_bytes():
            assert process.poll() is None, (tmp_path / "assist.log").read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.5)
        yield Assisted(f"http://127.0.0.1:{port}/", folder, process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)


STARVED = "silent for"
"""How the server says that it heard nothing of the run for 2 s: somebody else had the processor."""


def wait_for(page: Page, assisted: Assisted, selector: str) -> None:
    """Wait as long as the run lives; on a machine that starves it there is nothing to be seen."""
    deadline_s = time.monotonic() + READING_MS / 1e3
    while page.locator(selector).count() == 0:
        ended = [e for e in assisted.events(RunEnded) if isinstance(e, RunEnded)]
        if ended and STARVED in ended[0].reason and limit(0.0, 1.0):
            pytest.skip(f"the machine starves the run: {ended[0].reason}")
        assert not ended, ended[0].reason
        assert time.monotonic() < deadline_s, f"no {selector}"
        page.wait_for_timeout(250)


def approve(page: Page, assisted: Assisted, action: str) -> None:
    wait_for(page, assisted, f"#card[data-action={action}] #approve:not([disabled])")
    shot(page, f"simulator-{action}")
    before = page.get_attribute("#card", "data-proposal")
    page.click("#approve")
    page.wait_for_function(
        "was => document.getElementById('card')?.dataset.proposal !== was", arg=before
    )


@pytest.mark.timeout(1800)
def test_an_alignment_is_supervised_from_survey_to_axis_and_stopped_in_a_long_move(
    browser: Browser, assisted: Assisted, measured: Note
) -> None:
    trouble: list[str] = []
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    watch(page, assisted.url, trouble)
    page.goto(assisted.url + "align")
    expect(page.locator("#mode")).to_have_text("SIMULATOR")
    expect(page.locator("#beam")).to_have_text("BLANKED", timeout=30_000)
    page.evaluate("() => localStorage.setItem('lodestem-tour', 'seen')")
    page.wait_for_selector("#card", timeout=120_000)
    drive(page)
    approve(page, assisted, "SurveyTile")

    # STOP during the long moves that find the height: blanked, halted, the crystal is kept
    approve(page, assisted, "FindHeight")
    page.wait_for_timeout(1500)
    page.click("#stop")
    expect(page.locator("#stop-bar.confirmed")).to_be_visible()
    measured("stop_in_a_move_ms", page.get_attribute("#stop-bar", "data-ms"))
    expect(page.locator("#chip-word")).to_have_text("STOPPED", timeout=30_000)
    expect(page.locator("#beam")).to_have_text("BLANKED")
    shot(page, "simulator-stopped")
    page.click("#card-column button[data-queue=go_on]")
    page.click("#question .primary")
    next_one = "#card:is([data-action=FindHeight], [data-action=MeasurePattern])"
    wait_for(page, assisted, f"{next_one} #approve:not([disabled])")
    if page.get_attribute("#card", "data-action") == "FindHeight":  # it was not over when stopped
        approve(page, assisted, "FindHeight")
    approve(page, assisted, "MeasurePattern")

    # the tilt, as edited by hand
    wait_for(page, assisted, "#card[data-action=Tilt] #approve:not([disabled])")
    expect(page.locator("#pattern .ln-circle")).to_have_count(1)
    page.reload()
    page.wait_for_selector("#card[data-action=Tilt] #approve:not([disabled])")
    shot(page, "simulator-Tilt")
    for screen in ("overview", "map", "log"):
        page.goto(assisted.url + screen)
        page.wait_for_timeout(1500)
        shot(page, f"simulator-{screen}")
    page.goto(assisted.url + "align")
    page.wait_for_selector("#card[data-action=Tilt] #approve:not([disabled])")
    box = page.locator("#grip").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 3, y + 1, steps=3)
    page.mouse.up()
    expect(page.locator("#quote")).to_contain_text("limits ok")
    shot(page, "simulator-edited")
    page.click("#approve-edit")

    # and the next pattern by delegation; the move after it breaches, and comes back
    wait_for(page, assisted, "#card[data-action=MeasurePattern] #approve:not([disabled])")
    page.click("#delegate summary")
    page.fill("#delegate input[name=moves]", "1")
    page.fill("#delegate input[name=until_error_mrad]", "0")
    page.fill("#delegate input[name=least_confidence]", "0")
    page.click("#delegate-now")
    wait_for(page, assisted, "#card .why:has-text('are used up')")
    shot(page, "simulator-breach")
    page.click("#reject summary")
    page.select_option("#reject select", "bad region")
    page.click("#reject button[data-answer=reject]")
    expect(page.locator(".toast").first).to_be_visible()
    page.wait_for_timeout(1500)
    page.context.close()
    assert trouble == []

    answers = [e for e in assisted.events(Answered) if isinstance(e, Answered)]
    assert {"approve", "edit", "reject"} <= {a.answer for a in answers}
    assert any(a.by.endswith("(delegated)") for a in answers)
    assert any(
        isinstance(e, QueueChanged) and e.what == "stop" for e in assisted.events(QueueChanged)
    )
    fits = [e for e in assisted.events(TiltFitted) if isinstance(e, TiltFitted) and e.answered]
    assert fits[-1].misorientation_deg < fits[0].misorientation_deg
    edited = next(a for a in answers if a.answer == "edit")
    moved = [e for e in assisted.events(Moved) if isinstance(e, Moved)]
    assert any(m.requested.alpha_deg == edited.edited["alpha_deg"] for m in moved)
    assisted.process.send_signal(signal.SIGINT)
    assisted.process.wait(timeout=120)
    (ended,) = assisted.events(RunEnded)
    assert isinstance(ended, RunEnded)
    assert ended.beam_blanked
