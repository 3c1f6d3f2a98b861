"""Fit the calibration of the aligner's sigma, and check its thresholds, on benchmark rows.

    python -m benchmarks.alignment --patterns 20 --out rows.json
    python -m benchmarks.alignment_calibration rows.json

Finds factor, floor and share of the tilt in sqrt((factor r)^2 + floor^2 + (share theta)^2) such
that 68.3 % of the errors of answered patterns lie within sigma and 95 % within two, by a grid
over the three; prints them for ``controller/perception/alignment/calibration.py``, with the
fractions reached per electron count, and how wrong the answers that were withheld would have been.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np


def sigma_mrad(rows: list[dict[str, Any]], factor: float, floor: float, share: float) -> np.ndarray:
    """Calibrated sigma of each row."""
    formal = 1e3 * np.deg2rad([r["formal_deg"] for r in rows])
    theta = 1e3 * np.deg2rad([r["tilt_deg"] for r in rows])
    return np.sqrt((factor * formal) ** 2 + floor**2 + (share * theta) ** 2)


def best_calibration(rows: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Factor, floor (mrad) and share that make 68.3 % and about 95 % true, by tilt and count."""
    error = 1e3 * np.deg2rad([r["error_deg"] for r in rows])
    groups = [np.array([r["electrons"] == n for r in rows]) for n in {r["electrons"] for r in rows}]
    groups += [np.array([r["tilt_deg"] > 3 for r in rows]), np.ones(len(rows), dtype=bool)]

    def cost(choice: tuple[float, float, float]) -> float:
        ratio = error / sigma_mrad(rows, *choice)
        return sum(
            abs((ratio[g] < 1).mean() - 0.683) + abs((ratio[g] < 2).mean() - 0.95) for g in groups
        )

    grid = itertools.product(
        np.arange(0.4, 3.01, 0.2), (0.1, 0.15, 0.2, 0.25, 0.3, 0.4), np.arange(0, 0.0041, 0.0005)
    )
    return min(grid, key=cost)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, nargs="+")
    chosen = parser.parse_args()
    rows = [row for path in chosen.rows for row in json.loads(path.read_text())]
    given = [r for r in rows if r["answered"] and r["error_deg"] < 0.5]
    factor, floor, share = best_calibration(given)
    print(f"FACTOR = {factor:.2f}\nFLOOR_MRAD = {floor:.2f}\nPER_TILT = {share:.4f}")
    sigma = sigma_mrad(given, factor, floor, share)
    error = 1e3 * np.deg2rad([r["error_deg"] for r in given])
    for count in sorted({r["electrons"] for r in given}):
        these = np.array([r["electrons"] == count for r in given])
        ratio = error[these] / sigma[these]
        print(
            f"{count:8.0f} electrons: {(ratio < 1).mean():.2f} within sigma, "
            f"{(ratio < 2).mean():.2f} within two, {these.sum()} answers"
        )
    wrong = [r for r in rows if r["answered"] and r["error_deg"] >= 0.5]
    silent = [r for r in rows if not r["answered"]]
    would = sum(1 for r in silent if not r["error_deg"] < 0.5)
    print(
        f"answered {len(rows) - len(silent)} of {len(rows)}, wrong by more than 0.5 deg "
        f"{len(wrong)}; of {len(silent)} withheld, {would} would have been wrong"
    )


if __name__ == "__main__":
    main()
