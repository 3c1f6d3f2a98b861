"""What is known: a fold over the journal, and nothing else.

``belief = fold(update, events)``.  The loop, a resumed run and a test that replays a journal
arrive at the same belief.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from controller.decision.frozen import SharedMap, replace
from controller.decision.goniometer_filter import SURPRISING
from controller.hardware.values import Purpose, StagePose
from controller.record.events import (
    Answered,
    BeamTilted,
    Event,
    ExposureMade,
    Fault,
    FrameStored,
    HeightFound,
    InstrumentState,
    Located,
    MapChecked,
    Moved,
    Pick,
    PosteriorUpdated,
    QueueChanged,
    Reconstructed,
    RegionsFound,
    RunEnded,
    RunResumed,
    RunStarted,
    ScanHandedOver,
    ScanTaken,
    StepEnded,
    StepStarted,
    TargetEnded,
    TargetsChosen,
    TiltFitted,
    ZoneChosen,
)

Status = Literal["queued", "active", "scanned", "done", "skipped", "failed"]
"""``scanned``: its scan waits for the reconstruction while the night goes on."""

_NOTHING: SharedMap[str, Target] = SharedMap()


@dataclass(frozen=True)
class Experience:
    """What a crystal that is done with has taught: all that is kept of it."""

    seconds: float
    """From going there to leaving it."""
    off_deg: float | None = None
    """From its zone axis, as first read."""
    thickness_nm: float | None = None
    patterns: int = 0
    fluence_e_per_A2: float | None = None
    """Of its scan; None without one."""
    defocus_nm: float | None = None
    """At the crystal, as its reconstruction found it."""
    resolution_A: float | None = None


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
    radius_nm: float | None = None
    """Of the largest circle within its outline, as first seen."""
    height: HeightFound | None = None
    height_attempts: int = 0
    fits: tuple[TiltFitted, ...] = ()
    fresh_fit: bool = False
    """The last fit was made at the present tilt."""
    unanswered: int = 0
    """Patterns in a row that could not be read, at the present tilt."""
    moves: int = 0
    tilts: int = 0
    """Settings of the goniometer since this crystal was gone to, those for its height included."""
    zone: ZoneChosen | None = None
    """The zone axis that it is to stand on."""
    posterior: PosteriorUpdated | None = None
    prior: InstrumentState | None = None
    """What was known of the instrument when this crystal was gone to."""
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    before_tilt: tuple[float, float] | None = None
    """Goniometer before the last tilt that was not undone."""
    undone: int = 0
    undo_asked: str = ""
    """Who asked for the last tilt to be taken back, and why."""
    scan: ScanTaken | None = None
    reconstruction: Reconstructed | None = None
    faults: tuple[Fault, ...] = ()
    fits_e_per_A2: float | None = None
    """What the dose budgets leave for its scan, where that is less than was asked for."""
    rejected: str = ""
    """What a person said against it."""
    reason: str = ""
    begun_s: float = 0.0
    """When it was gone to, since the start of the run."""
    experience: Experience | None = None
    """Once it has been scanned or left."""

    @property
    def last_answered(self) -> TiltFitted | None:
        """The newest pattern that was read."""
        return next((fit for fit in reversed(self.fits) if fit.answered), None)

    @property
    def can_undo(self) -> bool:
        """Whether there is a tilt to take back."""
        return self.before_tilt is not None


@dataclass(frozen=True)
class Belief:
    """Everything that a decision may depend on."""

    started: RunStarted | None = None
    tiles_done: frozenset[int] = frozenset()
    tile_frames: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    """Picture of each surveyed tile."""
    map_open: bool = False
    """The run was interrupted, and nobody has looked whether the specimen is where it was."""
    map_shift_um: tuple[float, float] = (0.0, 0.0)
    """From where the survey saw things to where they are, as last looked at."""
    picks: tuple[tuple[int, Pick], ...] = ()
    chosen: bool = False
    targets: SharedMap[str, Target] = field(default_factory=lambda: _NOTHING)
    put_first: frozenset[str] = frozenset()
    put_last: frozenset[str] = frozenset()
    """Crystals that a person put there, or that were interrupted."""
    active: str | None = None
    pose: StagePose | None = None
    """Where the stage was last seen."""
    asked_deg: tuple[float, float] = (0.0, 0.0)
    """Alpha and beta as last asked for."""
    read_deg: tuple[tuple[float, float], ...] = ()
    """Alpha and beta as read since they last moved."""
    instrument: InstrumentState | None = None
    """What the crystals so far have taught of goniometer and camera."""
    spent_e_per_A2: SharedMap[str, float] = field(default_factory=SharedMap)
    """Charged to each area by name, the data themselves aside."""
    steps: int = 0
    clock_s: float = 0.0
    """When the last step began, since the start of the run."""
    faults: tuple[Fault, ...] = ()
    faults_in_a_row: int = 0
    held: str = ""
    """Why the run holds, if it does."""
    paused: str = ""
    """Who asked to wait, and why; empty: nobody."""
    stopped: bool = False
    """Somebody pressed STOP; nothing goes on before `go_on`."""
    finish_asked: str = ""
    """Who asked to finish after the present crystal."""
    ended: RunEnded | None = None
    revision: int = 0
    """Counts events; an approval is bound to it."""

    @property
    def done(self) -> int:
        """Crystals with an accepted scan."""
        return sum(t.status == "done" for t in self.targets.values())

    @property
    def waiting(self) -> tuple[Target, ...]:
        """Crystals whose scans are being reconstructed."""
        return tuple(t for t in self.targets.values() if t.status == "scanned")

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


def update(belief: Belief, event: Event) -> Belief:  # noqa: C901  a table over the union
    """Belief after one more event."""
    belief = replace(belief, revision=belief.revision + 1)
    match event:
        case RunStarted():
            return replace(
                belief,
                started=event,
                pose=event.pose,
                asked_deg=(event.pose.alpha_deg, event.pose.beta_deg or 0.0),
            )
        case RunResumed():
            return _resumed(belief, event)
        case MapChecked():
            return _map_checked(belief, event)
        case QueueChanged():
            return _queue_changed(belief, event)
        case ExposureMade():
            return _charged(belief, event)
        case Answered():
            return _answered(belief, event)
        case StepStarted():
            return _step_started(belief, event)
        case RegionsFound():
            dx_um, dy_um = belief.map_shift_um
            found = tuple(  # where the survey's other tiles would show them
                (event.tile, pick.replace(x_um=pick.x_um - dx_um, y_um=pick.y_um - dy_um))
                for pick in event.picks
            )
            frames = dict(belief.tile_frames) | {event.tile: event.frame}
            return replace(
                belief,
                tiles_done=belief.tiles_done | {event.tile},
                tile_frames=MappingProxyType(frames),
                picks=belief.picks + found,
            )
        case TargetsChosen():
            dx_um, dy_um = belief.map_shift_um
            targets = {
                name: Target(name, pick, x_um=pick.x_um + dx_um, y_um=pick.y_um + dy_um)
                for name, pick in event.targets.items()
            }
            return replace(belief, chosen=True, targets=SharedMap(targets))
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
                else _with(
                    belief,
                    replace(
                        target,
                        faults=(*target.faults, event),
                        fits_e_per_A2=event.fits_e_per_A2 or target.fits_e_per_A2,
                    ),
                )
            )
        case StepEnded():
            return replace(belief, faults_in_a_row=0) if event.ok else belief
        case RunEnded():
            return replace(belief, ended=event)
        case _:
            return _target_event(belief, event)


def _resumed(belief: Belief, event: RunResumed) -> Belief:
    """What holds after an interruption: the past, but not where things stand."""
    belief = replace(
        belief,
        pose=event.pose,
        asked_deg=(event.pose.alpha_deg, event.pose.beta_deg or 0.0),
        read_deg=(),
        faults_in_a_row=0,
        held="",
        paused="",
        stopped=False,
        finish_asked="",
        ended=None,
        map_open=bool(belief.tile_frames),
    )
    target = belief.find(belief.active)
    if target is None or target.scan is not None:
        return belief  # a scan that is there only waits to be looked at
    again = Target(
        target.name,
        target.pick,
        x_um=target.pick.x_um + belief.map_shift_um[0],
        y_um=target.pick.y_um + belief.map_shift_um[1],
        visited=target.visited,
        prior=belief.instrument,
        faults=target.faults,
    )
    first = belief.put_first | {again.name}
    return replace(_with(belief, again), active=None, put_first=first)


def _map_checked(belief: Belief, event: MapChecked) -> Belief:
    """Everything that is still to be gone to moves with the specimen."""
    if not event.found:
        return replace(belief, held=f"the map was not found again: {event.reason}")
    dx_um = event.shift_um[0] - belief.map_shift_um[0]
    dy_um = event.shift_um[1] - belief.map_shift_um[1]
    targets = {
        name: replace(target, x_um=target.x_um + dx_um, y_um=target.y_um + dy_um)
        if target.status == "queued"
        else target
        for name, target in belief.targets.items()
    }
    return replace(
        belief,
        map_open=False,
        map_shift_um=event.shift_um,
        targets=SharedMap(targets),
    )


def _queue_changed(belief: Belief, event: QueueChanged) -> Belief:
    """The queue as a person wants it."""
    asked = f"{event.by} asked for it" + (f": {event.reason}" if event.reason else "")
    targets = dict(belief.targets)
    target = None if event.target is None else targets.get(event.target)
    match event.what:
        case "pause":
            return replace(belief, paused=asked)
        case "stop":
            return replace(belief, paused=f"STOP: {asked}", stopped=True)
        case "go_on":
            return replace(belief, paused="", stopped=False)
        case "finish":
            return replace(belief, finish_asked=asked)
        case "add" if event.pick is not None and event.target is not None:
            pick, (dx_um, dy_um) = event.pick, belief.map_shift_um
            added = Target(event.target, pick, x_um=pick.x_um + dx_um, y_um=pick.y_um + dy_um)
            return _put_first(belief, added, targets)
        case "skip" if target is not None and target.status == "active":
            return _with(belief, replace(target, rejected=asked))
        case "first" if target is not None:
            return _put_first(belief, target, targets)
        case "last" if target is not None:
            del targets[target.name]
            return replace(
                belief,
                targets=SharedMap(targets | {target.name: target}),
                put_first=belief.put_first - {target.name},
                put_last=belief.put_last | {target.name},
            )
        case _:
            return belief


def _put_first(belief: Belief, target: Target, targets: dict[str, Target]) -> Belief:
    others = {name: other for name, other in targets.items() if name != target.name}
    return replace(
        belief,
        targets=SharedMap({target.name: target} | others),
        put_first=belief.put_first | {target.name},
        put_last=belief.put_last - {target.name},
    )


def _step_started(belief: Belief, event: StepStarted) -> Belief:
    belief = replace(belief, steps=event.step + 1, clock_s=event.at_s)
    target = belief.find(event.target)
    if target is None:
        return belief
    if event.action == "Visit":
        target = replace(
            target, status="active", visited=True, prior=belief.instrument, begun_s=event.at_s
        )
        belief = replace(belief, active=target.name)
    if event.action == "Tilt":
        target = replace(target, moves=target.moves + 1, before_tilt=belief.asked_deg)
    if event.action == "UndoTilt":
        target = replace(
            target, before_tilt=None, undone=target.undone + 1, undo_asked="", misses=0
        )
    if event.action in ("Tilt", "UndoTilt"):
        x_um, y_um = event.details.get("x_um"), event.details.get("y_um")
        if x_um is not None and y_um is not None:
            target = replace(target, x_um=x_um, y_um=y_um)
    return _with(belief, target)


def _charged(belief: Belief, event: ExposureMade) -> Belief:
    if event.state not in ("SETTLED", "UNKNOWN") or event.purpose is Purpose.DATA:
        return belief
    spent = belief.spent_e_per_A2
    after = spent.get(event.area, 0.0) + event.charged_e_per_A2
    return replace(belief, spent_e_per_A2=spent.with_(event.area, after))


def _answered(belief: Belief, event: Answered) -> Belief:
    if event.answer in ("approve", "edit"):
        return belief
    belief = replace(belief, steps=event.step + 1)
    if event.answer == "withdrawn":
        return belief
    if event.answer == "hold":
        return replace(belief, held=f"nobody answered the proposal of {event.action}")
    target = belief.find(event.target)
    if target is not None and event.answer == "undo":
        asked = f"{event.by} asked for it" + (f": {event.reason}" if event.reason else "")
        return _with(belief, replace(target, undo_asked=asked))
    if target is not None:
        why = event.reason or "no reason given"
        return _with(belief, replace(target, rejected=f"{event.by} rejected {event.action}: {why}"))
    if event.action == "SurveyTile":
        return replace(belief, tiles_done=belief.tiles_done | {int(event.details["tile"])})
    return belief


def _target_event(belief: Belief, event: Event) -> Belief:
    if isinstance(event, Moved):
        belief = _moved(belief, event)
    if isinstance(event, FrameStored) and belief.read_deg:
        read = (event.pose.alpha_deg, event.pose.beta_deg or 0.0)
        belief = replace(belief, read_deg=(*belief.read_deg, read))
    target = belief.find(getattr(event, "target", None))
    if target is None:
        return belief
    if isinstance(event, PosteriorUpdated):
        belief = replace(belief, instrument=_learnt(target, event))
    match event:
        case ScanHandedOver():
            learnt = _experience(target, belief.clock_s)
            target = replace(target, status="scanned", experience=learnt)
        case TargetEnded():
            target = _closed(target, event, belief.clock_s)
        case _:
            target = _after(target, event)
    belief = _with(belief, target)
    over = isinstance(event, TargetEnded | ScanHandedOver) and belief.active == event.target
    return replace(belief, active=None) if over else belief


def _closed(target: Target, event: TargetEnded, clock_s: float) -> Target:
    """The crystal as it is remembered: a night of thousands keeps no pattern of those before."""
    return Target(
        target.name,
        target.pick,
        status=event.status,
        reason=event.reason,
        x_um=target.x_um,
        y_um=target.y_um,
        visited=target.visited,
        radius_nm=target.radius_nm,
        faults=target.faults,
        begun_s=target.begun_s,
        experience=_experience(target, clock_s) if target.visited else None,
    )


def _experience(target: Target, clock_s: float) -> Experience:
    """What a crystal teaches, left at `clock_s`; what came later is added to what was known."""
    known, result = target.experience, target.reconstruction
    answered = [fit for fit in target.fits if fit.answered]
    return Experience(
        seconds=clock_s - target.begun_s if known is None else known.seconds,
        off_deg=answered[0].misorientation_deg if answered else None,
        thickness_nm=answered[-1].thickness_nm if answered else None,
        patterns=len(target.fits),
        fluence_e_per_A2=target.scan.fluence_e_per_A2 if target.scan else None,
        defocus_nm=result.defocus_nm if result else None,
        resolution_A=result.resolution_A if result else None,
    )


def _learnt(target: Target, event: PosteriorUpdated) -> InstrumentState | None:
    """What is known of the instrument now: contradictions and lone surprises teach nothing."""
    alone = not (target.fits and target.fits[-1].summed)
    surprised = alone and (event.surprise or 0.0) > SURPRISING
    return target.prior if event.state.dropped or surprised else event.state.instrument


def _after(target: Target, event: Event) -> Target:
    """The crystal after an event about it."""
    match event:
        case Moved():
            return _after_move(target, event)
        case Located():
            return _located(target, event)
        case HeightFound():
            return replace(target, height=event, height_attempts=target.height_attempts + 1)
        case TiltFitted():
            return _fitted(target, event)
        case ZoneChosen():
            return replace(target, zone=event)
        case PosteriorUpdated():
            return replace(target, posterior=event)
        case BeamTilted():
            return replace(target, beam_tilt_mrad=event.achieved_mrad)
        case ScanTaken():
            return replace(target, scan=event)
        case Reconstructed():
            return replace(target, reconstruction=event)
        case _:
            return target


def _after_move(target: Target, event: Moved) -> Target:
    target = replace(target, located=False)
    if not _tilts(event):
        return target
    return replace(
        target,
        fresh_fit=False,
        unanswered=0,
        tilts=target.tilts + 1,
        beam_tilt_mrad=(0.0, 0.0),
    )


def _fitted(target: Target, event: TiltFitted) -> Target:
    target = replace(
        target,
        fits=(*target.fits, event),
        fresh_fit=event.answered,
        unanswered=0 if event.answered else target.unanswered + 1,
        # a pattern that cannot be read may be one of nothing: look before paying for another
        located=target.located and event.answered,
    )
    if event.answered and target.zone and target.zone.chosen.zone_uvw != event.zone_uvw:
        # another zone than the one it was sent to: look again where the axes are
        return replace(target, zone=None, posterior=None)
    return target


def _moved(belief: Belief, event: Moved) -> Belief:
    """The pose, and what is known of the goniometer's setting."""
    belief = replace(belief, pose=event.achieved)
    if not _tilts(event):
        return belief
    alpha, beta = belief.asked_deg
    asked = (
        alpha if event.requested.alpha_deg is None else event.requested.alpha_deg,
        beta if event.requested.beta_deg is None else event.requested.beta_deg,
    )
    read = (event.achieved.alpha_deg, event.achieved.beta_deg or 0.0)
    return replace(belief, asked_deg=asked, read_deg=(read,))


def _tilts(event: Moved) -> bool:
    return event.requested.alpha_deg is not None or event.requested.beta_deg is not None


def _located(target: Target, event: Located) -> Target:
    if not event.found:
        return replace(target, misses=target.misses + 1)
    x_um, y_um = event.position_um
    return replace(
        target,
        located=True,
        misses=0,
        last_located=event,
        x_um=x_um,
        y_um=y_um,
        radius_nm=event.radius_nm or target.radius_nm,
    )


def _with(belief: Belief, target: Target) -> Belief:
    return replace(belief, targets=belief.targets.with_(target.name, target))
