"""What was refused, to whom and why: appended to a file, one JSON object a line."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger("lodestem.security")

MAX_BYTES = 50_000_000
"""A flood of refusals must not fill the disk: above this only every thousandth is written."""


class SecurityLog:
    """Counts and writes refusals; thread-safe."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.refused = 0
        """How many there were since the start."""

    def refuse(self, who: str, what: str, why: str) -> None:
        """Note one refusal; `who` is a name, a key, or empty for nobody known."""
        line = json.dumps(
            {
                "utc": datetime.now(UTC).isoformat(),
                "who": who[:200],
                "what": what[:100],
                "why": why[:500],
            }
        )
        with self._lock:
            self.refused += 1
            log.info("refused: %s", line)
            if self._path is None:
                return
            try:
                full = self._path.exists() and self._path.stat().st_size > MAX_BYTES
                if not full or self.refused % 1000 == 0:
                    with self._path.open("a", encoding="utf-8") as file:
                        file.write(line + "\n")
            except OSError:
                log.exception("a refusal could not be written to %s", self._path)
