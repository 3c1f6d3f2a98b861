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


@config_app.command("recovery")
def config_recovery(
    path: Annotated[Path | None, typer.Argument(help="Plan file.")] = None, as_json: Json = False
) -> None:
    """Print what a run does about each fault; a plan may differ under `recovery`."""
    recovery_command = verb("watch", "recovery_command")

    recovery_command(path, as_json=as_json)


library_app = typer.Typer(
    help="Past runs and crystals, by material, conditions and outcome.", no_args_is_help=True
)
app.add_typer(library_app, name="library")
Shelf = Annotated[
    str, typer.Option("--library", help="Folder, file, or SQLAlchemy URL of the library.")
]


@library_app.command("find")
def library_find(
    material: Annotated[str | None, typer.Option(help="Such as UiO-66.")] = None,
    status: Annotated[str | None, typer.Option(help="done, failed or skipped.")] = None,
    at_best_A: Annotated[
        float | None, typer.Option("--at-best-A", help="Resolution of at most this, in A.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="UTC, such as 2026-11-01.")] = None,
    instrument: Annotated[str | None, typer.Option(help="Part of its name.")] = None,
    library: Shelf = "runs",
    as_json: Json = False,
) -> None:
    """Find crystals, best resolution first."""
    find_command = verb("library", "find_command")
    wanted = verb("library", "Wanted")(
        material=material,
        status=status,
        at_best_A=at_best_A,
        since_utc=since,
        instrument=instrument,
    )

    find_command(library, wanted, as_json=as_json)


@library_app.command("add")
def library_add(
    run_dirs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    library: Shelf = "runs",
    as_json: Json = False,
) -> None:
    """Add runs, or bring them up to date; `lodestem run` does so by itself."""
    add_command = verb("library", "add_command")

    add_command(run_dirs, library, as_json=as_json)


@library_app.command("experience")
def library_experience(
    material: Annotated[str, typer.Argument(help="Such as UiO-66.")],
    library: Shelf = "runs",
    as_json: Json = False,
) -> None:
    """Say how a material fared under each condition of the scan."""
    experience_command = verb("library", "experience_command")

    experience_command(material, library, as_json=as_json)


queue_app = typer.Typer(
    help="The queue of a run: list it, and change it while it runs.", no_args_is_help=True
)
app.add_typer(queue_app, name="queue")
Reason = Annotated[str, typer.Option(help="Kept in the journal.")]
Crystal = Annotated[str, typer.Argument(help="Such as T03.")]


def _ask(run_dir: Path, as_json: bool, **fields: object) -> None:
    ask_command = verb("queue", "ask_command")

    ask_command(run_dir, fields, as_json=as_json)


@queue_app.command("list")
def queue_list(run_dir: RunFolder, as_json: Json = False) -> None:
    """Print the crystals in the order in which they are gone to, done ones included."""
    list_command = verb("queue", "list_command")

    list_command(run_dir, as_json=as_json)


@queue_app.command("pause")
def queue_pause(run_dir: RunFolder, reason: Reason = "", as_json: Json = False) -> None:
    """Wait after the present step, beam blanked, until `queue go-on`."""
    _ask(run_dir, as_json, what="pause", reason=reason)


@queue_app.command("go-on")
def queue_go_on(run_dir: RunFolder, reason: Reason = "", as_json: Json = False) -> None:
    """Go on after a pause."""
    _ask(run_dir, as_json, what="go_on", reason=reason)


@queue_app.command("finish")
def queue_finish(run_dir: RunFolder, reason: Reason = "", as_json: Json = False) -> None:
    """End the run after the crystal that is being worked on."""
    _ask(run_dir, as_json, what="finish", reason=reason)


@queue_app.command("skip")
def queue_skip(
    run_dir: RunFolder, crystal: Crystal, reason: Reason = "", as_json: Json = False
) -> None:
    """Leave a crystal, also the one that is being worked on."""
    _ask(run_dir, as_json, what="skip", target=crystal, reason=reason)


@queue_app.command("first")
def queue_first(
    run_dir: RunFolder, crystal: Crystal, reason: Reason = "", as_json: Json = False
) -> None:
    """Go to this crystal next."""
    _ask(run_dir, as_json, what="first", target=crystal, reason=reason)


@queue_app.command("last")
def queue_last(
    run_dir: RunFolder, crystal: Crystal, reason: Reason = "", as_json: Json = False
) -> None:
    """Go to this crystal after all others."""
    _ask(run_dir, as_json, what="last", target=crystal, reason=reason)


@queue_app.command("add")
def queue_add(
    run_dir: RunFolder,
    x_um: Annotated[float, typer.Argument(help="On the specimen, in um.")],
    y_um: Annotated[float, typer.Argument(help="On the specimen, in um.")],
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Go next to a crystal that you point at; it must lie in a surveyed tile."""
    _ask(run_dir, as_json, what="add", x_um=x_um, y_um=y_um, reason=reason)
