"""Random sequences of operations and faults on the guarded simulated column, held to account.

After every step the invariants of the specification are compared with what the simulated specimen
truly received and with what truly reached the driver:

(a) charged dose >= true dose, exposure by exposure and cell by cell;
(b) beam off within 250 ms of its planned end and of every fault or stop;
(c) no stage command outside the limits reaches the driver;
(d) no exposure on a bad, unknown or stale interlock, or another holder;
(e) an exposure id opens the beam at most once, also across crashes;
(f) every failure is an error with a state, every booking is closed and told;
(g) once repaired, the next target can be exposed.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from controller.hardware.errors import MicroscopeError
from controller.hardware.faults import FAULTS, Place
from controller.hardware.values import (
    Approach,
    ColumnHealth,
    Condition,
    Exposure,
    HealthReading,
    LongOperation,
    Mode,
    OpticsChange,
    PartialPose,
    Purpose,
    Scan,
)
from tests.conformance.fault_bench import Death, Died, FaultBench
from tests.strategies import numbers

SEQUENCES = 2000
STEPS = 15
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""Not shrunk: a failing sequence takes minutes to shrink; it is printed as it was drawn."""

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Ledgers of tests need not survive a power cut, and syncing thousands of them takes minutes."""

PLAYED = sorted(
    kind.name
    for kind in FAULTS.values()
    if kind.place in (Place.COLUMN, Place.DISK) and kind.name != "file-corrupt"
)
READINGS = (
    "valve_open",
    "vacuum_ready",
    "gun_on",
    "high_tension_on",
    "screen_up",
    "holder_inserted",
    "not_refilling",
    "no_flash_due",
)


def unknown(name: str) -> Callable[[ColumnHealth], ColumnHealth]:
    """A lie: this reading is not known."""

    def lie(health: ColumnHealth) -> ColumnHealth:
        return health.replace(**{name: HealthReading(condition=Condition.UNKNOWN)})

    return lie


def stale(name: str) -> Callable[[ColumnHealth], ColumnHealth]:
    """A lie: this reading is good and eleven seconds old."""

    def lie(health: ColumnHealth) -> ColumnHealth:
        return health.replace(**{name: HealthReading(condition=Condition.GOOD, age_s=11.0)})

    return lie


DETECTORS = {Mode.IMAGE: "camera", Mode.DIFFRACTION: "diffraction", Mode.STEM: "scan4d"}

luck = st.integers(0, 2**32)
"""What chance draws from, together with the number of the step; see `Chance`."""
targets = st.fixed_dictionaries(
    {},
    optional={
        "x_um": numbers(-63, 63),
        "y_um": numbers(-42, 42),
        "z_um": numbers(-20, 20),
        "alpha_deg": numbers(-32, 32),
        "beta_deg": numbers(-21, 21),
    },
).filter(bool)
pictures = st.builds(
    OpticsChange,
    mode=st.just(Mode.IMAGE),
    beam_diameter_nm=numbers(300, 4000),
    probe_current_pA=numbers(0.5, 10),
    beam_shift_nm=st.tuples(numbers(-300, 300), numbers(-300, 300)),
)
patterns = st.builds(
    OpticsChange,
    mode=st.just(Mode.DIFFRACTION),
    beam_diameter_nm=numbers(100, 700),
    probe_current_pA=numbers(0.1, 2),
)
probes = st.builds(
    OpticsChange,
    mode=st.just(Mode.STEM),
    probe_current_pA=numbers(0.1, 2),
    defocus_nm=numbers(5, 80),
    scan_rotation_deg=numbers(-90, 90),
)
too_much = st.builds(
    OpticsChange,
    mode=st.just(Mode.IMAGE),
    beam_diameter_nm=numbers(100, 20_000),
    probe_current_pA=numbers(100, 600),
)
changes = st.one_of(pictures, patterns, probes, too_much)


@dataclass
class Chance:
    """Draws that do not repeat themselves, as those of Hypothesis like to; the same every time."""

    seed: int
    step: int = 0

    def rng(self, luck: int) -> random.Random:
        """Fresh dice for one step."""
        self.step += 1
        return random.Random(f"{self.seed} {self.step} {luck}")

    def fault(self, luck: int) -> str:
        """A fault of the list."""
        return self.rng(luck).choice(PLAYED)

    def event(self, luck: int) -> tuple[str, float] | None:
        """Nothing in four of ten operations, else one thing at a drawn instant."""
        rng = self.rng(luck)
        kind = rng.choice(["", "", "", "", "person", "fault", "fault", "fault", "lie", "crash"])
        when_s = rng.choice([0.0, rng.uniform(0, 0.3), rng.uniform(0, 2.0), rng.uniform(0, 30.0)])
        match kind:
            case "person":
                return rng.choice(["stop", "stop", "blank", "ctrl-c"]), when_s
            case "fault":
                return rng.choice(PLAYED), when_s
            case "lie":
                return rng.choice(["unknown", "stale"]), when_s
            case "crash":
                return "crash", float(rng.randint(1, 40))
            case _:
                return None


scans = st.builds(
    Scan,
    shape=st.tuples(st.integers(1, 5), st.integers(1, 7)),
    step_A=numbers(8, 60),
    dwell_s=st.sampled_from([1e-3, 5e-3, 0.05]),
    flyback_s=numbers(0, 1e-3),
)


class FaultyNights(RuleBasedStateMachine):
    """One column, its guard, and everything that can happen to them."""

    sequences = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="lodestem-faults-", dir=MEMORY))
        self.bench: FaultBench | None = None
        self.exposures = 0
        self.last: Exposure | None = None
        self.sound = False
        type(self).sequences += 1

    @initialize(seed=luck, event=luck, watchdog_s=numbers(0, 2.25))
    def switch_on(self, seed: int, event: int, watchdog_s: float) -> None:
        self.chance = Chance(seed)
        self.bench = FaultBench(self.folder, seed % 97)
        self.expose(
            change=OpticsChange(mode=Mode.IMAGE, beam_diameter_nm=1500.0, probe_current_pA=2.0),
            seconds=0.7,
            purpose=Purpose.SURVEY,
            event=event,
            watchdog_s=watchdog_s,
        )

    # --- one operation, with something that happens meanwhile ---------------------------------

    def attempt(self, operation: Callable[[], object], luck: int, watchdog_s: float) -> None:
        bench = self.bench
        self.sound = False
        event = self.chance.event(luck)
        cancel: Callable[[], None] = lambda: None  # noqa: E731
        if event is not None and event[0] == "crash":
            bench.death = Death(int(event[1]))
        elif event is not None:
            cancel = bench.clock.call_at(bench.clock.now_s() + event[1], self.happening(event[0]))
        try:
            with suppress(MicroscopeError, KeyboardInterrupt):
                operation()
        except Died:
            bench.events.append((bench._now(), "crash"))
            bench.bury(watchdog_s)
        finally:
            bench.death = None
            bench.lie = None
            cancel()

    def happening(self, what: str) -> Callable[[], None]:
        bench = self.bench

        def happen() -> None:
            match what:
                case "stop":
                    with suppress(MicroscopeError):
                        bench.stop()
                case "blank":
                    bench.scope.blank("a person")
                case "ctrl-c":
                    bench.events.append((bench._now(), "ctrl-c"))
                    raise KeyboardInterrupt
                case "unknown":
                    bench.tell_lies(unknown("vacuum_ready"))
                case "stale":
                    bench.tell_lies(stale("screen_up"))
                case _:
                    bench.inject(what)

        return happen

    @rule(
        where=targets,
        approach=st.sampled_from([Approach.DIRECT, Approach.FROM_BELOW]),
        event=luck,
        watchdog_s=numbers(0, 2.25),
    )
    def move(
        self,
        where: dict[str, float],
        approach: Approach,
        event: int,
        watchdog_s: float,
    ) -> None:
        pose = PartialPose(**where)
        self.attempt(
            lambda: self.bench.scope.stage.move(pose, approach=approach), event, watchdog_s
        )

    @rule(change=changes, event=luck, watchdog_s=numbers(0, 2.25))
    def change_optics(self, change: OpticsChange, event: int, watchdog_s: float) -> None:
        self.attempt(lambda: self.bench.scope.optics.apply(change), event, watchdog_s)

    def expose(
        self,
        change: OpticsChange,
        seconds: float,
        purpose: Purpose,
        event: int,
        watchdog_s: float,
        scan: Scan | None = None,
    ) -> None:
        self.exposures += 1
        self.last = Exposure(
            exposure_id=UUID(int=self.exposures),
            area=f"T{self.exposures % 3}",
            purpose=purpose,
            detector=DETECTORS[change.mode],
            duration_s=seconds if scan is None else scan.duration_s,
            scan=scan,
        )

        def operate() -> None:
            self.bench.scope.optics.apply(change)
            self.bench.scope.expose(self.last)

        self.attempt(operate, event, watchdog_s)

    @rule(
        change=pictures,
        seconds=numbers(1e-3, 4.0),
        purpose=st.sampled_from(Purpose),
        event=luck,
        watchdog_s=numbers(0, 2.25),
    )
    def expose_picture(self, **drawn: Any) -> None:
        self.expose(**drawn)

    @rule(
        change=patterns,
        seconds=numbers(1e-3, 2.0),
        purpose=st.sampled_from(Purpose),
        event=luck,
        watchdog_s=numbers(0, 2.25),
    )
    def expose_pattern(self, **drawn: Any) -> None:
        self.expose(**drawn)

    @rule(
        change=probes,
        scan=scans,
        purpose=st.sampled_from(Purpose),
        event=luck,
        watchdog_s=numbers(0, 2.25),
    )
    def expose_scan(self, **drawn: Any) -> None:
        self.expose(seconds=0.0, **drawn)

    @precondition(lambda self: self.last is not None)
    @rule(event=luck, watchdog_s=numbers(0, 2.25))
    def expose_the_same_again(self, event: int, watchdog_s: float) -> None:
        self.attempt(lambda: self.bench.scope.expose(self.last), event, watchdog_s)

    @rule(operation=st.sampled_from(LongOperation), event=luck, watchdog_s=numbers(0, 2.25))
    def run_operation(self, operation: LongOperation, event: int, watchdog_s: float) -> None:
        self.attempt(lambda: self.bench.scope.column.run(operation), event, watchdog_s)

    @rule(event=luck, watchdog_s=numbers(0, 2.25))
    def verify_blanker(self, event: int, watchdog_s: float) -> None:
        mode = self.bench.scope.optics.state().mode
        self.attempt(
            lambda: self.bench.scope.verify_blanker(DETECTORS[mode], duration_s=0.5),
            event,
            watchdog_s,
        )

    @rule()
    def blank(self) -> None:
        self.bench.scope.blank("a person")

    @rule()
    def stop(self) -> None:
        self.bench.stop()

    # --- what goes wrong between operations ---------------------------------

    @rule(luck=luck)
    def inject(self, luck: int) -> None:
        self.bench.inject(self.chance.fault(luck))

    @rule()
    def clear(self) -> None:
        """Everything that lasts, repaired without a word to the session."""
        for name in PLAYED:
            self.bench.adapter.faults.clear(name)
        self.bench.lie = None

    @rule(reading=st.sampled_from(READINGS), kind=st.sampled_from([unknown, stale]))
    def lie(self, reading: str, kind: Callable[..., Any]) -> None:
        """Readings that cannot be trusted, until the end of the next operation."""
        self.bench.tell_lies(kind(reading))

    @rule(seconds=st.sampled_from([0.05, 3.0, 60.0, 900.0]))
    def wait(self, seconds: float) -> None:
        self.bench.clock.sleep(seconds)

    @rule()
    def restart(self) -> None:
        self.bench.close_session()
        self.bench.clock.sleep(30.0)
        self.bench.open_session()

    @rule()
    def repair(self) -> None:
        self.bench.heal()

    # --- the account ---------------------------------

    @invariant()
    def everything_holds(self) -> None:
        if self.bench is not None:
            self.sound = False
            self.bench.check()
            self.sound = True

    def teardown(self) -> None:
        try:
            if self.bench is not None:
                if self.sound:
                    self.go_on()
                self.bench.ledger.close()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def go_on(self) -> None:
        """(g): repaired, at a fresh place, the night goes on."""
        bench = self.bench
        bench.heal()
        bench.clock.sleep(7200.0)
        bench.heal()
        bench.scope.stage.move(PartialPose(x_um=55.0, y_um=-38.0, alpha_deg=0.0, beta_deg=0.0))
        bench.scope.optics.apply(
            OpticsChange(mode=Mode.IMAGE, beam_diameter_nm=2000.0, probe_current_pA=1.0)
        )
        bench.scope.expose(
            Exposure(
                exposure_id=UUID(int=10**6),
                area="fresh",
                purpose=Purpose.DATA,
                detector="camera",
                duration_s=0.2,
            )
        )
        bench.check()


def run(sequences: int) -> None:
    """That many random sequences, of at most `STEPS` steps each."""
    FaultyNights.sequences = 0
    run_state_machine_as_test(
        FaultyNights,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            phases=PHASES,
            report_multiple_bugs=False,
        ),
    )
    assert FaultyNights.sequences >= sequences


def test_the_invariants_hold_over_random_sequences_of_operations_and_faults() -> None:
    run(SEQUENCES // 10)


@pytest.mark.soak
def test_the_invariants_hold_over_two_thousand_sequences() -> None:
    run(SEQUENCES)
