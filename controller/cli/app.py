"""The program itself: what all verbs share, and how a verb finds its function.

Modules of the verbs are imported when a verb runs, so that ``--help`` is instant.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

# Small matrices by the thousand: BLAS threads that wait for each other cost more than they bring.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

app = typer.Typer(
    name="lodestem",
    help="Low-dose STEM by itself: survey, align, scan and reconstruct beam-sensitive crystals.",
    epilog="Start with `lodestem demo`. Every command takes --help.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
EXTRAS = {
    "torch": "all",
    "scipy": "all",
    "gemmi": "align",
    "matplotlib": "report",
    "jinja2": "report",
    "PIL": "report",
    "tifffile": "models",
    "mrcfile": "models",
    "hdf5plugin": "recon",
    "numba": "align",
    "sqlalchemy": "library",
    "fastapi": "console",
    "uvicorn": "console",
    "argon2": "console",
}
"""Which extra brings a package that the base install does without."""


def verb(module: str, name: str) -> Callable[..., None]:
    """The function behind a verb; a missing extra is named instead of a traceback."""
    try:
        found: Callable[..., None] = getattr(import_module(f"controller.cli.{module}"), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        typer.echo(
            f"error: this command needs {package}, which the base install does without\n"
            f"hint: pip install 'lodestem[{EXTRAS[package]}]'",
            err=True,
        )
        raise typer.Exit(2) from None
    return found


Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No words on stderr.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results.")]
