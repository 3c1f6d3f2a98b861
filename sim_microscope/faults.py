"""Things that go wrong, by name: when they are due, how long they last, and who has seen them.

A fault is asked for as ``NAME@WHEN``.  WHEN is an instant (``600``, ``600s``, ``10min``, ``2h``), a
count (``step:12`` is the twelfth exposure, ``move:3`` the third move of an axis), a state of the
stage (``alpha>10``, ``beta<-5``) or ``random`` (some time in the first four hours, by the seed).
The numbers are those of the list of faults in ``docs/simulator.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sim_microscope.randomness import stream

RANDOM_WITHIN_S = 4 * 3600.0
_UNITS_S = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}
_FOREVER = float("inf")


@dataclass(frozen=True)
class FaultKind:
    """One entry of the list."""

    name: str
    number: int
    effect: str
    lasts_s: float = 0.0
    """0: strikes once, at the next occasion.  inf: until somebody clears it."""


_KINDS = (
    FaultKind("stage-not-reached", 1, "the next move ends 2 µm or 0.6° short"),
    FaultKind("idle-early", 2, "the next move reports idle while the axis still runs"),
    FaultKind("stage-hang", 3, "the next move stops halfway and reports moving until halted"),
    FaultKind("slow-stage", 4, "all axes run at a tenth of their speed", 900.0),
    FaultKind("silent-clamp", 5, "the next move stops halfway and nobody says so"),
    FaultKind("limiter-latch", 6, "the next move hits a limiter, which stays on", _FOREVER),
    FaultKind("touch-alarm", 6, "the next move raises the touch alarm, which stays on", _FOREVER),
    FaultKind("alpha-inverted", 7, "alpha runs the other way than the read-back says", _FOREVER),
    FaultKind("extra-backlash", 8, "the play of every axis is five times as wide", 3600.0),
    FaultKind("crystal-lost", 9, "the specimen jumps by 2 µm at the end of the next tilt"),
    FaultKind("image-shift-clip", 10, "image shift is clipped at 100 nm without error", 3600.0),
    FaultKind("valve-closes", 13, "the column valve closes for 5 min", 300.0),
    FaultKind("vacuum-bad", 14, "the vacuum is not ready and the pump shakes the stage", 300.0),
    FaultKind("refill", 15, "a dewar is being refilled", 600.0),
    FaultKind("flash-due", 16, "the tip asks for a flash", _FOREVER),
    FaultKind("gun-off", 16, "the gun does not emit", _FOREVER),
    FaultKind("ht-trip", 16, "the high tension is off", _FOREVER),
    FaultKind("current-jump", 17, "the beam current rises by 30 %", _FOREVER),
    FaultKind("current-drop", 17, "the beam current falls by 40 %", _FOREVER),
    FaultKind("blanker-stuck", 18, "the blanker ignores the command to blank", _FOREVER),
    FaultKind("camera-timeout", 19, "the next frame never comes"),
    FaultKind("late-frame", 19, "the next frame comes late, into the acquisition after it"),
    FaultKind("stale-frame", 20, "the next frame carries the identity of the one before"),
    FaultKind("dropped-frames", 20, "the next scan loses some of its frames"),
    FaultKind("short-scan", 20, "the next scan ends early"),
    FaultKind("repeated-frames", 20, "the next scan delivers some batches twice"),
    FaultKind("arm-fails", 21, "the detector does not arm, once"),
    FaultKind("exposure-altered", 22, "the next frame integrates for half the time"),
    FaultKind("beam-resized", 23, "the next change of mode widens or narrows the beam by 30 %"),
    FaultKind("drift-burst", 32, "the specimen starts to drift at 5 nm/s and calms down"),
    FaultKind("charging", 33, "the image moves with the dose rate", 1800.0),
    FaultKind("external-move", 37, "a person at the hand panel moves x by 3 µm"),
    FaultKind("screen-down", 37, "a person lowers the screen", 120.0),
    FaultKind("holder-changed", 38, "another holder is in the column", _FOREVER),
    FaultKind("clock-step", 39, "the record clock jumps by an hour"),
)
FAULTS: dict[str, FaultKind] = {kind.name: kind for kind in _KINDS}


@dataclass
class _Due:
    kind: FaultKind
    count: tuple[str, int] | None = None
    state: tuple[str, str, float] | None = None
    at_s: float = _FOREVER
    spent: bool = False


class FaultBoard:
    """What is due and what is on.  Not thread-safe: the owner holds its lock.

    Raises
    ------
    ValueError
        Unknown name (the message lists all names) or a WHEN that cannot be read.
    """

    def __init__(self, requests: Iterable[str], seed: int) -> None:
        self.struck: list[tuple[float, str]] = []
        """(instant, name) of everything that happened."""
        self._seed = seed
        self._counts = {"step": 0, "move": 0}
        self._dues = [self._read(number, text) for number, text in enumerate(requests)]

    def inject(self, name: str, now_s: float) -> None:
        """Make the fault `name` due now."""
        self._dues.append(_Due(_kind(name), at_s=now_s))

    def count(self, what: str, now_s: float) -> None:
        """One more ``step`` (exposure) or ``move``."""
        self._counts[what] += 1
        for due in self._dues:
            if due.count == (what, self._counts[what]):
                due.at_s = now_s

    def see(self, axis: str, value: float, now_s: float) -> None:
        """The stage is at `value` on ``alpha`` or ``beta``."""
        for due in self._dues:
            if due.state is not None and due.at_s == _FOREVER and due.state[0] == axis:
                _, sign, limit = due.state
                if (value > limit) if sign == ">" else (value < limit):
                    due.at_s = now_s

    def take(self, name: str, now_s: float) -> float | None:
        """Instant at which a fault that strikes once fell due, or None; each is taken once."""
        for due in self._dues:
            if due.kind.name == name and not due.spent and due.at_s <= now_s:
                due.spent = True
                self.struck.append((now_s, name))
                return due.at_s
        return None

    def active_since(self, name: str, now_s: float) -> float | None:
        """Instant since which a lasting fault has been on, or None."""
        for due in self._dues:
            on = due.at_s <= now_s < due.at_s + due.kind.lasts_s and not due.spent
            if due.kind.name == name and on:
                if (due.at_s, name) not in self.struck:
                    self.struck.append((due.at_s, name))
                return due.at_s
        return None

    def active(self, name: str, now_s: float) -> bool:
        """Whether a lasting fault is on."""
        return self.active_since(name, now_s) is not None

    def clear(self, name: str) -> None:
        """End a lasting fault: an operator or a repair has seen to it."""
        _kind(name)
        for due in self._dues:
            if due.kind.name == name and due.at_s < _FOREVER:
                due.spent = True

    def instants(self, names: Iterable[str], from_s: float, to_s: float) -> list[float]:
        """Instants in between at which any of the lasting faults begins or ends, sorted."""
        wanted = set(names)
        edges = {
            edge
            for due in self._dues
            if due.kind.name in wanted
            for edge in (due.at_s, due.at_s + due.kind.lasts_s)
        }
        return sorted(edge for edge in edges if from_s < edge < to_s)

    def _read(self, number: int, text: str) -> _Due:
        name, at, when = text.partition("@")
        kind = _kind(name)
        when = when.strip() if at else "0"
        if when == "random":
            rng = stream(self._seed, "faults", number)
            return _Due(kind, at_s=float(rng.uniform(0, RANDOM_WITHIN_S)))
        if found := re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h|)", when):
            return _Due(kind, at_s=float(found[1]) * _UNITS_S[found[2]])
        if found := re.fullmatch(r"(step|move):(\d+)", when):
            return _Due(kind, count=(found[1], int(found[2])))
        if found := re.fullmatch(r"(alpha|beta)([<>])(-?\d+(?:\.\d+)?)", when):
            return _Due(kind, state=(found[1], found[2], float(found[3])))
        raise ValueError(
            f"fault {text!r}: cannot read when it is due ({when!r}); write an instant such as "
            f"600s, 10min or 2h, a count such as step:12 or move:3, a state such as alpha>10, "
            f"or random"
        )


def _kind(name: str) -> FaultKind:
    if name not in FAULTS:
        raise ValueError(f"no fault is called {name!r}; there are {', '.join(sorted(FAULTS))}")
    return FAULTS[name]
