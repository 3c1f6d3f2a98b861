"""The policy against a fixed order, over hundreds of nights in the simulator's surrogate mode.

    python -m benchmarks.surrogate --nights 200
    python -m benchmarks.surrogate --measure RUN [RUN ...]    # for sim_microscope/surrogate.yaml

Which crystal is next and with how much dose it is scanned is decided by the shipped functions
(``controller.decision.policy.decide``, ``conditions.fluence``) on a belief that is folded from
events, as in any night; within a visit the steps follow the plan (``agent.look_first``).  What
comes of it is drawn from models that nights of the full simulator have given, and says so.

Both arms see the same grids.  The yield is the number of accepted scans per hour of beam time, from
the first crystal to the end of the night.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from controller.decision import conditions
from controller.decision.actions import Visit
from controller.decision.belief import Belief, fold
from controller.decision.policy import decide
from controller.hardware.values import Axis, AxisInfo, Capabilities, StageLimits, StagePose
from controller.plan.demo import demo_plan
from controller.plan.run import RunPlan
from controller.record.events import (
    Event,
    Moved,
    Pick,
    Reconstructed,
    RunStarted,
    ScanTaken,
    StepStarted,
    TargetEnded,
    TargetsChosen,
    TiltFitted,
)
from controller.record.journal import Entry, read_journal
from sim_microscope.layout import Crystal, lay_out
from sim_microscope.scenario import load_scenario
from sim_microscope.surrogate import MARK, SurrogateNight, shipped_models

CRYSTALS, FIELD_UM, HOURS = 300, 45.0, 3.0
BOOTSTRAPS = 4000
STAGE = AxisInfo(low=-900, high=900, speed_per_s=6.0, repeatability=0.03)


@dataclass(frozen=True)
class Night:
    """What a night came to."""

    accepted: int
    visited: int
    hours: float

    @property
    def per_hour(self) -> float:
        """Accepted scans per hour of beam time."""
        return self.accepted / self.hours


def plans(hours: float, accept_A: float) -> tuple[RunPlan, RunPlan]:
    """(the shipped policy, a fixed order with fixed conditions)."""
    base = demo_plan(seed=1)
    shipped = base.replace(
        name="surrogate",
        targets=base.targets.replace(wanted=5000, minimum=1, max_visited=5000),
        budget=base.budget.replace(time_h=hours),
        reconstruction=base.reconstruction.replace(accept_resolution_A=accept_A, workers=1),
    )
    agent = shipped.agent.replace(order="survey", look_first=False, adapt_fluence=False)
    return shipped, shipped.replace(agent=agent)


def surrogate_night(plan: RunPlan, grid: SurrogateNight) -> Night:
    """Decide as the shipped policy does, draw what comes of it, until the night is over."""
    names = {f"T{number:04d}": number for number in range(len(grid.offers))}
    belief = fold(_survey(grid, names), Belief())
    step, clock_s = 1, 0.0
    while True:
        decision = decide(plan, belief, clock_s)
        if not isinstance(decision.action, Visit):
            break
        name = decision.action.target
        begun = _step(step, "Visit", name, clock_s, decision.reason)
        came, clock_s = _visit(plan, fold([begun], belief), grid, names[name], clock_s)
        last = _step(step + 1, "EndTarget", name, clock_s, MARK)
        *events, ended = came
        belief = fold([begun, *events, last, ended, _moved(belief, name)], belief)
        step += 2
    return Night(belief.done, belief.visited, clock_s / 3600)


def _visit(
    plan: RunPlan, belief: Belief, grid: SurrogateNight, number: int, clock_s: float
) -> tuple[list[Event], float]:
    """What a visit comes to, the end of the crystal last, and when it is over."""
    seconds, models = grid.models.seconds, grid.models
    name = belief.active or ""
    reading, end_deg = grid.read(number), grid.end_deg(number)
    travel_s = _travel_s(belief, name)
    clock_s += travel_s + seconds.visit + seconds.locate
    height_s = seconds.height + seconds.locate
    if not plan.agent.look_first:
        clock_s += height_s
    clock_s += reading.patterns * seconds.pattern + (reading.patterns - 1) * seconds.locate
    if not reading.answered:
        return [_ended(name, "skipped", "no tilt could be read")], clock_s
    fit = TiltFitted.model_construct(
        kind="fit", target=name, answered=True, misorientation_deg=5.0, thickness_nm=None,
        zone_uvw=(0, 0, 1), summed=(), frame=name,
    )  # fmt: skip
    if not reading.reachable:
        return [fit, _ended(name, "skipped", "no wanted zone axis can be reached")], clock_s
    if plan.agent.look_first:
        clock_s += height_s
    clock_s += models.tilts_aligned * (seconds.tilt + seconds.locate)
    clock_s += (models.patterns_aligned - 1) * seconds.pattern
    if end_deg is None or end_deg > plan.alignment.acceptable_deg:
        return [fit, _ended(name, "skipped", "not brought onto its axis")], clock_s
    fluence, _ = conditions.fluence(plan, belief, belief.target(name))
    clock_s += seconds.scan
    resolution_A = grid.resolution_A(number, fluence)
    accepted = resolution_A is not None and resolution_A <= plan.reconstruction.accept_resolution_A
    scan = ScanTaken.model_construct(
        kind="scan", target=name, fluence_e_per_A2=fluence, complete=True
    )
    result = Reconstructed.model_construct(
        kind="reconstruction", target=name, resolution_A=resolution_A, defocus_nm=None, ok=accepted
    )
    status = "done" if accepted else "failed"
    return [fit, scan, result, _ended(name, status, "its resolution")], clock_s


def _survey(grid: SurrogateNight, names: dict[str, int]) -> list[Event]:
    """The start of a run whose survey is over."""
    picks = {}
    for name, number in names.items():
        offer = grid.offers[number]
        tile = f"{int((offer.y_um + 500) / 4.5):03d}-{int((offer.x_um + 500) / 4.5):03d}"
        picks[name] = Pick(
            x_um=offer.x_um, y_um=offer.y_um, radius_nm=offer.radius_nm, score=offer.score,
            diameter_nm=2 * offer.radius_nm, frame=tile, x_px=offer.x_um, y_px=offer.y_um,
        )  # fmt: skip
    started = RunStarted.model_construct(
        kind="run_started", run_id=MARK, name=MARK, tiles=(), pose=_pose(0.0, 0.0),
        stage_limits=StageLimits(ranges={}),
        capabilities=Capabilities.model_construct(
            axes={Axis.X: STAGE, Axis.Y: STAGE}, simulated=True
        ),
    )  # fmt: skip
    best_first = dict(sorted(picks.items(), key=lambda item: -item[1].score))
    return [started, TargetsChosen(targets=best_first, rejected=())]


def _travel_s(belief: Belief, name: str) -> float:
    target, pose = belief.target(name), belief.pose
    if pose is None:
        return 0.0
    way_um = max(abs(target.x_um - pose.x_um), abs(target.y_um - pose.y_um))
    return way_um / STAGE.speed_per_s


def _step(step: int, action: str, name: str, at_s: float, reason: str) -> StepStarted:
    return StepStarted(step=step, action=action, target=name, details={}, reason=reason, at_s=at_s)


def _ended(name: str, status: Any, reason: str) -> TargetEnded:  # noqa: ANN401  one of three
    return TargetEnded(
        target=name, status=status, reason=f"{reason} ({MARK})",
        dose_before_scan_e_per_A2=0.0, dose_scan_e_per_A2=0.0,
    )  # fmt: skip


def _moved(belief: Belief, name: str) -> Moved:
    target = belief.target(name)
    return Moved.model_construct(
        kind="moved", target=None, requested=_pose(target.x_um, target.y_um).model_copy(
            update={"alpha_deg": None, "beta_deg": None}
        ),
        achieved=_pose(target.x_um, target.y_um),
    )  # fmt: skip


def _pose(x_um: float, y_um: float) -> StagePose:
    return StagePose(x_um=x_um, y_um=y_um, z_um=0.0, alpha_deg=0.0, beta_deg=0.0)


@dataclass(frozen=True)
class Comparison:
    """Two arms on the same grids."""

    policy: Sequence[Night]
    fixed: Sequence[Night]

    @property
    def ratio(self) -> float:
        """Yield per beam hour of the policy over that of the fixed order, all nights together."""
        return _yield(self.policy) / _yield(self.fixed)

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """95 % of the ratio, nights drawn again with replacement."""
        rng = np.random.default_rng(seed)
        n = len(self.policy)
        draws = [rng.integers(n, size=n) for _ in range(BOOTSTRAPS)]
        ratios = [
            _yield([self.policy[k] for k in d]) / _yield([self.fixed[k] for k in d]) for d in draws
        ]
        low, high = np.percentile(ratios, [2.5, 97.5])
        return float(low), float(high)


def _yield(nights: Sequence[Night]) -> float:
    return sum(night.accepted for night in nights) / sum(night.hours for night in nights)


def compare(
    nights: int,
    *,
    hours: float = HOURS,
    accept_A: float = 5.0,
    unlike: float = 0.0,
    arm: Callable[[RunPlan], RunPlan] = lambda plan: plan,
) -> Comparison:
    """Both arms over `nights` grids; `arm` changes the policy's plan."""
    shipped, fixed = plans(hours, accept_A)
    policy, plain = [], []
    for seed in range(nights):

        def grid(seed: int = seed) -> SurrogateNight:
            return SurrogateNight(seed, crystals=CRYSTALS, field_um=FIELD_UM, unlike=unlike)

        policy.append(surrogate_night(arm(shipped), grid()))
        plain.append(surrogate_night(fixed, grid()))
    return Comparison(policy, plain)


