"""Take up a night that was interrupted.

The journal is folded as it stands.  What the dose ledger holds and the journal does not is
journaled first: a charge that was never written down, a scan whose receipt nobody read.  A scan
whose outcome is unknown is never repeated; its crystal is closed with what was committed.  The
crystal that was being aligned goes back to the head of the queue with its spent dose; where the
stage really stands is read, and the map is looked at again before anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from uuid import UUID

from controller.decision.belief import Belief, update
from controller.decision.loop import AgentLoop
from controller.decision.night import Parts
from controller.decision.rig import ExposureIds, Rig
from controller.hardware.contract import Microscope
from controller.hardware.values import Exposure, Frozen, Purpose, ScanReceipt
from controller.plan.run import RunMode, RunPlan
from controller.record.events import (
    ExposureMade,
    RunResumed,
    RunStarted,
    ScanTaken,
    TargetEnded,
)
from controller.record.inbox import Inbox
from controller.record.journal import Entry, JournalError, read_journal

SPARE_IDS = 1000
"""More identifiers than a session has bookings: refused exposures use one and leave no booking."""


class Booked(Frozen):
    """One exposure as the dose ledger has it."""

    exposure: Exposure
    state: str
    charged_e_per_A2: float
    receipt: ScanReceipt | None = None


@dataclass(frozen=True)
class Interrupted:
    """A run as its folder holds it."""

    plan: RunPlan
    mode: RunMode
    run_id: str
    belief: Belief
    """Folded from the whole journal."""
    last: Entry
    sessions: int
    """How often it was started or resumed."""
    used_s: float
    """Time that its sessions took, by the clock of the instrument."""
    exposures: Mapping[str, str]
    """Last journaled state of each exposure, by identifier."""


def read_interrupted(run_dir: Path) -> Interrupted:
    """Read a run folder for resumption, one line of its journal in memory at a time.

    Raises
    ------
    JournalError
        No journal, a damaged one (the line is named), or one without its first line.
    """
    path = run_dir / "journal.jsonl"
    if not path.is_file():
        raise JournalError(f"{path} is missing: {run_dir} holds no run to resume")
    return interrupted(read_journal(path), str(path))


def interrupted(entries: Iterable[Entry], source: str) -> Interrupted:
    """The run that `entries` tell of.

    Raises
    ------
    JournalError
        None of them starts a run.
    """
    belief, started, last = Belief(), None, None
    begun_s, before_s, sessions = 0.0, 0.0, 0
    exposures: dict[str, str] = {}
    for entry in entries:
        event, last = entry.event, entry
        belief = update(belief, event)
        if isinstance(event, ExposureMade):
            exposures[event.exposure_id] = event.state
        elif isinstance(event, RunStarted | RunResumed):
            begun_s, sessions = entry.clock_s, sessions + 1
            before_s = event.used_s if isinstance(event, RunResumed) else 0.0
            started = event if isinstance(event, RunStarted) else started
    if started is None or last is None:
        raise JournalError(f"{source} ends before its first line; start the plan anew elsewhere")
    return Interrupted(
        plan=RunPlan.model_validate(started.plan),
        mode=RunMode(started.mode),
        run_id=started.run_id,
        belief=belief,
        last=last,
        sessions=sessions,
        used_s=before_s + max(0.0, last.clock_s - begun_s),
        exposures=exposures,
    )


def resume_night(
    run: Interrupted,
    microscope: Microscope,
    *,
    booked: Sequence[Booked],
    parts: Parts,
) -> AgentLoop:
    """Journal what was not, and hand back a loop that goes on where the run ended.

    Parameters
    ----------
    booked
        Everything in the dose ledger, in the order of the bookings.
    """
    rig = Rig(
        plan=run.plan,
        microscope=microscope,
        eyes=parts.eyes,
        store=parts.store,
        emit=parts.journal.append,
        new_id=ExposureIds(f"{run.run_id}/{run.sessions}"),
    )
    belief = run.belief
    booked = of_run(run, booked)
    journal = parts.journal
    loop = AgentLoop(
        rig,
        journal,
        belief,
        mode=parts.mode,
        approver=parts.approver,
        used_s=run.used_s,
        inbox=Inbox(parts.store.folder),
        workshop=parts.workshop,
    )
    for charge in unwritten(run.exposures, booked):
        journal.append(charge)
    for settled in left_open(loop.belief, booked, rig):
        journal.append(settled)
    journal.append(
        RunResumed(
            session=run.sessions + 1,
            mode=parts.mode.value,
            pose=microscope.stage.pose(),
            optics=microscope.optics.state(),
            blank_verified=parts.blank_verified,
            program_version=version("lodestem"),
            before=_how_it_ended(belief),
            used_s=run.used_s,
            unknown=tuple(
                str(b.exposure.exposure_id) for b in booked if b.state.lower() == "unknown"
            ),
        )
    )
    return loop


def of_run(run: Interrupted, booked: Sequence[Booked]) -> list[Booked]:
    """The exposures of this run: a server keeps one ledger for all."""
    spaces = [run.run_id, *(f"{run.run_id}/{n}" for n in range(1, run.sessions + 1))]
    most = len(booked) + SPARE_IDS
    mine: set[UUID] = set()
    for space in spaces:
        make = ExposureIds(space)
        mine.update(make() for _ in range(most))
    return [entry for entry in booked if entry.exposure.exposure_id in mine]


def unwritten(written: Mapping[str, str], booked: Sequence[Booked]) -> Iterator[ExposureMade]:
    """Charges that are in the ledger and not in the journal, which holds the states `written`."""
    for entry in booked:
        exposure = entry.exposure
        if written.get(str(exposure.exposure_id), "").upper() == entry.state.upper():
            continue
        yield ExposureMade(
            exposure_id=str(exposure.exposure_id),
            area=exposure.area,
            purpose=exposure.purpose,
            detector=exposure.detector,
            duration_s=exposure.duration_s,
            state=entry.state.upper(),
            charged_e_per_A2=entry.charged_e_per_A2,
        )


def left_open(
    belief: Belief, booked: Sequence[Booked], rig: Rig
) -> Iterator[ScanTaken | TargetEnded]:
    """Scans that were made, or begun, and never journaled: each settles its crystal."""
    for entry in booked:
        exposure = entry.exposure
        target = belief.find(exposure.area)
        if (
            exposure.purpose is not Purpose.DATA
            or target is None
            or target.scan is not None
            or target.status in ("done", "skipped", "failed")
            or entry.state.lower() == "released"
        ):
            continue
        if entry.receipt is not None:
            yield scan_taken(exposure.area, entry.receipt, rig)
            continue
        dose = rig.microscope.dose(target.x_um, target.y_um)
        yield TargetEnded(
            target=exposure.area,
            status="failed",
            reason=(
                f"the run was interrupted during its scan ({entry.charged_e_per_A2:.3g} e/A2 are "
                f"charged); it is not repeated, and what was committed is in "
                f"scans/{exposure.exposure_id}.h5"
            ),
            dose_before_scan_e_per_A2=dose.before_scan_e_per_A2,
            dose_scan_e_per_A2=dose.total_e_per_A2 - dose.before_scan_e_per_A2,
        )


def scan_taken(target: str, receipt: ScanReceipt, rig: Rig) -> ScanTaken:
    """The event of a scan by its receipt."""
    step_A2 = receipt.scan.step_A**2
    electrons = receipt.optics.probe_current_pA * receipt.scan.dwell_s * 6.241509074e6
    return ScanTaken(
        target=target,
        path=rig.relative(receipt.uri),
        frames_expected=receipt.frames_expected,
        frames_committed=receipt.frames_committed,
        complete=receipt.complete,
        checksum_sha256=receipt.checksum_sha256,
        fluence_e_per_A2=electrons / step_A2,
        charged_e_per_A2=receipt.charged_e_per_A2,
        pose=receipt.pose,
        optics=receipt.optics,
    )


def _how_it_ended(belief: Belief) -> str:
    if belief.ended is None:
        return "the program ended without a word"
    return f"{belief.ended.outcome}: {belief.ended.reason}"
