"""The alignment loop, closed: from arrival at a crystal to the start of its scan, many times.

    python -m benchmarks.closed_loop --crystals 200 --out DIR

Every night has another seed: another grid, another error of the stored calibration, another
goniometer.  Policy, guard, ledger, tracking and aligner are the shipped ones; the microscope is the
simulated one in the scenario ``closed-loop`` (0.2 deg of play, 0.05 deg of read noise, 1 µm of
height, crystals of 300 nm up to 15 deg from an axis).  Scans are small and not reconstructed.

What is counted, for each crystal that was gone to: the true angle between zone axis and incident
beam at the start of the scan (from the simulator's truth); the fluence that the ledger charged from
arrival to the start of the scan, tracking and height included; the diffraction exposures; the time.
A crystal that was given up counts as missed.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np

from controller.cli.compose import run_night, shipped_eyes
from controller.hardware.values import Purpose
from controller.perception.protocols import ReconstructionReading
from controller.plan.demo import demo_plan
from controller.plan.run import RunPlan
from controller.record.events import (
    BeamTilted,
    Event,
    ExposureMade,
    Located,
    ScanTaken,
    StepStarted,
    TargetEnded,
    TiltFitted,
)
from controller.record.journal import Entry, read_journal

SCENARIO = "closed-loop"
FIELD_UM = 10.0
PER_NIGHT = 8
SCAN_FLUENCE = 10.0
"""e/A2: so little that the scan of one crystal does not forbid that of its neighbour."""


@dataclass(frozen=True)
class Outcome:
    """One crystal that was gone to."""

    night: int
    crystal: str
    status: str
    reason: str
    start_deg: float | None
    """True angle at the first pattern that was read."""
    end_deg: float | None
    """True angle between zone axis and incident beam under the scan; None without a scan."""
    said_deg: float | None
    said_sigma_deg: float | None
    """What the loop expected of it."""
    charged_e_per_A2: float
    """From arrival to the start of the scan, or to giving it up."""
    patterns_e_per_A2: float
    pictures_e_per_A2: float
    patterns: int
    pictures: int
    tilts: int
    focus_error_nm: float | None
    """True defocus of the crystal less the planned one: how well its height was known."""
    seconds: float


class NoReconstruction:
    """The loop is looked at, not the picture."""

    def reconstruct(
        self, scan_path: Path, out_dir: Path, *, expected_defocus_nm: float
    ) -> ReconstructionReading:
        """Accept."""
        return ReconstructionReading(ok=True, resolution_A=2.0, verdict="not reconstructed")


def night_plan(seed: int, crystals: int = PER_NIGHT, scenario: str = SCENARIO) -> RunPlan:
    """The demo plan on the benchmark's grid, with small scans."""
    base = demo_plan(seed=seed, scenario=scenario)
    return base.replace(
        name="closed loop",
        survey=base.survey.replace(field_um=(FIELD_UM, FIELD_UM), electrons_per_px=8.0),
        targets=base.targets.replace(
            wanted=crystals, minimum=1, max_visited=crystals, min_score=0.3
        ),
        scan=base.scan.replace(shape=(8, 8), fluence_e_per_A2=SCAN_FLUENCE),
    )


def run_one(seed: int, run_dir: Path, crystals: int = PER_NIGHT) -> list[Outcome]:
    """One night, and what became of every crystal that was gone to."""
    plan = night_plan(seed, crystals)
    eyes = replace(shipped_eyes(plan), reconstructor=NoReconstruction())
    run_night(plan, run_dir, eyes=eyes)
    return outcomes(run_dir, seed)


def outcomes(run_dir: Path, night: int) -> list[Outcome]:
    """Every crystal of a finished night that was gone to."""
    entries = list(read_journal(run_dir / "journal.jsonl"))
    stories: dict[str, list[Entry]] = {}
    for entry in entries:
        name = _crystal(entry.event)
        if name is not None:
            stories.setdefault(name, []).append(entry)
    with h5py.File(run_dir / "truth.h5", "r") as truth:
        scanned = {
            name: float(group.attrs["misorientation_deg"])
            for name, group in truth["scans"].items()
            if "misorientation_deg" in group.attrs
        }
        started = _first_patterns(truth)
        planned_nm = demo_plan(seed=1).scan.defocus_nm
        focus = {
            name: float(group.attrs["defocus_nm"]) - planned_nm
            for name, group in truth["scans"].items()
        }
    frames = _exposures_of_frames(run_dir)
    return [
        _outcome(name, story, night, scanned, started, frames, focus)
        for name, story in stories.items()
        if any(isinstance(e.event, StepStarted) and e.event.action == "Visit" for e in story)
    ]


