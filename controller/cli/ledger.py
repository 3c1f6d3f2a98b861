"""``lodestem ledger``: what every exposure was charged, as a table for people and spreadsheets."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from controller.cli.output import InputError, command
from controller.hardware.errors import StorageError
from controller.safety.ledger_store import LedgerRecord, read_ledger

COLUMNS = (
    "exposure_id",
    "utc",
    "area",
    "purpose",
    "detector",
    "duration_s",
    "x_um",
    "y_um",
    "alpha_deg",
    "beta_deg",
    "reserved_e_per_A2",
    "charged_e_per_A2",
    "state",
    "outcome",
)


def ledger_command(path: Path, *, csv_file: Path | None, as_json: bool) -> None:
    """Print or export a dose ledger; reads only, also while a run writes it."""
    with command("ledger", as_json=as_json) as output:
        file = path / "ledger.sqlite" if path.is_dir() else path
        try:
            records = read_ledger(file)
        except StorageError as error:
            raise InputError(str(error)) from error
        rows = [row_of(record) for record in records]
        if csv_file is not None:
            write_csv(rows, csv_file)
            output.say(f"{len(rows)} exposures written to {csv_file}")
        output.result({"exposures": rows, "by_area": by_area(records)}, summary(records))


def row_of(record: LedgerRecord) -> dict[str, Any]:
    """One exposure with `COLUMNS`; positions are those of its centre on the specimen."""
    booking = record.booking
    try:
        request = json.loads(booking.request)
    except ValueError:
        request = {}
    return {
        "exposure_id": str(booking.exposure_id),
        "utc": booking.utc,
        "area": booking.area,
        "purpose": booking.purpose.value,
        "detector": request.get("detector", ""),
        "duration_s": request.get("duration_s"),
        "x_um": booking.footprint.x_um,
        "y_um": booking.footprint.y_um,
        "alpha_deg": booking.footprint.alpha_deg,
        "beta_deg": booking.footprint.beta_deg,
        "reserved_e_per_A2": booking.reserved_e_per_A2,
        "charged_e_per_A2": record.charged_e_per_A2,
        "state": record.state.value,
        "outcome": record.outcome,
    }


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the rows; never overwrites.

    Raises
    ------
    InputError
        The file is there, or cannot be written.
    """
    try:
        with path.open("x", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}", "name another file") from error


def by_area(records: list[LedgerRecord]) -> dict[str, dict[str, float]]:
    """Sum of the charges by area and purpose, e/Å²."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for record in records:
        sums[record.booking.area][record.booking.purpose.value] += record.charged_e_per_A2
    return {area: dict(purposes) for area, purposes in sums.items()}


def summary(records: list[LedgerRecord]) -> str:
    """A line per area."""
    lines = [
        f"{area:<12} "
        + ", ".join(f"{purpose} {fluence:.4g}" for purpose, fluence in purposes.items())
        for area, purposes in by_area(records).items()
    ]
    unsure = sum(record.state.value == "unknown" for record in records)
    note = f"; {unsure} of unknown end, charged at the bound" if unsure else ""
    return "\n".join([*lines, f"{len(records)} exposures, e/Å² charged by purpose{note}"])
