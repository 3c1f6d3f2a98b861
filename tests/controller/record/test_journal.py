"""The journal keeps what happened: durable, chained, and honest about damage."""

import errno
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.hardware.clock import VirtualClock
from controller.hardware.errors import DiskFullError
from controller.record.events import HeightFound, RunEnded, StepEnded, StepStarted
from controller.record.journal import (
    GENESIS,
    Entry,
    Journal,
    JournalError,
    chained,
    comparable,
    read_journal,
)


def written(path: Path, count: int = 5) -> Path:
    clock = VirtualClock()
    with Journal(path, clock) as journal:
        for step in range(count):
            clock.sleep(1.5)
            journal.append(StepEnded(step=step, ok=step % 2 == 0))
    return path


@pytest.fixture
def journal_file(tmp_path: Path) -> Path:
    return written(tmp_path / "journal.jsonl")


def test_what_was_appended_comes_back_in_order_with_both_times(journal_file: Path) -> None:
    entries = list(read_journal(journal_file))
    assert [entry.sequence for entry in entries] == [0, 1, 2, 3, 4]
    assert [entry.event for entry in entries] == [
        StepEnded(step=step, ok=step % 2 == 0) for step in range(5)
    ]
    assert [entry.clock_s for entry in entries] == [1.5, 3.0, 4.5, 6.0, 7.5]
    assert entries[0].utc == "2026-01-01T20:00:01.500000+00:00"


def test_a_line_is_on_disk_before_append_returns_and_before_listeners_hear(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    heard: list[int] = []
    with Journal(path, VirtualClock()) as journal:
        journal.listen(lambda entry: heard.append(len(list(read_journal(path)))))
        journal.append(StepEnded(step=0, ok=True))
        journal.append(StepEnded(step=1, ok=True))
    assert heard == [1, 2]


def test_every_line_carries_the_hash_of_the_one_before(journal_file: Path) -> None:
    lines = [json.loads(line) for line in journal_file.read_text().splitlines()]
    assert [line["prev"] for line in lines] == [GENESIS] + [line["hash"] for line in lines[:-1]]


def test_a_torn_last_line_is_passed_over_and_overwritten_when_the_run_goes_on(
    journal_file: Path,
) -> None:
    whole = journal_file.read_bytes()
    journal_file.write_bytes(whole[:-20])
    assert len(list(read_journal(journal_file))) == 4
    with Journal(journal_file, VirtualClock()) as journal:
        journal.append(StepEnded(step=99, ok=True))
    entries = list(read_journal(journal_file))
    assert [entry.sequence for entry in entries] == [0, 1, 2, 3, 4]
    assert entries[-1].event == StepEnded(step=99, ok=True)


@given(cut=st.integers(min_value=0, max_value=2000))
def test_a_cut_at_any_byte_loses_at_most_the_torn_line(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.mktemp("cut") / "journal.jsonl")
    whole = path.read_bytes()[:cut]
    path.write_bytes(whole)
    assert len(list(read_journal(path))) == whole.count(b"\n")


def _drop_second(lines: list[str]) -> list[str]:
    return [lines[0], *lines[2:]]


def _swap(lines: list[str]) -> list[str]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def _repeat(lines: list[str]) -> list[str]:
    return [*lines[:2], lines[1], *lines[2:]]


def _alter(lines: list[str]) -> list[str]:
    return [lines[0], lines[1].replace('"ok":false', '"ok":true'), *lines[2:]]


def _rubbish(lines: list[str]) -> list[str]:
    return [lines[0], "not json", *lines[1:]]


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (_drop_second, "line 2: the chain is broken (sequence 2, expected 1)"),
        (_swap, "line 2: the chain is broken (sequence 2, expected 1)"),
        (_repeat, "line 3: the chain is broken (sequence 1, expected 2)"),
        (_alter, "line 2: the hash does not match, the line was altered"),
        (_rubbish, "line 2: not a journal line"),
    ],
)
def test_tampering_is_an_error_that_names_the_line_and_what_is_intact(
    journal_file: Path, tamper: Callable[[list[str]], list[str]], words: str
) -> None:
    lines = tamper(journal_file.read_text().splitlines())
    journal_file.write_text("\n".join(lines) + "\n")
    intact: list[Entry] = []
    with pytest.raises(JournalError) as caught:
        intact.extend(read_journal(journal_file))
    assert words in str(caught.value)
    assert "intact" in str(caught.value)
    assert len(intact) == int(words.split(":")[0].removeprefix("line ")) - 1


def test_a_tampered_journal_is_not_continued(journal_file: Path) -> None:
    lines = _alter(journal_file.read_text().splitlines())
    journal_file.write_text("\n".join(lines) + "\n")
    before = journal_file.read_bytes()
    with pytest.raises(JournalError, match="altered"):
        Journal(journal_file, VirtualClock())
    assert journal_file.read_bytes() == before


