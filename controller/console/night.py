"""A run as the console sees it: the journal as it grows, belief folded from it, the desk.

A cache and nothing more: another console, started later, sees the same.  A replay shows the journal
up to an instant of the clock that the viewer chooses.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from controller.decision.belief import Belief, update
from controller.plan.run import RunPlan
from controller.record.desk import read_state
from controller.record.events import EVENT, RunStarted
from controller.record.journal import Entry

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Night:
    """A run at one instant."""

    folder: Path
    entries: tuple[Entry, ...]
    belief: Belief
    desk: dict[str, Any] | None
    acks: tuple[dict[str, Any], ...] = ()

    @property
    def started(self) -> RunStarted | None:
        """The run's first event."""
        return self.belief.started

    @cached_property
    def plan(self) -> RunPlan | None:
        """The plan that it was started with."""
        run = self.started
        return None if run is None else RunPlan.model_validate(run.plan)

    @property
    def simulated(self) -> bool | None:
        """Whether the instrument is a simulator; None before that is known."""
        return None if self.started is None else self.started.capabilities.simulated

    @property
    def proposal(self) -> dict[str, Any] | None:
        """What waits for an answer."""
        return None if self.desk is None else self.desk.get("proposal")


class Follower:
    """Reads what is new in a journal; not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read = 0
        self._entries: list[Entry] = []
        self._beliefs: list[Belief] = []
        self._acks: tuple[int, tuple[dict[str, Any], ...]] = (-1, ())

    def look(self) -> bool:
        """Take in what was written since; whether there was anything."""
        path = self.folder / JOURNAL
        if not path.exists():
            return False
        with path.open("rb") as file:
            file.seek(self._read)
            fresh = file.read()
        end = fresh.rfind(b"\n") + 1
        for raw in fresh[:end].splitlines():
            self._take(json.loads(raw))
        self._read += end
        return end > 0

    def _take(self, line: dict[str, Any]) -> None:
        event = EVENT.validate_python(line["event"])
        entry = Entry(line["seq"], line["utc"], line["clock_s"], event, line["hash"])
        self._entries.append(entry)
        self._beliefs.append(update(self._beliefs[-1] if self._beliefs else Belief(), event))

    def night(self) -> Night:
        """The run now."""
        belief = self._beliefs[-1] if self._beliefs else Belief()
        desk = read_state(self.folder)
        return Night(self.folder, tuple(self._entries), belief, desk, self._acknowledged())

    def at(self, clock_s: float) -> Night:
        """The run as it was at an instant of its clock."""
        count = bisect_right([entry.clock_s for entry in self._entries], clock_s)
        belief = self._beliefs[count - 1] if count else Belief()
        return Night(self.folder, tuple(self._entries[:count]), belief, None)

    @property
    def span_s(self) -> tuple[float, float]:
        """First and last instant of the journal's clock."""
        if not self._entries:
            return 0.0, 0.0
        return self._entries[0].clock_s, self._entries[-1].clock_s

    def _acknowledged(self) -> tuple[dict[str, Any], ...]:
        path = self.folder / "acknowledged.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size != self._acks[0]:
            lines = path.read_text(encoding="utf-8").splitlines() if size else []
            self._acks = (size, tuple(json.loads(line) for line in lines))
        return self._acks[1]


def last(entries: Sequence[Entry], kind: type, **fields: object) -> Entry | None:
    """The newest entry whose event is of `kind` and has these fields."""
    for entry in reversed(entries):
        if isinstance(entry.event, kind) and all(
            getattr(entry.event, name) == value for name, value in fields.items()
        ):
            return entry
    return None
