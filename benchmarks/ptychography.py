"""What the default reconstruction reaches on simulated sets, one row per run.

    python -m benchmarks.ptychography --out rows.json [--only uio10 wrong35] [--seeds 1 2]
    python -m benchmarks.ptychography --out rows.json --random 7 4

`--random SEED N` takes N cases drawn as a careless afternoon would make them (`drawn`).

The first run of a case simulates it (about a minute each) and keeps it in ``--cache``. Every run
writes the described array that `lodestem reconstruct` would get, reads it back, reconstructs with
default settings, and compares with the truth afterwards. The correlation after every
pass is taken on the side, so that the stop can be judged.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.ptychography_data import Case, Nominal, SimulatedSet, simulate, write_described
from benchmarks.ptychography_score import Judge, score
from recon.engine import PassSnapshot
from recon.importers import open_4d
from recon.params import ReconstructionParams
from recon.reconstruct import reconstruct

Affine = tuple[tuple[float, float], tuple[float, float]]
DISTORTED: Affine = ((1.02, 0.012), (-0.008, 0.985))
OTHERWISE: Affine = ((0.985, -0.02), (0.01, 1.02))


@dataclass(frozen=True)
class Run:
    """A case, and what its header says."""

    case: Case
    nominal: Nominal = field(default_factory=Nominal)
    dose_e_per_A2: float = 100.0


RUNS = {
    "uio10": Run(Case("UiO-66", 207.0, in_plane_deg=7.0)),
    "uio15": Run(Case("UiO-66", 207.0, semiangle_mrad=15.0, in_plane_deg=7.0)),
    "zif": Run(Case("ZIF-8", 255.0, in_plane_deg=-11.0, defocus_A=170.0)),
    "uio-sharp": Run(
        Case("UiO-66", 207.0, in_plane_deg=16.0, u_iso_A2=0.008, scan_shape=(56, 56)),
        Nominal(-10.0, 100.0),
    ),
    "wrong35": Run(
        Case(
            "UiO-66", 352.0, defocus_A=180.0, scan_shape=(56, 56), rotation_deg=17.0,
            affine=DISTORTED, tilt_mrad=(4.5, -3.2), in_plane_deg=31.0,
        ),
        Nominal(20.0, -150.0),
    ),
    "wrong35b": Run(
        Case(
            "UiO-66", 352.0, defocus_A=220.0, rotation_deg=-24.0, affine=OTHERWISE,
            tilt_mrad=(-2.0, 6.5), in_plane_deg=12.0, origin_A=(9.1, 4.4),
        ),
        Nominal(-28.0, 200.0),
    ),
    "wrong-zif": Run(
        Case(
            "ZIF-8", 340.0, defocus_A=200.0, rotation_deg=-14.0,
            affine=((1.01, 0.02), (-0.01, 1.015)), tilt_mrad=(5.0, 3.0), in_plane_deg=22.0,
        ),
        Nominal(10.0, -200.0),
    ),
    "wrong15": Run(
        Case(
            "UiO-66", 330.0, semiangle_mrad=15.0, defocus_A=149.0, scan_shape=(48, 48),
            rotation_deg=-14.7, affine=((1.0156, -0.0116), (0.015, 0.9971)),
            tilt_mrad=(5.28, -0.88), in_plane_deg=28.4,
        ),
        Nominal(-25.0, -14.0),
    ),
    "thin": Run(
        Case(
            "UiO-66", 104.0, defocus_A=160.0, scan_shape=(48, 48), rotation_deg=8.0,
            tilt_mrad=(1.5, -2.0), in_plane_deg=14.0,
        ),
        Nominal(-10.0, -90.0),
    ),
    "nu1000": Run(
        Case("NU-1000", 247.0, defocus_A=140.0, rotation_deg=5.0, in_plane_deg=20.0),
        Nominal(-15.0, 100.0),
    ),
    "mfi": Run(
        Case(
            "MFI", 200.0, defocus_A=160.0, scan_shape=(56, 56), rotation_deg=-9.0,
            tilt_mrad=(2.0, 1.0), affine=((1.0, 0.01), (0.0, 1.01)), in_plane_deg=3.0,
        ),
        Nominal(12.0, -100.0, 250.0),
    ),
    "uio110-34": Run(
        Case(
            "UiO-66", 340.0, zone=(1, 1, 0), defocus_A=170.0, scan_shape=(56, 56),
            rotation_deg=6.0, tilt_mrad=(1.5, -2.5), in_plane_deg=17.0,
        ),
        Nominal(-8.0, 60.0),
    ),
    "uio110-34-15": Run(
        Case(
            "UiO-66", 340.0, semiangle_mrad=15.0, zone=(1, 1, 0), defocus_A=155.0,
            scan_shape=(48, 48), rotation_deg=-14.7, affine=((1.0156, -0.0116), (0.015, 0.9971)),
            tilt_mrad=(5.3, -1.0), in_plane_deg=28.4,
        ),
        Nominal(-25.0, -14.0),
    ),
    "uio110-41-15": Run(
        Case(
            "UiO-66", 410.0, semiangle_mrad=15.0, zone=(1, 1, 0), defocus_A=150.0,
            scan_shape=(48, 48), rotation_deg=11.0, tilt_mrad=(-3.0, 1.0), in_plane_deg=38.0,
        ),
        Nominal(15.0, 30.0),
    ),
    "uio110-65-15": Run(
        Case(
            "UiO-66", 650.0, semiangle_mrad=15.0, zone=(1, 1, 0), defocus_A=200.0,
            scan_shape=(48, 48), rotation_deg=3.0, tilt_mrad=(1.0, 1.0), in_plane_deg=25.0,
        ),
        Nominal(14.0, -40.0),
    ),
    "uio110-41": Run(
        Case(
            "UiO-66", 410.0, zone=(1, 1, 0), defocus_A=230.0, scan_shape=(56, 56),
            rotation_deg=-11.0, tilt_mrad=(-3.0, 1.0), in_plane_deg=38.0,
        ),
        Nominal(5.0, -80.0),
    ),
    "uio110-60": Run(
        Case(
            "UiO-66", 600.0, zone=(1, 1, 0), defocus_A=300.0, scan_shape=(56, 56),
            rotation_deg=3.0, tilt_mrad=(1.0, 1.0), in_plane_deg=25.0,
        ),
        Nominal(4.0, 50.0),
    ),
    "uio110-34-far": Run(
        Case(
            "UiO-66", 340.0, zone=(1, 1, 0), defocus_A=560.0, scan_shape=(44, 44), step_A=1.5,
            rotation_deg=-14.7, affine=((1.0156, -0.0116), (0.015, 0.9971)),
            tilt_mrad=(3.0, -1.0), in_plane_deg=28.4,
        ),
        Nominal(-4.0, 40.0), 120.0,
    ),
    "uio110-41-far": Run(
        Case(
            "UiO-66", 410.0, zone=(1, 1, 0), defocus_A=600.0, scan_shape=(44, 44), step_A=1.5,
            rotation_deg=11.0, tilt_mrad=(-3.0, 1.0), in_plane_deg=38.0,
        ),
        Nominal(5.0, -50.0), 120.0,
    ),
    "uio110-65-far": Run(
        Case(
            "UiO-66", 650.0, zone=(1, 1, 0), defocus_A=720.0, scan_shape=(44, 44), step_A=1.5,
            rotation_deg=3.0, affine=((1.01, 0.0), (0.0, 1.0)), tilt_mrad=(1.0, 1.0),
            in_plane_deg=25.0,
        ),
        Nominal(4.0, -80.0), 120.0,
    ),
    "mfi-thick": Run(
        Case(
            "MFI", 370.0, zone=(0, 1, 0), defocus_A=150.0, scan_shape=(56, 56),
            rotation_deg=12.0, tilt_mrad=(2.0, -1.0), in_plane_deg=9.0,
        ),
        Nominal(-10.0, 90.0),
    ),
    "nu1000-thick": Run(
        Case(
            "NU-1000", 400.0, defocus_A=190.0, scan_shape=(56, 56), rotation_deg=-7.0,
            tilt_mrad=(-2.0, 2.0), in_plane_deg=33.0,
        ),
        Nominal(9.0, -70.0),
    ),
}  # fmt: skip
"""MFI was not looked at while the method was tuned; the middle of wrong15 lies in focus."""


DRAWN_CRYSTALS: tuple[tuple[str, tuple[int, int, int] | None], ...] = (
    ("UiO-66", None), ("UiO-66", (1, 1, 0)), ("NU-1000", None), ("MFI", None), ("ZIF-8", None),
    ("MFI", (0, 1, 0)), ("ZIF-8", (1, 1, 1)),
)  # fmt: skip


def drawn(seed: int, number: int) -> Run:
    """Return a crystal of 32-38 nm under a header that is wrong in everything a header can be.

    Scan rotation within 30 degrees, a distortion of up to 3 % (largest singular value), defocus off
    by up to 20 nm, tilt of up to 7 mrad; the header knows none of them, and no thickness.
    """
    rng = np.random.default_rng([seed, number])
    structure, zone = DRAWN_CRYSTALS[rng.integers(len(DRAWN_CRYSTALS))]
    side = int(rng.choice([48, 56, 64]))
    strain = rng.uniform(-1, 1, (2, 2))
    strain *= rng.uniform(0, 0.03) / np.linalg.norm(strain, 2)
    (a, b), (c, d) = (np.eye(2) + strain).round(4).tolist()
    length, towards = 7 * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
    tilt = length * np.array([np.cos(towards), np.sin(towards)])
    rotation_deg = round(float(rng.uniform(-30, 30)), 2)
    case = Case(
        structure, round(float(rng.uniform(320, 380)), 1), zone=zone,
        semiangle_mrad=float(rng.choice([10.0, 10.0, 15.0])),
        defocus_A=round(float(rng.uniform(120, 260)), 1), scan_shape=(side, side),
        rotation_deg=rotation_deg, affine=((a, b), (c, d)),
        tilt_mrad=(round(float(tilt[0]), 2), round(float(tilt[1]), 2)),
        in_plane_deg=round(float(rng.uniform(0, 90)), 1),
        origin_A=(round(float(rng.uniform(0, 20)), 2), round(float(rng.uniform(0, 20)), 2)),
    )  # fmt: skip
    return Run(case, Nominal(-rotation_deg, round(float(rng.uniform(-200, 200)), 1)))


def row(name: str, run: Run, made: SimulatedSet, seed: int, threads: int) -> dict[str, object]:
    """Reconstruct once and score."""
    correlations: list[float] = []

    def watch(snapshot: PassSnapshot) -> None:
        judge = Judge(made, snapshot.pixel_size_A, snapshot.scan_centre_px)
        correlations.append(judge.compare(snapshot.phase())[0])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set.h5"
        dose = run.dose_e_per_A2
        write_described(made, path, dose_e_per_A2=dose, seed=seed, nominal=run.nominal)
        data = open_4d(path)
        started = time.process_time()
        params = ReconstructionParams(threads=threads)
        result = reconstruct(data, params, rng_seed=seed, on_pass=watch)
        cpu_s = time.process_time() - started
    found = asdict(score(made, result))
    return {
        "case": name,
        "dose_e_per_A2": dose,
        "seed": seed,
        **found,
        "reported_frc_half_A": result.resolution.frc_half_A,
        "best_pass": result.best_pass,
        "passes": result.passes,
        "correlation_by_pass": correlations,
        "n_slices": len(result.slices_phase_rad),
        "cpu_s": cpu_s,
        "elapsed_s": result.elapsed_s,
        "peak_memory_MB": result.peak_memory_MB,
        "verdict": result.verdict,
    }


def main() -> None:
    """Run the chosen cases and write one JSON list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/ptychography-sets"))
    parser.add_argument("--only", nargs="*", choices=sorted(RUNS), default=list(RUNS))
    parser.add_argument(
        "--random", nargs=2, type=int, metavar=("SEED", "N"), help="N drawn cases instead"
    )
    parser.add_argument("--seeds", nargs="*", type=int, default=[1])
    parser.add_argument(
        "--dose-e-per-A2", type=float, help="electrons per square angstrom; default 100"
    )
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    runs = {name: RUNS[name] for name in chosen.only}
    if chosen.random:
        first, count = chosen.random
        runs = {f"random-{first}-{i}": drawn(first, i) for i in range(count)}
    if chosen.dose_e_per_A2:
        runs = {
            name: replace(run, dose_e_per_A2=chosen.dose_e_per_A2) for name, run in runs.items()
        }
    rows: list[dict[str, object]] = []
    for name, run in runs.items():
        made = simulate(run.case, chosen.cache)
        for seed in chosen.seeds:
            rows.append(row(name, run, made, seed, chosen.threads))
            print(line(rows[-1]), flush=True)
            chosen.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def line(found: dict[str, object]) -> str:
    """One row for people."""
    return (
        "{case} seed {seed}: correlation {correlation:.3f}, FRC {frc_half_A:.2f} A (reported "
        "{reported_frc_half_A:.2f}), rotation {rotation_error_deg:+.2f} deg, defocus "
        "{defocus_error_A:+.1f} A, tilt {tilt_error_mrad:.2f} mrad, matrix {matrix_error:.4f}, "
        "thickness {thickness_error_A:+.0f} A, pass {best_pass}/{passes}, {cpu_s:.0f} CPU s, "
        "{peak_memory_MB:.0f} MB"
    ).format(**found)


if __name__ == "__main__":
    main()
