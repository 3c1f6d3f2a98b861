"""The other ways of ``lodestem reconstruct``: virtual images, many scans, a search of settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from controller.cli.output import Exit, InputError, Output, command

if TYPE_CHECKING:
    from recon.result import ProgressEvent


@contextmanager
def live_bar(
    output: Output, console: Console | None = None
) -> Iterator[Callable[[ProgressEvent], None]]:
    """Stage, pass, losses per electron and time left on stderr; silent where it is no terminal."""
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[losses]}"),
        TimeRemainingColumn(),
    )
    silent = output.quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=silent) as progress:
        task = progress.add_task("calibrate", total=1.0, losses="")

        def tell(event: ProgressEvent) -> None:
            losses = [
                f"{name} {value:.4f}"
                for name, value in (("fitted", event.fitted), ("held out", event.held_out))
                if math.isfinite(value)
            ]
            progress.update(
                task,
                completed=event.fraction,
                description=f"{event.stage}: {event.message}"[:24],
                losses=", ".join(losses),
            )

        yield tell


def refuse_mixture(alone: dict[str, object], *, as_json: bool) -> None:
    """Refuse options that are for the reconstruction of one scan."""
    with command("reconstruct", as_json=as_json):
        for flag, value in alone.items():
            if value:
                raise InputError(
                    f"{flag} is for one scan by one process, not with many scans, --virtual, "
                    f"--search or --distributed",
                    f"drop {flag}, or reconstruct that scan by itself",
                )


def virtual_command(
    data: Path | None, detectors: str, *, out: Path | None, as_json: bool, quiet: bool
) -> None:
    """Images of virtual detectors instead of a reconstruction."""
    with command("reconstruct", as_json=as_json, quiet=quiet) as output:
        scan = existing(data)
        from recon.direct.virtual_images import virtual_images_of_file
        from recon.errors import ReconError

        out = out or scan.with_name(f"{scan.stem}-virtual")
        try:
            summary = virtual_images_of_file(scan, out, detectors.split(","))
        except ReconError as error:
            raise InputError(str(error)) from error
        output.result(summary, f"{summary['verdict']}\n{out}")


def many_command(
    data: list[Path],
    *,
    out: Path | None,
    params: Path | None,
    changes: dict[str, Any],
    scheduler: str,
    workers: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Many scans, each in its own folder; what is done already is skipped."""
    with command("reconstruct", as_json=as_json, quiet=quiet) as output:
        if out is None:
            raise InputError("many scans need a folder for their results", "give --out DIR")
        scans = [existing(path) for path in data]
        from recon.cluster import JobResult, reconstruct_many
        from recon.errors import ReconError
        from recon.params import ReconstructionParams

        console = Console(stderr=True)
        silent = quiet or not console.is_terminal
        try:
            settings = ReconstructionParams.from_yaml(params) if params else ReconstructionParams()
            given = {name: value for name, value in changes.items() if value is not None}
            settings = settings.updated(**given)
            with Progress(console=console, transient=True, disable=silent) as bar:
                task = bar.add_task("scans", total=len(scans))

                def tell(result: JobResult) -> None:
                    bar.advance(task)
                    output.say(f"{Path(result.data).name}: {result.status} {result.error}".strip())

                results = reconstruct_many(
                    scans,
                    out,
                    settings,
                    scheduler=scheduler,
                    workers=workers,
                    on_result=tell,
                )
        except ReconError as error:
            raise InputError(str(error)) from error
        table = Table("scan", "status", "FRC (Å)", "lattice (Å)", "verdict")
        for result in results:
            table.add_row(*result.row())
        failed = sum(result.status == "failed" for result in results)
        if not as_json:
            Console().print(table)
        output.result(
            {
                "jobs": [vars(result) for result in results],
                "failed": failed,
                "table": str(out / "jobs.json"),
            },
            str(out),
            ok=not failed,
        )
        if failed:
            raise typer.Exit(Exit.FINDINGS)


def distributed_command(
    data: Path | None,
    *,
    out: Path | None,
    params: Path | None,
    changes: dict[str, Any],
    resume: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """One process of ``torchrun --no-python ... lodestem reconstruct DATA --distributed``."""
    with command("reconstruct", as_json=as_json, quiet=quiet) as output:
        scan = existing(data) if resume is None else data
        from recon.distributed.run import reconstruct_together
        from recon.distributed.team import TeamError
        from recon.errors import ReconError
        from recon.params import ReconstructionParams

        if scan is not None and resume is None:
            out = out or scan.with_name(f"{scan.stem}-reconstruction")
        try:
            settings = None
            if resume is None:
                settings = ReconstructionParams.from_yaml(params) if params else None
                given = {name: value for name, value in changes.items() if value is not None}
                settings = (settings or ReconstructionParams()).updated(**given)
            with live_bar(output) as tell:
                summary = reconstruct_together(scan, out, settings, resume=resume, progress=tell)
        except TeamError as error:
            output.error("team", str(error), "")
            raise typer.Exit(Exit.STOPPED) from None
        except ReconError as error:
            raise InputError(str(error)) from error
        if summary is not None:
            output.result(summary, f"{summary.get('verdict', '')}\n{resume or out}")


def search_command(
    data: Path | None,
    trials: int,
    *,
    out: Path | None,
    params: Path | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Try settings, keep the best by held-out likelihood, and reconstruct with them."""
    with command("reconstruct", as_json=as_json, quiet=quiet) as output:
        scan = existing(data)
        from recon.errors import ReconError
        from recon.output import reconstruct_file
        from recon.params import ReconstructionParams
        from recon.request import open_request
        from recon.search import Tried, search_settings, write_best

        out = out or scan.with_name(f"{scan.stem}-search")
        try:
            given = ReconstructionParams.from_yaml(params) if params else None
            request = open_request(scan, out, given, device=device)
            output.say(f"{trials} trials; the first is with the settings as they are")

            def tell(number: int, tried: Tried) -> None:
                settings = ", ".join(f"{k} {v:.3g}" for k, v in tried.settings.items())
                said = tried.error or f"held-out {tried.held_out:.5f} in {tried.passes} passes"
                output.say(f"{number}: {said} ({settings})")

            best, all_tried = search_settings(
                request.dataset, trials, request.params, out=out, on_trial=tell
            )
            settings_file = write_best(out, best)
            with live_bar(output) as tell_event:
                summary = reconstruct_file(
                    scan, out, best, rng_seed=request.rng_seed + 1, progress=tell_event
                )
        except ReconError as error:
            raise InputError(str(error)) from error
        losses = [tried.held_out for tried in all_tried]
        summary |= {
            "search": {
                "trials": [vars(tried) for tried in all_tried],
                "best_settings": str(settings_file),
            }
        }
        output.result(
            summary,
            f"held-out loss {losses[0]:.5f} as it was, {min(losses):.5f} at best\n"
            f"{summary['verdict']}\n{out}",
        )


def existing(data: Path | None) -> Path:
    """Return the path of a scan that is there."""
    if data is None:
        raise InputError("no data", "give a scan")
    if not data.exists():
        raise InputError(f"{data} does not exist", "check the name")
    return data
