"""One axis of the goniometer: finite speed, play, residual error, creep, and noisy read-back.

The *drive* is what the encoder sees and the read-back reports.  The *specimen* lags it by half of
the play on either side, creeps after a move, and is what the beam meets.  All of it is a closed
function of time, so nothing has to be stepped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_CREEP_DECAY_S = 6.0
_START_S = 0.05


@dataclass(frozen=True)
class Travel:
    """A straight run of the drive from `start` to `end` between two instants."""

    start: float
    end: float
    from_s: float
    to_s: float
    actual_at_start: float
    creep: float = 0.0

    def drive(self, t_s: float) -> float:
        """Position of the drive."""
        if t_s >= self.to_s:
            return self.end
        share = max(0.0, (t_s - self.from_s) / (self.to_s - self.from_s))
        return self.start + share * (self.end - self.start)

    def actual(self, t_s: float, play: float) -> float:
        """Position of the specimen: dragged along once the play is used up."""
        drive = self.drive(t_s)
        dragged = float(np.clip(self.actual_at_start, drive - play / 2, drive + play / 2))
        if self.creep == 0.0:
            return dragged
        share = float(np.clip((t_s - self.from_s) / (self.to_s - self.from_s), 0, 1))
        return dragged - self.creep * share * float(
            np.exp(-max(0.0, t_s - self.to_s) / _CREEP_DECAY_S)
        )


@dataclass(frozen=True)
class Manners:
    """How one axis behaves, in its unit."""

    speed_per_s: float
    play: float
    repeatability: float
    read_noise: float
    creep: float


def at_rest(position: float) -> Travel:
    """A drive that never moved."""
    return Travel(position, position, 0.0, 0.0, position)


def start_travel(
    before: Travel, target: float, now_s: float, manners: Manners, rng: np.random.Generator
) -> Travel:
    """The run that a command to go to `target` starts at `now_s`."""
    start = before.drive(now_s)
    error = float(rng.normal(0.0, manners.repeatability)) if manners.repeatability else 0.0
    end = target + error
    duration = abs(end - start) / manners.speed_per_s + _START_S
    # late by the sense of travel, never more than five times the repeatability
    late = min(manners.creep * abs(end - start), 5 * manners.repeatability)
    return Travel(
        start,
        end,
        now_s,
        now_s + duration,
        before.actual(now_s, manners.play),
        float(np.sign(end - start)) * late,
    )


def stop_travel(before: Travel, now_s: float, play: float) -> Travel:
    """The drive held where it is."""
    here = before.drive(now_s)
    return Travel(here, here, now_s, now_s, before.actual(now_s, play))
