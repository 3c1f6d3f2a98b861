"""Wire a night together: instrument, ledger, journal, eyes, loop, report.

The one place that knows all of them.  ``run_night`` is what ``lodestem run`` and ``lodestem demo``
call, and what a script of the user's may call.
"""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from controller.cli.output import InputError
from controller.decision.approval import Approver, Unattended
from controller.decision.desk import Desk
from controller.decision.illumination import detector_for
from controller.decision.night import SERVER, Parts, planned_tiles, run_identity, start_night
from controller.decision.pipeline import Modelled, Workshop, dask_workshop, local_workshop
from controller.decision.resume import Booked, Interrupted, read_interrupted, resume_night
from controller.decision.rig import Eyes
from controller.hardware.clock import Clock, VirtualClock, WallClock
from controller.hardware.contract import Microscope
from controller.hardware.errors import DoseLimitError, LimitError
from controller.hardware.values import Axis, Exposure, Mode, PartialPose, ScanReceipt
from controller.injection.night import (
    HOOKS,
    spoilt_approver,
    spoilt_channels,
    spoilt_eyes,
    spoilt_going,
    spoilt_microscope,
)
from controller.plan.feasibility import problems
from controller.plan.run import PlanError, RunMode, RunPlan
from controller.record.disk import storing
from controller.record.events import CalibrationAlarmed, ExposureMade, RunEnded
from controller.record.journal import Entry, Journal, JournalError
from controller.record.notify.channels import channels_of
from controller.record.notify.post import PostOffice
from controller.record.report import ReportResult, build_report
from controller.record.store import RunStore
from controller.safety.gate import GuardedMicroscope
from controller.safety.limits import DoseLimits
from controller.server.client import RemoteMicroscope
from controller.server.session import RemoteSession, Session, open_remote_session, open_session

if TYPE_CHECKING:
    from controller.calibration.entries import Conditions


log = logging.getLogger("lodestem")

OpenSession = Session | RemoteSession
ASIDE_UM = (20.0, -20.0)
"""Where else the blanker is checked, if the specimen may take no more where the stage stands."""
MOST_S_PER_ENTRY = 3600.0
"""A night writes to its journal more often than this, or the server stops it."""


@dataclass(frozen=True)
class NightResult:
    """A finished night."""

    run_dir: Path
    ended: RunEnded
    report: ReportResult


class JournalAuditor:
    """Writes every change of the ledger to the journal, once there is one."""

    def __init__(self) -> None:
        self.journal: Journal | None = None

    def charged(self, exposure: Exposure, state: str, fluence_e_per_A2: float) -> None:
        """Journal one change of state."""
        if self.journal is None:
            return
        self.journal.append(
            ExposureMade(
                exposure_id=str(exposure.exposure_id),
                area=exposure.area,
                purpose=exposure.purpose,
                detector=exposure.detector,
                duration_s=exposure.duration_s,
                state=state.upper(),
                charged_e_per_A2=fluence_e_per_A2,
            )
        )


def dose_limits(plan: RunPlan) -> DoseLimits:
    """The plan's dose budgets as the ledger holds them."""
    specimen = plan.budget.specimen_e_per_A2
    if specimen is None:
        raise PlanError("the plan was not resolved: budget.specimen_e_per_A2 is missing")
    return DoseLimits(
        specimen_e_per_A2=specimen,
        before_scan_e_per_A2=plan.alignment.budget_e_per_A2,
        data_e_per_A2=specimen,
        area_e_per_A2={},
    )


def shipped_eyes(plan: RunPlan) -> Eyes:
    """The perceptions that lodestem ships."""
    from controller.perception.reconstruction import PtychographyReconstructor
    from controller.perception.regions import NetworkPicker
    from controller.perception.tilt import StructureAligner

    return Eyes(
        picker=NetworkPicker(),
        aligner=StructureAligner(plan.structure_path, plan.sample.target_zones),
        reconstructor=PtychographyReconstructor(
            seed=plan.seed, max_passes=plan.reconstruction.max_passes
        ),
    )


