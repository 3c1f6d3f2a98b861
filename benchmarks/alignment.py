"""Accuracy of the aligner on patterns of an independent Bloch-wave simulator.

    python -m benchmarks.alignment --patterns 2 --varied --baselines --out runs/alignment
    python -m benchmarks.alignment --structure-free --out free.json
    python -m benchmarks.alignment --kinematical --only UiO-66   # where the model is exact
    python -m benchmarks.alignment --source abtem                # the generator is abTEM itself

Prints one line per tilt class and electron count: median and 90th percentile of the error in
degrees over the answers given, how many were wrong by more than 0.5 deg, how many were answered,
how many errors lie within one and two sigma, and the milliseconds per pattern.  With a folder as
``--out`` it also writes rows, tables (by tilt and electrons, structure, thickness) and plots.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alignment_abtem import SMALL, abtem_reflections
from benchmarks.alignment_baselines import baseline_errors_deg
from benchmarks.alignment_bound import tilt_bound_deg
from benchmarks.alignment_corpus import (
    DATA,
    ELECTRONS,
    TILT_CLASSES_DEG,
    ZONES,
    Case,
    corpus,
    reflections,
)
from benchmarks.alignment_patterns import record
from controller.perception.alignment import TiltEstimate, estimate_tilt, structure_from_cif

Zones = tuple[tuple[str, tuple[int, int, int]], ...]


@dataclass(frozen=True)
class Row:
    """One pattern, its truth and its answer; angles in degrees."""

    structure: str
    zone: tuple[int, int, int]
    tilt_deg: float
    electrons: float
    thickness_nm: float
    error_deg: float
    sigma_deg: float
    formal_deg: float
    answered: bool
    gap: float
    log_gain: float
    fit_quality: float
    explained: float
    elapsed_ms: float
    mode: str
    beam_stop: bool = False
    centre_error_px: float = float("nan")
    bound_deg: float = float("nan")
    """Cramer-Rao, all nuisances free."""
    circle_deg: float = float("nan")
    template_deg: float = float("nan")
    """Errors of the baselines."""
    reason: str = ""
    opacity: float = float("nan")
    spread_mrad: float = float("nan")
    first_ms: float = float("nan")
    first_error_deg: float = float("nan")
    first_sigma_deg: float = float("nan")
    first_answered: bool = False


@dataclass(frozen=True)
class Conditions:
    """How the patterns are made and what is computed beside the answer."""

    varied: bool = False
    absorbing: bool = False
    kinematical: bool = False
    abtem: bool = False
    bound: bool = False
    baselines: bool = False
    at_most: int | None = None
    """Patterns measured of those drawn."""


def rows(
    patterns: int,
    seed: int,
    *,
    electrons: tuple[float, ...] = ELECTRONS,
    classes: tuple[tuple[float, float], ...] = TILT_CLASSES_DEG,
    zones: Zones = ZONES,
    structure_free: bool = False,
    conditions: Conditions | None = None,
) -> Iterator[Row]:
    """Draw, simulate and measure ``patterns`` per zone, tilt class and electron count."""
    how = conditions or Conditions()
    cases = list(
        corpus(
            patterns, seed, zones=zones, classes=classes, electrons=electrons, varied=how.varied,
            absorbing=how.absorbing,
        )
    )  # fmt: skip
    # in random order: what was measured when somebody stops it is a fair sample
    order = np.random.default_rng(seed).permutation(len(cases))
    for i in order[: how.at_most]:
        yield measure_case(cases[int(i)], how, structure_free=structure_free)


def measure_case(case: Case, how: Conditions, *, structure_free: bool) -> Row:
    """One pattern of a case, measured."""
    made = (
        abtem_reflections(case) if how.abtem else reflections(case, dynamical=not how.kinematical)
    )
    counts = record(*made, case.detector, case.electrons, np.random.default_rng(case.seed))
    found = estimate_tilt(
        counts,
        energy_keV=case.energy_keV,
        inv_A_per_px=case.nominal_inv_A_per_px,
        structure=None if structure_free else structure_from_cif(DATA / f"{case.structure}.cif"),
        target_zone_uvw=None if structure_free else case.zone,
        beam_stop=case.beam_stop,
    )
    off = np.hypot(found.tilt_x_mrad - case.tilt_mrad[0], found.tilt_y_mrad - case.tilt_mrad[1])
    x, y = case.detector.centre_px or (0.0, 0.0)
    circle, template = baseline_errors_deg(case, counts) if how.baselines else (np.nan, np.nan)
    return Row(
        case.structure, case.zone, case.tilt_deg, case.electrons, case.thickness_nm,
        float(np.rad2deg(off * 1e-3)), float(np.rad2deg(found.sigma_mrad * 1e-3)),
        float(np.rad2deg(found.formal_sigma_mrad * 1e-3)), found.answered,
        found.alternatives[0].log_likelihood_gap if found.alternatives else 1e3,
        found.log_gain, found.fit_quality, found.explained_fraction, found.elapsed_ms, found.mode,
        beam_stop=case.beam_stop,
        centre_error_px=float(np.hypot(found.centre_x_px - x, found.centre_y_px - y)),
        bound_deg=tilt_bound_deg(case, dynamical=not how.kinematical) if how.bound else np.nan,
        circle_deg=circle, template_deg=template, reason=found.reason,
        opacity=found.opacity, spread_mrad=found.spread_mrad, **_first(case, found),
    )  # fmt: skip


def _first(case: Case, found: TiltEstimate) -> dict[str, Any]:
    """The fields of a row that tell the first answer."""
    first = found.first
    if first is None:
        return {}
    off = np.hypot(first.tilt_x_mrad - case.tilt_mrad[0], first.tilt_y_mrad - case.tilt_mrad[1])
    return {
        "first_ms": first.elapsed_ms,
        "first_error_deg": float(np.rad2deg(off * 1e-3)),
        "first_sigma_deg": float(np.rad2deg(first.sigma_mrad * 1e-3)),
        "first_answered": first.answered,
    }


def _line(label: str, these: list[Row]) -> str:
    given = [r for r in these if r.answered]
    if not given:
        return f"{label} {'':30s} {0:4d}/{len(these):<4d}"
    error = np.array([r.error_deg for r in given])
    sigma = np.array([r.sigma_deg for r in given])
    return (
        f"{label} {np.median(error):8.4f} {np.percentile(error, 90):6.3f} "
        f"{(error > 0.5).mean():5.2f} {len(given):4d}/{len(these):<4d} "
        f"{(error < sigma).mean():6.2f} {(error < 2 * sigma).mean():6.2f} "
        f"{np.median([r.elapsed_ms for r in these]):6.0f}"
    )


def table(measured: list[Row]) -> str:
    """One line per tilt class and electron count."""
    lines = ["tilt deg   electrons  median    p90  >0.5  answered  in 1s  in 2s   ms"]
    for low, high in TILT_CLASSES_DEG:
        for count in sorted({r.electrons for r in measured}):
            these = [r for r in measured if low <= r.tilt_deg < high and r.electrons == count]
            if these:
                lines.append(_line(f"{low:3.0f}-{high:<4.0f} {count:10.0f}", these))
    return "\n".join(lines)


def table_by(measured: list[Row], key: Callable[[Row], str], title: str) -> str:
    """One line per value of ``key``."""
    lines = [f"{title:26s}  median    p90  >0.5  answered  in 1s  in 2s   ms"]
    lines += [
        _line(f"{value:26s}", [r for r in measured if key(r) == value])
        for value in sorted({key(r) for r in measured})
    ]
    return "\n".join(lines)


def against_bound(measured: list[Row]) -> str:
    """Rms error over rms bound of right answers, and the baselines beside them."""
    lines = ["electrons   rms error   rms bound   ratio   circle median   template median"]
    for count in sorted({r.electrons for r in measured}):
        here = [r for r in measured if r.electrons == count]
        right = [r for r in here if r.answered and r.error_deg < 0.5 and r.bound_deg < 0.5]
        if not right:
            continue
        rms = float(np.sqrt(np.mean([r.error_deg**2 for r in right])))
        bound = float(np.sqrt(np.mean([r.bound_deg**2 for r in right])))
        lines.append(
            f"{count:9.0f}   {rms:9.4f}   {bound:9.4f}   {rms / bound:5.1f}   "
            f"{np.nanmedian([r.circle_deg for r in here]):13.3f}   "
            f"{np.nanmedian([r.template_deg for r in here]):15.3f}"
        )
    return "\n".join(lines)


def report(measured: list[Row]) -> str:
    """All tables, as text."""
    parts = [
        table(measured),
        table_by(measured, lambda r: f"{r.structure} {list(r.zone)}", "zone"),
        table_by(measured, lambda r: f"{10 * int(r.thickness_nm // 10):3d} nm", "thickness"),
        table_by(measured, lambda r: "stop" if r.beam_stop else "open", "direct beam"),
    ]
    if any(np.isfinite([r.bound_deg for r in measured])):
        parts.append(against_bound(measured))
    return "\n\n".join(parts)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patterns", type=int, default=5, help="per zone, tilt class and count")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--structure-free", action="store_true")
    parser.add_argument("--only", help="one structure by name")
    parser.add_argument("--varied", action="store_true", help="stops, halos, spots, bad pixels")
    parser.add_argument("--absorbing", action="store_true", help="imaginary potential, 5-10 %%")
    parser.add_argument("--kinematical", action="store_true", help="relrod intensities only")
    parser.add_argument("--source", choices=("own", "abtem"), default="own")
    parser.add_argument("--bound", action="store_true", help="Cramer-Rao bound of each pattern")
    parser.add_argument("--baselines", action="store_true", help="plain circle, template search")
    parser.add_argument("--at-most", type=int, help="measure a random part of what is drawn")
    parser.add_argument("--out", type=Path, help="rows as JSON, or a folder with tables and plots")
    chosen = parser.parse_args()
    abtem = chosen.source == "abtem"
    zones = tuple(z for z in ZONES if chosen.only in (None, z[0]) and (not abtem or z[0] in SMALL))
    how = Conditions(
        chosen.varied,
        chosen.absorbing,
        chosen.kinematical,
        abtem,
        chosen.bound,
        chosen.baselines,
        chosen.at_most,
    )
    folder = chosen.out if chosen.out and chosen.out.suffix != ".json" else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    target = folder / "rows.json" if folder else chosen.out
    measured = []
    for row in rows(
        chosen.patterns, chosen.seed, zones=zones, structure_free=chosen.structure_free,
        conditions=how,
    ):  # fmt: skip
        measured.append(row)
        if target:
            target.write_text(json.dumps([asdict(r) for r in measured]))
    print(report(measured) if folder else table(measured))
    if folder:
        from benchmarks.alignment_plots import save_plots

        (folder / "tables.md").write_text(f"```text\n{report(measured)}\n```\n")
        save_plots(measured, folder)


if __name__ == "__main__":
    main()
