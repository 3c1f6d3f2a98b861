"""``lodestem queue``: what a run is about to do, and changing it while it runs."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from controller.cli.output import InputError, command
from controller.decision.belief import Belief, fold
from controller.decision.yields import prospects
from controller.record.events import RunEnded
from controller.record.inbox import QueueRequest, send
from controller.record.journal import JournalError, read_journal


def list_command(run_dir: Path, *, as_json: bool) -> None:
    """Print the queue of a run as its journal has it."""
    with command("queue", as_json=as_json) as output:
        belief = _belief(run_dir)
        rows = rows_of(belief)
        state = _state(belief)
        text = "\n".join([state, *(_line(row) for row in rows)])
        output.result({"state": state, "queue": rows}, text)


def ask_command(run_dir: Path, fields: dict[str, Any], *, as_json: bool) -> None:
    """Send a request to a run."""
    with command("queue", as_json=as_json) as output:
        belief = _belief(run_dir)
        if isinstance(belief.ended, RunEnded):
            raise InputError(
                f"the run is over ({belief.ended.outcome}); nobody reads its inbox",
                "go on with it by `lodestem run --resume`, or start another",
            )
        try:
            request = QueueRequest.model_validate({"by": getpass.getuser(), **fields})
        except ValidationError as error:
            reasons = "; ".join(e["msg"] for e in error.errors(include_url=False))
            raise InputError(reasons) from error
        if request.target is not None and request.target not in belief.targets:
            known = ", ".join(belief.targets) or "none yet"
            raise InputError(f"there is no crystal {request.target}; there are {known}")
        path = send(run_dir, request)
        output.result(
            {"request": str(path)}, f"asked to {request.what}; the run reads it after this step"
        )


def rows_of(belief: Belief) -> list[dict[str, Any]]:
    """The crystals: first what was gone to, then what is left, in its order."""
    plan = belief.started.plan if belief.started else {}
    left = prospects(belief, plan.get("agent", {}).get("order", "yield"))
    per_hour = {prospect.target.name: round(prospect.per_hour, 2) for prospect in left}
    others = [target for target in belief.targets.values() if target.name not in per_hour]
    return [
        {
            "accepted_per_hour": per_hour.get(target.name),
            "crystal": target.name,
            "status": target.status,
            "score": target.pick.score,
            "x_um": target.x_um,
            "y_um": target.y_um,
            "spent_e_per_A2": belief.spent_e_per_A2.get(target.name, 0.0),
            "reason": target.reason or target.pick.reason,
        }
        for target in [*others, *(prospect.target for prospect in left)]
    ]


def _state(belief: Belief) -> str:
    if belief.ended is not None:
        return f"ended: {belief.ended.outcome} ({belief.ended.reason})"
    if belief.paused:
        return f"paused: {belief.paused}"
    if belief.active:
        return f"at work on {belief.active}"
    return "surveying" if not belief.chosen else "between crystals"


def _line(row: dict[str, Any]) -> str:
    expected = row["accepted_per_hour"]
    per_hour = "" if expected is None else f"{expected:4.1f}/h  "
    return (
        f"{row['crystal']:<6}{row['status']:<9}score {row['score']:.2f}  "
        f"({row['x_um']:+.2f}, {row['y_um']:+.2f}) um  {row['spent_e_per_A2']:.3g} e/A2  "
        f"{per_hour}"
        f"{row['reason']}"
    ).rstrip()


def _belief(run_dir: Path) -> Belief:
    path = run_dir / "journal.jsonl"
    if not path.is_file():
        raise InputError(f"{run_dir} holds no run", "give the folder of a run")
    try:
        return fold(entry.event for entry in read_journal(path))
    except JournalError as error:
        raise InputError(str(error)) from error
