"""Requests of people to a run that is under way: files that it reads between two steps.

Whoever may write into the run folder may ask.  A request is one small JSON file, renamed into place
so that half a request is never read; the run journals what it did about it and puts the file away.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self
from uuid import uuid4

from pydantic import Field, ValidationError, model_validator

from controller.hardware.values import Finite, Frozen

FOLDER = "inbox"
MOST_BYTES = 10_000

What = Literal["pause", "stop", "go_on", "finish", "skip", "first", "last", "add"]


class QueueRequest(Frozen):
    """What somebody wants of the queue."""

    what: What
    by: Annotated[str, Field(min_length=1, max_length=64)]
    target: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")] | None = None
    x_um: Finite | None = None
    y_um: Finite | None = None
    reason: Annotated[str, Field(max_length=300)] = ""

    @model_validator(mode="after")
    def _names_what_it_is_about(self) -> Self:
        if self.what in ("skip", "first", "last") and self.target is None:
            raise ValueError(f"{self.what} which crystal? name it, such as T03")
        if self.what == "add" and (self.x_um is None or self.y_um is None):
            raise ValueError("add where? give x_um and y_um on the specimen")
        return self


def send(run_dir: Path, request: QueueRequest) -> Path:
    """Put a request into the inbox of a run; whole or not at all."""
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    path = folder / f"{stamp}-{uuid4().hex[:8]}.json"
    fresh = path.with_suffix(".part")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(request.model_dump_json())
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    return path


class Inbox:
    """The inbox of one run."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / FOLDER

    def waiting(self) -> list[tuple[Path, QueueRequest | str]]:
        """Requests in the order they came; what cannot be read, as words."""
        if not self._folder.is_dir():
            return []
        return [(path, _read(path)) for path in sorted(self._folder.glob("*.json"))]

    def is_stopped(self) -> bool:
        """Whether somebody's STOP waits to be attended to."""
        return any(
            isinstance(request, QueueRequest) and request.what == "stop"
            for _, request in self.waiting()
        )

    def put_away(self, path: Path) -> None:
        """It was dealt with."""
        done = self._folder / "done"
        done.mkdir(exist_ok=True)
        path.rename(done / path.name)


def _read(path: Path) -> QueueRequest | str:
    try:
        if path.stat().st_size > MOST_BYTES:
            return f"{path.name} has more than {MOST_BYTES} bytes"
        return QueueRequest.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        return f"{path.name} is no request: {error}"
