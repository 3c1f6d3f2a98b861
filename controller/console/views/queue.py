"""The Overview screen: is it fine, and what comes next.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from controller.console.night import Night
from controller.decision.belief import Target
from controller.plan.budget import Budget
from controller.record.events import RunStarted, StepStarted, TargetEnded


@dataclass(frozen=True)
class Row:
    """One crystal of the queue."""

    name: str
    state: str
    shape: str
    score: float
    used_e_per_A2: float
    budget_e_per_A2: float
    ended: str
    result: str
    may_move: bool

    @property
    def share(self) -> int:
        """Of the budget, per cent."""
        return min(100, round(100 * self.used_e_per_A2 / self.budget_e_per_A2))


@dataclass(frozen=True)
class QueueView:
    """The screen."""

    rows: tuple[Row, ...]
    done: int
    wanted: int
    now: str
    error: str
    dose_total: float
    dose_allowed: float
    elapsed: str
    forecast: str
    paused: str
    stopped: bool
    ended: str
    verdict: str


_SHAPES = {
    "queued": "·",
    "active": "▶",
    "scanned": "◔",
    "done": "✔",
    "skipped": "!",
    "failed": "✖",
}


def queue_view(night: Night) -> QueueView | None:
    """What the Overview shows; None where no run has begun."""
    plan, run = night.plan, night.started
    if plan is None or run is None:
        return None
    belief = night.belief
    budget = plan.alignment.budget_e_per_A2
    ends = {e.event.target: e.utc[11:16] for e in night.entries if isinstance(e.event, TargetEnded)}
    rows = tuple(
        Row(
            name=target.name,
            state="running" if target.status == "active" else target.status,
            shape=_SHAPES[target.status],
            score=target.pick.score,
            used_e_per_A2=belief.spent_e_per_A2.get(target.name, 0.0),
            budget_e_per_A2=budget,
            ended=ends.get(target.name, ""),
            result=_result(target),
            may_move=target.status == "queued",
        )
        for target in belief.targets.values()
    )
    return QueueView(
        rows=rows,
        done=belief.done,
        wanted=plan.targets.wanted,
        now=_now(night),
        error=_errors(night),
        dose_total=sum(belief.spent_e_per_A2.values()),
        dose_allowed=budget * max(1, len(rows)),
        elapsed=_elapsed(night, run),
        forecast=f"{Budget.of(plan, len(run.tiles)).hours:.1f} h planned, "
        f"at most {plan.budget.time_h:g} h",
        paused=belief.paused,
        stopped=belief.stopped,
        ended="" if belief.ended is None else belief.ended.outcome,
        verdict="" if belief.ended is None else belief.ended.reason,
    )


def _result(target: Target) -> str:
    found = target.reconstruction
    if found is not None and found.resolution_A is not None:
        return f"{found.resolution_A:.2f} Å"
    if target.status in ("skipped", "failed"):
        return target.reason
    if target.posterior is not None:
        off = target.posterior.off_deg * 17.4533
        return f"{off:.2f} mrad off"
    return ""


def _now(night: Night) -> str:
    belief = night.belief
    step = next(
        (e.event for e in reversed(night.entries) if isinstance(e.event, StepStarted)), None
    )
    where = belief.active or ("survey" if not belief.chosen else "between crystals")
    if step is None:
        return where
    moves = 0 if belief.active is None else belief.target(belief.active).moves
    plan = night.plan
    most = 0 if plan is None else plan.alignment.max_moves
    return f"{where} · {step.action} · move {moves}/{most}"


def _errors(night: Night) -> str:
    active = night.belief.find(night.belief.active)
    off = (
        []
        if active is None
        else [f.misorientation_deg * 17.4533 for f in active.fits if f.answered]
    )
    if not off:
        return ""
    return f"{off[0]:.1f} → {off[-1]:.2f} mrad" if len(off) > 1 else f"{off[0]:.2f} mrad"


def _elapsed(night: Night, run: RunStarted) -> str:
    seconds = night.entries[-1].clock_s - night.entries[0].clock_s
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}"
