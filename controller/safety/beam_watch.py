"""Keeps an eye on an open beam, beside whoever opened it.

The thread that exposes may hang in a driver, in the stream of a detector or on a slow disk.  So
the beam is ended by alarms of the clock: at its deadline, and within `WATCH_S` of an interlock
that is no longer known to be good, or of a hand on the stage.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from controller.hardware.clock import call_at
from controller.hardware.contract import Adapter
from controller.hardware.errors import (
    InterlockError,
    MicroscopeError,
    StaleHealthError,
    StoppedByOtherError,
)
from controller.hardware.values import StagePose
from controller.safety.blanking import BeamGuard
from controller.safety.interlocks import check_interlocks

WATCH_S = 0.1
"""How often the column is looked at while the beam is open."""


class BeamWatch:
    """Watches one opening of the beam, from `begin` to `end`.

    Parameters
    ----------
    deadline_s
        Instant of the adapter's clock at which the beam is taken off whatever happens.
    holder_id
        The holder that the session started with.
    is_in_place
        Whether a read-back of the stage is still where the exposure was booked.
    """

    def __init__(
        self,
        adapter: Adapter,
        beam: BeamGuard,
        *,
        deadline_s: float,
        holder_id: str | None,
        is_in_place: Callable[[StagePose], bool],
    ) -> None:
        self._adapter = adapter
        self._beam = beam
        self._deadline_s = deadline_s
        self._holder_id = holder_id
        self._is_in_place = is_in_place
        self._over = threading.Event()
        self._cancel: Callable[[], None] = lambda: None
        self._cancel_last: Callable[[], None] = lambda: None
        self.problem: MicroscopeError | None = None
        """Why the beam was taken off before its time, if it was."""
        self.cut_s: float | None = None
        """When this watch had taken the beam off; None if it did not, or could not confirm it."""
        self.highest_pA: float | None = None
        """Largest current seen meanwhile."""

    def begin(self) -> None:
        """Look now and then from now on."""
        # an alarm of its own, which reads nothing: whatever hangs, the beam ends
        self._cancel_last = call_at(self._adapter.clock, self._deadline_s, self._at_deadline)
        self._again()

    def end(self) -> None:
        """The beam is somebody else's business again."""
        self._over.set()
        self._cancel()
        self._cancel_last()

    def _at_deadline(self) -> None:
        if self._over.is_set() or self._beam.is_blanking():
            return
        self._take_off()

    def check(self) -> None:
        """Raise what was found.

        Raises
        ------
        InterlockError
            The column is not fit any more. The beam was blanked.
        StoppedByOtherError
            Somebody moved the stage. The beam was blanked.
        """
        if self.problem is not None:
            raise self.problem

    def _again(self) -> None:
        if self._over.is_set():
            return
        clock = self._adapter.clock
        next_s = clock.now_s() + WATCH_S
        if clock.now_s() < self._deadline_s:
            next_s = min(next_s, self._deadline_s)
        self._cancel = call_at(clock, next_s, self._look)

    def _look(self) -> None:
        if self._over.is_set():
            return
        problem = None
        if not self._adapter.clock.now_s() >= self._deadline_s:
            problem = self._trouble()
            if problem is None:
                self._again()
                return
        if self._over.is_set():
            return
        if problem is None and self._beam.is_blanking():
            self._again()
            return
        self.problem = problem
        self._take_off()

    def _take_off(self) -> None:
        try:
            result = self._beam.blank()
        except Exception:  # noqa: BLE001  (a driver that fails is tried again)
            self._again()
            return
        if result.confirmed:
            self.cut_s = self._adapter.clock.now_s()

    def _trouble(self) -> MicroscopeError | None:
        try:
            health = self._adapter.read_health()
            if health.probe_current_pA is not None:
                self.highest_pA = max(self.highest_pA or 0.0, health.probe_current_pA)
            check_interlocks(
                health,
                holder_id=self._holder_id,
                outcome="the exposure was cut off and is charged",
            )
            if not self._is_in_place(self._adapter.read_pose()):
                return moved_meanwhile()
        except InterlockError as bad:
            return bad
        except Exception as unreadable:  # noqa: BLE001  (whatever a vendor's interface raises)
            return StaleHealthError(
                f"the column cannot be read during an exposure ({unreadable}); it was cut off and "
                f"is charged, the beam is blanked. Read the column again; if it stays silent a "
                f"person has to look."
            )
        return None


def moved_meanwhile() -> StoppedByOtherError:
    """What to say when somebody moved the stage under the open beam."""
    return StoppedByOtherError(
        "the stage moved during the exposure, and not by this session; the beam is blanked and the "
        "dose is charged along the way. Ask who moved it, then find the crystal again."
    )
