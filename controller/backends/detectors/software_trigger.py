"""Trigger by command without waiting for the answer: the beam is open meanwhile.

A DECTRIS detector answers ``trigger`` when the exposure is over, and a detector that hangs never;
how long the beam stays open must depend on neither.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from controller.hardware.errors import MicroscopeError


class SoftwareTrigger:
    """One command in a thread of its own, and what became of it."""

    def __init__(self, name: str) -> None:
        self._name = f"trigger {name}"
        self._problem: MicroscopeError | None = None

    def forget(self) -> None:
        """A new series: what became of the last command does not matter any more."""
        self._problem = None

    def fire(self, command: Callable[[], object]) -> None:
        """Run `command`; returns at once."""
        threading.Thread(target=self._run, args=(command,), name=self._name, daemon=True).start()

    def check(self) -> None:
        """Raise what the command raised, if it has failed by now."""
        if self._problem is not None:
            raise self._problem

    def _run(self, command: Callable[[], object]) -> None:
        try:
            command()
        except MicroscopeError as problem:
            self._problem = problem
