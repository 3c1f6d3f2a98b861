"""``lodestem watch``, ``acknowledge``, ``config test-notifications``: keeping an eye on a night."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable
from pathlib import Path

import typer

from controller.cli.output import Exit, InputError, command
from controller.cli.plans import read_plan
from controller.plan.notifications import NotificationPlan
from controller.plan.run import RunPlan
from controller.record.events import RunEnded, RunStarted
from controller.record.journal import JournalError, read_journal
from controller.record.notify.channels import channels_of
from controller.record.notify.post import PostOffice, acknowledge
from controller.record.notify.rules import Notice, Severity


def watch_command(run_dir: Path, *, silent_min: float, once: bool, as_json: bool) -> None:
    """Look at a run from outside and call somebody when it has fallen silent."""
    with command("watch", as_json=as_json) as output:
        plan = _plan_of(run_dir)
        with PostOffice(plan.notifications, plan.name, run_dir) as post:
            outcome = watch(run_dir, post.tell, silent_s=60 * silent_min, once=once)
        output.result({"outcome": outcome}, outcome)
        if outcome.startswith("silent"):
            raise typer.Exit(Exit.FINDINGS)


def watch(
    run_dir: Path,
    tell: Callable[[Notice], object],
    *,
    silent_s: float,
    once: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    now_s: Callable[[], float] = time.time,
) -> str:
    """Wait for the end of a run; tell of a journal that stands still.

    Returns
    -------
    How it went, in words: ``ended ...``, or with `once` also ``alive ...`` or ``silent ...``.
    """
    journal = run_dir / "journal.jsonl"
    told_at = -1.0
    while True:
        written_s = journal.stat().st_mtime
        age_s = now_s() - written_s
        ended = _end(journal)
        if ended is not None:
            return f"ended: {ended.outcome} ({ended.reason})"
        if age_s > silent_s and written_s != told_at:
            told_at = written_s
            tell(
                Notice(
                    Severity.FAULT,
                    f"silence {written_s:.0f}",
                    f"no sign of life for {age_s / 60:.0f} min",
                    f"The journal of {run_dir} was last written {age_s / 60:.0f} min ago and the "
                    f"run has not ended. Its process may have died: the server or its watchdog "
                    f"has blanked then. Look, and go on with `lodestem run --resume`.",
                )
            )
        if once:
            return f"{'silent' if age_s > silent_s else 'alive'}, last written {age_s:.0f} s ago"
        sleep(min(30.0, silent_s / 4))


def acknowledge_command(run_dir: Path, *, who: str | None, as_json: bool) -> None:
    """Say that what was told has been seen."""
    with command("acknowledge", as_json=as_json) as output:
        if not (run_dir / "journal.jsonl").is_file():
            raise InputError(f"{run_dir} holds no run", "give the folder of a run")
        name = who or getpass.getuser()
        acknowledge(run_dir, name)
        output.result({"who": name}, f"acknowledged by {name}: nothing so far is escalated")


def test_command(path: Path, *, as_json: bool) -> None:
    """Send a test notice by every channel of a plan."""
    with command("config", as_json=as_json) as output:
        plan = read_plan(path)
        outcome = send_test(plan.notifications, plan.name)
        if not outcome:
            raise InputError(
                f"{path} names no channel under notifications",
                "give email, webhook or command; see docs/notifications.md",
            )
        lines = [f"{name}: {problem or 'sent'}" for name, problem in outcome.items()]
        good = not any(outcome.values())
        output.result({"channels": outcome}, "\n".join(lines), ok=good)
        if not good:
            raise typer.Exit(Exit.FINDINGS)


def send_test(plan: NotificationPlan, run: str) -> dict[str, str]:
    """What went wrong by channel; empty words where nothing did."""
    notice = Notice(
        Severity.INFO, "test", "a test of the notifications", "Nothing has happened. It works."
    )
    outcome = {}
    for channel in channels_of(plan):
        try:
            channel.send(notice, run, False)
        except Exception as error:  # noqa: BLE001  (it is what was asked for)
            outcome[channel.name] = f"{type(error).__name__}: {error}"
        else:
            outcome[channel.name] = ""
    return outcome


def _plan_of(run_dir: Path) -> RunPlan:
    try:
        for entry in read_journal(run_dir / "journal.jsonl"):
            if isinstance(entry.event, RunStarted):
                return RunPlan.model_validate(entry.event.plan)
    except (OSError, JournalError) as error:
        raise InputError(str(error), "give the folder of a run") from error
    raise InputError(f"{run_dir} holds no run yet", "start it first")


def _end(journal: Path) -> RunEnded | None:
    last = None
    for entry in read_journal(journal):
        last = entry.event
    return last if isinstance(last, RunEnded) else None


def recovery_command(path: Path | None, *, as_json: bool) -> None:
    """Print what is done about each fault, with the plan's own rules."""
    from controller.decision.recovery import table

    with command("config", as_json=as_json) as output:
        wanted = {} if path is None else read_plan(path).recovery
        rows = [
            {
                "fault": name,
                "answer": rule.answer.value,
                "limit": rule.limit,
                "then": rule.then.value,
                "wait_s": rule.wait_s,
                "from": "plan" if name in wanted else "lodestem",
            }
            for name, rule in table(wanted).items()
        ]
        lines = [
            f"{row['fault']:<18}{row['answer']:<12}up to {row['limit']:>3} times"
            + (f", {row['wait_s']:g} s each" if row["answer"] == "wait" else "")
            + f", then {row['then']}"
            + ("   (plan)" if row["from"] == "plan" else "")
            for row in rows
        ]
        output.result({"rules": rows}, "\n".join(lines))
