"""What a goniometer may do to us, and what the guard makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.hardware.errors import (
    BeamState,
    LimiterHitError,
    LimitError,
    MotionError,
    MoveTimeoutError,
    NotReachedError,
    Retry,
    StalledError,
    TouchAlarmError,
    UnsupportedError,
)
from controller.hardware.values import Approach, Axis, PartialPose, Settle
from controller.safety.blanking import BeamGuard
from controller.safety.limits import Envelope, vendor_limits
from controller.safety.motion import Mover
from tests.conformance.fake_adapter import FakeAdapter
from tests.strategies import numbers

SETTLE = Settle()


class Bench:
    def __init__(self) -> None:
        self.adapter = FakeAdapter()
        envelope = Envelope(vendor_limits(self.adapter.capabilities), self.adapter.holder_limits())
        self.mover = Mover(self.adapter, envelope, BeamGuard(self.adapter))

    def move(self, approach: Approach = Approach.DIRECT, **target: float) -> object:
        timeout_s = target.pop("timeout_s", None)
        settle = target.pop("settle", SETTLE)
        return self.mover.move(
            PartialPose(**target), approach=approach, settle=settle, timeout_s=timeout_s
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_slow_but_honest_stage_arrives(bench: Bench) -> None:
    bench.adapter.faults.slow_factor = 10
    result = bench.move(alpha_deg=40.0)
    assert result.achieved.alpha_deg == pytest.approx(40.0, abs=SETTLE.tolerance_deg)
    assert bench.adapter.clock.now_s() > 60


def test_a_stage_that_hangs_is_halted(bench: Bench) -> None:
    bench.adapter.faults.stuck_axis = Axis.ALPHA
    with pytest.raises(StalledError, match=r"alpha_deg on its way to 40: no progress for 10"):
        bench.move(alpha_deg=40.0)
    assert bench.adapter.diary[-1] == "halt"
    assert bench.adapter.clock.now_s() < 15


def test_a_stage_that_says_idle_too_early_is_waited_for(bench: Bench) -> None:
    bench.adapter.faults.idle_flaps = True
    result = bench.move(alpha_deg=30.0)
    assert abs(result.residual[Axis.ALPHA]) <= SETTLE.tolerance_deg


def test_a_stage_that_is_near_but_still_moves_is_waited_for(bench: Bench) -> None:
    bench.adapter.faults.slow_factor = 1000
    result = bench.move(x_um=0.45)
    assert abs(result.residual[Axis.X]) < 0.01
    assert not bench.adapter.axis_state(Axis.X).moving


def test_a_move_that_ends_short_reports_its_residual(bench: Bench) -> None:
    bench.adapter.faults.offset = {Axis.X: -2.0}
    with pytest.raises(NotReachedError, match=r"x_um stands idle at 48, 2 from its target 50") as e:
        bench.move(x_um=50.0)
    assert e.value.residual == {"x_um": pytest.approx(-2.0)}
    assert e.value.snapshot["pose"]["x_um"] == pytest.approx(48.0)
    assert e.value.beam_state is BeamState.BLANKED
    assert bench.adapter.diary[-1] == "halt"


def test_a_stage_that_creeps_away_while_it_settles_is_noticed(bench: Bench) -> None:
    def creep(event: str) -> None:
        if event.startswith("move"):
            bench.adapter.faults.offset = {}

    bench.adapter.on_event = creep
    inner_sleep = bench.adapter.clock.sleep

    def sleep(duration_s: float) -> None:
        inner_sleep(duration_s)
        if duration_s == SETTLE.wait_s:
            bench.adapter.faults.offset = {Axis.X: 1.0}

    bench.adapter.clock.sleep = sleep
    with pytest.raises(
        NotReachedError, match=r"x_um settled \+1 from its target \(tolerance 0.5\)"
    ):
        bench.move(x_um=5.0)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("limiter_axis", LimiterHitError, "reports a limiter"),
        ("touch_axis", TouchAlarmError, "touches the pole piece"),
    ],
)
def test_alarms_halt_and_wait_for_a_person(
    bench: Bench, fault: str, error: type[MotionError], words: str
) -> None:
    setattr(bench.adapter.faults, fault, Axis.ALPHA)
    with pytest.raises(error, match=words) as e:
        bench.move(alpha_deg=40.0)
    assert e.value.retry is Retry.OPERATOR
    assert bench.adapter.diary[-1] == "halt"


def test_the_callers_timeout_holds(bench: Bench) -> None:
    with pytest.raises(MoveTimeoutError, match="not settled before the deadline"):
        bench.move(alpha_deg=50.0, timeout_s=2.0)
    assert bench.adapter.clock.now_s() < 2.3
    assert bench.adapter.diary[-1] == "halt"
    with pytest.raises(LimitError, match="timeout_s = -1 must be positive"):
        bench.move(alpha_deg=1.0, timeout_s=-1.0)


def test_an_interrupted_move_halts(bench: Bench) -> None:
    def interrupt(event: str) -> None:
        if event.startswith("move alpha"):
            raise KeyboardInterrupt

    bench.adapter.on_event = interrupt
    with pytest.raises(KeyboardInterrupt):
        bench.move(x_um=5.0, alpha_deg=3.0)
    assert bench.adapter.diary[-1] == "halt"


def test_a_vendor_safe_move_is_not_pretended(bench: Bench) -> None:
    with pytest.raises(UnsupportedError, match="offers no vendor-safe move; nothing moved"):
        bench.move(Approach.VENDOR_SAFE, x_um=1.0)
    assert bench.adapter.diary == []


def test_the_overshoot_of_an_approach_stays_inside_the_limits(bench: Bench) -> None:
    bench.move(Approach.FROM_BELOW, alpha_deg=-60.0)
    targets = [float(event.split()[2]) for event in bench.adapter.diary if "alpha" in event]
    assert targets == [-60.0, -60.0]


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.sampled_from(["x_um", "y_um", "z_um", "alpha_deg", "beta_deg"]),
        numbers(-400, 400),
        min_size=1,
    ),
    st.sampled_from([Approach.DIRECT, Approach.FROM_BELOW]),
)
def test_no_command_outside_the_limits_reaches_the_adapter(
    target: dict[str, float], approach: Approach
) -> None:
    bench = Bench()
    ranges = bench.mover._envelope.box().ranges
    inside = all(ranges[Axis(k)][0] <= v <= ranges[Axis(k)][1] for k, v in target.items())
    if inside:
        bench.move(approach, **target)
    else:
        with pytest.raises(LimitError):
            bench.move(approach, **target)
        assert bench.adapter.diary == []
    for event in bench.adapter.diary:
        name, axis, value = event.split()
        assert name == "move"
        low, high = ranges[Axis(axis)]
        assert low - 1e-3 <= float(value) <= high + 1e-3
