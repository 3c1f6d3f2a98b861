"""The verdict in one line, and the list of what a person has to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from controller.hardware import errors
from controller.hardware.errors import MicroscopeError, Retry
from controller.record.report.story import Night, Status

Weight = Literal["now", "soon", "note"]


@dataclass(frozen=True)
class Need:
    """One thing that needs a person.

    weight
        ``now`` concerns the instrument or the specimen's safety, ``soon`` the results,
        ``note`` is good to know and not counted in the verdict.
    """

    weight: Weight
    what: str
    advice: str
    target: str | None = None


def count(night: Night, status: Status) -> int:
    """Targets with `status`."""
    return sum(target.status == status for target in night.targets.values())


def best_resolution_A(night: Night) -> float | None:
    """Finest resolution among the finished targets."""
    found = [
        target.reconstruction.resolution_A
        for target in night.targets.values()
        if target.status == "done"
        and target.reconstruction is not None
        and target.reconstruction.resolution_A is not None
    ]
    return min(found, default=None)


def verdict(night: Night, needs: list[Need]) -> str:
    """One line: how many of how many, how good, what else."""
    if night.started is None:
        return "Nothing was recorded"
    total = len(night.targets)
    if total == 0:
        line = "No crystals were chosen"
    else:
        done = count(night, "done")
        line = f"{done} of {total} {'crystal' if total == 1 else 'crystals'} finished"
        best = best_resolution_A(night)
        if best is not None:
            line += f", best {best:.2g} Å" if best >= 1 else f", best {best:.2f} Å"
    for status, word in (
        ("skipped", "skipped"),
        ("failed", "failed"),
        ("unfinished", "unfinished"),
        ("queued", "not visited"),
    ):
        n = count(night, status)  # type: ignore[arg-type]
        if n:
            line += f", {n} {word}"
    waiting = sum(need.weight != "note" for need in needs)
    return line + (f", {waiting} need{'s' if waiting == 1 else ''} you" if waiting else "")


def what_needs_you(night: Night) -> list[Need]:
    """What needs a person, the instrument first."""
    found = [
        *_of_the_record(night),
        *_of_the_end(night),
        *_of_interruptions(night),
        *_of_faults(night),
        *_of_calibrations(night),
        *_of_targets(night),
    ]
    order = {"now": 0, "soon": 1, "note": 2}
    return sorted(found, key=lambda need: order[need.weight])


def _of_interruptions(night: Night) -> list[Need]:
    found = []
    for entry, event in night.resumed:
        unknown = (
            f"; {len(event.unknown)} exposures of unknown end are charged at their bound"
            if event.unknown
            else ""
        )
        found.append(
            Need("note", f"The run was resumed at {entry.utc[11:16]} UTC ({event.before}){unknown}",
                 "Nothing was repeated; see the journal for what was taken up.")
        )  # fmt: skip
    for seen in night.maps_checked:
        dx, dy = seen.shift_um
        found.append(
            Need("note" if seen.found else "now",
                 f"The map was looked at again: moved by ({dx:+.2f}, {dy:+.2f}) um, correlation "
                 f"{seen.correlation:.2f}" + (f"; {seen.reason}" if seen.reason else ""),
                 "Doses are charged where the stage read-back says: a large shift blurs them.")
        )  # fmt: skip
    return found


def _of_the_record(night: Night) -> list[Need]:
    found = []
    if night.problem:
        found.append(
            Need("now", f"The journal is damaged: {night.problem}",
                 "Everything below comes from what stands before the damage. "
                 "Copy the run folder before doing anything else."),
        )  # fmt: skip
    if night.started is not None and not night.started.blank_verified:
        found.append(
            Need("soon", "Blanking was not verified with a dark frame when the run began",
                 "Doses are upper bounds only if the blanker works. Verify it before the next run.")
        )  # fmt: skip
    if night.regions and all(region.abstained for region in night.regions):
        reasons = "; ".join(sorted({region.reason for region in night.regions if region.reason}))
        found.append(
            Need("soon", f"The picker abstained on every survey tile ({reasons or 'no reason'})",
                 "Look at the survey; more electrons per pixel may be needed.")
        )  # fmt: skip
    strange = [region.tile for region in night.regions if region.out_of_distribution]
    if strange:
        tiles = ", ".join(map(str, strange))
        found.append(
            Need("note", f"Survey tiles {tiles} look unlike what the picker was trained on",
                 "Look at its regions before trusting its scores.")
        )  # fmt: skip
    return found


def _of_calibrations(night: Night) -> list[Need]:
    """Each complaint once, however many crystals it came from."""
    found: dict[tuple[str, str], Need] = {}
    for alarm in night.calibration_alarms:
        weight: Weight = "soon" if alarm.severity == "major" else "note"
        found.setdefault(
            (alarm.calibration, alarm.code),
            Need(weight, f"Calibration: {alarm.message}", f"{alarm.remedy}.", alarm.target),
        )
    return list(found.values())


def _of_the_end(night: Night) -> list[Need]:
    ended = night.ended
    if ended is None:
        if not night.entries:
            return []
        return [
            Need("now", "The journal has no end: the run goes on, or was cut off",
                 "If it does not run any more, check at the microscope that the beam is blanked "
                 "and the valve closed. Resume starts from the journal.")
        ]  # fmt: skip
    found = []
    if not ended.beam_blanked:
        found.append(
            Need("now", "The run ended without a confirmed blank",
                 "Blank the beam or close the column valve now.")
        )  # fmt: skip
    words = {
        "fault": "A fault ended the run",
        "held": "The run holds and waits for a person",
        "stopped": "A person stopped the run",
        "interrupted": "The run was interrupted",
    }
    if ended.outcome in ("fault", "held"):
        found.append(Need("now", f"{words[ended.outcome]}: {ended.reason}",
                          "See the faults below; the beam was blanked first."))  # fmt: skip
    elif ended.outcome in words:
        found.append(Need("note", f"{words[ended.outcome]}: {ended.reason}",
                          "What was finished before is complete."))  # fmt: skip
    return found


def _of_faults(night: Night) -> list[Need]:
    found = []
    for _, fault in night.faults:
        if fault.beam_state != "blanked":
            found.append(
                Need("now", f"{fault.error} left the beam {fault.beam_state}: {fault.message}",
                     "Check the beam at the microscope.", fault.target)
            )  # fmt: skip
        elif fault.dose_state == "unknown":
            found.append(
                Need("soon", f"{fault.error} left an unknown dose: {fault.message}",
                     "It is charged at its upper bound.", fault.target)
            )  # fmt: skip
        elif _for_the_operator(fault.error):
            found.append(
                Need("soon", f"{fault.error}: {fault.message}",
                     f"The machine may not retry this by itself ({fault.handled}).", fault.target)
            )  # fmt: skip
    for approval in night.approvals:
        if approval.answered is None:
            proposed = approval.proposed
            found.append(
                Need("soon", f"{proposed.action} was proposed and never answered",
                     proposed.reason, proposed.target)
            )  # fmt: skip
    return found


def _of_targets(night: Night) -> list[Need]:
    found = []
    for target in night.targets.values():
        if target.status == "failed":
            found.append(
                Need("soon", f"{target.name} failed: {target.reason}",
                     "The data are kept; look at them before it is tried again.", target.name)
            )  # fmt: skip
        scan = target.scan
        if scan is not None and not scan.complete and target.status != "failed":
            found.append(
                Need("soon",
                     f"The scan of {target.name} has {scan.frames_committed} of "
                     f"{scan.frames_expected} positions",
                     "What was committed is readable.", target.name)
            )  # fmt: skip
    return found


def _for_the_operator(code: str) -> bool:
    kind = getattr(errors, f"{code}Error", None)
    return (
        isinstance(kind, type)
        and issubclass(kind, MicroscopeError)
        and kind.retry is Retry.OPERATOR
    )
