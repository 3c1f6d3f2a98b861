"""The faults that lodestem is tested against: one list of names, shared by all that inject them.

Each has the number of the project's list of faults, the place where it happens and what happens.
The simulated column plays those of the *column*; whoever stands at another place (disk, link,
process, perception, operator, notification) asks a `FaultSource` whether one is due.  Only a
simulated instrument offers such a source: a real one has `NoFaults`, so that nothing can be
injected into a night at a real column.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

UNTIL_CLEARED_S = float("inf")


class Place(StrEnum):
    """Where a fault happens, and so who has to play it."""

    COLUMN = "column"
    """Stage, optics, gun, blanker, detectors, specimen: the simulated microscope."""
    DISK = "disk"
    """Where scans are written: `controller.injection.disk`."""
    LINK = "link"
    """Between client and server: `controller.injection.link`, at the lanes of a server."""
    PROCESS = "process"
    """The programs themselves: `controller.injection.process`."""
    PERCEPTION = "perception"
    """What the pictures are taken for: `controller.injection.perception`."""
    OPERATOR = "operator"
    """The person who is asked: `controller.injection.people`."""
    NOTIFICATION = "notification"
    """How that person is told: `controller.injection.people`."""


@dataclass(frozen=True)
class FaultKind:
    """One entry of the list."""

    name: str
    number: int
    """Of the project's list, 1 to 42; several names may share one."""
    effect: str
    answer: str
    """What lodestem does about it."""
    lasts_s: float = 0.0
    """0: strikes once, at the next occasion.  inf: until somebody clears it."""
    place: Place = Place.COLUMN

    def lasting(self) -> str:
        """How long it lasts, in words; empty if it strikes once."""
        if not self.lasts_s:
            return ""
        if self.lasts_s == UNTIL_CLEARED_S:
            return "until cleared"
        return f"for {self.lasts_s / 60:.0f} min"


@runtime_checkable
class FaultSource(Protocol):
    """Tells whoever plays a fault whether it is due."""

    def strikes(self, name: str) -> bool:
        """Whether the fault `name`, which strikes once, is due; true once per request.

        Raises
        ------
        ValueError
            No such fault.
        """

    def is_on(self, name: str) -> bool:
        """Whether the lasting fault `name` is on now.

        Raises
        ------
        ValueError
            No such fault.
        """

    def count(self, what: str) -> None:
        """One more ``write`` of the ledger or ``turn`` of the loop, for faults due at a count."""


class NoFaults:
    """The source of every real instrument."""

    def strikes(self, name: str) -> bool:
        """Never."""
        kind_of(name)
        return False

    def is_on(self, name: str) -> bool:
        """Never."""
        kind_of(name)
        return False

    def count(self, what: str) -> None:
        """Nothing is due at a count."""


@runtime_checkable
class Injectable(Protocol):
    """An adapter that faults can be injected into: a simulated one."""

    @property
    def injected(self) -> FaultSource:
        """The faults that were asked for, for whoever plays those outside the column."""


def faults_of(adapter: object) -> FaultSource:
    """The fault source of an adapter; `NoFaults` for a real instrument."""
    return adapter.injected if isinstance(adapter, Injectable) else NoFaults()


def kind_of(name: str) -> FaultKind:
    """The entry called `name`.

    Raises
    ------
    ValueError
        There is none; the message lists all names.
    """
    if name not in FAULTS:
        raise ValueError(f"no fault is called {name!r}; there are {', '.join(sorted(FAULTS))}")
    return FAULTS[name]


_RESIDUAL = "NotReached with the residual; tried again, then the target is skipped"
_INTERLOCK = "no exposure; one under way is cut off; waits, then holds"
_REPAIR = "no exposure; one under way is cut off; holds for a person"
_COUNTED = "sequence numbers: listed as missing, or dropped, in the receipt"
_EDGES = "sizes, scores and places are checked; the region is dropped, with the reason"

