"""Whole nights on the simulated microscope, in virtual time; assertions on journal and report."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from controller.cli.compose import NightResult, run_night, shipped_eyes
from controller.cli.main import app
from controller.cli.output import InputError
from controller.decision.approval import Answer, Proposal
from controller.decision.rig import Eyes
from controller.hardware.values import Purpose
from controller.perception.protocols import ReconstructionReading
from controller.plan.demo import demo_plan
from controller.plan.run import RunMode, RunPlan
from controller.record.events import (
    Answered,
    ExposureMade,
    Fault,
    Reconstructed,
    RunEnded,
    ScanHandedOver,
    ScanTaken,
    StepStarted,
    TargetEnded,
    TiltFitted,
)
from controller.record.journal import Entry, comparable, read_journal
from controller.safety.ledger_store import read_ledger


class NoReconstruction:
    """Stands in where the night, not the picture, is looked at."""

    def reconstruct(
        self, scan_path: Path, out_dir: Path, *, expected_defocus_nm: float
    ) -> ReconstructionReading:
        return ReconstructionReading(ok=True, resolution_A=2.0, verdict="not reconstructed")


def plan(seed: int = 1, faults: tuple[str, ...] = (), **changes: Any) -> RunPlan:
    """A short night on the clean scenario: one tile, one scan of 20 x 20 positions."""
    base = demo_plan(seed=seed, scenario="easy")
    options = {"scenario": "easy", "seed": seed, "faults": faults}
    return base.replace(
        instrument=base.instrument.replace(options=options),
        survey=base.survey.replace(field_um=(8.0, 8.0), electrons_per_px=8.0),
        targets=base.targets.replace(wanted=1, minimum=1, max_visited=2, min_score=0.1),
        scan=base.scan.replace(shape=(20, 20)),
        **changes,
    )


def quick_eyes(p: RunPlan) -> Eyes:
    """The shipped picker and aligner, no reconstruction."""
    return replace(shipped_eyes(p), reconstructor=NoReconstruction())


def events(run_dir: Path, kind: type) -> list[Any]:
    found = [entry.event for entry in read_journal(run_dir / "journal.jsonl")]
    return [event for event in found if isinstance(event, kind)]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> NightResult:
    """One undisturbed night with every real part in place."""
    base = plan()
    whole = base.replace(scan=base.scan.replace(shape=(40, 40)))
    return run_night(whole, tmp_path_factory.mktemp("night") / "run")


@pytest.mark.timeout(600)
def test_a_night_ends_with_a_scan_on_its_zone_axis(night: NightResult) -> None:
    data = night.report.data
    assert night.ended.outcome == "completed", night.ended.reason
    assert night.ended.beam_blanked
    done = [t for t in data["targets"] if t["status"] == "done"]
    assert done
    assert all(t["misorientation_after_true_deg"] <= 0.1 for t in done)
    assert all(t["alignment_dose_e_per_A2"] <= 0.5 for t in done)
    assert all(t["resolution_A"] <= 5.0 for t in done)


def test_every_crystal_of_the_queue_has_a_status_and_a_reason(night: NightResult) -> None:
    for target in night.report.data["targets"]:
        assert target["status"] in ("done", "skipped", "failed", "queued")
        if target["status"] in ("skipped", "failed"):
            assert target["reason"]


def test_the_charged_dose_bounds_the_true_one_in_every_cell(night: NightResult) -> None:
    against = night.report.data["dose"]["charged_against_true"]
    assert against["cells"] > 1000
    assert against["cells_below"] == 0, against


def test_the_report_is_one_file_that_asks_for_nothing(night: NightResult) -> None:
    html = night.report.html.read_text(encoding="utf-8")
    assert "SIMULATOR" in html
    assert not re.search(r"""(src|href)=["'](https?:)?//""", html)
    assert "<script" not in html
    assert json.loads(night.report.json.read_text())["targets"] == json.loads(
        json.dumps(night.report.data["targets"])
    )


def test_every_exposure_was_booked_before_the_shutter_opened(night: NightResult) -> None:
    states: dict[str, list[str]] = {}
    for event in events(night.run_dir, ExposureMade):
        states.setdefault(event.exposure_id, []).append(event.state)
    assert states
    for order in states.values():
        assert order[:2] == ["RESERVED", "OPENING"]
        assert order[-1] in ("SETTLED", "UNKNOWN")


def test_a_run_folder_is_never_used_twice(night: NightResult) -> None:
    with pytest.raises(InputError, match="already holds a run"):
        run_night(plan(), night.run_dir)


@pytest.mark.timeout(600)
def test_the_same_seed_is_the_same_night(tmp_path: Path) -> None:
    p = plan(seed=2)
    first = run_night(p, tmp_path / "a", eyes=quick_eyes(p))
    second = run_night(p, tmp_path / "b", eyes=quick_eyes(p))
    assert comparable(first.run_dir / "journal.jsonl") == comparable(
        second.run_dir / "journal.jsonl"
    )


