"""kill -9 at any entry of the journal: the run goes on, nothing is repeated, nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from controller.cli.compose import NightResult, resume_run
from controller.cli.output import InputError
from controller.record.events import (
    ExposureMade,
    MapChecked,
    RunEnded,
    RunResumed,
    RunStarted,
    ScanTaken,
    StepStarted,
    TargetEnded,
)
from controller.record.journal import read_journal
from controller.safety.ledger_store import ChargeState, read_ledger
from recon.dataset import open_scan
from tests.scenarios.test_nights import events, plan, quick_eyes

ROOT = Path(__file__).parents[2]
NIGHT = """
import os, signal, sys
from pathlib import Path
from controller.cli.compose import resume_run, run_night
from tests.scenarios.test_nights import plan, quick_eyes
run, stop_at, resume = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "resume"
seen = 0
def count(entry):
    global seen
    seen += 1
    if seen == stop_at:
        os.kill(os.getpid(), signal.SIGKILL)
if resume:
    resume_run(run, eyes=quick_eyes(plan()), listener=count)
else:
    run_night(plan(), run, eyes=quick_eyes(plan()), listener=count)
"""


def killed(run: Path, stop_at: int, *, resume: bool = False) -> int:
    """Carry the night out in a process that kills itself after `stop_at` entries."""
    process = subprocess.run(
        [sys.executable, "-c", NIGHT, str(run), str(stop_at), "resume" if resume else "new"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=500,
        check=False,
    )
    return process.returncode


def check_whole(run: Path) -> None:
    """What must hold after any number of interruptions."""
    entries = list(read_journal(run / "journal.jsonl"))
    assert isinstance(entries[0].event, RunStarted)
    assert isinstance(entries[-1].event, RunEnded)
    booked = {str(r.booking.exposure_id): r for r in read_ledger(run / "ledger.sqlite")}
    assert not {r.state for r in booked.values()} & {ChargeState.RESERVED, ChargeState.OPENING}
    openings = Counter(
        e.exposure_id for e in events(run, ExposureMade) if e.state.upper() == "OPENING"
    )
    assert max(openings.values()) == 1, "an exposure was repeated"
    last = {e.exposure_id: e for e in events(run, ExposureMade)}
    for exposure_id, record in booked.items():
        if exposure_id in last:
            assert last[exposure_id].state == record.state.value.upper()
            assert last[exposure_id].charged_e_per_A2 == pytest.approx(record.charged_e_per_A2)
    data = Counter(r.booking.area for r in booked.values() if r.booking.purpose == "data")
    assert all(count == 1 for count in data.values()), "a crystal was scanned twice"
    assert {e.target for e in events(run, ScanTaken)} <= set(data)
    for scan in events(run, ScanTaken):
        assert int(open_scan(run / scan.path).valid.sum()) == scan.frames_committed
    ended = Counter(e.target for e in events(run, TargetEnded))
    assert all(count == 1 for count in ended.values())


def resumed(run: Path) -> NightResult:
    return resume_run(run, eyes=quick_eyes(plan()))


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Kinds of the entries of an undisturbed night, in order."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert killed(run, 10**9) == 0
    return [entry.event.kind for entry in read_journal(run / "journal.jsonl")]


@pytest.mark.timeout(900)
def test_killed_while_a_crystal_is_aligned(entries: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    at = 1 + entries.index("fit")

    assert killed(run, at) == -signal.SIGKILL
    result = resumed(run)

    check_whole(run)
    assert result.ended.outcome == "completed", result.ended.reason
    (back,) = events(run, RunResumed)
    assert back.session == 2
    assert back.before == "the program ended without a word"
    (seen,) = events(run, MapChecked)
    assert seen.found
    assert abs(seen.shift_um[0]) < 0.1
    assert abs(seen.shift_um[1]) < 0.1
    steps = [e.step for e in events(run, StepStarted)]
    assert steps == sorted(set(steps)), "steps are numbered on"
    assert "resumed" in result.report.html.read_text()
    with pytest.raises(InputError, match="is over"):
        resume_run(run, eyes=quick_eyes(plan()))


@pytest.mark.timeout(900)
def test_killed_in_the_scan_and_again_after_it(entries: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    scan = entries.index("scan")
    opening = max(n for n in range(scan) if entries[n] == "exposure") - 1

    assert killed(run, opening + 1) == -signal.SIGKILL  # booked, open, no receipt
    assert killed(run, 9, resume=True) == -signal.SIGKILL
    result = resumed(run)

    check_whole(run)
    ended = events(run, TargetEnded)[0]
    assert ended.status == "failed"
    assert "interrupted during its scan" in ended.reason
    assert len(events(run, RunResumed)) == 2
    assert result.ended.outcome in ("completed", "goals_missed")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run to resume"):
        resume_run(tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(20_000)
def test_a_hundred_kills(entries: list[str], tmp_path: Path) -> None:
    rng = random.Random(4)
    kills = number = 0
    while kills < 100:
        run = tmp_path / f"run-{number}"
        number += 1
        resume = False
        while killed(run, rng.randint(1, len(entries)), resume=resume) != 0:
            kills += 1
            resume = (run / "journal.jsonl").exists()
        check_whole(run)
