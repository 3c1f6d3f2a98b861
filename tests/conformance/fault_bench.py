"""A simulated column under guard that may be crashed, restarted, lied to and held to account.

The column, its specimen and its clock live on when the guard dies, as they do in a laboratory;
a watchdog then blanks the beam.  What is claimed is checked against the simulator's own truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from controller.hardware.clock import VirtualClock
from controller.hardware.faults import FAULTS
from controller.hardware.values import (
    Axis,
    ColumnHealth,
    Condition,
    DetectorJob,
    Exposure,
    LongOperation,
    StageLimits,
)
from controller.injection.disk import FaultyDisk
from controller.safety.blanking import CONFIRM_TIMEOUT_S, POLL_S
from controller.safety.dose import DoseLedger
from controller.safety.fluence import UNSEEN_S
from controller.safety.gate import GuardedMicroscope
from controller.safety.ledger_store import NEXT
from controller.safety.limits import DoseLimits, Envelope, vendor_limits
from sim_microscope.adapter import SimulatedAdapter, open_adapter
from tests.conformance.fake_adapter import MemorySink
from tests.conformance.watched_adapter import WatchedAdapter

SCENARIO = str(Path(__file__).with_name("light.yaml"))
LIMITS = DoseLimits(specimen_e_per_A2=3000.0, before_scan_e_per_A2=2000.0, data_e_per_A2=3000.0)
SITE = StageLimits(ranges={Axis.X: (-60.0, 60.0), Axis.ALPHA: (-28.0, 40.0)})
PLAN = StageLimits(ranges={Axis.Y: (-40.0, 40.0), Axis.ALPHA: (-40.0, 25.0)})
REACT_S = 0.25
"""Within which the beam has to be off after anything that goes wrong."""
VALVE_S = 1.0 + CONFIRM_TIMEOUT_S + 2 * POLL_S
"""Until the column valve, the second guard behind a stuck blanker, has travelled."""
TAILS = 1e-4
"""Of the largest charge: what the ledger may ignore."""
DISPLACING = frozenset(
    {"crystal-lost", "drift-burst", "focus-false", "alpha-inverted", "extra-backlash"}
)
"""Move the specimen against the read-back by more than the stated sigma, so that the map of the
ledger is displaced; then amounts are compared exposure by exposure instead of cell by cell."""
CLOSING = frozenset(
    {"valve-closes", "vacuum-bad", "refill", "flash-due", "gun-off", "ht-trip", "screen-down"}
) | {"holder-changed"}
"""Turn an interlock bad: an exposure under way has to end."""


class Died(BaseException):
    """The process that guards the column is gone; nothing it wanted to do any more was done."""


@dataclass
class Death:
    """When the process dies: at the `countdown`-th point where a crash may be."""

    countdown: int
    at: str = ""


class _ProcessClock:
    """The column's clock as one process sees it: its alarms die with it."""

    def __init__(self, clock: VirtualClock, is_alive: Callable[[], bool]) -> None:
        self._clock = clock
        self._is_alive = is_alive
        self.now_s, self.utc, self.sleep = clock.now_s, clock.utc, clock.sleep

    def call_at(self, at_s: float, action: Callable[[], None]) -> Callable[[], None]:
        return self._clock.call_at(at_s, lambda: action() if self._is_alive() else None)


class _ProcessAdapter(WatchedAdapter):
    """The driver as one process sees it."""

    def __init__(self, bench: FaultBench) -> None:
        super().__init__(bench.adapter)
        self._bench = bench
        session = bench.sessions
        self._clock = _ProcessClock(
            bench.clock, lambda: bench.sessions == session and not bench.dead
        )

    @property
    def clock(self) -> _ProcessClock:
        return self._clock

    def arm(self, job: DetectorJob) -> None:
        super().arm(job)
        self._bench.identities[self._bench.adapter._number] = job.exposure_id


