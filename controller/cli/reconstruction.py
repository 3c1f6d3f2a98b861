"""The other ways of ``lodestem reconstruct``: virtual images, many scans, a search of settings."""

from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from controller.cli.output import Exit, InputError, command


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


def existing(data: Path | None) -> Path:
    """Return the path of a scan that is there."""
    if data is None:
        raise InputError("no data", "give a scan")
    if not data.exists():
        raise InputError(f"{data} does not exist", "check the name")
    return data
