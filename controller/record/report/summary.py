"""The numbers of the night: what ``report.json`` holds, schema lodestem/report/1.

Angles, doses and resolutions are as lodestem measured them.  Keys that end in ``_true_deg`` come
from the simulator's truth and are null at a real microscope.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from controller.record.events import Reconstructed, TargetEnded, TiltFitted
from controller.record.report.attention import (
    Need,
    best_resolution_A,
    count,
    verdict,
    what_needs_you,
)
from controller.record.report.files import DataFile
from controller.record.report.ledger import by_purpose, charged_on
from controller.record.report.story import Night, TargetStory
from controller.record.report.truth import TargetTruth

SCHEMA = "lodestem/report/1"


@dataclass(frozen=True)
class Summary:
    """The report's numbers and the list of what needs a person."""

    data: dict[str, Any]
    needs: list[Need]


def summarise(
    night: Night,
    truths: dict[str, TargetTruth],
    files: list[DataFile],
    problems: list[str],
    dose_check: dict[str, Any] | None,
) -> Summary:
    """Everything that ``report.json`` says."""
    needs = what_needs_you(night)
    data = {
        "schema": SCHEMA,
        "simulated": night.simulated,
        "verdict": verdict(night, needs),
        "counts": {
            "targets": len(night.targets),
            **{
                status: count(night, status)
                for status in ("done", "skipped", "failed", "unfinished", "queued")
            },
            "best_resolution_A": best_resolution_A(night),
            "needs_you": sum(need.weight != "note" for need in needs),
        },
        "needs_you": [
            {"weight": n.weight, "what": n.what, "advice": n.advice, "target": n.target}
            for n in needs
        ],
        "run": _run(night),
        "targets": [
            _target(night, story, truths.get(name)) for name, story in night.targets.items()
        ],
        "dose": {
            "by_purpose": [
                {
                    "purpose": row.purpose.value,
                    "exposures": row.exposures,
                    "open_s": row.open_s,
                    "charged_e_per_A2": row.charged_e_per_A2,
                    "unknown": row.unknown,
                }
                for row in by_purpose(night)
            ],
            "charged_against_true": dose_check,
        },
        "faults": [
            {
                "clock_s": entry.clock_s,
                "utc": entry.utc,
                **fault.model_dump(mode="json", exclude={"kind"}),
            }
            for entry, fault in night.faults
        ],
        "approvals": [
            {
                "step": item.proposed.step,
                "action": item.proposed.action,
                "target": item.proposed.target,
                "cost_e_per_A2": item.proposed.cost_e_per_A2,
                "waited_s": item.end_s - item.start_s,
                "answer": item.answered.answer if item.answered else None,
                "by": item.answered.by if item.answered else None,
                "reason": item.answered.reason if item.answered else "",
                "edited": item.answered.edited if item.answered else {},
            }
            for item in night.approvals
        ],
        "files": [file.as_record() for file in files],
        "problems": problems,
    }
    return Summary(data, needs)


def _run(night: Night) -> dict[str, Any]:
    started, ended = night.started, night.ended
    record: dict[str, Any] = {
        "entries": len(night.entries),
        "first_utc": night.entries[0].utc if night.entries else None,
        "last_utc": night.entries[-1].utc if night.entries else None,
        "duration_s": night.end_s - night.start_s,
        "outcome": ended.outcome if ended else None,
        "reason": ended.reason if ended else "the journal has no end",
        "beam_blanked": ended.beam_blanked if ended else None,
    }
    if started is not None:
        record |= {
            "run_id": started.run_id,
            "name": started.name,
            "mode": started.mode,
            "seed": started.seed,
            "plan_fingerprint": started.plan_fingerprint,
            "program_version": started.program_version,
            "model_hash": started.model_hash,
            "blank_verified": started.blank_verified,
            "instrument": f"{started.capabilities.vendor} {started.capabilities.model}",
            "calibration": started.calibration.model_dump(mode="json"),
        }
    return record


