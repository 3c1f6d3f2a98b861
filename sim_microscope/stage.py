"""The stage: five axes, thermal drift, jumps, and the faults that befall a goniometer.

The read-back reports the drives.  The true pose adds play, creep, drift and jumps; only images
and the truth file know it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controller.hardware.values import Axis, AxisInfo, AxisState, StageLimits, StagePose
from sim_microscope.faults import FaultBoard
from sim_microscope.goniometer import Manners, Travel, at_rest, start_travel, stop_travel
from sim_microscope.randomness import instant, stream
from sim_microscope.scenario import AxisSpec, StageSpec
from sim_microscope.specimen import TruePose

Array = NDArray[np.float64]

_TILTS = (Axis.ALPHA, Axis.BETA)
_AXIS_OFF_UM = 3.0
"""Of the tilt axis, under the fault of a false focus."""
_SHAKE_PERIOD_S = 1.0
_SHAKE_UM = 0.03
_FULL_KICK = {Axis.X: 100.0, Axis.Y: 100.0, Axis.Z: 50.0, Axis.ALPHA: 15.0, Axis.BETA: 10.0}
"""Move (µm or degrees) after which the thermal drift starts at its full speed."""


class SimulatedStage:
    """Goniometer with holder.  All methods take the present instant; none of them waits."""

    def __init__(self, spec: StageSpec, seed: int, faults: FaultBoard) -> None:
        self._spec = {
            Axis.X: spec.x,
            Axis.Y: spec.y,
            Axis.Z: spec.z,
            Axis.ALPHA: spec.alpha,
            Axis.BETA: spec.beta,
        }
        self._stage = spec
        self._seed = seed
        self._faults = faults
        self._travels = {axis: at_rest(0.0) for axis in Axis}
        self._hanging: set[Axis] = set()
        self._idle_lie: dict[Axis, float] = {}
        self._latched: dict[Axis, str] = {}
        self._moves = 0
        angle = stream(seed, "stage.drift").uniform(0, 2 * np.pi)
        self._steady = spec.drift_nm_per_s * 1e-3 * np.array([np.cos(angle), np.sin(angle)])
        self._drift_um = np.zeros(2)
        self._kick_um_per_s = np.zeros(2)
        self._drift_at_s = 0.0
        self._jumps: list[tuple[float, Array]] = []

    def limits(self) -> StageLimits:
        """What the holder allows."""
        return StageLimits(ranges={a: (s.low, s.high) for a, s in self._spec.items()})

    def axes(self) -> dict[Axis, AxisInfo]:
        """Range and manners as a service engineer would state them."""
        return {
            axis: AxisInfo(
                low=spec.low,
                high=spec.high,
                speed_per_s=spec.speed_per_s,
                repeatability=float(np.hypot(spec.repeatability, spec.read_noise)),
                read_noise=spec.read_noise,
                backlash=spec.play,
            )
            for axis, spec in self._spec.items()
        }

    def start_move(self, axis: Axis, target: float, now_s: float) -> None:
        """Send one axis towards `target`; a latched alarm lets nothing move."""
        self._advance(now_s)
        if self._latched:
            return
        self._faults.count("move", now_s)
        self._moves += 1
        rng = stream(self._seed, "stage.move", self._moves)
        before = self._travels[axis]
        target, alarm = self._meddle(axis, before.drive(now_s), target, now_s)
        travel = start_travel(before, target, now_s, self._manners(axis, now_s), rng)
        self._travels[axis] = travel
        self._hanging.discard(axis)
        if alarm is not None:
            self._latched[axis] = alarm
        if self._faults.take("stage-hang", now_s) is not None:
            middle = 0.5 * (travel.start + travel.end)
            self._travels[axis] = Travel(
                travel.start,
                middle,
                now_s,
                0.5 * (now_s + travel.to_s),
                travel.actual_at_start,
            )
            self._hanging.add(axis)
        if self._faults.take("idle-early", now_s) is not None:
            self._idle_lie[axis] = travel.to_s
        self._unsettle(axis, travel, rng)

    def halt(self, now_s: float) -> None:
        """Stop all drives where they are."""
        self._advance(now_s)
        for axis in Axis:
            if self._moving(axis, now_s):
                play = self._manners(axis, now_s).play
                self._travels[axis] = stop_travel(self._travels[axis], now_s, play)
        self._hanging.clear()

    def axis_state(self, axis: Axis, now_s: float) -> AxisState:
        """Status as the goniometer reports it."""
        self._advance(now_s)
        alarm = self._latched.get(axis)
        moving = self._moving(axis, now_s) and now_s >= self._idle_lie.get(axis, -1.0)
        stopped = alarm is not None and now_s >= self._travels[axis].to_s
        return AxisState(
            moving=moving and not stopped,
            limiter=stopped and alarm == "limiter-latch",
            touch=stopped and alarm == "touch-alarm",
        )

    def release(self) -> None:
        """A person has looked: let go of latched alarms."""
        for alarm in set(self._latched.values()):
            self._faults.clear(alarm)
        self._latched.clear()

    def read(self, now_s: float) -> StagePose:
        """Read-back: the drives, with the noise of this instant."""
        self._advance(now_s)
        noise = stream(self._seed, "stage.read", instant(now_s)).normal(size=len(Axis))
        values = {
            axis.value: self._travels[axis].drive(now_s) + float(n) * self._spec[axis].read_noise
            for axis, n in zip(Axis, noise, strict=True)
        }
        return StagePose.model_validate(values)

    def true_pose(self, now_s: float) -> TruePose:
        """Where the specimen is.  `now_s` must not lie before an earlier call's."""
        self._advance(now_s)
        at = {
            axis: travel.actual(now_s, self._manners(axis, now_s).play)
            for axis, travel in self._travels.items()
        }
        inverted = self._faults.active("alpha-inverted", now_s)
        eccentric = _AXIS_OFF_UM if self._faults.active("focus-false", now_s) else 0.0
        wander_um = eccentric * np.tan(np.deg2rad(at[Axis.ALPHA]))
        shift = self._drift_um + self._shake_um(now_s)
        shift = shift + sum((jump for when, jump in self._jumps if when <= now_s), np.zeros(2))
        return TruePose(
            x_um=at[Axis.X] + float(shift[0]),
            y_um=at[Axis.Y] + float(shift[1]) + float(wander_um),
            z_um=at[Axis.Z],
            alpha_deg=-at[Axis.ALPHA] if inverted else at[Axis.ALPHA],
            beta_deg=at[Axis.BETA],
        )

    def _shake_um(self, now_s: float) -> Array:
        """Vibration by the pump while the vacuum is bad."""
        if not self._faults.active("vacuum-bad", now_s):
            return np.zeros(2)
        slot, share = divmod(now_s, _SHAKE_PERIOD_S)
        ends = [stream(self._seed, "stage.shake", int(slot) + k).normal(size=2) for k in (0, 1)]
        return np.asarray(_SHAKE_UM * ((1 - share) * ends[0] + share * ends[1]))

    def is_quiet(self, now_s: float) -> bool:
        """No drive is running."""
        return not any(self._moving(axis, now_s) for axis in Axis)

    def drift_um_per_s(self, now_s: float) -> Array:
        """Present velocity of the drift, (x, y)."""
        self._advance(now_s)
        return self._steady + self._kick_um_per_s

    # ------------------------------------------------------------------------------------

    def _manners(self, axis: Axis, now_s: float) -> Manners:
        spec: AxisSpec = self._spec[axis]
        slow = 10.0 if self._faults.active("slow-stage", now_s) else 1.0
        loose = 5.0 if self._faults.active("extra-backlash", now_s) else 1.0
        return Manners(
            speed_per_s=spec.speed_per_s / slow,
            play=spec.play * loose,
            repeatability=spec.repeatability,
            read_noise=spec.read_noise,
            creep=spec.creep,
        )

    def _meddle(
        self, axis: Axis, start: float, target: float, now_s: float
    ) -> tuple[float, str | None]:
        """The target that a fault makes of `target`, and the alarm it raises."""
        tilt = axis in _TILTS
        for alarm in ("limiter-latch", "touch-alarm"):
            if self._faults.active(alarm, now_s):
                return 0.5 * (start + target), alarm
        if self._faults.take("silent-clamp", now_s) is not None:
            return 0.5 * (start + target), None
        if self._faults.take("stage-not-reached", now_s) is not None:
            short = 0.6 if tilt else 2.0
            return target - (short if target >= start else -short), None
        return target, None

    def _unsettle(self, axis: Axis, travel: Travel, rng: np.random.Generator) -> None:
        """Drift and jumps that this move will cause."""
        share = min(1.0, abs(travel.end - travel.start) / _FULL_KICK[axis])
        angle = rng.uniform(0, 2 * np.pi)
        speed = self._stage.drift_kick_nm_per_s * 1e-3 * share * rng.uniform(0.5, 1.0)
        self._kick_um_per_s = self._kick_um_per_s + speed * np.array([np.cos(angle), np.sin(angle)])
        if rng.uniform() < self._stage.jump_probability:
            jump = rng.normal(0.0, self._stage.jump_um, 2)
            self._jumps.append((travel.to_s, jump))
        if axis in _TILTS and self._faults.take("crystal-lost", travel.from_s) is not None:
            angle = rng.uniform(0, 2 * np.pi)
            self._jumps.append((travel.to_s, 2.0 * np.array([np.cos(angle), np.sin(angle)])))

    def _moving(self, axis: Axis, now_s: float) -> bool:
        settled = self._travels[axis].to_s + self._stage.settle_s
        started = self._travels[axis].to_s > 0
        return axis in self._hanging or (started and now_s < settled)

    def _advance(self, now_s: float) -> None:
        """Bring drift and the events that need no command up to `now_s`."""
        due = self._faults.take("external-move", now_s)
        if due is not None:
            before = self._travels[Axis.X]
            self._travels[Axis.X] = start_travel(
                before,
                before.drive(due) + 3.0,
                due,
                self._manners(Axis.X, due),
                stream(self._seed, "stage.panel"),
            )
        due = self._faults.take("drift-burst", now_s)
        if due is not None:
            self._drift_to(due)
            angle = stream(self._seed, "stage.burst").uniform(0, 2 * np.pi)
            self._kick_um_per_s = 5e-3 * np.array([np.cos(angle), np.sin(angle)])
        self._drift_to(now_s)
        for axis, name in ((Axis.ALPHA, "alpha"), (Axis.BETA, "beta")):
            self._faults.see(name, self._travels[axis].drive(now_s), now_s)

    def _drift_to(self, now_s: float) -> None:
        elapsed = now_s - self._drift_at_s
        if elapsed > 0:
            decay = np.exp(-elapsed / self._stage.drift_decay_s)
            self._drift_um = (
                self._drift_um
                + self._steady * elapsed
                + self._kick_um_per_s * self._stage.drift_decay_s * (1 - decay)
            )
            self._kick_um_per_s = self._kick_um_per_s * decay
            self._drift_at_s = now_s
