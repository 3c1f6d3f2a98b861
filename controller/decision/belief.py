"""What is known: a fold over the journal, and nothing else.

``belief = fold(update, events)``.  The loop, a resumed run and a test that replays a journal
arrive at the same belief.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from controller.hardware.values import Purpose, StagePose
from controller.record.events import (
    Answered,
    Event,
    ExposureMade,
    Fault,
    HeightFound,
    Located,
    Moved,
    Pick,
    Reconstructed,
    RegionsFound,
    RunEnded,
    RunStarted,
    ScanTaken,
    StepEnded,
    StepStarted,
    TargetEnded,
    TargetsChosen,
    TiltFitted,
)

Status = Literal["queued", "active", "done", "skipped", "failed"]

_NOTHING: Mapping[str, Target] = MappingProxyType({})


@dataclass(frozen=True)
class Target:
    """One crystal of the queue."""

    name: str
    pick: Pick
    status: Status = "queued"
    x_um: float = 0.0
    y_um: float = 0.0
    visited: bool = False
    located: bool = False
    """Seen, and centred, since the last move of the stage."""
    misses: int = 0
    """Tracking pictures in a row in which it was not found."""
    last_located: Located | None = None
    """The newest tracking picture in which it was found: the template for the next."""
    height: HeightFound | None = None
    height_attempts: int = 0
    fits: tuple[TiltFitted, ...] = ()
    fresh_fit: bool = False
    """The last fit was made at the present tilt."""
    unanswered: int = 0
    """Patterns in a row that could not be read."""
    moves: int = 0
    scan: ScanTaken | None = None
    reconstruction: Reconstructed | None = None
    faults: tuple[Fault, ...] = ()
    rejected: str = ""
    """What a person said against it."""
    reason: str = ""

    @property
    def last_answered(self) -> TiltFitted | None:
        """The newest pattern that was read."""
        return next((fit for fit in reversed(self.fits) if fit.answered), None)


@dataclass(frozen=True)
class Belief:
    """Everything that a decision may depend on."""

    started: RunStarted | None = None
    tiles_done: frozenset[int] = frozenset()
    picks: tuple[tuple[int, Pick], ...] = ()
    chosen: bool = False
    targets: Mapping[str, Target] = field(default_factory=lambda: _NOTHING)
    active: str | None = None
    pose: StagePose | None = None
    """Where the stage was last seen."""
    spent_e_per_A2: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Charged to each area by name, the data themselves aside."""
    steps: int = 0
    faults: tuple[Fault, ...] = ()
    faults_in_a_row: int = 0
    held: str = ""
    """Why the run holds, if it does."""
    ended: RunEnded | None = None
    revision: int = 0
    """Counts events; an approval is bound to it."""

    @property
    def done(self) -> int:
        """Crystals with an accepted scan."""
        return sum(t.status == "done" for t in self.targets.values())

    @property
    def visited(self) -> int:
        """Crystals that were gone to."""
        return sum(t.visited for t in self.targets.values())

    def target(self, name: str) -> Target:
        """The crystal called `name`."""
        return self.targets[name]

    def find(self, name: str | None) -> Target | None:
        """The crystal called `name`, if there is one."""
        return None if name is None else self.targets.get(name)


def fold(events: Iterable[Event], belief: Belief | None = None) -> Belief:
    """Belief after `events`."""
    belief = belief or Belief()
    for event in events:
        belief = update(belief, event)
    return belief


