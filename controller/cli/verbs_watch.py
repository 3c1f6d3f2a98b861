"""``lodestem watch``, ``acknowledge`` and ``config test-notifications``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controller.cli.app import Json, app, verb
from controller.cli.main import config_app

RunFolder = Annotated[Path, typer.Argument(help="Run folder.")]


@app.command()
def watch(
    run_dir: RunFolder,
    silent_min: Annotated[
        float, typer.Option(min=0.1, help="A journal that stands still for longer is told.")
    ] = 30.0,
    once: Annotated[bool, typer.Option(help="Look once; exits 5 if it is silent.")] = False,
    as_json: Json = False,
) -> None:
    """Watch a run from outside its process: call somebody when it falls silent."""
    watch_command = verb("watch", "watch_command")

    watch_command(run_dir, silent_min=silent_min, once=once, as_json=as_json)


@app.command()
def acknowledge(
    run_dir: RunFolder,
    who: Annotated[str | None, typer.Option(help="Default: the user of this shell.")] = None,
    as_json: Json = False,
) -> None:
    """Say that what the run has told was seen: it is not escalated."""
    acknowledge_command = verb("watch", "acknowledge_command")

    acknowledge_command(run_dir, who=who, as_json=as_json)


@config_app.command("test-notifications")
def config_test_notifications(
    path: Annotated[Path, typer.Argument(help="Plan file.")], as_json: Json = False
) -> None:
    """Send a test notice by every channel that the plan names. Exits 5 if one fails."""
    test_command = verb("watch", "test_command")

    test_command(path, as_json=as_json)