class FaultBench:
    """See the module."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.adapter: SimulatedAdapter = open_adapter({"scenario": SCENARIO, "seed": seed})
        clock = self.adapter.clock
        assert isinstance(clock, VirtualClock)
        self.clock = clock
        self.identities: dict[int, UUID] = {}
        """Exposure ids by the simulator's count of armed exposures."""
        self.opened: Counter[UUID] = Counter()
        self.told: dict[UUID, list[str]] = {}
        """States by exposure, as the auditor heard them."""
        self.events: list[tuple[float, str]] = []
        """What has to take the beam off: (instant, what)."""
        self.planned_s: list[tuple[float, float]] = []
        """(instant of opening, longest time that the beam may then be on by plan)."""
        self.violations: list[str] = []
        self.death: Death | None = None
        self.lie: Callable[[ColumnHealth], ColumnHealth] | None = None
        self.first_holder = self.adapter.read_health().holder_id
        self.dead = False
        self.sessions = 0
        self.open_session()

    # --- the life of the process --------------------------------------------------------------

    def open_session(self) -> None:
        """Start the guard on the same column and the same ledger."""
        self.dead = False
        self.sessions += 1
        self.watched = _ProcessAdapter(self)
        self.watched.on_call = self._on_call
        self.watched.health_seen = self._lied
        self.ledger = DoseLedger(
            self.folder / "ledger.sqlite", LIMITS, self.clock, at_write=self._at_write
        )
        self.holder_id = self.watched.read_health().holder_id
        self.scope = GuardedMicroscope(
            self.watched,
            self.ledger,
            site=SITE,
            plan=PLAN,
            sink=FaultyDisk(MemorySink(), self.adapter.injected, self.clock),
            auditor=self,
        )
        self.box = Envelope(
            vendor_limits(self.adapter.capabilities), self.adapter.holder_limits(), SITE, PLAN
        ).box()

    def close_session(self) -> None:
        """End the guard in good order."""
        self.scope.blank("the session ends")
        self.ledger.close()

    def bury(self, watchdog_s: float) -> None:
        """After a `Died`: the watchdog blanks `watchdog_s` later, then a new session starts."""
        assert watchdog_s <= UNSEEN_S
        self.ledger.close()
        self.clock.sleep(watchdog_s)
        self.adapter.blank_beam()
        if not self.adapter.read_blanked():
            self.adapter.run_operation(LongOperation.CLOSE_VALVE)
        self.death = None
        self.clock.sleep(1.0)
        self.adapter.halt()
        self.adapter.abort()
        self.open_session()

    def _perhaps_die(self, point: str) -> None:
        if self.dead:
            raise Died
        if self.death is None:
            return
        self.death.countdown -= 1
        if self.death.countdown <= 0:
            self.dead = True
            self.death.at = point
            raise Died

    # --- what is seen and counted ----------------------------------------------------------------

    def charged(self, exposure: Exposure, state: str, fluence_e_per_A2: float) -> None:
        """Hear what the guard tells its auditor."""
        self.told.setdefault(exposure.exposure_id, []).append(state)

    def _at_write(self, point: str) -> None:
        self._perhaps_die(f"ledger {point}")

    def _on_call(self, name: str) -> None:
        self._perhaps_die(f"call {name}")
        if name == "open_beam":
            self._note_opening()
        if name == "start_move":
            axis, target = self.watched.moves[-1]
            low, high = self.box.ranges[axis]
            if not low <= target <= high:
                self.violations.append(
                    f"(c) {axis.value} = {target} was sent, outside {low}..{high}"
                )

    def _note_opening(self) -> None:
        job = self.adapter._armed
        assert job is not None
        self.opened[job.job.exposure_id] += 1
        if self.opened[job.job.exposure_id] > 1:
            self.violations.append(f"(e) {job.job.exposure_id} opened the beam twice")
        health = self.adapter.read_health()
        bad = [n for n, r in health.readings().items() if r.condition is not Condition.GOOD]
        if bad or health.holder_id != self.holder_id:
            self.violations.append(f"(d) the beam was opened with {bad or 'another holder'}")
        if self.lie is not None:
            self.violations.append("(d) the beam was opened on an unknown or stale reading")
        scan = job.job.scan
        planned = job.job.frame_s if scan is None else scan.duration_s
        self.planned_s.append((self._now(), planned))

    def _lied(self, health: ColumnHealth) -> ColumnHealth:
        return health if self.lie is None else self.lie(health)

    def _now(self) -> float:
        return self.adapter._now()

    # --- what goes wrong ------------------------------------------------------------------------

    def inject(self, name: str) -> None:
        """Make a fault of the list due now."""
        with self.adapter._lock:
            self.adapter.faults.inject(name, self._now())
        if name in CLOSING:
            self.events.append((self._now(), name))

    def stop(self) -> None:
        """Somebody else presses STOP."""
        self.events.append((self._now(), "stop"))
        self.scope.stop("a person")

    def tell_lies(self, lie: Callable[[ColumnHealth], ColumnHealth]) -> None:
        """From now on the column's readings are unknown or old."""
        self.lie = lie
        self.events.append((self._now(), "unknown or stale health"))

    def heal(self) -> None:
        """Repair everything, look at the blanker, start anew with the holder that is there."""
        self.lie = None
        for name in FAULTS:
            self.adapter.faults.clear(name)
        self.adapter.release_alarms()
        self.adapter.blank_beam()
        self.adapter.run_operation(LongOperation.OPEN_VALVE)
        self.close_session()
        self.open_session()

    # --- the account ----------------------------------------------------------------------------

    def check(self) -> None:
        """Hold the invariants (a) to (e) against the truth."""
        assert not self.violations, self.violations
        self.clock.sleep(2 * self.adapter.capabilities.blank.latency_s)
        assert not self.adapter.is_beam_on_specimen(), "(b) the beam is on"
        self._check_times()
        self._check_amounts()
        if not self._displaced():
            self._check_cells()
        self._check_told()

    def story(self) -> dict[str, object]:
        """What happened, for a message."""
        return {
            "lit": self.lit(),
            "planned": self.planned_s,
            "events": self.events,
            "struck": self.adapter.truth.faults,
            "records": [(r.state.value, r.outcome) for r in self.ledger.records()],
        }

    def lit(self) -> list[tuple[float, float]]:
        """Times in which the beam truly was on the specimen."""
        joined: list[tuple[float, float]] = []
        for deposit in self.adapter.truth.dose.deposits:
            if joined and deposit.from_s - joined[-1][1] < 1e-9:
                joined[-1] = (joined[-1][0], deposit.to_s)
            else:
                joined.append((deposit.from_s, deposit.to_s))
        return joined

    def _check_times(self) -> None:
        """(b): off within 250 ms of the planned end, and of everything that went wrong."""
        latency = self.adapter.capabilities.blank.latency_s
        stuck = any(name == "blanker-stuck" for _, name in self.adapter.truth.faults)
        extra = VALVE_S if stuck else 0.0
        for on, off in self.lit():
            opened, planned = max(p for p in self.planned_s if p[0] <= on + 1e-9)
            late = off - (opened + planned)
            begun = on - 2 * latency  # commanded before it was lit
            watchdog = [t for t, what in self.events if what == "crash" and begun <= t < off]
            allowed = REACT_S + extra + 2 * latency + (UNSEEN_S if watchdog else 0.0)
            assert late <= allowed, f"(b) lit {late:.3f} s longer than planned: {self.story()}"
            for when, what in self.events:
                if begun <= when < off:
                    bound = (UNSEEN_S if what == "crash" else REACT_S) + extra + 2 * latency
                    crashed = any(w == "crash" and when <= t < off for t, w in self.events)
                    bound += UNSEEN_S if crashed and what != "crash" else 0.0
                    lag = off - when
                    assert lag <= bound, f"(b) lit {lag:.3f} s after {what}: {self.story()}"

    def _check_amounts(self) -> None:
        """(a), exposure by exposure: no point received more than the exposure is charged."""
        deposits = self.adapter.truth.dose.deposits
        by_number: dict[int, list] = {}
        for deposit in deposits:
            by_number.setdefault(deposit.exposure, []).append(deposit)
        for number, parts in by_number.items():
            x, y = _points(parts)
            true = sum(d.fluence_e_per_A2(x, y) for d in parts).max()
            record = self.ledger.record(self.identities[number])
            charged = 0.0 if record is None else record.charged_e_per_A2
            state = "not booked" if record is None else record.state.value
            assert true <= charged * (1 + TAILS), (
                f"(a) exposure {number} gave {true:.5g} e/A2 and is charged {charged:.5g} ({state})"
            )

    def _displaced(self) -> bool:
        return any(name in DISPLACING for _, name in self.adapter.truth.faults)

    def _check_cells(self) -> None:
        """(a), cell by cell."""
        dose = self.adapter.truth.dose
        if not dose.deposits:
            return
        peak = max((r.charged_e_per_A2 for r in self.ledger.records()), default=0.0)
        x, y = _points(dose.deposits)
        true = dose.fluence_at(x, y)
        for xs, ys, value in zip(x, y, true, strict=True):
            charged = self.ledger.reading(float(xs), float(ys)).total_e_per_A2
            assert value <= charged + TAILS * peak, (
                f"(a) x = {xs:.3f}, y = {ys:.3f} um received {value:.5g}, charged {charged:.5g}"
            )

    def _check_told(self) -> None:
        """(f): whatever was booked is closed, and the auditor has heard of it."""
        for record in self.ledger.records():
            identity = record.booking.exposure_id
            assert not NEXT[record.state], f"(f) {identity} is still {record.state.value}"
            if record.booking.area != "blanker-check" and identity in self.told:
                assert self.told[identity][0] == "reserved"


def _points(deposits: list) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middles of the deposits, and points half way to and just inside their edges."""
    xs, ys = [], []
    for deposit in deposits[-40:]:
        inverse = np.linalg.inv(deposit.to_beam)
        half = np.array(deposit.size_um) / 2 if deposit.radius_um == 0 else None
        for u, v in ((0, 0), (0.5, 0), (0, 0.5), (-0.5, 0), (0, -0.5), (0.9, 0), (0, -0.9)):
            at = np.array([u, v]) * (deposit.radius_um if half is None else half)
            moved = inverse @ at
            xs.append(deposit.centre_um[0] + moved[0])
            ys.append(deposit.centre_um[1] + moved[1])
    return np.array(xs), np.array(ys)
