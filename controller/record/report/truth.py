"""What the simulator knows and no real microscope can: for the report, and only there.

Decision and perception never read this file.  Everything taken from it is marked as truth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from controller.safety.dose_map import DoseMap

Array = NDArray[np.float64]

TOLERANCE = 1e-6
"""Share of the highest true fluence that counts as nothing in the comparison of doses."""


@dataclass(frozen=True)
class TargetTruth:
    """The truth about one target.

    before_deg, after_deg
        True angle between zone axis and incident beam: in the first pattern that was read,
        averaged over what the beam lit, and under the scan, or in the last pattern where there is
        no scan.
    """

    crystal: str
    structure: str | None
    role: str | None
    before_deg: float | None
    after_deg: float | None
    thickness_nm: float | None
    fluence_e_per_A2: float | None
    phase_correlation: float | None = None
    """Of the reconstruction with the true phase."""


@dataclass(frozen=True)
class Lit:
    """The crystal that dominates one diffraction exposure."""

    crystal: str
    misorientation_deg: float
    thickness_nm: float


@dataclass(frozen=True)
class Truth:
    """The content of ``truth.h5`` that the report uses.

    lit
        By exposure identifier.
    scanned_deg
        Angle between zone axis and incident beam under each scan, by exposure identifier.
    crystals
        Attributes by name.
    fluence_e_per_A2, half_um
        True fluence on square cells over -half .. half in both axes, (row = y, col = x).
    """

    lit: Mapping[str, Lit]
    crystals: Mapping[str, Mapping[str, Any]]
    fluence_e_per_A2: Array | None = None
    half_um: float = 0.0
    scanned_deg: Mapping[str, float] = field(default_factory=dict)

    def of_target(
        self, first_exposure: str | None, last_exposure: str | None, scan: str | None = None
    ) -> TargetTruth:
        """What a target really was, from its first and last read pattern and its scan."""
        first = self.lit.get(first_exposure or "")
        last = self.lit.get(last_exposure or "")
        known = last or first
        own = self.crystals.get(known.crystal, {}) if known else {}
        return TargetTruth(
            known.crystal if known else "",
            _text(own.get("structure")),
            _text(own.get("class")),
            first.misorientation_deg if first else None,
            self.scanned_deg.get(scan or "", last.misorientation_deg if last else None),
            known.thickness_nm if known else None,
            _number(own.get("fluence_e_per_A2")),
        )

    def dose_check(self, charged: DoseMap) -> dict[str, Any] | None:
        """Charged against true fluence, cell by cell; None where the maps cannot be compared."""
        true = self.fluence_e_per_A2
        if true is None or not true.any():
            return None
        booked = _on_grid(charged, self.half_um, true.shape[0])
        if booked is None:
            return None
        nothing = TOLERANCE * float(true.max())
        hit = true > nothing
        short = true - booked
        return {
            "cells": int(hit.sum()),
            "cells_below": int((short[hit] > nothing).sum()),
            "largest_shortfall_e_per_A2": max(float(short[hit].max(initial=0.0)), 0.0),
            "median_ratio": float(np.median(booked[hit] / true[hit])),
            "highest_true_e_per_A2": float(true.max()),
            "highest_charged_e_per_A2": float(booked.max()),
        }


def read_truth(path: Path) -> Truth:
    """Open the simulator's truth; parts that are not there stay empty.

    Raises
    ------
    OSError, ValueError, KeyError
        No truth file.
    """
    with h5py.File(path, "r") as file:
        crystals = {str(name): dict(item.attrs) for name, item in file.get("crystals", {}).items()}
        fluence = file.get("fluence_e_per_A2")
        return Truth(
            _lit(file, sorted(crystals, key=lambda name: (len(name), name))),
            crystals,
            None if fluence is None else np.asarray(fluence, dtype=float),
            0.0 if fluence is None else float(fluence.attrs["half_um"]),
            {
                str(name): float(item.attrs["misorientation_deg"])
                for name, item in file.get("scans", {}).items()
                if "misorientation_deg" in item.attrs
            },
        )


def _lit(file: Any, order: list[str]) -> dict[str, Lit]:  # noqa: ANN401  h5py is untyped
    """The dominating crystal of every diffraction exposure."""
    if "exposures" not in file or "exposures_crystals" not in file:
        return {}
    table, parts = file["exposures"], file["exposures_crystals"]
    numbers = np.asarray(table)[:, str(table.attrs["columns"]).split().index("number")]
    names = json.loads(str(table.attrs["exposure_id"]))
    by_number = dict(zip(numbers.astype(int).tolist(), names, strict=True))
    columns = str(parts.attrs["columns"]).split()
    at = {name: columns.index(name) for name in columns}
    best: dict[str, tuple[float, Lit]] = {}
    for row in np.asarray(parts):
        name = by_number.get(int(row[at["number"]]))
        weight = float(row[at["share"]])
        if name is None or weight <= best.get(name, (0.0,))[0]:
            continue
        lit = Lit(
            order[int(row[at["crystal"]])],
            float(row[at["misorientation_deg"]]),
            float(row[at["thickness_nm"]]),
        )
        best[name] = (weight, lit)
    return {name: lit for name, (_, lit) in best.items()}


def _on_grid(charged: DoseMap, half_um: float, count: int) -> Array | None:
    """Charged fluence averaged onto a grid of `count` x `count` cells over -half .. half."""
    cell_um = charged.cell_nm / 1000
    ratio = round(2 * half_um / count / cell_um)
    if ratio < 1 or abs(ratio * cell_um * count - 2 * half_um) > 1e-6 * half_um:
        return None
    left = round((charged.extent_um[0] + half_um) / cell_um)
    top = round((charged.extent_um[2] + half_um) / cell_um)
    total = charged.total_e_per_A2
    fine = np.zeros((count * ratio, count * ratio))
    rows = slice(max(top, 0), min(top + total.shape[0], len(fine)))
    cols = slice(max(left, 0), min(left + total.shape[1], len(fine)))
    if rows.start < rows.stop and cols.start < cols.stop:
        fine[rows, cols] = total[
            rows.start - top : rows.stop - top, cols.start - left : cols.stop - left
        ]
    return np.asarray(fine.reshape(count, ratio, count, ratio).mean(axis=(1, 3)))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, float | int | np.number) else None
