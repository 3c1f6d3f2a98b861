"""From a plan and a microscope to a running loop: checks, journal's first line, belief."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from uuid import UUID, uuid4, uuid5

from controller.decision.approval import Approver
from controller.decision.belief import Belief
from controller.decision.illumination import detector_for
from controller.decision.loop import AgentLoop
from controller.decision.pipeline import Workshop
from controller.decision.rig import ExposureIds, Eyes, Rig
from controller.hardware.contract import Microscope
from controller.hardware.values import Calibration, Capabilities, Mode
from controller.perception.view import survey_tiles
from controller.plan.run import RunMode, RunPlan
from controller.record.events import RunStarted
from controller.record.inbox import Inbox
from controller.record.journal import Journal
from controller.record.store import RunStore

SERVER = "server"
"""As a plan's backend: an instrument behind a hardware server."""
_RUNS = UUID("c0a1f5f2-3c0f-5d0e-8a38-9b8f5a1d7e11")


@dataclass(frozen=True)
class Parts:
    """What a night needs besides plan and microscope."""

    journal: Journal
    store: RunStore
    eyes: Eyes
    mode: RunMode
    approver: Approver
    blank_verified: bool
    """By a dark frame at the start of this session."""
    workshop: Workshop | None = None


def run_identity(plan: RunPlan) -> str:
    """Identifier of a run: follows from the plan, so that a repeated night is the same night."""
    return str(uuid5(_RUNS, f"{plan.fingerprint()}/{plan.seed}"))


def planned_tiles(
    plan: RunPlan, capabilities: Capabilities, calibration: Calibration
) -> tuple[tuple[float, float], ...]:
    """Centres of the survey tiles, stage um; rows and columns run along the camera's axes."""
    camera = detector_for(capabilities, Mode.IMAGE)
    height, width = (n * plan.survey.pixel_size_nm / 1e3 for n in camera.shape)
    x0, y0 = plan.survey.centre_um
    angle = math.radians(calibration.image_rotation_deg)
    hand = -1.0 if calibration.image_mirrored else 1.0
    return tuple(
        (
            x0 + math.cos(angle) * dx - math.sin(angle) * hand * dy,
            y0 + math.sin(angle) * dx + math.cos(angle) * hand * dy,
        )
        for dx, dy in survey_tiles(
            (0.0, 0.0), plan.survey.field_um, (width, height), plan.survey.overlap
        )
    )


def start_night(
    plan: RunPlan,
    microscope: Microscope,
    parts: Parts,
) -> AgentLoop:
    """Journal the start and hand back a loop that is ready to run.

    The plan must have been found feasible (:mod:`controller.plan.feasibility`).
    """
    run_id = run_identity(plan)
    if plan.instrument.backend == SERVER:  # its ledger knows the exposures of all runs
        run_id = f"{run_id}/{uuid4().hex[:12]}"
    rig = Rig(
        plan=plan,
        microscope=microscope,
        eyes=parts.eyes,
        store=parts.store,
        emit=parts.journal.append,
        new_id=ExposureIds(run_id),
    )
    loop = AgentLoop(
        rig,
        parts.journal,
        Belief(),
        mode=parts.mode,
        approver=parts.approver,
        inbox=Inbox(parts.store.folder),
        workshop=parts.workshop,
    )
    parts.journal.append(
        RunStarted(
            run_id=run_id,
            name=plan.name,
            mode=parts.mode.value,
            seed=plan.seed,
            plan=plan.model_dump(mode="json", by_alias=True),
            plan_fingerprint=plan.fingerprint(),
            capabilities=microscope.capabilities,
            calibration=microscope.calibration,
            stage_limits=microscope.stage.limits(),
            pose=microscope.stage.pose(),
            optics=microscope.optics.state(),
            blank_verified=parts.blank_verified,
            program_version=version("lodestem"),
            model_hash=parts.eyes.picker.model_hash,
            tiles=planned_tiles(plan, microscope.capabilities, microscope.calibration),
        )
    )
    return loop
