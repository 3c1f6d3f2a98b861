"""Pictures of a benchmark: error against electrons and tilt, and whether sigma is true.

python -m benchmarks.alignment_plots rows.json FOLDER
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from benchmarks.alignment import Row

Array = NDArray[np.float64]
_INK = {"ours": "#1b6ca8", "bound": "#444444", "circle": "#c8553d", "template": "#7a9e3b"}


def save_plots(measured: Sequence["Row"], folder: Path) -> None:
    """Write error-electrons.png, error-tilt.png and sigma.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    given = [r for r in measured if r.answered]
    for name, draw in (
        ("error-electrons", _by_electrons),
        ("error-tilt", _by_tilt),
        ("sigma", _calibration),
    ):
        figure, axes = plt.subplots(figsize=(4.6, 3.4), constrained_layout=True)
        draw(axes, list(measured), given)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(folder / f"{name}.png", dpi=110)
        plt.close(figure)


def _by_electrons(axes: Any, measured: list["Row"], given: list["Row"]) -> None:  # noqa: ANN401
    counts = sorted({r.electrons for r in measured})
    lines = (
        ("aligner", "ours", given, "error_deg", "o-"),
        ("Laue circle through peaks", "circle", measured, "circle_deg", "s:"),
        ("kinematical templates", "template", measured, "template_deg", "^:"),
        ("Cramér-Rao bound", "bound", measured, "bound_deg", "--"),
    )
    for label, ink, rows, field, style in lines:
        values = [[getattr(r, field) for r in rows if r.electrons == n] for n in counts]
        clean = [[v for v in group if np.isfinite(v)] for group in values]
        if not all(clean):
            continue
        axes.loglog(counts, [np.median(v) for v in clean], style, color=_INK[ink], label=label)
        if ink == "ours":
            low, high = ([np.percentile(v, q) for v in clean] for q in (25, 75))
            axes.fill_between(counts, low, high, color=_INK[ink], alpha=0.15, lw=0)
    axes.set_xscale("log")
    axes.set(xlabel="electrons in the pattern", ylabel="median error (deg)")
    axes.legend(frameon=False, fontsize=8)


def _by_tilt(axes: Any, measured: list["Row"], given: list["Row"]) -> None:  # noqa: ANN401
    edges = np.array([0.0, 0.5, 1.0, 2.0, 3.0, 6.0, 10.0, 15.0])
    middle = np.sqrt(np.maximum(edges[:-1], 0.25) * edges[1:])
    lines = (
        ("aligner", "ours", given, "error_deg", "o-"),
        ("Laue circle through peaks", "circle", measured, "circle_deg", "s:"),
        ("kinematical templates", "template", measured, "template_deg", "^:"),
    )
    for label, ink, rows, field, style in lines:
        medians = []
        for low, high in itertools.pairwise(edges):
            values = np.array([getattr(r, field) for r in rows if low <= r.tilt_deg < high])
            values = values[np.isfinite(values)]
            medians.append(np.median(values) if len(values) >= 3 else np.nan)
        if np.isfinite(medians).any():
            axes.loglog(middle, medians, style, color=_INK[ink], label=label)
    axes.set(xlabel="tilt of the zone axis (deg)", ylabel="median error (deg)")
    axes.legend(frameon=False, fontsize=8)


def _calibration(axes: Any, measured: list["Row"], given: list["Row"]) -> None:  # noqa: ANN401
    """Share of the errors within k sigma, against what a round normal distribution says."""
    k = np.linspace(0, 3, 121)
    axes.plot(k, 1 - np.exp(-0.5 * (1.515 * k) ** 2), "--", color=_INK["bound"], label="normal")
    counts = sorted({r.electrons for r in measured})
    for n, shade in zip(counts, np.linspace(0.45, 1.0, len(counts)), strict=True):
        ratio = np.array([r.error_deg / r.sigma_deg for r in given if r.electrons == n])
        if len(ratio):
            share = (ratio[:, None] < k).mean(0)
            axes.plot(k, share, color=_INK["ours"], alpha=shade, label=f"{n:.0e} electrons")
    axes.axvline(1, color="#bbbbbb", lw=0.8)
    axes.set(xlabel="error / sigma", ylabel="share of answers below", xlim=(0, 3), ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def main() -> None:
    """Command line."""
    from benchmarks.alignment import Row

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    save_plots([Row(**r) for r in json.loads(chosen.rows.read_text())], chosen.folder)


if __name__ == "__main__":
    main()
