"""Who did that?  An append-only log, each line bound to the one before by its hash."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

GENESIS = "0" * 64


class AuditError(ValueError):
    """The log was altered."""


class AuditLog:
    """Writes one log; thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = read_audit(path) if path.exists() else []
        self._prev = str(lines[-1]["hash"]) if lines else GENESIS

    def write(self, what: str, *, who: str, role: str, address: str, **details: Any) -> None:  # noqa: ANN401
        """One line: user, role, address, command, what it was about, what came of it."""
        with self._lock:
            line: dict[str, Any] = {
                "utc": datetime.now(UTC).isoformat(),
                "what": what,
                "who": who,
                "role": role,
                "address": address,
                **details,
                "prev": self._prev,
            }
            line["hash"] = _digest(line)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, sort_keys=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self._prev = line["hash"]


def read_audit(path: Path) -> list[dict[str, Any]]:
    """All lines, verified.

    Raises
    ------
    AuditError
        A line was changed, removed or added; names it.
    """
    prev, lines = GENESIS, []
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = json.loads(raw)
        claimed = line.pop("hash")
        if line["prev"] != prev or _digest(line) != claimed:
            raise AuditError(f"{path}, line {number}: the chain is broken; the log was altered")
        prev = line["hash"] = claimed
        lines.append(line)
    return lines


def _digest(line: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()
