"""The journal: append-only JSON lines, each bound to the one before by its hash.

``hash = SHA-256(prev || canonical JSON of the line without hash)``.  A line is on disk (fsync)
before :meth:`Journal.append` returns.  Reading verifies the chain; a torn last line, as a crash
leaves it, is reported and ignored, while damage further up is an error that names the line.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from controller.hardware.clock import Clock
from controller.record.events import EVENT, EVENTS_VERSION, Event

GENESIS = "0" * 64

VOLATILE = ("utc", "prev", "hash")
"""Keys of a line that two runs of the same plan and seed may differ in, with ``*_ms`` of events."""


class JournalError(ValueError):
    """The journal is damaged or not a journal."""


@dataclass(frozen=True)
class Entry:
    """One line."""

    sequence: int
    utc: str
    clock_s: float
    event: Event
    hash: str


class Journal:
    """Writes the journal of one run.

    Parameters
    ----------
    path
        New or existing file; an existing one is verified and continued.
    clock
        Source of both times.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        self._sequence = 0
        self._prev = GENESIS
        if path.exists():
            entries = list(read_journal(path))
            if entries:
                self._sequence = entries[-1].sequence + 1
                self._prev = entries[-1].hash
            _drop_torn_tail(path)
        self._file = path.open("ab", buffering=0)
        self._listeners: list[Callable[[Entry], None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def listen(self, listener: Callable[[Entry], None]) -> None:
        """Call `listener` with every entry from now on, after it is on disk."""
        self._listeners.append(listener)

    def append(self, event: Event) -> Entry:
        """Write `event` durably."""
        line: dict[str, Any] = {
            "v": EVENTS_VERSION,
            "seq": self._sequence,
            "utc": self._clock.utc().isoformat(),
            "clock_s": round(self._clock.now_s(), 6),
            "event": event.model_dump(mode="json"),
            "prev": self._prev,
        }
        line["hash"] = _digest(line)
        self._write(_canonical(line) + b"\n")
        entry = Entry(self._sequence, line["utc"], line["clock_s"], event, line["hash"])
        self._sequence += 1
        self._prev = line["hash"]
        for listener in self._listeners:
            listener(entry)
        return entry

    def _write(self, line: bytes) -> None:
        """All of it, durably, or nothing of it."""
        end = os.fstat(self._file.fileno()).st_size
        try:
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) or 0 :]
            os.fsync(self._file.fileno())
        except OSError:
            os.ftruncate(self._file.fileno(), end)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_journal(path: Path) -> Iterator[Entry]:
    """Yield the entries of a journal, verified.

    Raises
    ------
    JournalError
        A line is damaged, missing or out of order (a torn last line is passed over).
    """
    prev, expected = GENESIS, 0
    with path.open("rb") as file:
        lines = file.read().split(b"\n")
    for number, raw in enumerate(lines, start=1):
        if number == len(lines):
            return  # empty after the last newline, or torn by a crash
        entry = _parse(raw, path, number)
        if entry["seq"] != expected or entry["prev"] != prev:
            raise JournalError(
                f"{path}, line {number}: the chain is broken (sequence {entry['seq']}, "
                f"expected {expected}); lines were removed, added or reordered. "
                f"What stands before line {number} is intact"
            )
        prev, expected = entry["hash"], expected + 1
        try:
            event = EVENT.validate_python(entry["event"])
        except ValidationError as error:
            raise JournalError(
                f"{path}, line {number}: an event that this version does not know "
                f"(journal version {entry.get('v')}, ours {EVENTS_VERSION}): {error}"
            ) from error
        yield Entry(entry["seq"], entry["utc"], entry["clock_s"], event, entry["hash"])


def comparable(path: Path) -> list[dict[str, Any]]:
    """The journal without what may differ between two runs of the same plan and seed."""
    lines = []
    for raw in path.read_bytes().splitlines():
        line = json.loads(raw)
        for key in VOLATILE:
            line.pop(key, None)
        line["event"] = _without_timings(line["event"])
        lines.append(line)
    return lines


def _without_timings(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {
            key: _without_timings(item)
            for key, item in value.items()
            if not key.endswith("_ms") and key != "host"
        }
    if isinstance(value, list):
        return [_without_timings(item) for item in value]
    return value


def _parse(raw: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        line = json.loads(raw)
        claimed = line.pop("hash")
        actual = _digest(line)
        line["seq"], line["prev"], line["event"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JournalError(
            f"{path}, line {number}: not a journal line ({error}); what stands before it is intact"
        ) from error
    if claimed != actual:
        raise JournalError(
            f"{path}, line {number}: the hash does not match, the line was altered; "
            f"what stands before it is intact"
        )
    line["hash"] = claimed
    parsed: dict[str, Any] = line
    return parsed


def _canonical(line: dict[str, Any]) -> bytes:
    return json.dumps(line, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _digest(line: dict[str, Any]) -> str:
    return hashlib.sha256(line["prev"].encode() + _canonical(line)).hexdigest()


def _drop_torn_tail(path: Path) -> None:
    content = path.read_bytes()
    keep = content.rfind(b"\n") + 1
    if keep != len(content):
        with path.open("rb+") as file:
            file.truncate(keep)