@contextmanager
def open_instrument(
    plan: RunPlan,
    run_dir: Path,
    *,
    clock: Clock | None = None,
    auditor: JournalAuditor,
    disk: Path | None = None,
) -> Iterator[OpenSession]:
    """Open the plan's instrument under its limits and budgets, and check the plan against it.

    Parameters
    ----------
    disk
        Folder whose disk has to hold the night. Default: `run_dir`.

    Raises
    ------
    InputError
        Unknown driver, bad driver options, or a plan that cannot be carried out here: with every
        reason at once.
    """
    from controller.backends.registry import UnknownAdapterError

    if clock is None:
        simulated = plan.instrument.backend == "sim" and not plan.instrument.options.get("realtime")
        clock = VirtualClock() if simulated else WallClock()
    session: OpenSession
    try:
        if plan.instrument.backend == SERVER:
            session = open_remote_session(
                plan.instrument.options,
                dose_limits=dose_limits(plan),
                plan_limits=plan.limits.stage_limits(),
                auditor=auditor,
                most_s_per_step=MOST_S_PER_ENTRY,
            )
        else:
            session = open_session(
                plan.instrument.backend,
                plan.instrument.options,
                run_dir=run_dir,
                dose_limits=dose_limits(plan),
                plan_limits=plan.limits.stage_limits(),
                run_uuid=run_identity(plan),
                clock=clock,
                auditor=auditor,
                hooks=HOOKS,
            )
    except (ValueError, UnknownAdapterError, LimitError) as error:
        raise InputError(str(error), "see `lodestem doctor` for what is installed") from error
    with session:
        unfit = []
        if plan.instrument.calibration is not None and plan.instrument.calibration.is_file():
            try:
                adopt_calibration(session, plan, plan.instrument.calibration)
            except InputError as error:
                unfit.append(str(error))
        capabilities = session.microscope.capabilities
        found = unfit + problems(
            plan,
            capabilities,
            session.microscope.stage.limits(),
            tiles=len(planned_tiles(plan, capabilities, session.microscope.calibration)),
            free_bytes=shutil.disk_usage(_existing(disk or run_dir)).free,
        )
        if found:
            raise InputError(
                "this instrument cannot carry out the plan:\n  " + "\n  ".join(found),
                "nothing was moved or exposed; correct the plan and check it with --dry-run",
            )
        yield session


def _existing(folder: Path) -> Path:
    """The folder, or the one in which it will be made."""
    folder = folder.resolve()
    return next(path for path in (folder, *folder.parents) if path.exists())


def adopt_calibration(session: OpenSession, plan: RunPlan, path: Path) -> None:
    """Make the session live by the stored calibration.

    Raises
    ------
    InputError
        The file cannot be used.
    """
    from controller.calibration.loading import calibrated
    from controller.calibration.store import CalibrationFileError, load_calibration

    microscope = session.microscope
    try:
        stored = load_calibration(path)
    except CalibrationFileError as error:
        raise InputError(str(error), "nothing was moved or exposed") from error
    microscope.adopt(
        calibrated(
            microscope.calibration,
            stored,
            pattern_conditions(session, plan),
            instrument=instrument_name(session),
        )
    )


def pattern_conditions(session: OpenSession, plan: RunPlan) -> Conditions:
    """The setting in which the plan takes its patterns."""
    from controller.calibration.entries import Conditions

    return Conditions(
        energy_keV=session.microscope.optics.state().energy_keV,
        detector_sampling_mrad=plan.alignment.detector_sampling_mrad,
    )


def instrument_name(session: OpenSession) -> str:
    """As calibrations name it."""
    made = session.microscope.capabilities
    return f"{made.vendor} {made.model}"


def calibration_alarms_now(session: OpenSession, plan: RunPlan) -> list[CalibrationAlarmed]:
    """What is wrong with the plan's calibration file at the start of a run."""
    from controller.calibration.alarms import calibration_alarms
    from controller.calibration.store import load_calibration

    if plan.instrument.calibration is None:
        return []
    alarms = calibration_alarms(
        load_calibration(plan.instrument.calibration),
        session.clock.utc(),
        conditions=pattern_conditions(session, plan),
        instrument=instrument_name(session),
    )
    return [
        CalibrationAlarmed(
            calibration=alarm.kind,
            code=alarm.code,
            severity=alarm.severity,
            message=alarm.message,
            remedy=alarm.remedy,
        )
        for alarm in alarms
    ]