def measured_models(runs: Sequence[Path]) -> dict[str, Any]:
    """What nights of the full simulator give, as it stands in the YAML.

    Where crystals end and how well they are resolved come from other benchmarks; the file says
    which.
    """
    picks: dict[str, list[tuple[float, float]]] = defaultdict(list)
    came: dict[str, list[tuple[bool, bool, bool]]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    unread, patterns, tilts, crystals = [], [], [], 0
    for run in runs:
        entries = list(read_journal(run / "journal.jsonl"))
        night = [entry.event for entry in entries]
        options = next(e for e in night if isinstance(e, RunStarted)).plan["instrument"]["options"]
        grid = lay_out(load_scenario(options["scenario"]), options["seed"])
        crystals += len(grid)
        for action, took in _durations(entries):
            seconds[action].append(took)
        chosen = next(e for e in night if isinstance(e, TargetsChosen))
        for name, pick in chosen.targets.items():
            kind = _kind(pick, grid)
            picks[kind].append((round(pick.score, 3), round(pick.radius_nm, 1)))
            own = [e for e in night if getattr(e, "target", None) == name]
            if not any(isinstance(e, TargetEnded) for e in own):
                continue
            fits = [e for e in own if isinstance(e, TiltFitted)]
            scanned = any(isinstance(e, ScanTaken) for e in own)
            zone = any(e.kind == "zone" for e in own)
            came[kind].append((any(f.answered for f in fits), zone, scanned))
            if scanned:
                patterns.append(len(fits))
                tilts.append(sum(isinstance(e, StepStarted) and e.action == "Tilt" for e in own))
            elif not any(f.answered for f in fits):
                unread.append(len(fits))
    return {
        "nights": len(runs),
        "made_by": "python -m benchmarks.surrogate --measure RUN ...",
        "kinds": {
            kind: {
                "per_crystal": round(len(found) / crystals, 4),
                "picks": [list(pick) for pick in found],
                "answered": _share(c[0] for c in came[kind]),
                "reachable": _share(c[1] for c in came[kind] if c[0]),
                "aligned": _share(c[2] for c in came[kind] if c[1]),
            }
            for kind, found in sorted(picks.items())
        },
        "seconds": {
            key: round(float(np.mean(seconds[action])), 2)
            for key, action in (
                ("visit", "Visit"), ("locate", "Locate"), ("pattern", "MeasurePattern"),
                ("height", "FindHeight"), ("tilt", "Tilt"), ("scan", "AcquireScan"),
            )
        },
        "patterns_unread": round(float(np.median(unread))) if unread else 3,
        "patterns_aligned": round(float(np.mean(patterns)), 2),
        "tilts_aligned": round(float(np.mean(tilts)), 2),
    }  # fmt: skip


def _kind(pick: Pick, grid: Sequence[Crystal]) -> str:
    """The role of the crystal that a pick is of."""
    near = min(
        grid, key=lambda c: math.hypot(pick.x_um - c.centre_um[0], pick.y_um - c.centre_um[1])
    )
    off_um = math.hypot(pick.x_um - near.centre_um[0], pick.y_um - near.centre_um[1])
    return near.role if off_um <= near.radius_um + 0.1 else "nothing"


def _durations(entries: Sequence[Entry]) -> list[tuple[str, float]]:
    begun: dict[int, tuple[str, float]] = {}
    found = []
    for entry in entries:
        event = entry.event
        if isinstance(event, StepStarted):
            begun[event.step] = (event.action, entry.clock_s)
        elif event.kind == "step_ended" and event.step in begun:
            action, at_s = begun.pop(event.step)
            found.append((action, entry.clock_s - at_s))
    return found


def _share(outcomes: Any) -> float:  # noqa: ANN401  any iterable of booleans
    """Mean with half a success and half a failure added: few cases are never certain."""
    known = list(outcomes)
    return round((sum(known) + 0.5) / (len(known) + 1), 3)


def main() -> None:
    """Compare, or measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, default=200)
    parser.add_argument("--measure", type=Path, nargs="+")
    parser.add_argument("--hours", type=float, default=HOURS)
    parser.add_argument("--parts", action="store_true", help="each part of the policy alone, too")
    options = parser.parse_args()
    if options.measure:
        print(yaml.safe_dump(measured_models(options.measure), sort_keys=False))
        return
    print(f"{MARK}; models of {shipped_models().nights} nights")

    def only(**agent: Any) -> Callable[[RunPlan], RunPlan]:  # noqa: ANN401
        off = {"order": "survey", "look_first": False, "adapt_fluence": False}
        return lambda plan: plan.replace(agent=plan.agent.replace(**(off | agent)))

    cases: list[tuple[str, dict[str, Any]]] = [
        ("all of it, 5 A accepted", {}),
        ("all of it, 1.4 A accepted", {"accept_A": 1.4}),
    ]
    if options.parts:
        cases += [
            ("order alone", {"arm": only(order="yield")}),
            ("look alone", {"arm": only(look_first=True)}),
            ("fluence alone, 1.4 A accepted", {"accept_A": 1.4, "arm": only(adapt_fluence=True)}),
            ("all of it, time for everything", {"hours": 12.0}),
        ]
    rows = []
    for name, changes in cases:
        found = compare(options.nights, **({"hours": options.hours} | changes))
        low, high = found.interval()
        rows.append({"case": name, "ratio": found.ratio, "low": low, "high": high})
        print(
            f"{name:32} {_yield(found.policy):6.2f} against {_yield(found.fixed):6.2f} per hour: "
            f"x {found.ratio:.3f} ({low:.3f} - {high:.3f})",
            flush=True,
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
