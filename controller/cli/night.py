"""``lodestem demo | run | report``: nights and their reports."""

from __future__ import annotations

import webbrowser
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import typer

from controller.cli.approve import TerminalApprover
from controller.cli.compose import (
    JournalAuditor,
    NightResult,
    open_instrument,
    resume_run,
    run_night,
)
from controller.cli.narrate import Narrator
from controller.cli.output import Exit, InputError, Output, command
from controller.cli.plans import read_plan
from controller.decision.approval import Approver
from controller.decision.desk import Desk
from controller.decision.night import planned_tiles
from controller.decision.resume import read_interrupted
from controller.plan.budget import Budget
from controller.plan.demo import demo_plan
from controller.plan.run import InstrumentPlan, RunMode, RunPlan
from controller.record.journal import JournalError
from controller.record.report import build_report

_STATUS = {
    "completed": Exit.OK,
    "goals_missed": Exit.FINDINGS,
    "stopped": Exit.STOPPED,
    "interrupted": Exit.STOPPED,
    "held": Exit.HARDWARE,
    "fault": Exit.HARDWARE,
}


def demo_command(
    *, seed: int, out: Path, headless: bool, scenario: str, as_json: bool, quiet: bool
) -> None:
    """Run the demo night."""
    with command("demo", as_json=as_json, quiet=quiet) as output:
        out = _fresh(out)
        plan = demo_plan(seed=seed, scenario=scenario)
        output.say(f"look on in the browser meanwhile: lodestem assist --attach {out}")
        result = _night(plan, out, RunMode.UNATTENDED, output)
        if not headless:
            webbrowser.open(result.report.html.resolve().as_uri())
        _finish(result, output)


