"""Moving the stage so that what comes back is true.

A goniometer says "idle" too early, says nothing when it clamps, hangs, or moves ten times slower
than usual.  Hence: limits before anything is sent; idle on several polls *and* within tolerance;
a stall test on the read-back besides a generous deadline; and a halt on every way out but success.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from controller.hardware.contract import Adapter
from controller.hardware.errors import (
    LimiterHitError,
    LimitError,
    MotionError,
    MoveTimeoutError,
    NotReachedError,
    StalledError,
    StoppedByOtherError,
    TouchAlarmError,
    UnsupportedError,
)
from controller.hardware.values import (
    Approach,
    Axis,
    AxisInfo,
    MoveResult,
    PartialPose,
    Settle,
    StagePose,
)
from controller.safety.blanking import BeamGuard
from controller.safety.limits import Envelope

SLOWEST = 20.0
"""A legitimate move takes at most this many times distance / nominal speed."""
MARGIN_S = 20.0
"""Added to every deadline: start-up, settling, a goniometer that thinks first."""
STALL_S = 10.0
"""No progress for this long while the axis says it moves: it hangs."""
IDLE_AWAY_S = 3.0
"""Idle and unmoved for this long outside the tolerance: it will not come."""
OVERSHOOT_BACKLASHES = 2.0


@dataclass
class _Leg:
    """One axis on its way to one target."""

    axis: Axis
    target: float
    tolerance: float
    deadline_s: float
    progress_step: float
    best: float
    progress_s: float
    idle_polls: int = 0
    polls: int = 0


class Mover:
    """Carries out moves through an adapter, within an envelope."""

    def __init__(self, adapter: Adapter, envelope: Envelope, beam: BeamGuard) -> None:
        self._adapter = adapter
        self._envelope = envelope
        self._beam = beam

    def move(
        self, target: PartialPose, *, approach: Approach, settle: Settle, timeout_s: float | None
    ) -> MoveResult:
        """Move as `contract.Stage.move` promises; the caller holds the drive lane."""
        self._envelope.check(target)
        if approach is Approach.VENDOR_SAFE:
            raise UnsupportedError(
                "this driver offers no vendor-safe move; nothing moved. "
                "Use Approach.DIRECT or Approach.FROM_BELOW."
            )
        if timeout_s is not None and not timeout_s > 0:
            raise LimitError(f"timeout_s = {timeout_s:g} must be positive; nothing moved.")
        stops = self._beam.stop_count()
        clock = self._adapter.clock
        start_s = clock.now_s()
        end_s = None if timeout_s is None else start_s + timeout_s
        polls = 0
        try:
            if approach is Approach.FROM_BELOW:
                for axis, value in self._overshoots(target).items():
                    polls += self._drive(axis, value, settle, end_s, stops)
            for axis, value in target.targets().items():
                polls += self._drive(axis, value, settle, end_s, stops)
            arrived_s = clock.now_s()
            clock.sleep(settle.wait_s)
            self._check_not_stopped(stops)
            achieved = self._adapter.read_pose()
            residual = {a: achieved.get(a) - v for a, v in target.targets().items()}
            self._check_reached(residual, settle)
        except BaseException:
            self._adapter.halt()
            raise
        return MoveResult(
            requested=target,
            achieved=achieved,
            residual=residual,
            polls=polls,
            settle_s=clock.now_s() - arrived_s,
        )

    def _overshoots(self, target: PartialPose) -> dict[Axis, float]:
        """Where to turn round, below the target but inside the limits."""
        ranges = self._envelope.box().ranges
        turns = {}
        for axis, value in target.targets().items():
            info = self._adapter.capabilities.axes[axis]
            overshoot = max(OVERSHOOT_BACKLASHES * info.backlash, 5 * info.repeatability)
            turns[axis] = max(ranges[axis][0], value - overshoot)
        return turns

    def _drive(
        self, axis: Axis, target: float, settle: Settle, end_s: float | None, stops: int
    ) -> int:
        """Move one axis and wait until it is idle within tolerance; return the polls."""
        clock = self._adapter.clock
        info = self._adapter.capabilities.axes[axis]
        leg = self._leg(axis, target, info, settle, end_s)
        self._check_not_stopped(stops)
        self._adapter.start_move(axis, target)
        while leg.idle_polls < settle.idle_polls:
            clock.sleep(settle.poll_interval_s)
            leg.polls += 1
            self._check_not_stopped(stops)
            self._poll(leg)
        return leg.polls

    def _leg(
        self, axis: Axis, target: float, info: AxisInfo, settle: Settle, end_s: float | None
    ) -> _Leg:
        now_s = self._adapter.clock.now_s()
        distance = abs(self._adapter.read_pose().get(axis) - target)
        deadline_s = now_s + SLOWEST * distance / info.speed_per_s + MARGIN_S
        return _Leg(
            axis=axis,
            target=target,
            tolerance=_tolerance(axis, settle),
            deadline_s=deadline_s if end_s is None else min(deadline_s, end_s),
            progress_step=max(2 * info.repeatability, 1e-3 * distance),
            best=distance,
            progress_s=now_s,
        )

    def _poll(self, leg: _Leg) -> None:
        state = self._adapter.axis_state(leg.axis)
        pose = self._adapter.read_pose()
        away = abs(pose.get(leg.axis) - leg.target)
        if state.touch:
            self._fail(TouchAlarmError, leg, pose, "the holder touches the pole piece")
        if state.limiter:
            self._fail(LimiterHitError, leg, pose, "the goniometer reports a limiter")
        now_s = self._adapter.clock.now_s()
        if away <= leg.best - leg.progress_step:
            leg.best, leg.progress_s = away, now_s
        arrived = not state.moving and away <= leg.tolerance
        leg.idle_polls = leg.idle_polls + 1 if arrived else 0
        if arrived:
            return
        since_s = now_s - leg.progress_s
        if not state.moving and since_s > IDLE_AWAY_S:
            self._fail_away(leg, pose, away)
        if since_s > STALL_S and away > leg.tolerance:
            self._fail(StalledError, leg, pose, f"no progress for {since_s:.1f} s")
        if now_s >= leg.deadline_s:
            self._fail(MoveTimeoutError, leg, pose, "not settled before the deadline")

    def _check_reached(self, residual: dict[Axis, float], settle: Settle) -> None:
        for axis, value in residual.items():
            if not abs(value) <= _tolerance(axis, settle):
                raise NotReachedError(
                    f"{axis.value} settled {value:+.3g} from its target (tolerance "
                    f"{_tolerance(axis, settle):g}); the stage is halted, the beam is blanked. "
                    f"Approach again from the far side, or skip the target.",
                    residual={a.value: r for a, r in residual.items()},
                )

    def _check_not_stopped(self, stops: int) -> None:
        if self._beam.stop_count() != stops:
            raise StoppedByOtherError(
                f"the move was stopped: {self._beam.reason}; the stage is halted where it is, the "
                f"beam is blanked. Read the pose before anything else."
            )

    def _fail_away(self, leg: _Leg, pose: StagePose, away: float) -> NoReturn:
        raise NotReachedError(
            f"{leg.axis.value} stands idle at {pose.get(leg.axis):.4g}, {away:.3g} from its target "
            f"{leg.target:g} (tolerance {leg.tolerance:g}); the stage is halted, the beam is "
            f"blanked. Approach again from the far side, or skip the target.",
            residual={leg.axis.value: pose.get(leg.axis) - leg.target},
            snapshot=_snapshot(pose),
        )

    def _fail(self, kind: type[MotionError], leg: _Leg, pose: StagePose, what: str) -> NoReturn:
        raise kind(
            f"{leg.axis.value} on its way to {leg.target:g}: {what} at {pose.get(leg.axis):.4g} "
            f"after {leg.polls} polls; the stage was told to halt, the beam is blanked. "
            f"Read the pose before anything else.",
            snapshot=_snapshot(pose),
        )


def _tolerance(axis: Axis, settle: Settle) -> float:
    return settle.tolerance_um if axis.value.endswith("_um") else settle.tolerance_deg


def _snapshot(pose: StagePose) -> dict[str, object]:
    return {"pose": pose.model_dump(mode="json")}
