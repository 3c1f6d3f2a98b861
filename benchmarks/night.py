"""A night alone, judged against the truth: what became of every crystal on the grid.

    python -m benchmarks.night --seed 1 --out DIR [--without-reconstruction]
    python -m benchmarks.night --judge RUN

The demo plan on the scenario ``typical-night`` (the grid of ``typical``, some fifty crystals), with
scans of 32 x 32 positions and ten hours.  The judge reads the truth of the simulator, which neither
perception nor decision sees: a crystal that is thin, isolated and within the holder's reach counts
as won if a scan of it was taken with its zone axis within 0.1 deg of the incident beam and with no
more on it before than the plan allows.  Every other crystal must have a reason in the journal.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.closed_loop import NoReconstruction
from controller.cli.compose import run_night, shipped_eyes
from controller.plan.demo import demo_plan
from controller.plan.run import RunPlan
from controller.record.events import (
    Pick,
    RegionsFound,
    RunEnded,
    RunStarted,
    ScanTaken,
    TargetEnded,
    TargetsChosen,
)
from controller.record.journal import Entry, read_journal

SCENARIO = "typical-night"
FIELD_UM = 19.0
WITHIN_DEG = 0.1
WON_SHARE = 0.7
"""Of the crystals that are thin, isolated and within reach."""
BESIDE_UM = 0.25
"""A pick this far outside a crystal's own radius is still of it."""


@dataclass(frozen=True)
class Fate:
    """One crystal on the grid, and what became of it."""

    crystal: str
    role: str
    target: str
    """Its name in the queue; empty if it never came there."""
    status: str
    reason: str
    off_deg: float | None
    """True angle between its zone axis and the incident beam under the scan."""
    before_e_per_A2: float | None
    """True fluence on it when the scan began."""
    won: bool


@dataclass(frozen=True)
class Verdict:
    """What a night comes to."""

    crystals: int
    wanted: int
    """Thin, isolated, within reach, inside the survey."""
    won: int
    scans: int
    without_reason: int
    breaches: tuple[str, ...]
    """Of the dose budgets, by true fluence."""
    hours: float
    scans_per_hour: float
    outcome: str

    @property
    def share(self) -> float:
        """Of the wanted crystals, those that were won."""
        return self.won / self.wanted if self.wanted else math.nan


def night_plan(seed: int, scenario: str = SCENARIO, field_um: float = FIELD_UM) -> RunPlan:
    """The demo plan for a whole night: every crystal that the grid offers."""
    base = demo_plan(seed=seed, scenario=scenario)
    return base.replace(
        name="a night",
        survey=base.survey.replace(field_um=(field_um, field_um)),
        targets=base.targets.replace(wanted=200, minimum=1, max_visited=200),
        scan=base.scan.replace(shape=(32, 32)),
        budget=base.budget.replace(time_h=10.0),
        reconstruction=base.reconstruction.replace(workers=1),
    )


def fixed(plan: RunPlan) -> RunPlan:
    """The same night without a policy: as the survey came by them, height first, one fluence."""
    order = plan.agent.replace(order="survey", look_first=False, adapt_fluence=False)
    return plan.replace(agent=order)


def judge(run_dir: Path) -> tuple[Verdict, list[Fate]]:
    """What became of every crystal of a finished night."""
    entries = list(read_journal(run_dir / "journal.jsonl"))
    plan = RunPlan.model_validate(_only(entries, RunStarted)[0].plan)
    with h5py.File(run_dir / "truth.h5", "r") as truth:
        fates = [
            _fate(name, group, truth, entries, plan)
            for name, group in truth["crystals"].items()
            if _is_surveyed(group.attrs["centre_um"], plan)
        ]
        breaches = tuple(_breaches(truth, run_dir, plan))
    wanted = [fate for fate in fates if fate.role == "usable"]
    ended = _only(entries, RunEnded)[-1]
    scans = len(_only(entries, ScanTaken))
    hours = (entries[-1].clock_s - entries[0].clock_s) / 3600
    return Verdict(
        crystals=len(fates),
        wanted=len(wanted),
        won=sum(fate.won for fate in wanted),
        scans=scans,
        without_reason=sum(not fate.won and not fate.reason for fate in fates),
        breaches=breaches,
        hours=hours,
        scans_per_hour=scans / hours,
        outcome=f"{ended.outcome}: {ended.reason}",
    ), fates


def _only(entries: list[Entry], kind: type) -> list[Any]:
    return [entry.event for entry in entries if isinstance(entry.event, kind)]


def _is_surveyed(centre_um: Any, plan: RunPlan) -> bool:  # noqa: ANN401  h5py is untyped
    return all(
        abs(at - middle) <= field / 2
        for at, middle, field in zip(
            centre_um, plan.survey.centre_um, plan.survey.field_um, strict=True
        )
    )


