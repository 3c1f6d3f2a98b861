"""Accuracy of the aligner on patterns of an independent Bloch-wave simulator.

    python -m benchmarks.alignment --patterns 20 --out accuracy.json

Prints one line per tilt class and electron count: median and 90th percentile of the error in
degrees over the answers given, how many were wrong by more than 0.5 deg, how many were answered,
how many errors lie within one and two sigma, and the milliseconds per pattern.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.alignment_patterns import Crystal, Detector, diffraction, orientation, record
from controller.perception.alignment import estimate_tilt, structure_from_cif

DATA = Path(__file__).parents[1] / "tests" / "controller" / "alignment" / "data"
ZONES = (
    ("UiO-66", (0, 0, 1)),
    ("UiO-66", (1, 1, 1)),
    ("ZIF-8", (0, 0, 1)),
    ("ZIF-8", (1, 1, 1)),
    ("MFI", (0, 1, 0)),
    ("MFI", (1, 0, 0)),
    ("NU-1000", (0, 0, 1)),
    ("SrTiO3", (0, 0, 1)),
    ("SrTiO3", (1, 1, 0)),
)
TILT_CLASSES_DEG = ((0.0, 1.0), (1.0, 3.0), (3.0, 15.0))
ELECTRONS = (3e3, 1e4, 1e5)


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


def rows(
    patterns: int,
    seed: int,
    *,
    electrons: tuple[float, ...] = ELECTRONS,
    classes: tuple[tuple[float, float], ...] = TILT_CLASSES_DEG,
    zones: tuple[tuple[str, tuple[int, int, int]], ...] = ZONES,
    structure_free: bool = False,
) -> Iterator[Row]:
    """Draw, simulate and measure ``patterns`` per zone, tilt class and electron count."""
    crystals = {name: Crystal.from_cif(DATA / f"{name}.cif") for name, _ in zones}
    structures = {name: structure_from_cif(DATA / f"{name}.cif") for name, _ in zones}
    rng = np.random.default_rng(seed)
    for name, zone in zones:
        for low, high in classes:
            for count in electrons:
                for _ in range(patterns):
                    tilt_deg, azimuth = rng.uniform(low, high), rng.uniform(0, 2 * np.pi)
                    truth = (
                        1e3 * np.deg2rad(tilt_deg) * np.array([np.cos(azimuth), np.sin(azimuth)])
                    )
                    energy = float(rng.choice([200.0, 300.0]))
                    thickness = rng.uniform(30, 100)
                    nominal = 0.007 if name == "NU-1000" else float(rng.uniform(0.010, 0.014))
                    detector = Detector(
                        inv_A_per_px=nominal * (1 + rng.uniform(-0.02, 0.02)),
                        centre_px=(128 + rng.uniform(-10, 10), 128 + rng.uniform(-10, 10)),
                        spot_sigma_px=rng.uniform(0.7, 1.3),
                        halo_fraction=rng.uniform(0.1, 0.4),
                    )
                    rotation = orientation(crystals[name], zone, truth, rng.uniform(0, 2 * np.pi))
                    g, intensity = diffraction(
                        crystals[name], rotation, energy, thickness,
                        thickness_spread=rng.uniform(0.0, 0.2),
                    )  # fmt: skip
                    pattern = record(g, intensity, detector, count, rng)
                    found = estimate_tilt(
                        pattern,
                        energy_keV=energy,
                        inv_A_per_px=nominal,
                        structure=None if structure_free else structures[name],
                        target_zone_uvw=None if structure_free else zone,
                    )
                    error = np.hypot(found.tilt_x_mrad - truth[0], found.tilt_y_mrad - truth[1])
                    yield Row(
                        name, zone, float(tilt_deg), count, float(thickness),
                        float(np.rad2deg(error * 1e-3)),
                        float(np.rad2deg(found.sigma_mrad * 1e-3)),
                        float(np.rad2deg(found.formal_sigma_mrad * 1e-3)), found.answered,
                        found.alternatives[0].log_likelihood_gap if found.alternatives else 1e3,
                        found.log_gain, found.fit_quality, found.explained_fraction,
                        found.elapsed_ms, found.mode,
                    )  # fmt: skip


def table(measured: list[Row]) -> str:
    """One line per tilt class and electron count."""
    lines = ["tilt deg   electrons  median    p90  >0.5  answered  in 1s  in 2s   ms"]
    for low, high in TILT_CLASSES_DEG:
        for count in sorted({r.electrons for r in measured}):
            these = [r for r in measured if low <= r.tilt_deg < high and r.electrons == count]
            given = [r for r in these if r.answered]
            if not given:
                continue
            error = np.array([r.error_deg for r in given])
            sigma = np.array([r.sigma_deg for r in given])
            lines.append(
                f"{low:3.0f}-{high:<4.0f} {count:10.0f} {np.median(error):8.4f} "
                f"{np.percentile(error, 90):6.3f} {(error > 0.5).mean():5.2f} "
                f"{len(given):4d}/{len(these):<4d} {(error < sigma).mean():6.2f} "
                f"{(error < 2 * sigma).mean():6.2f} {np.median([r.elapsed_ms for r in these]):6.0f}"
            )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patterns", type=int, default=5, help="per zone, tilt class and count")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--structure-free", action="store_true")
    parser.add_argument("--only", help="one structure by name")
    parser.add_argument("--out", type=Path, help="write every row as JSON")
    chosen = parser.parse_args()
    zones = tuple(z for z in ZONES if chosen.only in (None, z[0]))
    measured = []
    for row in rows(
        chosen.patterns, chosen.seed, zones=zones, structure_free=chosen.structure_free
    ):
        measured.append(row)
        if chosen.out:
            chosen.out.write_text(json.dumps([asdict(r) for r in measured]))
    print(table(measured))


if __name__ == "__main__":
    main()
