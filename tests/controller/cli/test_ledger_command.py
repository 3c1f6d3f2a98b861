"""The dose ledger as a table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from controller.cli.main import app
from controller.hardware.clock import VirtualClock
from controller.hardware.values import Exposure, Purpose
from controller.safety.dose import DoseLedger
from controller.safety.footprint import Footprint
from controller.safety.limits import DoseLimits

LIMITS = DoseLimits(specimen_e_per_A2=100, before_scan_e_per_A2=10, data_e_per_A2=90)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with DoseLedger(tmp_path / "ledger.sqlite", LIMITS, VirtualClock()) as ledger:
        for area, purpose, fluence in (
            ("S00", Purpose.SURVEY, 0.25),
            ("T01", Purpose.ALIGN, 0.5),
            ("T01", Purpose.ALIGN, 0.25),
        ):
            exposure = Exposure(
                exposure_id=uuid4(), area=area, purpose=purpose, detector="camera", duration_s=0.5
            )
            ledger.reserve(
                exposure.exposure_id,
                area=area,
                purpose=purpose,
                footprint=Footprint(x_um=1.0, y_um=-2.0, radius_nm=300.0),
                fluence_e_per_A2=fluence,
                request=exposure.model_dump_json(),
            )
            ledger.opening(exposure.exposure_id)
            if area == "S00":
                ledger.settle(exposure.exposure_id, 0.125, "")
            else:
                ledger.unknown(exposure.exposure_id, fluence, "nobody saw the end")
    return tmp_path


def test_it_sums_by_area_and_writes_every_exposure(run: Path) -> None:
    table = run / "dose.csv"
    result = CliRunner().invoke(app, ["ledger", str(run), "--csv", str(table)])
    assert result.exit_code == 0, result.output
    assert "T01          align 0.75" in result.output
    assert "2 of unknown end" in result.output
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["state"] for row in rows] == ["settled", "unknown", "unknown"]
    assert float(rows[0]["charged_e_per_A2"]) == 0.125
    assert float(rows[0]["reserved_e_per_A2"]) == 0.25
    assert (rows[0]["detector"], rows[0]["duration_s"]) == ("camera", "0.5")
    again = CliRunner().invoke(app, ["ledger", str(run), "--csv", str(table)])
    assert again.exit_code == 2


def test_it_reads_while_a_run_writes(run: Path) -> None:
    with DoseLedger(run / "ledger.sqlite", LIMITS, VirtualClock()):
        result = CliRunner().invoke(app, ["ledger", str(run), "--json"])
    document = json.loads(result.stdout)
    assert document["result"]["by_area"]["S00"] == {"survey": 0.125}


def test_what_is_no_ledger_is_said(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("no database")
    for path in (tmp_path, tmp_path / "missing"):
        result = CliRunner().invoke(app, ["ledger", str(path)])
        assert result.exit_code == 2
        assert "ledger" in result.stderr
