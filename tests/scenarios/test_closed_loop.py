"""The alignment loop closed over the simulated stage: where crystals end, at what cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.closed_loop import Outcome, outcomes, run_one, summarise
from controller.record.events import (
    BeamTilted,
    FrameStored,
    PosteriorUpdated,
    ScanTaken,
    StepStarted,
    ZoneChosen,
)
from controller.record.journal import read_journal

Night = tuple[Path, list[Outcome]]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Six crystals of one night."""
    folder = tmp_path_factory.mktemp("loop") / "run"
    return folder, run_one(4, folder, 6)


@pytest.mark.timeout(600)
def test_crystals_end_on_their_axis_at_a_tenth_of_the_dose_budget(night: Night) -> None:
    figures = summarise(night[1])
    assert figures["crystals"] >= 4
    assert figures["within_0.05_deg_percent"] >= 80
    assert figures["median_end_deg"] <= 0.025
    assert figures["median_charged_e_per_A2"] <= 0.05
    assert figures["max_charged_e_per_A2"] <= 0.5
    assert figures["median_patterns"] <= 4


def test_the_figures_are_those_of_the_ledger(night: Night) -> None:
    """The sum over exposures is never below what the ledger holds at the crystal's centre."""
    folder, rows = night
    ended = {
        e.event.target: e.event.dose_before_scan_e_per_A2
        for e in read_journal(folder / "journal.jsonl")
        if e.event.kind == "target_ended"
    }
    for row in rows:
        # the ledger adds the survey, and pictures of neighbours
        assert row.charged_e_per_A2 <= ended[row.crystal] + 1e-9
        assert row.charged_e_per_A2 == pytest.approx(row.patterns_e_per_A2 + row.pictures_e_per_A2)


def test_the_scan_keeps_the_beam_tilt_and_the_next_crystal_does_not(night: Night) -> None:
    tilt: dict[str, tuple[float, float]] = {}
    scans = 0
    for entry in read_journal(night[0] / "journal.jsonl"):
        event = entry.event
        if isinstance(event, BeamTilted):
            tilt[event.target] = event.achieved_mrad
        elif isinstance(event, FrameStored) and event.target is not None:
            expected = (0.0, 0.0) if event.role == "track" else tilt.get(event.target, (0.0, 0.0))
            assert event.optics.beam_tilt_mrad == expected
        elif isinstance(event, ScanTaken):
            assert event.optics.beam_tilt_mrad == tilt[event.target] != (0.0, 0.0)
            scans += 1
    assert scans >= 3


def test_the_journal_tells_what_was_forecast_and_what_came(night: Night) -> None:
    events = [entry.event for entry in read_journal(night[0] / "journal.jsonl")]
    told = [e for e in events if isinstance(e, PosteriorUpdated) and e.surprise is not None]
    assert len(told) >= 4
    assert np.median([e.surprise for e in told]) < 2.5
    chosen = [e for e in events if isinstance(e, ZoneChosen)]
    reasons = [e.reason for e in events if isinstance(e, StepStarted) and e.action == "ChooseZone"]
    assert len(chosen) == len(reasons)
    assert all(
        len(e.candidates) > 3 and "e/A2" in why for e, why in zip(chosen, reasons, strict=True)
    )


def test_the_instrument_is_better_known_after_the_night(night: Night) -> None:
    sigma = [
        entry.event.azimuth_sigma_deg
        for entry in read_journal(night[0] / "journal.jsonl")
        if isinstance(entry.event, PosteriorUpdated)
    ]
    assert sigma[-1] < 0.4 * sigma[0]


def test_a_finished_night_can_be_read_again(night: Night) -> None:
    assert outcomes(night[0], 4) == night[1]


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_two_hundred_crystals_end_on_their_axis(tmp_path: Path) -> None:
    rows: list[Outcome] = []
    seed = 1000
    while len(rows) < 200:
        rows += run_one(seed, tmp_path / str(seed))
        seed += 1
    figures = summarise(rows)
    assert figures["within_0.05_deg_percent"] >= 95, figures
    assert figures["median_charged_e_per_A2"] <= 0.05, figures
    assert figures["max_charged_e_per_A2"] <= 0.5, figures
    assert figures["median_patterns"] <= 4, figures
