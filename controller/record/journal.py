"""The journal: append-only JSON lines, each bound to the one before by its hash.

``hash = SHA-256(prev || canonical JSON of the line without hash)``.  A line is on disk (fsync)
before :meth:`Journal.append` returns.  Reading verifies the chain; a torn last line, as a crash
leaves it, is reported and ignored, while damage further up is an error that names the line.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from controller.hardware.clock import Clock
from controller.record.disk import storing
from controller.record.events import EVENT, EVENTS_VERSION, Event

GENESIS = "0" * 64
_BLOCK = 1 << 16

_LINE = re.compile(
    rb'\{"clock_s":(?P<clock_s>[-+.0-9eE]+),"event":(?P<event>\{.*\}),"hash":"(?P<hash>[0-9a-f]{64})"'
    rb',"prev":"(?P<prev>[0-9a-f]{64})","seq":(?P<seq>\d+),"utc":"(?P<utc>[^"]*)","v":(?P<v>\d+)\}'
)
"""A line as :meth:`Journal.append` writes it: keys sorted, no spaces."""

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
    last
        Of an existing file that has just been verified: its last entry; None verifies it here.
    """

    def __init__(self, path: Path, clock: Clock, *, last: Entry | None = None) -> None:
        self._clock = clock
        self._sequence = 0
        self._prev = GENESIS
        if path.exists():
            if last is None:
                last = next(iter(deque(read_journal(path), maxlen=1)), None)
            if last is not None:
                self._sequence = last.sequence + 1
                self._prev = last.hash
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
        """Write `event` durably.

        Raises
        ------
        StorageError
            The disk refuses; the journal is as it was.
        """
        line: dict[str, Any] = {
            "v": EVENTS_VERSION,
            "seq": self._sequence,
            "utc": self._clock.utc().isoformat(),
            "clock_s": round(self._clock.now_s(), 6),
            "event": event.model_dump(mode="json"),
            "prev": self._prev,
        }
        raw, digest = chained(line)
        with storing("the journal"):
            self._write(raw)
        entry = Entry(self._sequence, line["utc"], line["clock_s"], event, digest)
        self._sequence += 1
        self._prev = digest
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
    """Yield the entries of a journal, verified, one line in memory at a time.

    Raises
    ------
    JournalError
        A line is damaged, missing or out of order (a torn last line is passed over).
    """
    prev, expected = GENESIS, 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                return  # torn by a crash
            entry, before = _parse(raw[:-1], path, number)
            if entry.sequence != expected or before != prev:
                raise JournalError(
                    f"{path}, line {number}: the chain is broken (sequence {entry.sequence}, "
                    f"expected {expected}); lines were removed, added or reordered. "
                    f"What stands before line {number} is intact"
                )
            prev, expected = entry.hash, expected + 1
            yield entry


def chained(line: dict[str, Any]) -> tuple[bytes, str]:
    """A line as it stands in the file, and its hash; `line` holds all keys but that."""
    digest = hashlib.sha256(line["prev"].encode() + _canonical(line)).hexdigest()
    return _canonical(line | {"hash": digest}) + b"\n", digest


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


def _parse(raw: bytes, path: Path, number: int) -> tuple[Entry, str]:
    """The entry of a line, verified by itself, and the hash that it says stands before it.

    The line is hashed as it was written: keys are sorted, so the hash is cut out, not rebuilt.
    """
    parts = _LINE.fullmatch(raw)
    if parts is None:
        raise JournalError(
            f"{path}, line {number}: not a journal line ({raw[:40]!r}...); "
            f"what stands before it is intact"
        )
    claimed, prev = parts["hash"].decode(), parts["prev"].decode()
    content = raw[: parts.end("event")] + raw[parts.end("hash") + 1 :]
    if claimed != hashlib.sha256(parts["prev"] + content).hexdigest():
        raise JournalError(
            f"{path}, line {number}: the hash does not match, the line was altered; "
            f"what stands before it is intact"
        )
    try:
        event = EVENT.validate_json(parts["event"])
    except ValidationError as error:
        raise JournalError(
            f"{path}, line {number}: an event that this version does not know "
            f"(journal version {parts['v'].decode()}, ours {EVENTS_VERSION}): {error}"
        ) from error
    utc, clock_s = parts["utc"].decode(), float(parts["clock_s"])
    return Entry(int(parts["seq"]), utc, clock_s, event, claimed), prev


def _canonical(line: dict[str, Any]) -> bytes:
    return json.dumps(line, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _drop_torn_tail(path: Path) -> None:
    """Cut what stands after the last newline, read from the end."""
    with path.open("rb+") as file:
        end = keep = file.seek(0, os.SEEK_END)
        while keep > 0:
            begin = max(0, keep - _BLOCK)
            file.seek(begin)
            newline = file.read(keep - begin).rfind(b"\n")
            if newline >= 0:
                keep = begin + newline + 1
                break
            keep = begin
        if keep != end:
            file.truncate(keep)