def alignment_dose(night: Night, story: TargetStory) -> float:
    """Charged for everything before the scan, e/A2; survey included once the crystal is done."""
    ended = story.last(TargetEnded)
    if ended is not None:
        return ended.dose_before_scan_e_per_A2
    return charged_on(night, story.name, data=False)


def scan_dose(night: Night, story: TargetStory) -> float:
    """Charged for the scan, e/A2."""
    ended = story.last(TargetEnded)
    if ended is not None:
        return ended.dose_scan_e_per_A2
    return charged_on(night, story.name, data=True)


def _target(night: Night, story: TargetStory, truth: TargetTruth | None) -> dict[str, Any]:
    pick, scan = story.pick, story.scan
    result = story.last(Reconstructed)
    fits = story.answered_fits
    plan_material = night.planned("sample", "material")
    after_deg, after_sigma_mrad = _after(story)
    return {
        "id": story.name,
        "structure": plan_material if isinstance(plan_material, str) else None,
        "zone_uvw": list(fits[-1].zone_uvw) if fits and fits[-1].zone_uvw else None,
        "status": story.status,
        "reason": story.reason,
        "x_um": pick.x_um if pick else None,
        "y_um": pick.y_um if pick else None,
        "pick_score": pick.score if pick else None,
        "pick_radius_nm": pick.radius_nm if pick else None,
        "misorientation_before_deg": fits[0].misorientation_deg if fits else None,
        "misorientation_after_deg": after_deg,
        "misorientation_after_sigma_mrad": after_sigma_mrad,
        "misorientation_before_true_deg": truth.before_deg if truth else None,
        "misorientation_after_true_deg": truth.after_deg if truth else None,
        "truth": _truth(truth),
        "tilt_moves": len(story.tilt_moves),
        "patterns": len(story.fits),
        "patterns_answered": len(fits),
        "exposures": sum(e.area == story.name for e in night.exposures.values()),
        "faults": sum(fault.target == story.name for _, fault in night.faults),
        "alignment_dose_e_per_A2": alignment_dose(night, story),
        "scan_dose_e_per_A2": scan_dose(night, story),
        "scan_fluence_e_per_A2": scan.fluence_e_per_A2 if scan else None,
        "scan_complete": scan.complete if scan else None,
        "resolution_A": result.resolution_A if result else None,
        "frc_half_A": result.frc_half_A if result else None,
        "lattice_limit_A": result.lattice_limit_A if result else None,
        "defocus_nm": result.defocus_nm if result else None,
        "thickness_nm": _thickness(result, fits),
        "verdict": result.verdict if result else "",
        "files": {
            "scan": scan.path if scan else None,
            "reconstruction": result.folder if result else None,
        },
    }


def _after(story: TargetStory) -> tuple[float | None, float | None]:
    """What is left, and its sigma: as last read, or as expected since the beam was tilted.

    After a beam tilt nothing is expected to be left but the error: its radius of 68 % is told.
    """
    beam = story.beam_tilted
    if beam is not None:
        return math.hypot(beam.off_deg, beam.sigma_deg), math.radians(beam.sigma_deg) * 1e3
    fits = story.answered_fits
    return (fits[-1].misorientation_deg, fits[-1].sigma_mrad) if fits else (None, None)


def _truth(truth: TargetTruth | None) -> dict[str, Any] | None:
    """From the simulator, for the curious; null at a real microscope."""
    if truth is None:
        return None
    return {
        "crystal": truth.crystal,
        "structure": truth.structure,
        "role": truth.role,
        "thickness_nm": truth.thickness_nm,
        "fluence_e_per_A2": truth.fluence_e_per_A2,
        "phase_correlation": truth.phase_correlation,
    }


def _thickness(result: Reconstructed | None, fits: list[TiltFitted]) -> float | None:
    if result is not None and result.thickness_nm is not None:
        return result.thickness_nm
    return next((fit.thickness_nm for fit in reversed(fits) if fit.thickness_nm), None)
