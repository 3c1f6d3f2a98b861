"""Everything that can happen in a run: a closed, versioned union of events.

Belief, report, console and resume are folds over these; what is not in here did not happen.
Fields called ``*_ms`` and ``host`` are the only ones that may differ between two runs of the
same plan and seed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from controller.hardware.values import (
    Calibration,
    Capabilities,
    Frozen,
    OpticsState,
    PartialPose,
    Purpose,
    StageLimits,
    StagePose,
)

EVENTS_VERSION = 1


class RunStarted(Frozen):
    """The run's identity, and everything it starts from."""

    kind: Literal["run_started"] = "run_started"
    run_id: str
    name: str
    mode: str
    seed: int
    plan: dict[str, Any]
    plan_fingerprint: str
    capabilities: Capabilities
    calibration: Calibration
    stage_limits: StageLimits
    pose: StagePose
    optics: OpticsState
    blank_verified: bool
    program_version: str
    model_hash: str
    tiles: tuple[tuple[float, float], ...]
    """Centres of the survey tiles, stage um."""


class StepStarted(Frozen):
    """A decision that is being carried out."""

    kind: Literal["step_started"] = "step_started"
    step: int
    action: str
    target: str | None
    details: dict[str, Any]
    reason: str


class Proposed(Frozen):
    """Something that waits for a person."""

    kind: Literal["proposal"] = "proposal"
    step: int
    action: str
    target: str | None
    details: dict[str, Any]
    reason: str
    cost_e_per_A2: float
    state_revision: int


class Answered(Frozen):
    """What the person, or the envelope that the person delegated to, said."""

    kind: Literal["approval"] = "approval"
    step: int
    action: str
    target: str | None
    details: dict[str, Any] = Field(default_factory=dict)
    answer: Literal["approve", "edit", "reject", "hold", "skip"]
    """``hold`` and ``skip`` are the plan's choice when nobody answered."""
    by: str
    reason: str = ""
    edited: dict[str, Any] = Field(default_factory=dict)


class ExposureMade(Frozen):
    """One state change of an exposure in the dose ledger."""

    kind: Literal["exposure"] = "exposure"
    exposure_id: str
    area: str
    purpose: Purpose
    detector: str
    duration_s: float
    state: str
    charged_e_per_A2: float


class FrameStored(Frozen):
    """A picture on disk."""

    kind: Literal["frame"] = "frame"
    frame: str
    path: str
    """Relative to the run folder."""
    role: Literal["survey", "track", "pattern"]
    target: str | None
    pose: StagePose
    optics: OpticsState
    electrons: float
    charged_e_per_A2: float


class Pick(Frozen):
    """A place that the picker offers."""

    x_um: float
    y_um: float
    radius_nm: float
    score: float
    diameter_nm: float
    frame: str
    x_px: float
    y_px: float
    reason: str = ""


class RegionsFound(Frozen):
    """What the picker saw in one survey tile."""

    kind: Literal["regions"] = "regions"
    tile: int
    frame: str
    picks: tuple[Pick, ...]
    class_fractions: dict[str, float]
    abstained: bool = False
    reason: str = ""
    out_of_distribution: bool = False
    labels_path: str | None = None
    elapsed_ms: float = 0.0


class TargetsChosen(Frozen):
    """The queue: picks of all tiles, duplicates removed, ordered."""

    kind: Literal["targets"] = "targets"
    targets: dict[str, Pick]
    rejected: tuple[tuple[str, str], ...] = ()
    """(where, why) of picks that were not queued."""


class Located(Frozen):
    """Where the crystal is now, seen in a tracking picture."""

    kind: Literal["located"] = "located"
    target: str
    frame: str
    offset_um: tuple[float, float]
    """Stage (x, y) from the beam to the crystal's centre before re-centring."""
    position_um: tuple[float, float]
    """Stage (x, y) of the crystal's centre as it appears at this tilt."""
    correlation: float
    found: bool
    recentred: bool
    reason: str = ""


class Moved(Frozen):
    """A stage move with what it achieved."""

    kind: Literal["moved"] = "moved"
    target: str | None
    requested: PartialPose
    achieved: StagePose
    residual: dict[str, float]


class TiltFitted(Frozen):
    """One diffraction pattern read by the aligner; enough to draw it."""

    kind: Literal["fit"] = "fit"
    target: str
    frame: str
    answered: bool
    reason: str
    zone_uvw: tuple[int, int, int] | None
    tilt_mrad: tuple[float, float]
    sigma_mrad: float
    misorientation_deg: float
    centre_px: tuple[float, float]
    inv_A_per_px: float
    mode: str
    alternatives: tuple[dict[str, Any], ...] = ()
    spots_px: tuple[tuple[float, float], ...] = ()
    """(x, y) of the spots used."""
    thickness_nm: float | None = None
    holder_zone: tuple[float, float, float] | None = None
    """The zone axis in the holder frame that follows from it."""
    predicted_deg: float | None = None
    """What the last move had predicted for this pattern."""
    in_plane_rotation_deg: float | None = None
    elapsed_ms: float = 0.0


class HeightFound(Frozen):
    """Height of the crystal above the tilt axis, from the image shift under tilt."""

    kind: Literal["height"] = "height"
    target: str
    offset_um: float
    """As measured, before any move of z; positive is downstream."""
    sigma_um: float
    ok: bool
    applied: bool
    """The stage was moved by it: what is left has to be measured again."""
    reason: str = ""


class ScanTaken(Frozen):
    """A 4D-STEM data set on disk."""

    kind: Literal["scan"] = "scan"
    target: str
    path: str
    frames_expected: int
    frames_committed: int
    complete: bool
    checksum_sha256: str
    fluence_e_per_A2: float
    """Planned mean fluence over the field."""
    charged_e_per_A2: float
    pose: StagePose
    optics: OpticsState


class Reconstructed(Frozen):
    """What the reconstruction of a scan says of itself."""

    kind: Literal["reconstruction"] = "reconstruction"
    target: str
    folder: str
    resolution_A: float | None
    frc_half_A: float | None
    lattice_limit_A: float | None
    defocus_nm: float | None
    thickness_nm: float | None
    passes: int
    stopped_because: str
    verdict: str
    ok: bool
    reason: str = ""
    elapsed_ms: float = 0.0


class TargetEnded(Frozen):
    """A crystal is finished with."""

    kind: Literal["target_ended"] = "target_ended"
    target: str
    status: Literal["done", "skipped", "failed"]
    reason: str
    dose_before_scan_e_per_A2: float
    dose_scan_e_per_A2: float


class Fault(Frozen):
    """Something went wrong, with the state it left."""

    kind: Literal["fault"] = "fault"
    error: str
    message: str
    action: str
    target: str | None
    beam_state: str
    dose_state: str
    handled: str
    """What was decided about it."""


class StepEnded(Frozen):
    """A step is over."""

    kind: Literal["step_ended"] = "step_ended"
    step: int
    ok: bool


class RunEnded(Frozen):
    """The run is over."""

    kind: Literal["run_ended"] = "run_ended"
    outcome: Literal["completed", "goals_missed", "stopped", "interrupted", "fault", "held"]
    reason: str
    beam_blanked: bool


Event = Annotated[
    RunStarted
    | StepStarted
    | Proposed
    | Answered
    | ExposureMade
    | FrameStored
    | RegionsFound
    | TargetsChosen
    | Located
    | Moved
    | TiltFitted
    | HeightFound
    | ScanTaken
    | Reconstructed
    | TargetEnded
    | Fault
    | StepEnded
    | RunEnded,
    Field(discriminator="kind"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)
