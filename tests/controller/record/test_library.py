"""The library is what the reports say, and can be rebuilt from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from controller.cli.main import app
from controller.record.library import Library, LibraryError, Wanted, default_url


def crystal(name: str, status: str, resolution_A: float | None, **more: Any) -> dict[str, Any]:
    return {
        "id": name, "structure": "UiO-66", "zone_uvw": [1, 1, 0], "status": status,
        "reason": "because", "resolution_A": resolution_A, "scan_fluence_e_per_A2": 120.0,
        "files": {"scan": f"scans/{name}.h5"}, **more,
    }  # fmt: skip


def run(folder: Path, name: str, targets: list[dict[str, Any]], utc: str) -> Path:
    made = folder / name
    made.mkdir()
    report = {
        "schema": "lodestem/report/1",
        "simulated": True,
        "run": {"name": name, "first_utc": utc, "last_utc": utc, "instrument": "lab Titan"},
        "targets": targets,
    }
    (made / "report.json").write_text(json.dumps(report))
    return made


@pytest.fixture
def library(tmp_path: Path) -> Library:
    shelf = Library(default_url(tmp_path / "one"))
    one = [crystal("T01", "done", 1.9), crystal("T02", "skipped", None, files={})]
    shelf.add(run(tmp_path, "one", one, "2026-11-01T20:00:00"))
    shelf.add(run(tmp_path, "two", [crystal("T01", "failed", 4.0)], "2026-11-20T20:00:00"))
    return shelf


def names(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["name"], row["crystal"]) for row in rows]


def test_the_best_come_first_and_those_without_a_number_last(library: Library) -> None:
    found = names(library.find(Wanted()))
    assert found == [("one", "T01"), ("two", "T01"), ("one", "T02")]
    assert library.find(Wanted())[0]["zone_uvw"] == "1 1 0"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(material="uio-66", status="done"), [("one", "T01")]),
        (Wanted(material="ZIF-8"), []),
        (Wanted(at_best_A=2.0), [("one", "T01")]),
        (Wanted(since_utc="2026-11-10"), [("two", "T01")]),
        (Wanted(instrument="Titan", status="failed"), [("two", "T01")]),
        (Wanted(instrument="%"), []),
        (Wanted(simulated=False), []),
    ],
)
def test_it_finds_what_is_wanted(
    library: Library, wanted: Wanted, expected: list[tuple[str, str]]
) -> None:
    assert names(library.find(wanted)) == expected


def test_adding_a_run_again_replaces_it(library: Library, tmp_path: Path) -> None:
    report = tmp_path / "one" / "report.json"
    changed = json.loads(report.read_text())
    changed["targets"] = [crystal("T01", "done", 1.7)]
    report.write_text(json.dumps(changed))
    assert library.add(tmp_path / "one") == 1
    assert [r["resolution_A"] for r in library.find(Wanted(status="done"))] == [1.7]
    assert len(library.runs()) == 2


def test_experience_counts_scans_by_condition(library: Library) -> None:
    (row,) = library.experience("UiO-66")
    assert (row["scanned"], row["accepted"]) == (2, 1)
    assert row["best_resolution_A"] == 1.9


def test_a_folder_without_a_report_is_refused(library: Library, tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="lodestem report"):
        library.add(tmp_path)


def test_from_the_command_line(library: Library, tmp_path: Path) -> None:
    library.close()
    found = CliRunner().invoke(
        app, ["library", "find", "--status", "done", "--library", str(tmp_path), "--json"]
    )
    rows = json.loads(found.stdout)["result"]["crystals"]
    assert [row["crystal"] for row in rows] == ["T01"]
    lines = CliRunner().invoke(app, ["library", "experience", "UiO-66", "--library", str(tmp_path)])
    assert "1 of 2 accepted" in lines.output
    refused = CliRunner().invoke(app, ["library", "add", str(tmp_path), "--library", str(tmp_path)])
    assert refused.exit_code == 2
