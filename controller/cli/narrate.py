"""What the run does, as it does it: a live line and bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from controller.cli.output import Output
from controller.plan.run import RunPlan
from controller.record.events import (
    BeamTilted,
    CalibrationAlarmed,
    Fault,
    MapChecked,
    PosteriorUpdated,
    QueueChanged,
    Reconstructed,
    RunEnded,
    RunResumed,
    RunStarted,
    StepStarted,
    TargetEnded,
    TargetsChosen,
    TiltFitted,
)
from controller.record.journal import Entry

WORTH_SAYING = 0.1
"""Probability that the camera's hand is the other one, above which it is said."""


class Narrator:
    """Turns journal entries into words on stderr."""

    def __init__(self, output: Output, plan: RunPlan) -> None:
        self._silent = output.quiet
        self._console = Console(stderr=True, highlight=False)
        self._wanted = plan.targets.wanted
        self._done = 0
        self._progress: Progress | None = None
        if not self._silent and self._console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.completed}/{task.total} scans accepted"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
                console=self._console,
                transient=True,
            )
            self._task = self._progress.add_task("", total=self._wanted)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, entry: Entry) -> None:
        """Say what one entry means."""
        event = entry.event
        if self._progress is not None and isinstance(event, StepStarted):
            where = f"{event.target} " if event.target else ""
            self._progress.update(self._task, description=f"{where}{event.action}")
        if isinstance(event, TargetEnded) and event.status == "done":
            self._done += 1
            if self._progress is not None:
                self._progress.update(self._task, completed=self._done)
        words = sentence(event)
        if words and not self._silent:
            self._console.print(f"{_hours(entry.clock_s)}  {words}", markup=False, soft_wrap=True)


def sentence(event: object) -> str:  # noqa: C901  a table over the union
    """One line about an event worth a line; empty for the others."""
    match event:
        case RunStarted():
            banner = "SIMULATOR" if event.capabilities.simulated else "HARDWARE"
            model = f"{event.capabilities.vendor} {event.capabilities.model}"
            return f"{banner} {model}: {event.name}, {len(event.tiles)} survey tiles"
        case RunResumed():
            return f"resumed ({event.before}); {len(event.unknown)} exposures of unknown end"
        case QueueChanged():
            which = f" {event.target}" if event.target else ""
            why = f": {event.reason}" if event.reason else ""
            return f"QUEUE {event.what}{which} by {event.by}{why}"
        case MapChecked():
            dx, dy = event.shift_um
            moved = f"moved by ({dx:+.2f}, {dy:+.2f}) um, correlation {event.correlation:.2f}"
            return f"map {moved}" if event.found else f"MAP NOT FOUND: {event.reason}; {moved}"
        case TargetsChosen():
            return f"{len(event.targets)} crystals queued, {len(event.rejected)} left out"
        case TiltFitted() | BeamTilted() | PosteriorUpdated():
            return _about_the_tilt(event)
        case Reconstructed() if event.resolution_A is not None:
            return f"{event.target}  reconstructed: {event.verdict}"
        case TargetEnded():
            return f"{event.target}  {event.status}: {event.reason}"
        case Fault():
            where = f"{event.target}  " if event.target else ""
            return f"{where}FAULT {event.error}: {event.message} -> {event.handled}"
        case CalibrationAlarmed():
            where = f"{event.target}  " if event.target else ""
            return f"{where}CALIBRATION {event.message}. {event.remedy}"
        case RunEnded():
            blanked = "beam blanked" if event.beam_blanked else "BEAM NOT CONFIRMED BLANKED"
            return f"{event.outcome}: {event.reason} ({blanked})"
        case _:
            return ""


def _about_the_tilt(event: TiltFitted | BeamTilted | PosteriorUpdated) -> str:
    match event:
        case TiltFitted() if event.answered and event.zone_uvw is not None:
            zone = "[{} {} {}]".format(*event.zone_uvw)
            sigma_deg = event.sigma_mrad * 0.0573
            return (
                f"{event.target}  {event.misorientation_deg:.3f} +- {sigma_deg:.3f} deg from {zone}"
            )
        case TiltFitted():
            return f"{event.target}  no tilt read: {event.reason}"
        case BeamTilted():
            x, y = event.achieved_mrad
            return (
                f"{event.target}  beam tilted by ({x:+.2f}, {y:+.2f}) mrad: "
                f"{event.off_deg:.3f} +- {event.sigma_deg:.3f} deg expected"
            )
        case PosteriorUpdated() if event.state.dropped or event.doubt_of_hand > WORTH_SAYING:
            return f"{event.target}  {_doubts(event)}"
        case _:
            return ""


def _doubts(event: PosteriorUpdated) -> str:
    if event.state.dropped:
        return "this pattern contradicts those before it; they are set aside"
    return (
        f"the hand of the diffraction camera is in doubt "
        f"({100 * event.doubt_of_hand:.0f} % that it is the other one)"
    )


def _hours(clock_s: float) -> str:
    minutes, seconds = divmod(int(clock_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}"
