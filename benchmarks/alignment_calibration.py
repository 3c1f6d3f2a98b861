"""Fit the calibration of the aligner's sigma, and check its thresholds, on benchmark rows.

    python -m benchmarks.alignment --patterns 20 --varied --out rows.json
    python -m benchmarks.alignment_calibration rows.json

Finds factor, floor, part of the tilt and part per opacity in the square root of
(factor r)^2 + floor^2 + (part theta)^2 + (part opacity)^2 + (2 spread)^2 such that 68.3 % of the
errors of answered patterns lie within sigma and 95 % within two, by a grid over the four; prints
them for ``controller/perception/alignment/calibration.py``, with the fractions reached per electron
count, and how wrong the answers that were withheld would have been.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

Choice = tuple[float, float, float, float]


def sigma_mrad(rows: list[dict[str, Any]], choice: Choice) -> np.ndarray:
    """Calibrated sigma of each row."""
    factor, floor, per_tilt, per_opacity = choice
    formal = 1e3 * np.deg2rad([r["formal_deg"] for r in rows])
    theta = 1e3 * np.deg2rad([r["tilt_deg"] for r in rows])
    opacity = np.array([r["opacity"] for r in rows])
    spread = np.array([r["spread_mrad"] for r in rows])
    return np.sqrt(
        (factor * formal) ** 2 + floor**2 + (per_tilt * theta) ** 2 + (per_opacity * opacity) ** 2
        + (2.0 * spread) ** 2
    )  # fmt: skip


def best_calibration(rows: list[dict[str, Any]]) -> Choice:
    """The constants that make 68.3 % and about 95 % true, by tilt and count; sharp ones first."""
    error = 1e3 * np.deg2rad([r["error_deg"] for r in rows])
    groups = [np.array([r["electrons"] == n for r in rows]) for n in {r["electrons"] for r in rows}]
    groups += [np.array([r["tilt_deg"] > 3 for r in rows]), np.ones(len(rows), dtype=bool)]

    def cost(choice: Choice) -> float:
        sigma = sigma_mrad(rows, choice)
        ratio = error / sigma
        missed = sum(
            ((ratio[g] < 1).mean() - 0.69) ** 2 + 2 * max(0.0, 0.95 - (ratio[g] < 2).mean()) ** 2
            for g in groups
        )
        return float(missed + 0.002 * np.log(sigma).mean())

    grid = itertools.product(
        (1.0, 1.3, 1.6, 2.0, 2.5), (0.03, 0.06, 0.1, 0.15), (0, 0.0005, 0.001, 0.002, 0.003),
        (0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3),
    )  # fmt: skip
    return min(grid, key=cost)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, nargs="+")
    chosen = parser.parse_args()
    rows = [row for path in chosen.rows for row in json.loads(path.read_text())]
    given = [r for r in rows if r["answered"] and r["error_deg"] < 0.5]
    choice = best_calibration(given)
    print("factor {:.2f}, floor {:.2f} mrad, per tilt {:.4f}, per opacity {:.2f}".format(*choice))
    sigma = sigma_mrad(given, choice)
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
