"""The dose ledger as the report shows it: what was charged for what, and the map.

The sums come from the journal, the map from the ledger's own file, opened for reading only, so
that a report can be made while the run goes on.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from controller.hardware.values import Purpose
from controller.record.report.story import Night
from controller.safety.dose_map import DoseMap, SparseFluence
from controller.safety.footprint import Footprint


@dataclass(frozen=True)
class PurposeSum:
    """All exposures for one purpose."""

    purpose: Purpose
    exposures: int
    open_s: float
    charged_e_per_A2: float
    """Sum over the exposures, each at the centre of its own area."""
    unknown: int
    """Exposures charged at their bound because nobody knows what they received."""


def by_purpose(night: Night) -> list[PurposeSum]:
    """Sums of the journal's exposures; released bookings count nothing."""
    rows = []
    for purpose in Purpose:
        made = [
            exposure
            for exposure in night.exposures.values()
            if exposure.purpose is purpose and exposure.state.lower() != "released"
        ]
        if made:
            rows.append(
                PurposeSum(
                    purpose,
                    len(made),
                    sum(exposure.duration_s for exposure in made),
                    sum(exposure.charged_e_per_A2 for exposure in made),
                    sum(exposure.state.lower() == "unknown" for exposure in made),
                )
            )
    return rows


def charged_on(night: Night, area: str, *, data: bool) -> float:
    """Charged to an area for the scan (`data`) or for everything before it, e/A2."""
    return sum(
        exposure.charged_e_per_A2
        for exposure in night.exposures.values()
        if exposure.area == area
        and (exposure.purpose is Purpose.DATA) is data
        and exposure.state.lower() != "released"
    )


def read_map(ledger: Path) -> DoseMap | None:
    """The charged fluence on the specimen from the ledger's file; None if nothing is booked.

    Raises
    ------
    sqlite3.Error, ValueError
        The file is no dose ledger.
    """
    try:
        cell_nm, rows = _read(ledger, "mode=ro")
    except sqlite3.OperationalError:
        # a closed WAL database on a read-only medium can only be read as one that never changes
        cell_nm, rows = _read(ledger, "immutable=1")
    fluence = SparseFluence(cell_nm)
    for purpose, footprint, charged in rows:
        if charged > 0:
            fluence.add(Footprint.model_validate_json(footprint), Purpose(purpose), charged)
    window = fluence.bounds()
    if window is None:
        return None
    cell_um = cell_nm / 1000
    height, width = window.shape
    extent = (
        window.col * cell_um,
        (window.col + width) * cell_um,
        window.row * cell_um,
        (window.row + height) * cell_um,
    )
    return DoseMap(dict(fluence.read(window)), extent, cell_nm)


def _read(ledger: Path, how: str) -> tuple[float, list[tuple[str, str, float]]]:
    """Cell size, and (purpose, footprint, charge) of every booking."""
    with closing(sqlite3.connect(f"{ledger.resolve().as_uri()}?{how}", uri=True)) as database:
        cell = database.execute("SELECT value FROM ledger WHERE key = 'cell_nm'").fetchone()
        rows = database.execute(
            "SELECT b.purpose, b.footprint, s.charged_e_per_A2 FROM bookings b"
            " JOIN states s ON s.sequence ="
            " (SELECT MAX(sequence) FROM states WHERE exposure_id = b.exposure_id)"
        ).fetchall()
    return float(cell[0]), rows
