"""Disks that fill or may not be written, and clocks that step: nothing is lost, nothing stalls."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.cli.compose import NightResult, run_night
from controller.hardware.clock import VirtualClock
from controller.hardware.errors import StorageError
from controller.record.events import ExposureMade, FrameStored
from controller.record.journal import Entry, read_journal
from controller.record.store import read_frame
from controller.safety.ledger_store import ChargeState, read_ledger
from tests.scenarios.test_nights import events, plan, quick_eyes
from tests.scenarios.test_resume import check_whole, resumed


def refusing(after: int, number: int) -> Callable[[int], None]:
    """A disk that takes `after` more writes and then refuses all, as a full one does."""
    real, left = os.fsync, [after]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        real(descriptor)

    return fsync


def night_on(
    disk: Callable[[int], None], run: Path, monkeypatch: pytest.MonkeyPatch
) -> NightResult | None:
    """A night on that disk; None where not even the report could be written."""
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", disk)
        try:
            return run_night(plan(), run, eyes=quick_eyes(plan()))
        except StorageError:
            return None


def check_kept(run: Path) -> None:
    """Everything that the journal tells of is there, and no beam was left on."""
    told = [e.event for e in read_journal(run / "journal.jsonl")]
    for frame in told:
        if isinstance(frame, FrameStored):
            assert read_frame(run / frame.path).electrons.size
    assert not list((run / "frames").glob("*.part"))
    opened = {e.exposure_id for e in told if isinstance(e, ExposureMade)}
    booked = read_ledger(run / "ledger.sqlite")
    assert opened <= {str(record.booking.exposure_id) for record in booked}
    assert not [record for record in booked if record.state is ChargeState.OPENING]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("after", "number"), [(11, errno.ENOSPC), (24, errno.EROFS)], ids=["full", "read-only"]
)
def test_a_disk_that_refuses_in_the_survey_holds_the_run_and_loses_nothing(
    after: int, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    result = night_on(refusing(after, number), run, monkeypatch)
    assert result is None or (result.ended.outcome, result.ended.beam_blanked) == ("held", True)
    check_kept(run)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_disk_that_fills_at_any_moment_is_freed_and_the_night_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    for number in range(10):
        run = tmp_path / str(number)
        night_on(refusing(rng.randint(3, 250), errno.ENOSPC), run, monkeypatch)
        check_kept(run)
        resumed(run)
        check_whole(run)


@pytest.mark.timeout(900)
def test_a_wall_clock_that_steps_neither_stalls_the_night_nor_lets_it_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hour goes back and a day is skipped: deadlines and hours live on the monotonic clock."""
    clocks: list[VirtualClock] = []
    monkeypatch.setattr(
        "controller.cli.compose.VirtualClock", lambda: clocks.append(VirtualClock()) or clocks[-1]
    )
    steps = iter([-3600.0, 86_400.0, -7200.0])

    def step(entry: Entry) -> None:
        if entry.event.kind == "regions":
            clocks[0].step_utc(next(steps, 0.0))

    result = run_night(plan(), tmp_path / "run", eyes=quick_eyes(plan()), listener=step)
    assert result.ended.outcome == "completed", result.ended.reason
    entries = list(read_journal(tmp_path / "run" / "journal.jsonl"))
    assert [e.clock_s for e in entries] == sorted(e.clock_s for e in entries)
    utc = [e.utc for e in entries]
    assert utc != sorted(utc)
    assert len(events(tmp_path / "run", ExposureMade)) > 20
