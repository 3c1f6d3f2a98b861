"""Nights in which disk, eyes, people and programs fail: recorded, answered, beam blanked.

The faults are named in the plan's options, as an operator would name them.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from controller.cli.compose import NightResult, run_night
from controller.hardware.faults import FAULTS, Place
from controller.plan.run import RunMode
from controller.record.events import (
    Answered,
    ExposureMade,
    Fault,
    RegionsFound,
    RunEnded,
    StepStarted,
    TargetEnded,
)
from controller.record.journal import read_journal
from tests.conformance.fault_bench import DISPLACING
from tests.scenarios.test_nights import Script, events, plan, quick_eyes

pytestmark = pytest.mark.timeout(600)


def night(folder: Path, *faults: str, **how: Any) -> NightResult:
    p = plan(faults=faults)
    return run_night(p, folder / "run", eyes=quick_eyes(p), **how)


def hold_the_invariants(result: NightResult, *, is_displaced: bool = False) -> None:
    """What is true of every night, whatever has failed in it.

    Where the specimen was displaced against the read-back the map of the ledger is, too, and
    cells cannot be compared (docs/safety.md).
    """
    assert result.ended.beam_blanked
    run = result.run_dir
    below = result.report.data["dose"]["charged_against_true"]["cells_below"]
    assert below == 0 or is_displaced
    openings = Counter(e.exposure_id for e in events(run, ExposureMade) if e.state == "OPENING")
    assert openings
    assert max(openings.values()) == 1
    told = events(run, Fault)
    assert all(fault.handled for fault in told)
    assert [f["error"] for f in result.report.data["faults"]] == [f.error for f in told]


def test_a_full_disk_stops_the_run_before_the_next_exposure(tmp_path: Path) -> None:
    result = night(tmp_path, "disk-full@0")
    hold_the_invariants(result)
    assert result.ended.outcome == "held"
    assert [fault.error for fault in events(result.run_dir, Fault)] == ["DiskFull"]
    kinds = [type(entry.event) for entry in read_journal(result.run_dir / "journal.jsonl")]
    after = kinds[kinds.index(Fault) :]
    assert ExposureMade not in after


@pytest.mark.soak
def test_a_damaged_scan_file_is_noticed_and_costs_one_crystal(tmp_path: Path) -> None:
    result = night(tmp_path, "file-corrupt@0")
    hold_the_invariants(result)
    assert "ChecksumMismatch" in [fault.error for fault in events(result.run_dir, Fault)]
    failed = [e for e in events(result.run_dir, TargetEnded) if e.status == "failed"]
    assert any("checksum" in event.reason for event in failed)


def test_regions_that_are_no_numbers_never_reach_the_stage(tmp_path: Path) -> None:
    result = night(tmp_path, "regions-nan@0")
    hold_the_invariants(result)
    tiles = events(result.run_dir, RegionsFound)
    assert "regions cannot be" in tiles[0].reason
    for seen in tiles:
        assert all(math.isfinite(pick.x_um) and math.isfinite(pick.score) for pick in seen.picks)


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["regions-empty", "regions-everywhere"])
def test_a_picture_without_believable_regions_brings_no_target_and_the_others_do(
    fault: str, tmp_path: Path
) -> None:
    result = night(tmp_path, f"{fault}@0")
    hold_the_invariants(result)
    first, *others = events(result.run_dir, RegionsFound)
    assert first.picks == ()
    assert any(seen.picks for seen in others)
    assert result.ended.outcome == "completed", result.ended.reason


@pytest.mark.soak
def test_an_exposure_asked_for_twice_opens_the_beam_once(tmp_path: Path) -> None:
    result = night(tmp_path, "exposure-repeated@0", "exposure-repeated@20s")
    hold_the_invariants(result)
    assert result.ended.outcome == "completed", result.ended.reason


@pytest.mark.soak
def test_a_dead_owner_of_the_ledger_keeps_nobody_out(tmp_path: Path) -> None:
    result = night(tmp_path, "stale-lock@0", "regions-empty@0")
    hold_the_invariants(result)


@pytest.mark.soak
def test_a_run_that_was_suspended_between_any_two_steps_goes_on_where_it_was(
    tmp_path: Path,
) -> None:
    """A pause of a minute before every step of a night."""
    steps = range(1, 200)
    result = night(tmp_path, *(f"suspended@turn:{n}" for n in steps))
    hold_the_invariants(result)
    started = events(result.run_dir, StepStarted)
    assert len(started) < len(steps), "the last steps were not paused"
    assert result.ended.outcome in ("completed", "goals_missed"), result.ended.reason
    entries = list(read_journal(result.run_dir / "journal.jsonl"))
    assert entries[-1].clock_s - entries[0].clock_s > 55 * len(started)


@pytest.mark.parametrize(("fault", "error"), [("gun-off", "GunOff"), ("ht-trip", "HighTensionOff")])
def test_a_source_that_is_off_waits_for_a_person_and_costs_no_crystal(
    fault: str, error: str, tmp_path: Path
) -> None:
    """It strikes when the illumination is changed for the first crystal."""
    result = night(tmp_path, f"{fault}@25s")
    hold_the_invariants(result)
    assert result.ended.outcome == "held"
    assert [fault.error for fault in events(result.run_dir, Fault)] == [error]
    assert not [e for e in events(result.run_dir, TargetEnded) if e.status == "skipped"]


def test_a_proposal_that_nobody_answers_holds_the_run(tmp_path: Path) -> None:
    result = night(tmp_path, "approval-silence@0", mode=RunMode.SUPERVISED, approver=Script())
    assert result.ended.beam_blanked
    assert result.ended.outcome == "held"
    assert not [e for e in events(result.run_dir, ExposureMade) if e.purpose.value == "survey"]
    assert events(result.run_dir, Answered)[-1].by == "nobody"


def in_a_child(folder: Path, *faults: str) -> int:
    """Run a night in a process of its own; its exit code."""
    child = os.fork()
    if child == 0:
        try:
            night(folder, *faults)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_program_that_dies_between_steps_leaves_a_journal_to_report_from(
    tmp_path: Path,
) -> None:
    assert in_a_child(tmp_path, "client-crash@turn:4") == 137
    run = tmp_path / "run"
    assert len(events(run, StepStarted)) == 3
    assert not events(run, RunEnded)
    states: dict[str, str] = {}
    for event in events(run, ExposureMade):
        states[event.exposure_id] = event.state
    assert set(states.values()) <= {"SETTLED", "RELEASED"}


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["circle-inverted", "circle-ambiguous", "regions-shifted"])
def test_eyes_that_err_once_do_not_end_the_night(fault: str, tmp_path: Path) -> None:
    result = night(tmp_path, f"{fault}@0")
    hold_the_invariants(result)
    assert result.ended.outcome in ("completed", "goals_missed"), result.ended.reason
    for target in result.report.data["targets"]:
        if target["status"] == "done":
            assert target["misorientation_after_true_deg"] <= 0.3


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_every_fault_of_the_list_in_a_night_of_its_own(tmp_path: Path) -> None:
    """(a) charged, (b) blanked, (e) opened once, (f) recorded and reported, (g) not ended by it."""
    ends = {}
    for name, kind in sorted(FAULTS.items()):
        if kind.place is Place.LINK or name in ("client-crash", "client-hang", "server-crash"):
            continue
        result = night(tmp_path / name, f"{name}@25s")
        hold_the_invariants(result, is_displaced=name in DISPLACING)
        assert result.ended.outcome != "fault", (name, result.ended.reason)
        json.dumps(result.report.data["faults"])
        ends[name] = result.ended.outcome
    print(ends)  # noqa: T201
