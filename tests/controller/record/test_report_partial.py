"""A run that was stopped, cut off or damaged anywhere gets a report that says so."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from controller.record.journal import JournalError
from controller.record.report import build_report
from controller.record.report.story import read_night


def cut(run: Path, copy: Path, lines: int, *, torn: bool = False) -> Path:
    shutil.copytree(run, copy)
    kept = (run / "journal.jsonl").read_bytes().split(b"\n")[:lines]
    tail = b'{"clock_s": 12, "ev' if torn else b""
    (copy / "journal.jsonl").write_bytes(b"".join(line + b"\n" for line in kept) + tail)
    return copy


def test_a_journal_cut_after_any_line_still_gives_a_report(a_night: Any, tmp_path: Path) -> None:
    total = (a_night.folder / "journal.jsonl").read_bytes().count(b"\n")
    for lines in range(0, total, 9):
        run = cut(a_night.folder, tmp_path / f"cut{lines}", lines, torn=lines % 2 == 1)
        data = build_report(run).data
        assert data["run"]["entries"] == lines
        if 0 < lines < total:
            assert data["run"]["outcome"] is None
            assert any("no end" in need["what"] for need in data["needs_you"])


def test_an_empty_folder_gives_a_report_that_nothing_was_recorded(tmp_path: Path) -> None:
    result = build_report(tmp_path)
    assert result.data["verdict"].startswith("Nothing was recorded")
    assert "journal" in result.html.read_text(encoding="utf-8")


def test_a_crystal_under_way_is_unfinished_and_its_dose_comes_from_the_exposures(
    night: Any,
) -> None:
    night.start()
    night.survey([(80, 90)], ["T01"])
    night.pattern("T01", 2.5, _pose())
    data = build_report(night.folder).data
    target = data["targets"][0]
    assert target["status"] == "unfinished"
    assert target["alignment_dose_e_per_A2"] == pytest.approx(0.03)
    assert target["scan_dose_e_per_A2"] == 0


def test_released_exposures_cost_nothing_and_unknown_ones_are_counted(night: Any) -> None:
    from controller.hardware.values import Purpose

    night.start()
    night.survey([(80, 90)], ["T01"])
    night.expose("T01", Purpose.ALIGN, 0.4, state="RELEASED")
    night.expose("T01", Purpose.ALIGN, 0.05, state="UNKNOWN")
    data = build_report(night.folder).data
    assert data["targets"][0]["alignment_dose_e_per_A2"] == pytest.approx(0.05)
    align = next(row for row in data["dose"]["by_purpose"] if row["purpose"] == "align")
    assert (align["exposures"], align["unknown"]) == (1, 1)


def test_what_stands_before_the_damage_is_reported(a_night: Any) -> None:
    path = a_night.folder / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[40] = lines[40].replace(b'"seq":40', b'"seq":41')
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(JournalError):
        list(__import__("controller.record.journal", fromlist=["x"]).read_journal(path))
    data = build_report(a_night.folder).data
    assert data["run"]["entries"] == 40
    assert data["needs_you"][0]["weight"] == "now"
    assert "line 41" in data["needs_you"][0]["what"]


def test_missing_data_are_named_and_the_rest_is_shown(a_night: Any) -> None:
    shutil.rmtree(a_night.folder / "frames")
    shutil.rmtree(a_night.folder / "reconstructions")
    result = build_report(a_night.folder)
    html = result.html.read_text(encoding="utf-8")
    assert "cannot be read" in html
    assert "the reconstruction cannot be shown" in html
    assert "virtual bright field" in html
    missing = {file["path"] for file in result.data["files"] if file["check"] == "missing"}
    assert any(path.startswith("frames/") for path in missing)


@pytest.mark.parametrize("name", ["ledger.sqlite", "truth.h5"])
def test_a_damaged_ledger_or_truth_is_named_and_does_not_matter(a_night: Any, name: str) -> None:
    (a_night.folder / name).write_bytes(b"not what it should be" * 99)
    data = build_report(a_night.folder).data
    assert any("cannot be read" in problem for problem in data["problems"])
    assert data["counts"]["done"] == 1


def test_a_beam_that_was_left_open_comes_first(night: Any) -> None:
    night.start()
    night.survey([(80, 90)], ["T01"])
    night.finish_target("T01", "failed", "x")
    night.fault("T01", error="BlankUnconfirmed", beam="unknown")
    night.finish(outcome="fault", blanked=False)
    needs = build_report(night.folder).data["needs_you"]
    assert needs[0]["weight"] == "now"
    assert "without a confirmed blank" in needs[0]["what"]
    assert "unknown" in " ".join(need["what"] for need in needs if need["weight"] == "now")


def test_a_fold_of_the_whole_equals_a_fold_of_the_file_while_it_grows(a_night: Any) -> None:
    whole = read_night(a_night.folder / "journal.jsonl")
    assert [step.ok for step in whole.steps].count(None) == 0
    assert list(whole.targets) == ["T01", "T02", "T03", "T04", "T05"]
    assert whole.targets["T01"].status == "done"
    assert len(whole.targets["T01"].tilt_moves) == 2


def _pose() -> Any:
    from controller.hardware.values import StagePose

    return StagePose(x_um=0, y_um=0, z_um=0, alpha_deg=0, beta_deg=0)