def _fate(
    name: str,
    group: Any,  # noqa: ANN401  h5py is untyped
    truth: h5py.File,
    entries: list[Entry],
    plan: RunPlan,
) -> Fate:
    centre, reach = group.attrs["centre_um"], float(group.attrs["radius_um"]) + BESIDE_UM
    scans = [
        (scan, truth["scans"][Path(scan.path).stem])
        for scan in _only(entries, ScanTaken)
        if Path(scan.path).stem in truth["scans"]
    ]
    own = [(scan, known) for scan, known in scans if known.attrs["crystal"] == name]
    if own:
        scan, known = min(own, key=lambda pair: _off_deg(pair[1]))
        before = float(known.attrs["fluence_before_e_per_A2"])
        won = (
            scan.complete
            and _off_deg(known) <= WITHIN_DEG
            and before <= plan.alignment.budget_e_per_A2
        )
        ended = [e for e in _only(entries, TargetEnded) if e.target == scan.target]
        status, reason = (ended[-1].status, ended[-1].reason) if ended else ("", "")
        return Fate(
            name, group.attrs["class"], scan.target, status, reason, _off_deg(known), before, won
        )
    target, status, reason = _without_scan(centre, reach, entries)
    return Fate(name, group.attrs["class"], target, status, reason, None, None, False)


def _off_deg(scan: Any) -> float:  # noqa: ANN401  h5py is untyped
    return float(scan.attrs.get("misorientation_deg", math.inf))


def _without_scan(centre: Any, reach_um: float, entries: list[Entry]) -> tuple[str, str, str]:  # noqa: ANN401
    """Target, status and reason of a crystal that was not scanned."""

    def near(x_um: float, y_um: float) -> bool:
        return math.hypot(x_um - centre[0], y_um - centre[1]) <= reach_um

    for chosen in _only(entries, TargetsChosen):
        named = [name for name, pick in chosen.targets.items() if near(pick.x_um, pick.y_um)]
        ends = {e.target: e for e in _only(entries, TargetEnded)}
        for name in named:
            if name in ends:
                return name, ends[name].status, ends[name].reason
        if named:
            return named[0], "queued", ""
        for where, why in chosen.rejected:
            x_um, y_um = (float(part) for part in where.strip("() um").split(","))
            if near(x_um, y_um) and "seen before" not in why:
                return "", "not queued", why
    seen: list[Pick] = [pick for e in _only(entries, RegionsFound) for pick in e.picks]
    if any(near(pick.x_um, pick.y_um) for pick in seen):
        return "", "not queued", "one of its picks was taken for another crystal"
    return "", "not seen", "the picker offered nothing there"


def _breaches(truth: h5py.File, run_dir: Path, plan: RunPlan) -> Iterator[str]:
    limit = plan.budget.specimen_e_per_A2 or math.inf
    highest = float(np.asarray(truth["fluence_e_per_A2"]).max())
    if not highest <= limit:
        yield f"a cell truly received {highest:.4g} e/A2, above the {limit:.4g} of the specimen"
    for name, scan in truth["scans"].items():
        before = float(scan.attrs["fluence_before_e_per_A2"])
        beside = "another scan" if before > 1 else "pictures and patterns"
        if beside != "another scan" and not before <= plan.alignment.budget_e_per_A2:
            yield f"scan {name} began after {before:.3g} e/A2 of {beside}"
    report = json.loads((run_dir / "report.json").read_text())
    short = report["dose"]["charged_against_true"]
    if short and short["cells_below"]:
        yield f"{short['cells_below']} cells truly received more than was charged"


def table(verdict: Verdict, fates: list[Fate]) -> str:
    """One line per crystal, and the figures."""
    lines = []
    for fate in sorted(fates, key=lambda f: (f.role, not f.won, f.crystal)):
        off = "" if fate.off_deg is None else f"{fate.off_deg:.3f}"
        before = "" if fate.before_e_per_A2 is None else f"{fate.before_e_per_A2:.3f}"
        lines.append(
            f"{fate.crystal:4} {fate.role:11} {'won' if fate.won else '':4} {fate.target:4} "
            f"{fate.status:10} {off:>6} {before:>7}  {fate.reason[:110]}"
        )
    lines += [f"{key:>16}: {value}" for key, value in asdict(verdict).items()]
    lines.append(f"{'share won':>16}: {verdict.share:.0%} (wanted: {WON_SHARE:.0%})")
    return "\n".join(lines)


def main() -> None:
    """Run, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/night"))
    parser.add_argument("--without-reconstruction", action="store_true")
    parser.add_argument("--fixed", action="store_true", help="no policy: see `fixed`")
    parser.add_argument("--judge", type=Path, help="only judge this run folder")
    options = parser.parse_args()
    if options.judge is None:
        plan = night_plan(options.seed)
        if options.fixed:
            plan = fixed(plan)
        eyes = shipped_eyes(plan)
        if options.without_reconstruction:
            eyes = replace(eyes, reconstructor=NoReconstruction())
        began_s = time.perf_counter()
        run_night(plan, options.out, eyes=eyes)
        own, children = (
            sum(resource.getrusage(who)[:2])
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        print(f"{time.perf_counter() - began_s:.0f} s of wall time, {own + children:.0f} s of CPU")
    verdict, fates = judge(options.judge or options.out)
    print(table(verdict, fates))


if __name__ == "__main__":
    main()
