"""Everybody who looks on: one queue of one message per stream and viewer.

A picture is encoded once for all.  Whoever reads too slowly misses pictures, and holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Viewer:
    """One WebSocket's mailbox; belongs to the event loop."""

    def __init__(self) -> None:
        self._newest: dict[str, str | bytes] = {}
        self._some = asyncio.Event()

    def put(self, stream: str, message: str | bytes) -> None:
        """Replace what waits of this stream."""
        self._newest.pop(stream, None)
        self._newest[stream] = message
        self._some.set()

    async def take(self) -> list[str | bytes]:
        """Everything that waits, oldest first; waits for something."""
        await self._some.wait()
        self._some.clear()
        waiting = list(self._newest.values())
        self._newest.clear()
        return waiting


class Hub:
    """Tells all viewers; belongs to the event loop."""

    def __init__(self) -> None:
        self._viewers: set[Viewer] = set()
        self._last: dict[str, str | bytes] = {}

    def tell(self, stream: str, message: str | bytes) -> None:
        """To everybody, and to whoever comes later."""
        self._last[stream] = message
        for viewer in self._viewers:
            viewer.put(stream, message)

    @contextmanager
    def viewing(self) -> Iterator[Viewer]:
        """A viewer that begins with the newest of everything."""
        viewer = Viewer()
        for stream, message in self._last.items():
            viewer.put(stream, message)
        self._viewers.add(viewer)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    @property
    def count(self) -> int:
        """How many look on."""
        return len(self._viewers)
