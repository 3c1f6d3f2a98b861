"""When things go wrong: which fault of the list is due, and what has struck.

A fault is asked for as ``NAME@WHEN``.  WHEN is an instant (``600``, ``600s``, ``10min``, ``2h``), a
count (``step:12`` is the twelfth exposure, ``move:3`` the third move of an axis, ``write:7`` the
seventh write of the dose ledger, ``turn:5`` the fifth decision), a state of the stage
(``alpha>10``, ``beta<-5``) or ``random`` (some time in the first four hours, by the seed).
The names are those of ``controller.hardware.faults``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from controller.hardware.faults import UNTIL_CLEARED_S, FaultKind, kind_of
from sim_microscope.randomness import stream

RANDOM_WITHIN_S = 4 * 3600.0
_UNITS_S = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}
_COUNTED = ("step", "move", "write", "turn")
_FOREVER = UNTIL_CLEARED_S


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
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._dues = [self._read(number, text) for number, text in enumerate(requests)]

    def inject(self, name: str, now_s: float) -> None:
        """Make the fault `name` due now."""
        self._dues.append(_Due(kind_of(name), at_s=now_s))

    def count(self, what: str, now_s: float) -> None:
        """One more ``step`` (exposure), ``move``, ``write`` or ``turn``."""
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

    def onsets(self, name: str, now_s: float) -> list[float]:
        """Instants up to now at which a lasting fault was seen to begin, also if it is over."""
        return [at_s for at_s, struck in self.struck if struck == name and at_s <= now_s]

    def active(self, name: str, now_s: float) -> bool:
        """Whether a lasting fault is on."""
        return self.active_since(name, now_s) is not None

    def clear(self, name: str) -> None:
        """End a lasting fault: an operator or a repair has seen to it."""
        kind_of(name)
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
        kind = kind_of(name)
        when = when.strip() if at else "0"
        if when == "random":
            rng = stream(self._seed, "faults", number)
            return _Due(kind, at_s=float(rng.uniform(0, RANDOM_WITHIN_S)))
        if found := re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h|)", when):
            return _Due(kind, at_s=float(found[1]) * _UNITS_S[found[2]])
        if found := re.fullmatch(r"(step|move|write|turn):(\d+)", when):
            return _Due(kind, count=(found[1], int(found[2])))
        if found := re.fullmatch(r"(alpha|beta)([<>])(-?\d+(?:\.\d+)?)", when):
            return _Due(kind, state=(found[1], found[2], float(found[3])))
        raise ValueError(
            f"fault {text!r}: cannot read when it is due ({when!r}); write an instant such as "
            f"600s, 10min or 2h, a count such as step:12 or move:3, a state such as alpha>10, "
            f"or random"
        )