def _outcome(
    name: str,
    story: Sequence[Entry],
    night: int,
    scanned: dict[str, float],
    started: dict[str, float],
    frames: dict[str, str],
    focus: dict[str, float],
) -> Outcome:
    scan_at = next(
        (
            n
            for n, e in enumerate(story)
            if isinstance(e.event, StepStarted) and e.event.action == "AcquireScan"
        ),
        len(story),
    )
    before = [entry.event for entry in story[:scan_at]]
    charged = [
        e
        for e in before
        if isinstance(e, ExposureMade)
        if e.state in ("SETTLED", "UNKNOWN") and e.purpose is not Purpose.DATA
    ]
    fits = [e for e in before if isinstance(e, TiltFitted)]
    answered = [fit for fit in fits if fit.answered]
    scan = next((e.event for e in story if isinstance(e.event, ScanTaken)), None)
    ended = next((e.event for e in story if isinstance(e.event, TargetEnded)), None)
    aligned = [e.charged_e_per_A2 for e in charged if e.purpose is Purpose.ALIGN]
    seen = [e.charged_e_per_A2 for e in charged if e.purpose is not Purpose.ALIGN]
    said: tuple[float | None, float | None] = (None, None)
    for e in before:
        if isinstance(e, TiltFitted) and e.answered:
            said = (e.misorientation_deg, math.degrees(e.sigma_mrad * 1e-3))
        if isinstance(e, BeamTilted):
            said = (e.off_deg, e.sigma_deg)
    first = frames.get(answered[0].frame) if answered else None
    end_s = story[min(scan_at, len(story) - 1)].clock_s
    return Outcome(
        night=night,
        crystal=name,
        status="scanned" if scan is not None else (ended.status if ended else "unfinished"),
        reason="" if scan is not None or ended is None else ended.reason,
        start_deg=started.get(first) if first else None,
        end_deg=None if scan is None else scanned.get(Path(scan.path).stem),
        said_deg=said[0],
        said_sigma_deg=said[1],
        charged_e_per_A2=sum(aligned) + sum(seen),
        patterns_e_per_A2=sum(aligned),
        pictures_e_per_A2=sum(seen),
        patterns=len(aligned),
        pictures=sum(isinstance(e, Located) for e in before),
        focus_error_nm=None if scan is None else focus.get(Path(scan.path).stem),
        tilts=sum(isinstance(e, StepStarted) and e.action == "Tilt" for e in before),
        seconds=end_s - story[0].clock_s,
    )


def _crystal(event: Event) -> str | None:
    """The crystal that an event is about; exposures name it as their area."""
    name = event.area if isinstance(event, ExposureMade) else getattr(event, "target", None)
    return name if isinstance(name, str) and name.startswith("T") else None


def _first_patterns(truth: h5py.File) -> dict[str, float]:
    """True misorientation in each diffraction exposure, by its identifier."""
    table, lit = truth["exposures"], np.asarray(truth["exposures_crystals"])
    ids = json.loads(str(table.attrs["exposure_id"]))
    numbers = np.asarray(table)[:, 0].astype(int)
    found = {}
    for number, name in zip(numbers, ids, strict=True):
        rows = lit[lit[:, 0] == number]
        if len(rows):
            found[name] = float(rows[np.argmax(rows[:, 2]), 4])
    return found


def _exposures_of_frames(run_dir: Path) -> dict[str, str]:
    """Identifier of the exposure of each stored frame."""
    found = {}
    for path in sorted((run_dir / "frames").glob("*pattern*.h5")):
        with h5py.File(path, "r") as file:
            header = json.loads(str(file["data"].attrs["header"]))
        found[path.stem] = header["exposure_id"]
    return found


