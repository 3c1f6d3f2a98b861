"""Fit the calibration of the aligner's sigma, and check its thresholds, on benchmark rows.

    python -m benchmarks.alignment --patterns 20 --varied --out rows.json
    python -m benchmarks.alignment_calibration rows.json

Finds the constants of ``controller/perception/alignment/calibration.py`` such that 68.3 % of the
errors of answered patterns lie within sigma and 95 % within two, by electron count and by tilt, by
a grid over them; prints them, with the fractions reached, and how wrong the answers that were
withheld would have been.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from controller.perception.alignment.calibration import (
    CONSTANTS,
    SigmaConstants,
    calibrated_sigma_mrad,
)

_CLASSES_DEG = ((0.0, 1.0), (1.0, 3.0), (3.0, 21.0))


def sigma_mrad(rows: list[dict[str, Any]], constants: SigmaConstants) -> np.ndarray:
    """Calibrated sigma of each row."""
    return calibrated_sigma_mrad(
        1e3 * np.deg2rad([r["formal_deg"] for r in rows]),
        tilt_mrad=1e3 * np.deg2rad([r["tilt_deg"] for r in rows]),
        opacity=[r["opacity"] for r in rows],
        spread_mrad=[r["spread_mrad"] for r in rows],
        quality=[r["fit_quality"] for r in rows],
        constants=constants,
    )


def best_calibration(rows: list[dict[str, Any]]) -> SigmaConstants:
    """The constants that make 68.3 % and about 95 % true in every class; sharp ones first."""
    error = 1e3 * np.deg2rad([r["error_deg"] for r in rows])
    counts = np.array([r["electrons"] for r in rows])
    tilts = np.array([r["tilt_deg"] for r in rows])
    groups = [(1.0, counts == n) for n in np.unique(counts)]
    groups += [(0.3, (tilts >= low) & (tilts < high)) for low, high in _CLASSES_DEG]
    groups = [(weight, group) for weight, group in groups if group.any()]

    def cost(constants: SigmaConstants) -> float:
        sigma = sigma_mrad(rows, constants)
        ratio = error / sigma
        missed = sum(
            weight
            * (
                ((ratio[g] < 1).mean() - 0.70) ** 2
                + 2 * max(0.0, 0.96 - (ratio[g] < 2).mean()) ** 2
            )
            for weight, g in groups
        )
        return float(missed + 0.002 * np.log(sigma).mean())

    grid = itertools.product(
        (1.0, 1.15, 1.3, 1.45, 1.6, 2.0), (0.01, 0.02, 0.03, 0.06), (0.0, 0.0003, 0.0006, 0.001),
        (0.0, 0.003, 0.01, 0.02, 0.03), (1.0, 2.0, 4.0), (0.5, 1.0, 2.0),
    )  # fmt: skip
    return min((SigmaConstants(*choice) for choice in grid), key=cost)


def told(rows: list[dict[str, Any]], constants: SigmaConstants) -> str:
    """How many errors lie within one and two sigma, by electron count."""
    sigma = sigma_mrad(rows, constants)
    error = 1e3 * np.deg2rad([r["error_deg"] for r in rows])
    lines = []
    for count in sorted({r["electrons"] for r in rows}):
        these = np.array([r["electrons"] == count for r in rows])
        ratio = error[these] / sigma[these]
        lines.append(
            f"{count:8.0f} electrons: {(ratio < 1).mean():.2f} within sigma, "
            f"{(ratio < 2).mean():.2f} within two, {these.sum()} answers"
        )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, nargs="+")
    chosen = parser.parse_args()
    rows = [row for path in chosen.rows for row in json.loads(path.read_text())]
    given = [r for r in rows if r["answered"] and r["error_deg"] < 0.5]
    print(f"as it is: {CONSTANTS['full']}\n{told(given, CONSTANTS['full'])}")
    best = best_calibration(given)
    print(f"best here: {best}\n{told(given, best)}")
    wrong = [r for r in rows if r["answered"] and r["error_deg"] >= 0.5]
    silent = [r for r in rows if not r["answered"]]
    would = sum(1 for r in silent if not r["error_deg"] < 0.5)
    print(
        f"answered {len(rows) - len(silent)} of {len(rows)}, wrong by more than 0.5 deg "
        f"{len(wrong)}; of {len(silent)} withheld, {would} would have been wrong"
    )


if __name__ == "__main__":
    main()
