"""Plan files on the command line."""

from __future__ import annotations

from pathlib import Path

from controller.cli.output import InputError
from controller.plan.run import PlanError, RunPlan


def read_plan(path: Path) -> RunPlan:
    """Read a plan file; problems become an `InputError`."""
    try:
        return RunPlan.from_yaml(path)
    except PlanError as error:
        raise InputError(
            str(error), "nothing was moved or exposed; see `lodestem config schema`"
        ) from error