class Script:
    """A person who approves everything but the kinds of action named."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.asked: list[Proposal] = []

    def ask(self, proposal: Proposal, wait_s: float) -> Answer:
        self.asked.append(proposal)
        kind = type(proposal.action).__name__
        return self.answers.get(kind, Answer("approve", by="A. Kim"))


@pytest.mark.timeout(600)
def test_a_supervised_run_asks_and_obeys(tmp_path: Path) -> None:
    p = plan()
    person = Script(
        AcquireScan=Answer("edit", by="A. Kim", changes={"fluence_e_per_A2": 60.0}),
    )
    run_night(p, tmp_path, mode=RunMode.SUPERVISED, approver=person, eyes=quick_eyes(p))
    kinds = {type(proposal.action).__name__ for proposal in person.asked}
    assert {"SurveyTile", "FindHeight", "MeasurePattern", "AcquireScan"} <= kinds
    assert all(p.cost_e_per_A2 > 0 for p in person.asked)
    scans = events(tmp_path, ScanTaken)
    assert [scan.fluence_e_per_A2 for scan in scans] == [60.0]


@pytest.mark.timeout(600)
def test_what_is_rejected_is_not_done_and_the_reason_is_kept(tmp_path: Path) -> None:
    p = plan()
    person = Script(MeasurePattern=Answer("reject", by="A. Kim", reason="looks bent"))
    run_night(p, tmp_path, mode=RunMode.SUPERVISED, approver=person, eyes=quick_eyes(p))
    assert not events(tmp_path, TiltFitted)
    ended = events(tmp_path, TargetEnded)
    assert ended
    assert all("looks bent" in event.reason for event in ended)


@pytest.mark.timeout(600)
def test_silence_holds_the_run_with_the_beam_blanked(tmp_path: Path) -> None:
    p = plan()
    person = Script(FindHeight=Answer("silence", by="nobody"))
    result = run_night(p, tmp_path, mode=RunMode.SUPERVISED, approver=person, eyes=quick_eyes(p))
    assert result.ended.outcome == "held"
    assert result.ended.beam_blanked
    assert events(tmp_path, Answered)[-1].answer == "hold"


@pytest.mark.timeout(600)
def test_ctrl_c_in_a_scan_blanks_keeps_and_reports(tmp_path: Path) -> None:
    p = plan()

    def interrupt(entry: Entry) -> None:
        event = entry.event
        if (
            isinstance(event, ExposureMade)
            and event.purpose is Purpose.DATA
            and event.state == "OPENING"
        ):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_night(p, tmp_path, eyes=quick_eyes(p), listener=interrupt)
    (ended,) = events(tmp_path, RunEnded)
    assert ended.outcome == "stopped"
    assert ended.beam_blanked
    assert (tmp_path / "report.html").is_file()
    last = [e for e in events(tmp_path, ExposureMade) if e.purpose is Purpose.DATA][-1]
    assert last.state in ("SETTLED", "UNKNOWN")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "fault", ["valve-closes@20s", "camera-timeout@25s", "stage-not-reached@30s", "current-jump@15s"]
)
def test_a_fault_is_handled_recorded_and_leaves_the_beam_blanked(
    fault: str, tmp_path: Path
) -> None:
    p = plan(faults=(fault,))
    result = run_night(p, tmp_path, eyes=quick_eyes(p))
    assert result.ended.beam_blanked
    steps = events(tmp_path, StepStarted)
    assert steps
    for event in events(tmp_path, Fault):
        assert event.handled
        assert event.beam_state in ("blanked", "unknown")
    against = result.report.data["dose"]["charged_against_true"]
    assert against["cells_below"] == 0


def test_a_fault_that_does_not_exist_is_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="valve"):
        run_night(plan(faults=("no-such-fault@3s",)), tmp_path)
    assert not (tmp_path / "journal.jsonl").exists()


def test_a_plan_that_cannot_work_is_refused_before_any_beam_with_all_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = plan()
    hopeless = base.replace(
        scan=base.scan.replace(fluence_e_per_A2=400.0),
        limits=base.limits.replace(alpha_deg=(-70.0, 70.0)),
        instrument=base.instrument.replace(calibration=tmp_path / "none.yaml"),
    )
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError) as refused:
        run_night(hopeless, tmp_path / "run")
    for words in ("books up to", "the holder allows", "none.yaml is no file", "0.1 GB free"):
        assert words in str(refused.value)
    assert not (tmp_path / "run" / "journal.jsonl").exists()
    assert not list((tmp_path / "run").glob("frames/*"))
    assert not read_ledger(tmp_path / "run" / "ledger.sqlite")


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_ten_nights_of_the_typical_scenario(tmp_path: Path) -> None:
    """A different seed is a different night that also succeeds."""
    done = []
    for seed in range(1, 11):
        result = run_night(demo_plan(seed=seed), tmp_path / str(seed))
        counted = [t for t in result.report.data["targets"] if t["status"] == "done"]
        assert all(t["misorientation_after_true_deg"] <= 0.1 for t in counted)
        assert result.report.data["dose"]["charged_against_true"]["cells_below"] == 0
        done.append(len(counted))
    assert np.median(done) >= 3, done
    assert min(done) >= 2, done


def test_the_queue_of_a_night_that_is_over_can_be_read_and_not_changed(night: NightResult) -> None:
    listed = CliRunner().invoke(app, ["queue", "list", str(night.run_dir), "--json"])
    rows = json.loads(listed.stdout)["result"]["queue"]
    assert "done" in {row["status"] for row in rows}
    refused = CliRunner().invoke(app, ["queue", "pause", str(night.run_dir)])
    assert refused.exit_code == 2
    assert "the run is over" in refused.stderr


@pytest.mark.timeout(600)
def test_scans_are_reconstructed_beside_the_night(tmp_path: Path) -> None:
    base = plan()
    beside = base.replace(reconstruction=base.reconstruction.replace(workers=1))
    result = run_night(beside, tmp_path / "run", eyes=quick_eyes(base))
    assert result.ended.outcome == "completed", result.ended.reason
    kinds = [type(e.event) for e in read_journal(tmp_path / "run" / "journal.jsonl")]
    order = [k for k in kinds if k in (ScanTaken, ScanHandedOver, Reconstructed, TargetEnded)]
    assert order[-4:] == [ScanTaken, ScanHandedOver, Reconstructed, TargetEnded]
