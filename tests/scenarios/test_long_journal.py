"""A journal of a million entries, replayed as a resumption does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.journal import measured, short_night
from controller.record.journal import read_journal


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_million_entries_are_replayed_in_twenty_seconds(tmp_path: Path) -> None:
    source = short_night(tmp_path / "night")
    lines = [json.loads(raw) for raw in source.read_bytes().splitlines()]
    found = measured(lines, 1_000_000, tmp_path / "long")
    assert found["entries"] == 1_000_000
    assert found["cpu_s"] < 20, found
    assert found["grown_MB"] < 0.25 * found["file_MB"], found


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_long_journal_is_one_that_the_program_reads(tmp_path: Path) -> None:
    source = short_night(tmp_path / "night")
    lines = [json.loads(raw) for raw in source.read_bytes().splitlines()]
    measured(lines, 3_000, tmp_path / "long")
    steps = [
        e.event.step
        for e in read_journal(tmp_path / "long" / "journal.jsonl")
        if e.event.kind == "step_started"
    ]
    assert steps == sorted(set(steps))