def summarise(rows: Sequence[Outcome]) -> dict[str, float | int]:
    """The figures that the loop is judged by."""
    ends = np.array([r.end_deg if r.end_deg is not None else np.inf for r in rows])
    doses = np.array([r.charged_e_per_A2 for r in rows])
    sure = [r for r in rows if r.end_deg is not None and r.said_sigma_deg]
    inside = [r.end_deg <= r.said_sigma_deg for r in sure if r.end_deg and r.said_sigma_deg]
    return {
        "crystals": len(rows),
        "scanned": int(np.isfinite(ends).sum()),
        "within_0.05_deg_percent": 100 * float((ends <= 0.05).mean()),
        "median_end_deg": float(np.median(ends)),
        "p95_end_deg": float(np.sort(ends)[max(math.ceil(0.95 * len(ends)) - 1, 0)]),
        "median_charged_e_per_A2": float(np.median(doses)),
        "max_charged_e_per_A2": float(doses.max()),
        "median_patterns": float(np.median([r.patterns for r in rows])),
        "max_patterns": max(r.patterns for r in rows),
        "median_pictures": float(np.median([r.pictures for r in rows])),
        "rms_focus_error_nm": float(
            np.sqrt(np.mean([r.focus_error_nm**2 for r in rows if r.focus_error_nm is not None]))
        ),
        "median_seconds": float(np.median([r.seconds for r in rows])),
        "within_said_sigma_percent": 100 * float(np.mean(inside)) if inside else math.nan,
    }


def table(rows: Sequence[Outcome], summary: dict[str, float | int]) -> str:
    """One line per crystal, and the figures."""
    head = (
        f"{'night':>5} {'':4} {'start':>7} {'end':>7} {'said ± sigma':>15} {'e/A2':>7} "
        f"{'patt.':>5} {'pict.':>5} {'tilts':>5} {'focus':>5} {'s':>5}"
    )
    lines = [head]
    for r in rows:
        said = "" if r.said_deg is None else f"{r.said_deg:.3f} ± {r.said_sigma_deg or 0:.3f}"
        lines.append(
            f"{r.night:>5} {r.crystal:4} {_number(r.start_deg, 2):>7} {_number(r.end_deg, 4):>7} "
            f"{said:>15} {r.charged_e_per_A2:7.4f} {r.patterns:5d} {r.pictures:5d} "
            f"{r.tilts:5d} {_number(r.focus_error_nm, 0):>5} {r.seconds:5.0f}  {r.reason[:90]}"
        )
    lines += [f"{key:>32}: {value:.4g}" for key, value in summary.items()]
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def plot(rows: Sequence[Outcome], path: Path) -> None:
    """Start against end, and where the fluence went."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    done = [r for r in rows if r.end_deg is not None and r.start_deg is not None]
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), constrained_layout=True)
    left.semilogy(
        [r.start_deg for r in done],
        [max(r.end_deg or 0.0, 1e-3) for r in done],
        "o", ms=4, color="#1f4e79", alpha=0.7,
    )  # fmt: skip
    left.axhline(0.05, color="#b03a2e", lw=1)
    left.text(0.1, 0.053, "0.05° wanted", color="#b03a2e", fontsize=8)
    left.set(xlabel="start, degrees from the axis", ylabel="zone axis to incident beam, degrees",
             ylim=(1e-3, 1), title="true misorientation at the start of the scan")  # fmt: skip
    order = np.argsort([r.charged_e_per_A2 for r in rows])
    pictures = np.array([rows[n].pictures_e_per_A2 for n in order])
    patterns = np.array([rows[n].patterns_e_per_A2 for n in order])
    at = np.arange(len(rows))
    right.bar(at, pictures, width=1.0, color="#7f8c8d", label="tracking and height")
    right.bar(at, patterns, width=1.0, bottom=pictures, color="#1f4e79", label="patterns")
    right.axhline(0.05, color="#b03a2e", lw=1)
    right.set(xlabel="crystal, by fluence", ylabel="charged, e/Å$^2$",
              title="from arrival to the start of the scan")  # fmt: skip
    right.legend(frameon=False)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def written(rows: Sequence[Outcome], out: Path) -> str:
    """The table of the crystals so far, written with all of them to a folder."""
    summary = summarise(rows)
    text = table(rows, summary)
    (out / "closed_loop.txt").write_text(text + "\n", encoding="utf-8")
    data = {"summary": summary, "crystals": [asdict(r) for r in rows]}
    (out / "closed_loop.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    return text


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crystals", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/closed-loop"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the run folders")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Outcome] = []
    began, seed, text = time.perf_counter(), options.seed, ""
    while len(rows) < options.crystals:
        wanted = min(PER_NIGHT, options.crystals - len(rows))
        with TemporaryDirectory() as scratch:
            folder = options.out / f"night-{seed}" if options.keep else Path(scratch) / "run"
            found = run_one(seed, folder, wanted)
        rows += found
        print(
            f"night {seed}: {len(found)} crystals, {len(rows)} of {options.crystals}, "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
        seed += 1
        text = written(rows, options.out)  # every night, so that a stopped run is a smaller one
    print(text)
    plot(rows, options.out / "closed_loop.png")


if __name__ == "__main__":
    main()