def run_command(  # noqa: PLR0913  (the options of the command)
    path: Path | None,
    *,
    resume: Path | None = None,
    out: Path | None,
    dry_run: bool,
    rehearse: str | None,
    supervised: bool,
    desk: bool = False,
    seed: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Carry out, rehearse or only check a plan."""
    with command("run", as_json=as_json, quiet=quiet) as output:
        if resume is not None:
            _resume(resume, path, supervised, output, desk=desk)
            return
        if path is None:
            raise InputError("give a plan, or --resume with the folder of a run")
        plan = read_plan(path)
        if seed is not None:
            plan = plan.replace(seed=seed)
        mode = RunMode.UNATTENDED
        if rehearse is not None:
            if supervised:
                raise InputError("--rehearse and --supervised exclude each other")
            mode = RunMode.REHEARSAL
            plan = rehearsal(plan, rehearse)
        if supervised:
            mode = RunMode.SUPERVISED
        out = out or Path("runs") / plan.name.replace(" ", "-")
        if dry_run:
            _dry_run(plan, out, output)
            return
        result = _night(plan, out, mode, output, desk=desk)
        _finish(result, output)


def _resume(
    run_dir: Path, path: Path | None, supervised: bool, output: Output, *, desk: bool
) -> None:
    if path is not None:
        raise InputError("--resume takes the plan from the run folder; give no plan beside it")
    plan = resumable_plan(run_dir)
    with _asked(run_dir, supervised, desk) as approver, Narrator(output, plan) as narrator:
        try:
            result = resume_run(
                run_dir,
                mode=RunMode.SUPERVISED if supervised else None,
                approver=approver,
                listener=narrator,
            )
        except KeyboardInterrupt:
            output.error(
                "stopped",
                f"stopped by a person; the beam is blanked and what came is in {run_dir}",
                f"the report so far: {run_dir / 'report.html'}",
            )
            raise typer.Exit(Exit.STOPPED) from None
    _finish(result, output)


def resumable_plan(run_dir: Path) -> RunPlan:
    """The plan of an interrupted run.

    Raises
    ------
    InputError
        There is none.
    """
    try:
        return read_interrupted(run_dir).plan
    except JournalError as error:
        raise InputError(str(error), "nothing was touched") from error


def report_command(run_dir: Path, *, open_it: bool, as_json: bool) -> None:
    """Build the report of a run."""
    with command("report", as_json=as_json) as output:
        if not (run_dir / "journal.jsonl").is_file():
            raise InputError(f"{run_dir} holds no journal.jsonl", "give the folder of a run")
        try:
            report = build_report(run_dir)
        except (JournalError, FileNotFoundError) as error:
            raise InputError(str(error), "give the folder of a run") from error
        if open_it:
            webbrowser.open(report.html.resolve().as_uri())
        output.result(
            {"report": str(report.html), "json": str(report.json)},
            str(report.html),
        )


def rehearsal(plan: RunPlan, scenario: str) -> RunPlan:
    """The same plan on the simulated microscope."""
    options: dict[str, Any] = {"scenario": scenario, "seed": plan.seed}
    return plan.replace(instrument=InstrumentPlan(backend="sim", options=options))


def _fresh(out: Path) -> Path:
    """`out`, or the first of out-2, out-3 ... that holds no run."""
    candidate, number = out, 1
    while (candidate / "journal.jsonl").exists():
        number += 1
        candidate = out.with_name(f"{out.name}-{number}")
    return candidate


def _asked(run_dir: Path, supervised: bool, desk: bool) -> AbstractContextManager[Approver | None]:
    """Who is asked in supervised mode: whoever sits at the terminal, or at a console."""
    if desk and not supervised:
        raise InputError("--desk is where --supervised asks", "give both")
    if not supervised:
        return nullcontext()
    return Desk(run_dir) if desk else nullcontext(TerminalApprover())


def _night(
    plan: RunPlan, out: Path, mode: RunMode, output: Output, *, desk: bool = False
) -> NightResult:
    asked = _asked(out, mode is RunMode.SUPERVISED, desk)
    with asked as approver, Narrator(output, plan) as narrator:
        try:
            return run_night(plan, out, mode=mode, approver=approver, listener=narrator)
        except KeyboardInterrupt:
            output.error(
                "stopped",
                f"stopped by a person; the beam is blanked and what came is in {out}",
                f"the report so far: {out / 'report.html'}",
            )
            raise typer.Exit(Exit.STOPPED) from None


def _finish(result: NightResult, output: Output) -> None:
    status = _STATUS[result.ended.outcome]
    data = result.report.data
    summary = {
        "outcome": result.ended.outcome,
        "reason": result.ended.reason,
        "beam_blanked": result.ended.beam_blanked,
        "simulated": data.get("simulated"),
        "targets": data["targets"],
        "report": str(result.report.html),
        "report_json": str(result.report.json),
        "run_dir": str(result.run_dir),
    }
    output.say(data.get("verdict", result.ended.reason))
    output.result(summary, str(result.report.html), ok=status is Exit.OK)
    if status is not Exit.OK:
        raise typer.Exit(status)


def _dry_run(plan: RunPlan, out: Path, output: Output) -> None:
    import tempfile

    # the instrument is opened, looked at and closed: nothing moves and nothing is exposed
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_instrument(plan, Path(scratch), auditor=JournalAuditor(), disk=out) as session,
    ):
        microscope = session.microscope
        tiles = len(planned_tiles(plan, microscope.capabilities, microscope.calibration))
    budget = Budget.of(plan, tiles)
    rows = [
        f"{line.step:<22}{line.count:>6}  {line.fluence_e_per_A2:>10.3g} e/A2 on {line.where}"
        for line in budget.lines
    ]
    text = "\n".join(
        [
            *rows,
            f"per crystal before the scan: {budget.before_scan_e_per_A2:.3g} e/A2 "
            f"(budget {plan.alignment.budget_e_per_A2:g})",
            f"scan: {budget.scan_e_per_A2:g} e/A2 "
            f"(specimen limit {plan.budget.specimen_e_per_A2:.4g})",
            f"about {budget.hours:.2f} h and {budget.gigabytes:.3g} GB; run folder {out}",
        ]
    )
    output.result(
        {
            "feasible": True,
            "tiles": tiles,
            "before_scan_e_per_A2": budget.before_scan_e_per_A2,
            "scan_e_per_A2": budget.scan_e_per_A2,
            "hours": budget.hours,
            "gigabytes": budget.gigabytes,
            "lines": [vars(line) for line in budget.lines],
        },
        text,
    )