def update(belief: Belief, event: Event) -> Belief:
    """Belief after one more event."""
    belief = replace(belief, revision=belief.revision + 1)
    match event:
        case RunStarted():
            return replace(belief, started=event, pose=event.pose)
        case ExposureMade():
            return _charged(belief, event)
        case Answered():
            return _answered(belief, event)
        case StepStarted():
            return _step_started(belief, event)
        case RegionsFound():
            found = tuple((event.tile, pick) for pick in event.picks)
            return replace(
                belief, tiles_done=belief.tiles_done | {event.tile}, picks=belief.picks + found
            )
        case TargetsChosen():
            targets = {
                name: Target(name, pick, x_um=pick.x_um, y_um=pick.y_um)
                for name, pick in event.targets.items()
            }
            return replace(belief, chosen=True, targets=MappingProxyType(targets))
        case Fault():
            belief = replace(
                belief,
                faults=(*belief.faults, event),
                faults_in_a_row=belief.faults_in_a_row + 1,
                held=event.message if event.handled.startswith("hold") else belief.held,
            )
            target = belief.find(event.target)
            return (
                belief
                if target is None
                else _with(belief, replace(target, faults=(*target.faults, event)))
            )
        case StepEnded():
            return replace(belief, faults_in_a_row=0) if event.ok else belief
        case RunEnded():
            return replace(belief, ended=event)
        case _:
            return _target_event(belief, event)


def _step_started(belief: Belief, event: StepStarted) -> Belief:
    belief = replace(belief, steps=event.step + 1)
    target = belief.find(event.target)
    if target is None:
        return belief
    if event.action == "Visit":
        target = replace(target, status="active", visited=True)
        belief = replace(belief, active=target.name)
    if event.action == "Tilt":
        target = replace(target, moves=target.moves + 1)
    return _with(belief, target)


def _charged(belief: Belief, event: ExposureMade) -> Belief:
    if event.state not in ("SETTLED", "UNKNOWN") or event.purpose is Purpose.DATA:
        return belief
    spent = dict(belief.spent_e_per_A2)
    spent[event.area] = spent.get(event.area, 0.0) + event.charged_e_per_A2
    return replace(belief, spent_e_per_A2=MappingProxyType(spent))


def _answered(belief: Belief, event: Answered) -> Belief:
    if event.answer in ("approve", "edit"):
        return belief
    belief = replace(belief, steps=event.step + 1)
    if event.answer == "hold":
        return replace(belief, held=f"nobody answered the proposal of {event.action}")
    target = belief.find(event.target)
    if target is not None:
        why = event.reason or "no reason given"
        return _with(belief, replace(target, rejected=f"{event.by} rejected {event.action}: {why}"))
    if event.action == "SurveyTile":
        return replace(belief, tiles_done=belief.tiles_done | {int(event.details["tile"])})
    return belief


def _target_event(belief: Belief, event: Event) -> Belief:
    if isinstance(event, Moved):
        belief = replace(belief, pose=event.achieved)
    target = belief.find(getattr(event, "target", None))
    if target is None:
        return belief
    match event:
        case Moved():
            tilted = event.requested.alpha_deg is not None or event.requested.beta_deg is not None
            target = replace(
                target,
                located=False,
                fresh_fit=target.fresh_fit and not tilted,
            )
        case Located():
            target = _located(target, event)
        case HeightFound():
            target = replace(target, height=event, height_attempts=target.height_attempts + 1)
        case TiltFitted():
            target = replace(
                target,
                fits=(*target.fits, event),
                fresh_fit=event.answered,
                unanswered=0 if event.answered else target.unanswered + 1,
            )
        case ScanTaken():
            target = replace(target, scan=event)
        case Reconstructed():
            target = replace(target, reconstruction=event)
        case TargetEnded():
            target = replace(target, status=event.status, reason=event.reason)
            return replace(_with(belief, target), active=None)
        case _:
            return belief
    return _with(belief, target)


def _located(target: Target, event: Located) -> Target:
    if not event.found:
        return replace(target, misses=target.misses + 1)
    x_um, y_um = event.position_um
    return replace(target, located=True, misses=0, last_located=event, x_um=x_um, y_um=y_um)


def _with(belief: Belief, target: Target) -> Belief:
    targets = dict(belief.targets)
    targets[target.name] = target
    return replace(belief, targets=MappingProxyType(targets))
