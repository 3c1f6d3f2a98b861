"""Everybody who looks on: one queue of one message per stream and viewer.

A picture is encoded once for all.  Whoever reads too slowly misses pictures, and holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

MOST_ON_THE_WAY = 2
"""Pictures that were sent and have not arrived, as far as the page has said."""
SILENT_S = 5.0


class Viewer:
    """One WebSocket's mailbox; belongs to the event loop."""

    def __init__(self) -> None:
        self._newest: dict[str, str | bytes] = {}
        self._changed = asyncio.Event()
        self._on_the_way = 0

    def put(self, stream: str, message: str | bytes) -> None:
        """Replace what waits of this stream."""
        self._newest.pop(stream, None)
        self._newest[stream] = message
        self._changed.set()

    def arrived(self) -> None:
        """The page says that a picture has arrived."""
        self._on_the_way = max(0, self._on_the_way - 1)
        self._changed.set()

    async def take(self) -> str | bytes:
        """What to send next: words at once, pictures as far as those before have arrived."""
        while (stream := self._ready()) is None:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), SILENT_S)
            except (
                TimeoutError
            ):  # a picture was lost, or the page tells nothing: go on all the same
                self._on_the_way = 0
        message = self._newest.pop(stream)
        if isinstance(message, bytes):
            self._on_the_way += 1
        return message

    def _ready(self) -> str | None:
        room = self._on_the_way < MOST_ON_THE_WAY
        return next(
            (name for name, message in self._newest.items() if room or isinstance(message, str)),
            None,
        )


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
