"""Options of the simulator as a driver: read once, refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from controller.hardware.clock import WallClock
from sim_microscope.scenario import Scenario, ScenarioError, load_scenario

_KEYS = ("scenario", "seed", "faults", "realtime", "speed")


@dataclass(frozen=True)
class Options:
    """What `open_adapter` was asked for."""

    scenario: Scenario
    seed: int = 0
    faults: tuple[str, ...] = ()
    realtime: bool = False
    speed: float = 1.0


class PacedClock:
    """A wall clock that runs `speed` times as fast as the wall."""

    def __init__(self, wall: WallClock, speed: float) -> None:
        self._wall = wall
        self._speed = speed

    def now_s(self) -> float:
        """Simulated monotonic seconds."""
        return self._wall.now_s() * self._speed

    def call_at(self, at_s: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call `action` in a thread of its own at simulated `at_s`."""
        return self._wall.call_at(at_s / self._speed, action)

    def utc(self) -> datetime:
        """UTC of this machine; it does not run faster."""
        return self._wall.utc()

    def sleep(self, duration_s: float) -> None:
        """Block for `duration_s` of simulated time."""
        self._wall.sleep(duration_s / self._speed)


def read_options(options: Mapping[str, object]) -> Options:
    """Check and convert.

    Raises
    ------
    ValueError
        An unknown key or a bad value, named, with the remedy.
    """
    for key in options:
        if key not in _KEYS:
            raise ValueError(
                f"option {key!r} is unknown to the simulator; it takes {', '.join(_KEYS)}"
            )
    scenario = options.get("scenario", "typical")
    if not isinstance(scenario, str):
        raise ScenarioError(f"scenario = {scenario!r}: give a name or the path of a YAML file")
    seed = options.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed = {seed!r} is not a whole number from 0; give one, such as 7")
    faults = options.get("faults") or ()
    if isinstance(faults, str):
        faults = tuple(part for part in faults.replace(",", " ").split() if part)
    if not isinstance(faults, tuple) or not all(isinstance(fault, str) for fault in faults):
        raise ValueError(f"faults = {faults!r}: give NAME@WHEN, or several of them as a tuple")
    speed = options.get("speed", 1.0)
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not speed > 0:
        raise ValueError(f"speed = {speed!r} is not a positive number; 1 follows the wall clock")
    realtime = options.get("realtime", False)
    if not isinstance(realtime, bool):
        raise ValueError(  # noqa: TRY004
            f"realtime = {realtime!r} is neither true nor false"
        )
    return Options(load_scenario(scenario), seed, faults, realtime, float(speed))
