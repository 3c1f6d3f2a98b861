"""The person who does not answer, the channel that does not carry, the run that is suspended."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from controller.decision.approval import Answer, Approver, Proposal
from controller.hardware.clock import Clock
from controller.hardware.faults import FaultSource

P = ParamSpec("P")

LOOK_S = 1.0
"""How often a suspended run asks whether it may go on."""


class SilentApprover:
    """An `Approver` round another that lets a proposal go unanswered: ``approval-silence``."""

    def __init__(self, inner: Approver, faults: FaultSource, clock: Clock) -> None:
        self._inner = inner
        self._faults = faults
        self._clock = clock

    def ask(self, proposal: Proposal, wait_s: float) -> Answer:
        """Silence after `wait_s` if the fault is due."""
        if self._faults.strikes("approval-silence"):
            self._clock.sleep(wait_s)
            return Answer("silence", by="nobody", reason=f"no answer within {wait_s:g} s")
        return self._inner.ask(proposal, wait_s)


def refusing(send: Callable[P, None], faults: FaultSource) -> Callable[P, None]:
    """The function that hands a message to a channel, refused while ``notification-down`` is on.

    Whoever sends gets ConnectionRefusedError, as from a mail server that is down.
    """

    @wraps(send)
    def send_or_refuse(*args: P.args, **kwargs: P.kwargs) -> None:
        if faults.is_on("notification-down"):
            raise ConnectionRefusedError("connection refused (injected)")
        send(*args, **kwargs)

    return send_or_refuse


class PausePoint:
    """Asked before every step: waits while the run is suspended (``suspended``), then goes on.

    Between two steps the beam is blanked and nothing moves, so there is nothing to do but wait.
    """

    def __init__(
        self, faults: FaultSource, clock: Clock, keep_going: Callable[[], bool] = lambda: True
    ) -> None:
        self._faults = faults
        self._clock = clock
        self._keep_going = keep_going

    def __call__(self) -> bool:
        """Whether to take the next step; False also ends a wait."""
        while self._keep_going() and self._faults.is_on("suspended"):
            self._clock.sleep(LOOK_S)
        return self._keep_going()
