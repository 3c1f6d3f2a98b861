"""Results to stdout, words to stderr, exit codes that mean something.

With ``--json`` stdout carries exactly one document,
``{"schema": "lodestem/<verb>/1", "ok": ..., "result": {...}, "warnings": [...]}``; errors come in
the same envelope with ``error.code``, ``message`` and ``hint``.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import typer

log = logging.getLogger("lodestem")


class Exit(IntEnum):
    """What the exit status says."""

    OK = 0
    BUG = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4
    FINDINGS = 5
    STOPPED = 6
    HARDWARE = 7
    INTERRUPTED = 130


class InputError(Exception):
    """The user gave something that cannot be used."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Output:
    """Where a command's results and words go."""

    def __init__(self, verb: str, *, as_json: bool, quiet: bool = False) -> None:
        self.verb = verb
        self.as_json = as_json
        self.quiet = quiet
        self.warnings: list[str] = []

    def say(self, text: str) -> None:
        """Words for a person, on stderr."""
        if not self.quiet:
            typer.echo(text, err=True)

    def warn(self, text: str) -> None:
        """A warning: on stderr, and in the document."""
        self.warnings.append(text)
        typer.echo(f"warning: {text}", err=True)

    def result(self, result: dict[str, Any], text: str = "", *, ok: bool = True) -> None:
        """The result: the JSON document, or `text`."""
        if self.as_json:
            document = {
                "schema": f"lodestem/{self.verb}/1",
                "ok": ok,
                "result": jsonable(result),
                "warnings": self.warnings,
            }
            sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
        elif text:
            typer.echo(text)

    def error(self, code: str, message: str, hint: str) -> None:
        """An error in the envelope, and in words."""
        if self.as_json:
            document = {
                "schema": f"lodestem/{self.verb}/1",
                "ok": False,
                "error": {"code": code, "message": message, "hint": hint},
                "warnings": self.warnings,
            }
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
        typer.echo(f"error: {message}", err=True)
        if hint:
            typer.echo(f"hint: {hint}", err=True)


@contextmanager
def command(verb: str, *, as_json: bool = False, quiet: bool = False) -> Iterator[Output]:
    """Run a command's body; turn what it raises into words and an exit status."""
    output = Output(verb, as_json=as_json, quiet=quiet)
    try:
        yield output
    except InputError as error:
        output.error("input", str(error), error.hint)
        raise typer.Exit(Exit.USAGE) from None
    except KeyboardInterrupt:
        output.error("interrupted", "interrupted before anything started", "")
        raise typer.Exit(Exit.INTERRUPTED) from None
    except typer.Exit:
        raise
    except Exception as error:
        code = _status(error)
        if code is Exit.BUG:
            log.exception("unexpected error in %s", verb)
        name = type(error).__name__
        output.error(name, str(error) or name, _HINTS.get(code, ""))
        raise typer.Exit(code) from error


_HINTS = {
    Exit.BUG: "this is a bug in lodestem; run again with -v for the trace and report it",
    Exit.UNREACHABLE: "check the connection with `lodestem doctor`",
    Exit.HARDWARE: "the beam state is in the message; look at the instrument before going on",
}


def _status(error: Exception) -> Exit:
    """Exit status of an error by its class (imported late: most commands need no hardware)."""
    from controller.hardware.errors import (
        InterlockError,
        LinkError,
        MicroscopeError,
        RefusedError,
    )

    if isinstance(error, LinkError):
        return Exit.UNREACHABLE
    if isinstance(error, RefusedError | InterlockError):
        return Exit.REFUSED
    if isinstance(error, MicroscopeError):
        return Exit.HARDWARE
    return Exit.BUG


def jsonable(value: Any) -> Any:  # noqa: ANN401
    """`value` with numpy numbers, paths and non-finite floats made fit for JSON."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return jsonable(value.item())
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return str(value)