def run_night(
    plan: RunPlan,
    run_dir: Path,
    *,
    mode: RunMode = RunMode.UNATTENDED,
    approver: Approver | None = None,
    eyes: Eyes | None = None,
    listener: Callable[[Entry], None] | None = None,
) -> NightResult:
    """Carry out a plan from the first survey tile to the report.

    Parameters
    ----------
    run_dir
        Must not hold a run yet.
    eyes
        Perceptions; the shipped ones by default.
    listener
        Called with every journal entry.

    Raises
    ------
    InputError
        Before anything moves: the folder is taken, or the plan cannot run here.
    KeyboardInterrupt
        Stopped by a person; the beam is blanked and the report is written.
    """
    if (run_dir / "journal.jsonl").exists():
        raise InputError(
            f"{run_dir} already holds a run; nothing was touched",
            "give another --out, go on with `lodestem run --resume`, or read it with "
            "`lodestem report`",
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    return _carry_out(
        plan, run_dir, None, mode=mode, approver=approver, eyes=eyes, listener=listener
    )


def resume_run(
    run_dir: Path,
    *,
    mode: RunMode | None = None,
    approver: Approver | None = None,
    eyes: Eyes | None = None,
    listener: Callable[[Entry], None] | None = None,
) -> NightResult:
    """Go on with a run that was interrupted, stopped or held, from its folder alone.

    Reads the instrument anew, journals what only the dose ledger knows, looks at the map again at
    low dose, and goes on with the queue.  No exposure whose outcome is unknown is repeated.

    Parameters
    ----------
    mode
        Default: as the run was started.

    Raises
    ------
    InputError
        No run there, a damaged journal, or one that has met its goals.
    KeyboardInterrupt
        Stopped by a person; the beam is blanked and the report is written.
    """
    try:
        run = read_interrupted(run_dir)
    except JournalError as error:
        raise InputError(str(error), "nothing was touched") from error
    last = run.last.event
    if isinstance(last, RunEnded) and last.outcome in ("completed", "goals_missed"):
        raise InputError(
            f"the run in {run_dir} is over ({last.outcome}: {last.reason}); nothing was touched",
            "start a new one",
        )
    return _carry_out(
        run.plan,
        run_dir,
        run,
        mode=mode or run.mode,
        approver=approver,
        eyes=eyes,
        listener=listener,
    )


def _carry_out(
    plan: RunPlan,
    run_dir: Path,
    run: Interrupted | None,
    *,
    mode: RunMode,
    approver: Approver | None,
    eyes: Eyes | None,
    listener: Callable[[Entry], None] | None,
) -> NightResult:
    auditor = JournalAuditor()
    plan = with_workers(plan)
    eyes = eyes or shipped_eyes(plan)
    try:
        with open_instrument(plan, run_dir, auditor=auditor) as session:
            microscope = session.microscope
            _refuse_without_dead_man(microscope, mode)
            camera = detector_for(microscope.capabilities, Mode.IMAGE)
            with (
                Journal(
                    run_dir / "journal.jsonl",
                    microscope.clock,
                    last=None if run is None else run.last,
                ) as journal,
                PostOffice(
                    plan.notifications,
                    plan.name,
                    run_dir,
                    channels=spoilt_channels(channels_of(plan.notifications), session.injected),
                ) as post,
                ExitStack() as opened,
            ):
                journal.listen(post)
                workshop = workshop_of(plan, eyes, microscope.clock)
                if workshop is not None:
                    opened.callback(workshop.close)
                if listener is not None:
                    journal.listen(listener)
                if isinstance(microscope, RemoteMicroscope):
                    journal.listen(progress_of(microscope))
                booked = [_booked(row) for row in session.bookings()] if run else []
                auditor.journal = journal
                verified = is_blanker_verified(microscope, camera.name)
                faults = session.injected
                driven = spoilt_microscope(microscope, faults)
                parts = Parts(
                    journal=journal,
                    store=RunStore(run_dir),
                    eyes=spoilt_eyes(eyes, faults),
                    mode=mode,
                    approver=spoilt_approver(approver or Unattended(), faults, microscope.clock),
                    blank_verified=verified,
                    workshop=workshop,
                )
                if run is None:
                    loop = start_night(plan, driven, parts)
                else:
                    loop = resume_night(run, driven, booked=booked, parts=parts)
                for alarm in calibration_alarms_now(session, plan):
                    journal.append(alarm)
                if isinstance(approver, Desk):
                    approver.attach(stop=microscope.stop, limits=microscope.stage.limits())
                with interruptible(lambda: microscope.stop("second interrupt")):
                    going = spoilt_going(faults, microscope.clock)
                    ended = loop.run(keep_going=going).ended
    except KeyboardInterrupt:
        if (run_dir / "journal.jsonl").exists():
            build_report(run_dir)
        raise
    with storing("the report"):
        report = build_report(run_dir)
    shelve(plan, run_dir)
    return NightResult(run_dir, ended, report)


def with_workers(plan: RunPlan) -> RunPlan:
    """The plan with the number of workers settled: virtual time waits for each result."""
    wanted = plan.reconstruction
    if wanted.workers is not None:
        return plan
    return plan.replace(reconstruction=wanted.replace(workers=0 if _is_virtual(plan) else 1))


def _is_virtual(plan: RunPlan) -> bool:
    return plan.instrument.backend == "sim" and not plan.instrument.options.get("realtime")


def workshop_of(plan: RunPlan, eyes: Eyes, clock: Clock) -> Workshop | None:
    """Where scans are reconstructed beside the night, if the plan wants that.

    On a simulated instrument in virtual time results come when the plan says that they do.

    Raises
    ------
    InputError
        The Dask scheduler cannot be reached.
    """
    wanted = plan.reconstruction
    if not wanted.is_beside:
        return None
    modelled = Modelled(clock, wanted.modelled_time_s) if _is_virtual(plan) else None
    if not wanted.scheduler:
        return local_workshop(eyes.reconstructor, wanted.workers or 1, modelled)
    try:
        return dask_workshop(eyes.reconstructor, wanted.scheduler, modelled)
    except (OSError, ModuleNotFoundError) as error:
        raise InputError(
            f"the Dask scheduler at {wanted.scheduler} cannot be used: {error}",
            "start it, or leave reconstruction.scheduler out: processes here will do",
        ) from error


def shelve(plan: RunPlan, run_dir: Path) -> None:
    """Add the run to the library of experiments; a library that fails costs no run."""
    try:
        from controller.record.library import Library, LibraryError, default_url
    except ModuleNotFoundError:  # without the extra there is none
        return
    try:
        shelf = Library(plan.library or default_url(run_dir))
        shelf.add(run_dir)
        shelf.close()
    except LibraryError as error:
        log.warning("the run is not in the library: %s", error)


def is_blanker_verified(microscope: GuardedMicroscope | RemoteMicroscope, detector: str) -> bool:
    """Whether a dark frame proves that it blanks; taken aside if the dose is used up here."""
    here = microscope.stage.pose().x_um
    low, high = microscope.stage.limits().ranges[Axis.X]
    for aside_um in (0.0, *ASIDE_UM):
        if aside_um and low <= here + aside_um <= high:
            microscope.stage.move(PartialPose(x_um=here + aside_um))
        try:
            return bool(microscope.verify_blanker(detector).verified)
        except DoseLimitError:
            continue
    return False


def _booked(row: dict[str, Any]) -> Booked:
    receipt = row["receipt"]
    return Booked(
        exposure=Exposure.model_validate_json(row["request"]),
        state=row["state"],
        charged_e_per_A2=row["charged_e_per_A2"],
        receipt=None if receipt is None else ScanReceipt.model_validate_json(receipt),
    )


def _refuse_without_dead_man(microscope: Microscope, mode: RunMode) -> None:
    made = microscope.capabilities
    if mode is not RunMode.UNATTENDED or made.simulated or made.dead_man == "independent":
        return
    raise InputError(
        "unattended runs are refused: nothing blanks the beam of this instrument if the program "
        f"that holds it dies (capability dead_man is {made.dead_man})",
        "run with --supervised, or serve it with a watchdog (docs/server.md)",
    )


def progress_of(microscope: RemoteMicroscope) -> Callable[[Entry], None]:
    """Every entry of the journal is progress: the server sees it with the heartbeat."""

    def advance(entry: Entry) -> None:
        microscope.advance(entry.sequence)

    return advance


@contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """First SIGINT or SIGTERM raises KeyboardInterrupt; any further one calls `stop` at once."""

    def second(number: int, frame: FrameType | None) -> None:
        stop()

    def first(number: int, frame: FrameType | None) -> None:
        for kind in kinds:
            signal.signal(kind, second)
        raise KeyboardInterrupt

    kinds = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {kind: signal.signal(kind, first) for kind in kinds}
    except ValueError:  # not the main thread: signals are somebody else's business
        yield
        return
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
