"""The desk of a supervised run: files by which a console asks, and the run answers.

As with the inbox, whoever may write into the run folder may ask.  A request is one small file,
renamed into place; its answer has the same name in another folder.  ``desk/state.json`` says what
the run waits for and who drives; it is written anew twice a second, so that a run that has died
shows.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import Field, TypeAdapter, ValidationError

from controller.hardware.values import Frozen

FOLDER = "desk"
STATE_FILE = "state.json"
MOST_BYTES = 20_000
ANSWER_S = 3.0
"""A run that lives answers within this."""

Text = Annotated[str, Field(max_length=300)]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Who(Frozen):
    """Who asks: a browser of somebody that the console knows."""

    session: Annotated[str, Field(min_length=8, max_length=64)]
    name: Name
    role: Literal["operator", "scientist", "admin"]
    """Viewers ask for nothing: such a request does not validate."""


class LeaseWanted(Frozen):
    """Something about the operator lease."""

    kind: Literal["lease"] = "lease"
    what: Literal["ask", "seize", "renew", "refuse", "release"]
    who: Who
    epoch: int = 0
    reason: Text = ""


class Said(Frozen):
    """An answer to a proposal; names what was seen."""

    kind: Literal["answer"] = "answer"
    who: Who
    epoch: int
    proposal: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    state_revision: int
    answer: Literal["approve", "edit", "reject", "undo"]
    reason: Text = ""
    changes: dict[str, Number] = Field(default_factory=dict)


class Delegated(Frozen):
    """An approval in advance, or its end."""

    kind: Literal["delegate"] = "delegate"
    who: Who
    epoch: int
    proposal: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The first one that it is for; None ends what was delegated."""
    state_revision: int = 0
    envelope: dict[str, Number] = Field(default_factory=dict)


DeskRequest = Annotated[LeaseWanted | Said | Delegated, Field(discriminator="kind")]
REQUEST: TypeAdapter[DeskRequest] = TypeAdapter(DeskRequest)


class DeskError(Exception):
    """The run refused, with the reason; or it did not answer."""

    def __init__(self, message: str, *, answered: bool = True) -> None:
        super().__init__(message)
        self.answered = answered


def ask(
    run_dir: Path,
    request: DeskRequest,
    *,
    timeout_s: float = ANSWER_S,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Put a request on the desk and wait for the answer.

    Raises
    ------
    DeskError
        The run refused (with why), or did not answer: then nothing is known.
    """
    name = f"{time.time_ns():020d}-{uuid4().hex[:8]}.json"
    folder = run_dir / FOLDER
    for part in ("in", "out"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_whole(folder / "in" / name, request.model_dump(mode="json"))
    answer = folder / "out" / name
    waited_s, nap_s = 0.0, 0.01
    while not answer.exists():
        if waited_s >= timeout_s:
            (folder / "in" / name).unlink(missing_ok=True)
            raise DeskError(
                f"the run did not answer within {timeout_s:g} s; see whether it still runs",
                answered=False,
            )
        sleep(nap_s)
        waited_s += nap_s
    told: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    answer.unlink(missing_ok=True)
    if not told["ok"]:
        raise DeskError(str(told["why"]))
    return told


def write_whole(path: Path, document: dict[str, Any]) -> None:
    """Write a small JSON file so that nobody reads half of it."""
    fresh = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")
    fresh.write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
    os.replace(fresh, path)


def read_state(run_dir: Path) -> dict[str, Any] | None:
    """What the run last said on its desk; None where it has none."""
    try:
        text = (run_dir / FOLDER / STATE_FILE).read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


class DeskFiles:
    """The run's side."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / FOLDER
        for part in ("in", "out"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
            for left in (self._folder / part).iterdir():  # of a session before this one
                left.unlink(missing_ok=True)

    def waiting(self) -> list[tuple[Path, DeskRequest | str]]:
        """Requests in the order they came; what cannot be read, as words."""
        return [(path, _read(path)) for path in sorted((self._folder / "in").glob("*.json"))]

    def answer(self, path: Path, *, ok: bool, why: str = "", **told: Any) -> None:  # noqa: ANN401
        """Answer one and put it away."""
        path.unlink(missing_ok=True)
        write_whole(self._folder / "out" / path.name, {"ok": ok, "why": why, **told})

    def publish(self, state: dict[str, Any]) -> None:
        """Say what is so now."""
        write_whole(self._folder / STATE_FILE, state)


def _read(path: Path) -> DeskRequest | str:
    try:
        if path.stat().st_size > MOST_BYTES:
            return f"{path.name} has more than {MOST_BYTES} bytes"
        return REQUEST.validate_json(path.read_bytes())
    except (OSError, ValueError, ValidationError) as error:
        return f"no request that this run understands: {error}"
