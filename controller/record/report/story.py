"""The night as a story: journal entries sorted by what they tell of which crystal.

A pure fold; nothing here opens a file.  Whatever is missing (a run that goes on, stopped or was
cut off by a power failure) stays empty and is never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from controller.record.events import (
    Answered,
    BeamTilted,
    CalibrationAlarmed,
    Event,
    ExposureMade,
    Fault,
    FrameStored,
    MapChecked,
    Moved,
    Pick,
    Proposed,
    QueueChanged,
    Reconstructed,
    RegionsFound,
    RunEnded,
    RunResumed,
    RunStarted,
    ScanTaken,
    StepEnded,
    StepStarted,
    TargetEnded,
    TargetsChosen,
    TiltFitted,
)
from controller.record.journal import Entry, JournalError, read_journal

Status = Literal["done", "skipped", "failed", "unfinished", "queued"]

_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class Step:
    """One decision that was carried out, with when."""

    started: StepStarted
    start_s: float
    end_s: float
    ok: bool | None
    """None: not over when the journal ends."""


@dataclass(frozen=True)
class Approval:
    """A proposal and what was answered, if anything."""

    proposed: Proposed
    start_s: float
    answered: Answered | None
    end_s: float


@dataclass
class TargetStory:
    """Everything that the journal says of one crystal, in order."""

    name: str
    pick: Pick | None
    entries: list[Entry] = field(default_factory=list)

    def events(self, kind: type[_Kind]) -> list[_Kind]:
        """Events of one kind, in order."""
        return [entry.event for entry in self.entries if isinstance(entry.event, kind)]

    def last(self, kind: type[_Kind]) -> _Kind | None:
        """Latest event of one kind."""
        found = self.events(kind)
        return found[-1] if found else None

    @property
    def fits(self) -> list[TiltFitted]:
        """All readings of patterns."""
        return self.events(TiltFitted)

    @property
    def answered_fits(self) -> list[TiltFitted]:
        """Readings with an answer."""
        return [fit for fit in self.fits if fit.answered]

    @property
    def tilt_moves(self) -> list[Moved]:
        """Moves of steps that were to tilt it onto its zone axis (not those that sought height)."""
        moves, tilting = [], False
        for entry in self.entries:
            event = entry.event
            if isinstance(event, StepStarted):
                tilting = event.action in ("Tilt", "UndoTilt")
            elif isinstance(event, Moved) and tilting:
                moves.append(event)
        return moves

    @property
    def beam_tilted(self) -> BeamTilted | None:
        """The beam tilt that came after the last pattern, if any."""
        last: BeamTilted | None = None
        for entry in self.entries:
            if isinstance(entry.event, TiltFitted):
                last = None
            elif isinstance(entry.event, BeamTilted):
                last = entry.event
        return last

    @property
    def scan(self) -> ScanTaken | None:
        """The last scan taken of it."""
        return self.last(ScanTaken)

    @property
    def reconstruction(self) -> Reconstructed | None:
        """The last reconstruction."""
        return self.last(Reconstructed)

    @property
    def status(self) -> Status:
        """How far it came."""
        ended = self.last(TargetEnded)
        if ended is not None:
            return ended.status
        return "unfinished" if self.entries else "queued"

    @property
    def reason(self) -> str:
        """Why it ended as it did, in words."""
        ended = self.last(TargetEnded)
        if ended is not None:
            return ended.reason
        return "the journal ends before it was finished" if self.entries else "never visited"


@dataclass
class Night:
    """A run, as far as its journal goes."""

    entries: list[Entry] = field(default_factory=list)
    started: RunStarted | None = None
    ended: RunEnded | None = None
    targets: dict[str, TargetStory] = field(default_factory=dict)
    frames: dict[str, FrameStored] = field(default_factory=dict)
    regions: list[RegionsFound] = field(default_factory=list)
    rejected: tuple[tuple[str, str], ...] = ()
    steps: list[Step] = field(default_factory=list)
    approvals: list[Approval] = field(default_factory=list)
    exposures: dict[str, ExposureMade] = field(default_factory=dict)
    """The latest state of every exposure, by identifier."""
    faults: list[tuple[Entry, Fault]] = field(default_factory=list)
    calibration_alarms: list[CalibrationAlarmed] = field(default_factory=list)
    resumed: list[tuple[Entry, RunResumed]] = field(default_factory=list)
    maps_checked: list[MapChecked] = field(default_factory=list)
    problem: str = ""
    """What is wrong with the journal itself."""

    @property
    def start_s(self) -> float:
        """Clock at the first entry."""
        return self.entries[0].clock_s if self.entries else 0.0

    @property
    def end_s(self) -> float:
        """Clock at the last entry."""
        return self.entries[-1].clock_s if self.entries else 0.0

    @property
    def simulated(self) -> bool:
        """Whether the instrument was the simulator."""
        return self.started is not None and self.started.capabilities.simulated

    def planned(self, *keys: str) -> object:
        """A value of the plan by its keys, None where the plan has no such key."""
        value: object = self.started.plan if self.started else None
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def planned_number(self, *keys: str) -> float | None:
        """A number of the plan, None where there is none."""
        value = self.planned(*keys)
        return float(value) if isinstance(value, int | float) else None


def read_night(journal: Path) -> Night:
    """Fold a journal file; damage ends the story there and is told in ``problem``."""
    entries: list[Entry] = []
    problem = ""
    if not journal.exists():
        problem = f"there is no {journal.name} in {journal.parent}"
    else:
        try:
            for entry in read_journal(journal):
                entries.append(entry)  # noqa: PERF402  what stands before the damage is kept
        except JournalError as error:
            problem = str(error)
    night = fold(entries)
    night.problem = problem
    return night


def fold(entries: Iterable[Entry]) -> Night:
    """Sort entries into a :class:`Night`."""
    night = Night()
    for entry in entries:
        night.entries.append(entry)
        _place(night, entry, entry.event)
    night.steps = list(_steps(night.entries))
    night.approvals = list(_approvals(night.entries))
    return night


def _place(night: Night, entry: Entry, event: Event) -> None:  # noqa: C901  a table
    match event:
        case RunStarted():
            night.started = night.started or event
        case RunEnded():
            night.ended = event
        case RunResumed():
            night.ended = None
            night.resumed.append((entry, event))
        case MapChecked():
            night.maps_checked.append(event)
        case RegionsFound():
            night.regions.append(event)
        case FrameStored():
            night.frames[event.frame] = event
        case ExposureMade():
            night.exposures[event.exposure_id] = event
        case Fault():
            night.faults.append((entry, event))
        case CalibrationAlarmed():
            night.calibration_alarms.append(event)
        case TargetsChosen():
            _queue(night, event)
        case QueueChanged() if event.pick is not None and event.target is not None:
            night.targets.setdefault(event.target, TargetStory(event.target, event.pick))
        case _:
            pass
    name = _target_of(event, night)
    if name is not None:
        night.targets.setdefault(name, TargetStory(name, None)).entries.append(entry)


def _queue(night: Night, event: TargetsChosen) -> None:
    night.rejected = event.rejected
    for name, pick in event.targets.items():
        night.targets.setdefault(name, TargetStory(name, pick)).pick = pick


def _target_of(event: Event, night: Night) -> str | None:
    if isinstance(event, ExposureMade):
        return event.area if event.area in night.targets else None
    name = getattr(event, "target", None)
    return name if isinstance(name, str) else None


def _steps(entries: list[Entry]) -> Iterator[Step]:
    """Steps in order of their start; one that never ended lasts until the journal does."""
    running: dict[int, tuple[StepStarted, float]] = {}
    finished: list[Step] = []
    for entry in entries:
        event = entry.event
        if isinstance(event, StepStarted):
            running[event.step] = (event, entry.clock_s)
        elif isinstance(event, StepEnded) and event.step in running:
            started, start_s = running.pop(event.step)
            finished.append(Step(started, start_s, entry.clock_s, event.ok))
    last_s = entries[-1].clock_s if entries else 0.0
    finished += [Step(started, start_s, last_s, None) for started, start_s in running.values()]
    yield from sorted(finished, key=lambda step: (step.start_s, step.started.step))


def _approvals(entries: list[Entry]) -> Iterator[Approval]:
    waiting: dict[int, tuple[Proposed, float]] = {}
    for entry in entries:
        event = entry.event
        if isinstance(event, Proposed):
            waiting[event.step] = (event, entry.clock_s)
        elif isinstance(event, Answered) and event.step in waiting:
            proposed, start_s = waiting.pop(event.step)
            yield Approval(proposed, start_s, event, entry.clock_s)
    last_s = entries[-1].clock_s if entries else 0.0
    for proposed, start_s in waiting.values():
        yield Approval(proposed, start_s, None, last_s)