def test_an_event_of_another_version_is_named_with_both_versions(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    line = {
        "v": 7,
        "seq": 0,
        "utc": "2030-01-01T00:00:00+00:00",
        "clock_s": 0.0,
        "event": {"kind": "teleported"},
        "prev": GENESIS,
    }
    path.write_bytes(chained(line)[0])
    with pytest.raises(JournalError, match="journal version 7, ours 1"):
        list(read_journal(path))


def test_infinite_numbers_never_reach_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    event = HeightFound(target="T01", offset_um=float("nan"), sigma_um=0.1, ok=True, applied=False)
    with Journal(path, VirtualClock()) as journal, pytest.raises(ValueError, match="JSON"):
        journal.append(event)
    assert path.read_bytes() == b""


def test_two_equal_runs_at_other_times_compare_equal_and_different_ones_do_not(
    tmp_path: Path,
) -> None:
    one, two, other = (tmp_path / f"{name}.jsonl" for name in ("one", "two", "other"))
    written(one)
    clock = VirtualClock()
    clock.step_utc(3600.0)
    with Journal(two, clock) as journal:
        for step in range(5):
            clock.sleep(1.5)
            journal.append(StepEnded(step=step, ok=step % 2 == 0))
    written(other)
    with Journal(other, VirtualClock()) as journal:
        journal.append(RunEnded(outcome="stopped", reason="", beam_blanked=True))
    assert one.read_bytes() != two.read_bytes()
    assert comparable(one) == comparable(two)
    assert comparable(one) != comparable(other)


def test_how_long_a_computation_took_does_not_make_two_runs_differ(tmp_path: Path) -> None:
    paths = [tmp_path / "fast.jsonl", tmp_path / "slow.jsonl"]
    for path, elapsed_ms in zip(paths, (12.0, 99.0), strict=True):
        details = {"fit": [{"elapsed_ms": elapsed_ms, "sigma_mrad": 0.4}], "host": path.stem}
        with Journal(path, VirtualClock()) as journal:
            journal.append(
                StepStarted(step=0, action="Tilt", target="T01", details=details, reason="")
            )
    assert comparable(paths[0]) == comparable(paths[1])
    assert comparable(paths[0])[0]["event"]["details"] == {"fit": [{"sigma_mrad": 0.4}]}


def test_a_line_that_the_disk_refuses_leaves_no_half_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, VirtualClock()) as journal:
        journal.append(StepEnded(step=0, ok=True))
        whole = path.read_bytes()
        real = os.fsync

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match="the journal could not be written"):
            journal.append(StepEnded(step=1, ok=True))
        assert path.read_bytes() == whole
        monkeypatch.setattr(os, "fsync", real)
        journal.append(StepEnded(step=2, ok=True))
    assert [entry.event.step for entry in read_journal(path)] == [0, 2]


def long_journal(path: Path, count: int) -> None:
    clock, prev = "2030-01-01T00:00:00+00:00", GENESIS
    with path.open("wb") as file:
        for n in range(count):
            event = StepEnded(step=n, ok=True).model_dump(mode="json")
            line = {"v": 1, "seq": n, "utc": clock, "clock_s": 0.5 * n, "event": event}
            raw, prev = chained(line | {"prev": prev})
            file.write(raw)


def test_reading_takes_the_memory_of_a_line_however_long_the_journal(tmp_path: Path) -> None:
    peaks = []
    for count in (500, 5000):
        path = tmp_path / f"{count}.jsonl"
        long_journal(path, count)
        tracemalloc.start()
        assert sum(1 for _ in read_journal(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 2 * peaks[1]
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.parametrize("torn", [0, 1, 7, 200_000])
def test_a_torn_tail_of_any_length_is_cut_and_nothing_else(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "journal.jsonl"
    long_journal(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole + b"{" * torn)
    with Journal(path, VirtualClock()) as journal:
        assert path.read_bytes() == whole
        assert journal.append(StepEnded(step=3, ok=True)).sequence == 3
    assert len(list(read_journal(path))) == 4


@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_no_flipped_byte_goes_unnoticed(at: int, flip: int) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        long_journal(path, 3)
        raw = bytearray(path.read_bytes())
        at %= len(raw)
        raw[at] ^= flip
        path.write_bytes(bytes(raw))
        number = 1 + bytes(raw[:at]).count(b"\n")
        intact: list[Entry] = []
        if at == len(raw) - 1:  # the last newline: a torn line, which is passed over
            assert len(list(read_journal(path))) == 2
            return
        with pytest.raises(JournalError, match=rf"line {number}\b"):
            intact.extend(read_journal(path))
        assert len(intact) == number - 1