_KINDS = (
    FaultKind("stage-not-reached", 1, "the next move ends 2 µm or 0.6° short", _RESIDUAL),
    FaultKind(
        "idle-early",
        2,
        "the next move reports idle while the axis still runs",
        "idle on three polls and within tolerance; no exposure while it moves",
    ),
    FaultKind(
        "stage-hang",
        3,
        "the next move stops halfway and reports moving until halted",
        "Stalled after 10 s without progress; halted, tried again, then skipped",
    ),
    FaultKind(
        "slow-stage",
        4,
        "all axes run at a tenth of their speed",
        "waited for: deadline by distance, and progress",
        900.0,
    ),
    FaultKind("silent-clamp", 5, "the next move stops halfway and nobody says so", _RESIDUAL),
    FaultKind(
        "limiter-latch",
        6,
        "the next move hits a limiter, which stays on",
        "LimiterHit; halted, holds for a person",
        UNTIL_CLEARED_S,
    ),
    FaultKind(
        "touch-alarm",
        6,
        "the next move raises the touch alarm, which stays on",
        "TouchAlarm; halted, holds for a person",
        UNTIL_CLEARED_S,
    ),
    FaultKind(
        "alpha-inverted",
        7,
        "alpha runs the other way than the read-back says",
        "the filter over all patterns weighs both hands; a wrong forecast is read again",
        UNTIL_CLEARED_S,
    ),
    FaultKind(
        "extra-backlash",
        8,
        "the play of every axis is five times as wide",
        "approached from below; tracking pictures recentre",
        3600.0,
    ),
    FaultKind(
        "crystal-lost",
        9,
        "the specimen jumps by 2 µm at the end of the next tilt",
        "looked for again at low dose, once; then tilted back or skipped",
    ),
    FaultKind(
        "image-shift-clip",
        10,
        "image shift is clipped at 100 nm without error",
        "ModeError by read-back; the target is skipped",
        3600.0,
    ),
    FaultKind(
        "focus-flat",
        11,
        "pictures show no contrast: no focus is better than another",
        "nothing is found in the picture; bounded retries, then skipped",
        900.0,
    ),
    FaultKind(
        "focus-false",
        11,
        "the tilt axis runs 3 µm off, so that pictures tell a false height",
        "a height beyond 5 sigma of the grid's is not believed; bounded, then skipped",
        3600.0,
    ),
    FaultKind(
        "lens-hang",
        12,
        "the next change of the optics hangs for 2 min",
        "ReplyTimeout when it returns, beam blanked throughout; holds for a person",
    ),
    FaultKind("valve-closes", 13, "the column valve closes for 5 min", _INTERLOCK, 300.0),
    FaultKind(
        "vacuum-bad",
        14,
        "the vacuum is not ready and the pump shakes the stage",
        _INTERLOCK,
        300.0,
    ),
    FaultKind("refill", 15, "a dewar is being refilled", _INTERLOCK, 600.0),
    FaultKind("flash-due", 16, "the tip asks for a flash", _INTERLOCK, UNTIL_CLEARED_S),
    FaultKind("gun-off", 16, "the gun does not emit", _REPAIR, UNTIL_CLEARED_S),
    FaultKind("ht-trip", 16, "the high tension is off", _REPAIR, UNTIL_CLEARED_S),
    FaultKind(
        "current-jump",
        17,
        "the beam current rises by 30 %",
        "charged at the largest reading before, during and after",
        UNTIL_CLEARED_S,
    ),
    FaultKind(
        "current-drop",
        17,
        "the beam current falls by 40 %",
        "charged as booked; the next booking measures again",
        UNTIL_CLEARED_S,
    ),
    FaultKind(
        "blanker-stuck",
        18,
        "the blanker ignores the command to blank",
        "the column valve is closed, charged as unknown, no further exposure; holds",
        UNTIL_CLEARED_S,
    ),
    FaultKind(
        "camera-timeout",
        19,
        "the next frame never comes",
        "ExposureTimeout; the beam was off in time; charged, tried again",
    ),
    FaultKind(
        "late-frame",
        19,
        "the next frame comes late, into the acquisition after it",
        "ExposureTimeout, drained; a frame of another exposure is thrown away",
    ),
    FaultKind(
        "stale-frame",
        20,
        "the next frame carries the identity of the one before",
        "thrown away; StaleFrame or ExposureTimeout, tried again",
    ),
    FaultKind("dropped-frames", 20, "the next scan loses some of its frames", _COUNTED),
    FaultKind("short-scan", 20, "the next scan ends early", _COUNTED),
    FaultKind("repeated-frames", 20, "the next scan delivers some batches twice", _COUNTED),
    FaultKind(
        "arm-fails",
        21,
        "the detector does not arm, once",
        "ArmFailed, nothing charged; tried again",
    ),
    FaultKind(
        "exposure-altered",
        22,
        "the next frame integrates for half the time",
        "not noticed: the beam is blanked by our clock and charged in full",
    ),
    FaultKind(
        "beam-resized",
        23,
        "the next change of mode widens or narrows the beam by 30 %",
        "ModeError by read-back; the dose is computed from what is read",
    ),
    FaultKind(
        "disk-full",
        24,
        "the disk is full in the middle of the next scan",
        "DiskFull; blanked at once, what was written is kept; holds",
        place=Place.DISK,
    ),
    FaultKind(
        "disk-slow",
        24,
        "each write of a scan takes 2 s",
        "the beam is blanked when the scan should be over, whatever the disk does",
        600.0,
        Place.DISK,
    ),
    FaultKind(
        "file-corrupt",
        24,
        "the file of the next scan is damaged after it was closed",
        "ChecksumMismatch before it is reconstructed; the target is given up",
        place=Place.DISK,
    ),
    FaultKind(
        "request-lost",
        25,
        "the link is cut towards the server",
        "ReplyTimeout; the lease runs out and the server blanks",
        10.0,
        Place.LINK,
    ),
    FaultKind(
        "reply-lost",
        25,
        "the link is cut towards the client: the server has acted, nobody hears",
        "ReplyTimeout, outcome unknown; the same exposure id never opens the beam twice",
        10.0,
        Place.LINK,
    ),
    FaultKind(
        "server-thread-dead",
        26,
        "the server takes requests and never answers",
        "deadline of the request; the watchdog blanks",
        UNTIL_CLEARED_S,
        Place.LINK,
    ),
    FaultKind(
        "replies-swapped",
        27,
        "the next two replies change places",
        "correlation ids: an answer to something else is dropped",
        place=Place.LINK,
    ),
    FaultKind(
        "message-repeated",
        27,
        "the next request arrives twice",
        "sequence numbers: a repeated request is refused",
        place=Place.LINK,
    ),
    FaultKind(
        "client-crash",
        28,
        "the program that decides dies before its next step",
        "the lease runs out; the journal tells where it ended",
        place=Place.PROCESS,
    ),
    FaultKind(
        "client-hang",
        28,
        "the program that decides is stopped before its next step",
        "the lease runs out; it is fenced off when it wakes",
        place=Place.PROCESS,
    ),
    FaultKind(
        "server-crash",
        29,
        "the program next to the column dies at the next write of the ledger",
        "what may have been open is charged as unknown at the restart, never repeated",
        place=Place.PROCESS,
    ),
    FaultKind(
        "exposure-repeated",
        30,
        "the next exposure is asked for twice",
        "the recorded outcome; the beam is not opened again",
        place=Place.PROCESS,
    ),
    FaultKind(
        "stale-lock",
        31,
        "an owner of the ledger died without letting go",
        "locks belong to the operating system and go with the process",
        place=Place.PROCESS,
    ),
    FaultKind(
        "drift-burst",
        32,
        "the specimen starts to drift at 5 nm/s and calms down",
        "the footprint covers the stated drift; tracking pictures recentre",
    ),
    FaultKind(
        "charging",
        33,
        "the image moves with the dose rate",
        "tracking pictures and patterns disagree; the target is skipped",
        1800.0,
    ),
    FaultKind(
        "beam-damage",
        34,
        "crystals fade at a hundredth of their critical fluence",
        "patterns too weak to read; bounded by budget, then skipped",
        UNTIL_CLEARED_S,
    ),
    FaultKind(
        "two-crystals",
        35,
        "a second crystal, turned by 37°, lies in every pattern",
        "read as such or not answered; never scanned on one doubtful reading",
        1800.0,
    ),
    FaultKind(
        "bent-crystal",
        35,
        "every pattern is smeared over 2° of bend",
        "not answered, or with a wide sigma; a second view has to agree",
        1800.0,
    ),
    FaultKind(
        "few-spots",
        35,
        "only spots near the direct beam are left",
        "not answered; read again with more electrons, within the budget",
        1800.0,
    ),
    FaultKind(
        "circle-inverted",
        35,
        "the tilt read from the next pattern has the wrong sign",
        "the pattern after the tilt contradicts its forecast; read again, tilted back",
        place=Place.PERCEPTION,
    ),
    FaultKind(
        "circle-ambiguous",
        35,
        "the next pattern gives no answer, two circles fit",
        "read again with more electrons, then skipped",
        place=Place.PERCEPTION,
    ),
    FaultKind(
        "regions-empty",
        36,
        "the region finder sees nothing in the next picture",
        "the tile brings no target; the others go on",
        place=Place.PERCEPTION,
    ),
    FaultKind(
        "regions-everywhere",
        36,
        "the region finder calls the whole of the next picture usable",
        _EDGES,
        place=Place.PERCEPTION,
    ),
    FaultKind(
        "regions-nan",
        36,
        "the region finder's next places and scores are not numbers",
        _EDGES,
        place=Place.PERCEPTION,
    ),
    FaultKind(
        "regions-shifted",
        36,
        "the region finder's next places are 40 pixels off",
        "the first tracking picture recentres, or the crystal is not found and skipped",
        place=Place.PERCEPTION,
    ),
    FaultKind(
        "external-move",
        37,
        "a person at the hand panel moves x by 3 µm",
        "no exposure while it moves or at another place than was booked",
    ),
    FaultKind("screen-down", 37, "a person lowers the screen", _INTERLOCK, 120.0),
    FaultKind(
        "holder-changed",
        38,
        "another holder is in the column",
        "neither moved nor exposed: limits and dose map are not its own; holds",
        UNTIL_CLEARED_S,
    ),
    FaultKind(
        "clock-step",
        39,
        "the record clock jumps by an hour",
        "deadlines run on another clock",
    ),
    FaultKind(
        "approval-silence",
        40,
        "nobody answers the next proposal",
        "beam blanked, holds or skips as the plan says; never a yes",
        place=Place.OPERATOR,
    ),
    FaultKind(
        "notification-down",
        41,
        "the first channel to the operator refuses",
        "messages go out beside the run, which is not blocked, through every other channel",
        UNTIL_CLEARED_S,
        Place.NOTIFICATION,
    ),
    FaultKind(
        "suspended",
        42,
        "somebody suspends the run between two steps",
        "beam blanked; goes on where it was as soon as it may",
        60.0,
        Place.OPERATOR,
    ),
)
FAULTS: dict[str, FaultKind] = {kind.name: kind for kind in _KINDS}
NUMBERS = range(1, 43)
"""Of the project's list; each has at least one name."""


def fault_table() -> list[dict[str, str | int]]:
    """One row per name, by number: number, name, where, what happens, how it is answered."""
    return [
        {
            "number": kind.number,
            "name": kind.name,
            "where": kind.place.value,
            "effect": "; ".join(part for part in (kind.effect, kind.lasting()) if part),
            "answer": kind.answer,
        }
        for kind in sorted(FAULTS.values(), key=lambda k: k.number)
    ]
