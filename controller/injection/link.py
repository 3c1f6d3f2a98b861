"""A link that loses, holds back, swaps and repeats messages, between a lane and its clients.

The lane hands over every message and goes on with what comes back.  Nothing here knows of the
protocol: a message is whatever the transport carries, one list of parts.
"""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from controller.hardware.faults import FaultSource

Message = TypeVar("Message")
Direction = Literal["request", "reply"]


class FaultyLink(Generic[Message]):
    """Decides what passes.

    Faults: ``request-lost`` and ``reply-lost`` (cut in one direction while on),
    ``server-thread-dead`` (the port is alive, requests go nowhere), ``replies-swapped`` (the next
    reply waits for the one after it and comes second), ``message-repeated`` (twice).
    """

    def __init__(self, faults: FaultSource) -> None:
        self._faults = faults
        self._held: Message | None = None

    def passes(self, direction: Direction, message: Message) -> list[Message]:
        """What to send on instead of `message`, in this order; nothing if it is lost."""
        if direction == "request":
            if self._faults.is_on("request-lost") or self._faults.is_on("server-thread-dead"):
                return []
            return [message] * (2 if self._faults.strikes("message-repeated") else 1)
        if self._faults.is_on("reply-lost"):
            return []
        if self._held is not None:
            held, self._held = self._held, None
            return [message, held]
        if self._faults.strikes("replies-swapped"):
            self._held = message
            return []
        return [message]
