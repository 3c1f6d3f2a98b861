"""Taking the beam off, and making sure that it is off.

``blank`` never waits for anything but the blanker itself: no lock is held while a stage moves or
a detector reads.  If the blanker does not confirm, the column valve is the second guard, and the
gate stays shut until a person has looked.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

from controller.hardware.contract import Adapter
from controller.hardware.errors import BeamState, BlankUnconfirmedError, DoseState
from controller.hardware.values import BlankResult, LongOperation

log = logging.getLogger("lodestem.safety")

CONFIRM_TIMEOUT_S = 0.1
POLL_S = 0.01


class BeamGuard:
    """Blanks, confirms, and remembers whether anybody asked to stop."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._stops = 0
        self._reason = ""
        self._counting = threading.Lock()
        self._blanking_since_s: float | None = None
        self.suspect: str | None = None
        """Why the blanker is not trusted, or None. Only a person clears it."""

    def stop_count(self) -> int:
        """How often somebody asked to stop; compare before and after."""
        with self._counting:
            return self._stops

    @property
    def reason(self) -> str:
        """Why the last stop was asked for."""
        return self._reason

    def note_stop(self, why: str) -> None:
        """Count a stop before acting on it, so that whoever works next sees it."""
        with self._counting:
            self._stops += 1
            self._reason = why

    def is_blanking(self, patience_s: float = 2.0) -> bool:
        """Whether somebody is at it already, and not for longer than `patience_s`."""
        since_s = self._blanking_since_s
        return since_s is not None and self._adapter.clock.now_s() - since_s < patience_s

    def blank(self) -> BlankResult:
        """Blank, read back, close the valve if the blanker does not confirm. Thread-safe."""
        self._blanking_since_s = self._adapter.clock.now_s()
        try:
            return self._blank()
        finally:
            self._blanking_since_s = None

    def _blank(self) -> BlankResult:
        clock = self._adapter.clock
        start_s = clock.now_s()
        was_open = True
        with suppress(Exception):  # a read-back that fails must not keep the command from going out
            was_open = self._adapter.read_blanked() is False
        deadline_s = start_s + self._adapter.capabilities.blank.latency_s + CONFIRM_TIMEOUT_S
        state = self._try()
        while state is False and clock.now_s() < deadline_s:
            clock.sleep(POLL_S)
            state = self._try()
        guard_closed = state is False and self.close_valve()
        if state is False:
            valve = "was closed instead" if guard_closed else "could not be closed"
            self.suspect = (
                f"the blanker did not confirm within {clock.now_s() - start_s:.2f} s; "
                f"the column valve {valve}"
            )
        return BlankResult(
            blanked=state is not False or guard_closed,
            confirmed=state is True,
            was_open=was_open,
            latency_s=max(0.0, clock.now_s() - start_s),
            guard="blanker" if state is not False else "valve" if guard_closed else "none",
        )

    def _try(self) -> bool | None:
        """Blank and read back; False where the driver fails: the valve is next."""
        try:
            self._adapter.blank_beam()
            return self._adapter.read_blanked()
        except Exception:
            log.exception("the blanker could not be used")
            return False

    def check_trusted(self) -> None:
        """Refuse to go on with a blanker that has failed.

        Raises
        ------
        BlankUnconfirmedError
            Until a person has looked and the session is started again.
        """
        if self.suspect is not None:
            raise BlankUnconfirmedError(
                f"{self.suspect}; nothing was exposed. A person has to check the blanker and start "
                f"a new session.",
                beam_state=BeamState.UNKNOWN,
                dose_state=DoseState.NONE,
            )

    def close_valve(self) -> bool:
        """Use the second guard; False where there is none or it failed."""
        if LongOperation.CLOSE_VALVE not in self._adapter.capabilities.long_operations:
            return False
        try:
            return self._adapter.run_operation(LongOperation.CLOSE_VALVE).succeeded
        except Exception:
            log.exception("the column valve could not be closed")
            return False
