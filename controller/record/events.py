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


class RunResumed(Frozen):
    """A run that was interrupted goes on, from what the instrument says now."""

    kind: Literal["run_resumed"] = "run_resumed"
    session: int
    """1 is the start; this is at least the second."""
    mode: str
    pose: StagePose
    optics: OpticsState
    blank_verified: bool
    program_version: str
    before: str
    """How the session before ended."""
    used_s: float = 0.0
    """Time that the sessions before took together."""
    unknown: tuple[str, ...] = ()
    """Exposures whose end nobody saw: charged at their bound, never repeated."""


class MapChecked(Frozen):
    """A survey tile seen again: how far the specimen has moved against the map."""

    kind: Literal["map_checked"] = "map_checked"
    tile: int
    frame: str
    shift_um: tuple[float, float]
    """Stage (x, y) from where the survey saw things to where they are."""
    correlation: float
    found: bool
    reason: str = ""


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


class QueueChanged(Frozen):
    """Somebody changed the queue of a run that is under way."""

    kind: Literal["queue"] = "queue"
    what: Literal["pause", "stop", "go_on", "finish", "skip", "first", "last", "add", "refused"]
    """``stop`` was carried out at the instrument; the run waits for ``go_on``."""
    by: str
    target: str | None = None
    reason: str = ""
    pick: Pick | None = None
    """Of a crystal that was added."""


class StepStarted(Frozen):
    """A decision that is being carried out."""

    kind: Literal["step_started"] = "step_started"
    step: int
    action: str
    target: str | None
    details: dict[str, Any]
    reason: str
    at_s: float = 0.0
    """Time of the run, pauses between its sessions aside."""


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
    answer: Literal["approve", "edit", "reject", "undo", "hold", "skip", "withdrawn"]
    """``hold`` and ``skip`` are the plan's choice when nobody answered; ``undo`` asks for the last
    tilt to be taken back instead; ``withdrawn`` died because the state changed."""
    by: str
    reason: str = ""
    edited: dict[str, Any] = Field(default_factory=dict)


class CalibrationAlarmed(Frozen):
    """A calibration is missing, stale, or contradicted by what the run sees."""

    kind: Literal["calibration_alarm"] = "calibration_alarm"
    calibration: Literal["tilt-axes", "camera", "beam-tilt"]
    code: str
    severity: Literal["minor", "major"]
    message: str
    remedy: str
    target: str | None = None
    """Crystal whose patterns contradict it; None at the start of the run."""


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
    sha256: str = ""
    """Of the raw detector values: what is shown can be compared with what was taken."""


class RegionsFound(Frozen):
    """What the picker saw in one survey tile."""

    kind: Literal["regions"] = "regions"
    tile: int
    frame: str
    """The first look; further ones are summed on its grid."""
    looks: int = 1
    looked_until: str = ""
    """Why no further look was taken."""
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
    radius_nm: float | None = None
    """Of the largest circle within its outline, where that was looked for."""
    reason: str = ""


class Moved(Frozen):
    """A stage move with what it achieved."""

    kind: Literal["moved"] = "moved"
    target: str | None
    requested: PartialPose
    achieved: StagePose
    residual: dict[str, float]


class GoniometerSetting(Frozen):
    """Where alpha and beta stand, as far as command and readings tell."""

    alpha_deg: float
    beta_deg: float
    sigma_alpha_deg: float
    sigma_beta_deg: float
    from_below: bool = True
    """Approached from below on both axes, so that the play lies on one side."""


class InstrumentState(Frozen):
    """What is known of the goniometer and the camera; carried from crystal to crystal."""

    mean: tuple[float, ...]
    """In the order of ``decision.goniometer_filter.PARAMETERS``."""
    covariance: tuple[tuple[float, ...], ...]
    mirrored: bool
    """The likelier hand of the diffraction camera."""
    doubt: float
    """Probability of the other one."""


class FilterState(Frozen):
    """Posterior over the zone axis of a crystal and the instrument, from all its patterns."""

    instrument: InstrumentState
    zone_holder: tuple[float, float, float]
    settings: tuple[GoniometerSetting, ...]
    mean: tuple[float, ...]
    """Instrument, zone axis, settings: see ``decision.goniometer_filter``."""
    covariance: tuple[tuple[float, ...], ...]
    chi2: float
    looks: int
    dropped: int = 0
    """Patterns left out because they contradict the others."""


class AxisInReach(Frozen):
    """A zone axis of the crystal as a possible target."""

    zone_uvw: tuple[int, int, int]
    member_uvw: tuple[int, int, int]
    holder: tuple[float, float, float]
    """Unit vector in the holder frame."""
    off_deg: float
    """From the beam, at the tilt of the pattern."""
    alpha_deg: float
    beta_deg: float
    """Goniometer that lays it along the beam."""
    reachable: bool
    why_not: str = ""
    seconds: float
    """Of the tilt."""
    fluence_e_per_A2: float
    """Expected for the pictures and patterns on the way."""


class ZoneChosen(Frozen):
    """Which zone axis this crystal is to stand on, with all that were considered."""

    kind: Literal["zone"] = "zone"
    target: str
    chosen: AxisInReach
    candidates: tuple[AxisInReach, ...]
    """Nearest first, the chosen one included."""
    frame: str
    """Pattern from which they are known."""
    tilt_mrad: tuple[float, float]
    """Of the chosen axis in that pattern."""
    sigma_mrad: float


class PosteriorUpdated(Frozen):
    """What all patterns of a crystal say together, and how the newest met its forecast."""

    kind: Literal["posterior"] = "posterior"
    target: str
    zone_uvw: tuple[int, int, int]
    off_deg: float
    """Angle between zone axis and incident beam now."""
    sigma_deg: float
    """Radius that holds 68.3 %."""
    expected_off_deg: float | None
    """What had been forecast for the newest pattern; None for the first."""
    expected_sigma_deg: float | None
    surprise: float | None
    """Distance of the newest reading from its forecast, in standard deviations."""
    azimuth_deg: float
    azimuth_sigma_deg: float
    mirrored: bool
    doubt_of_hand: float
    state: FilterState


class BeamTilted(Frozen):
    """The beam was laid along the zone axis; it stays so for the scan of this crystal."""

    kind: Literal["beam_tilted"] = "beam_tilted"
    target: str
    requested_mrad: tuple[float, float]
    achieved_mrad: tuple[float, float]
    """As read back."""
    off_deg: float
    """Angle between zone axis and incident beam that is expected now."""
    sigma_deg: float


class ZoneAxis(Frozen):
    """A member of a wanted zone in the frame of the detector, in the sense of the beam."""

    zone_uvw: tuple[int, int, int]
    member_uvw: tuple[int, int, int]
    direction: tuple[float, float, float]


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
    predicted_sigma_deg: float | None = None
    in_plane_rotation_deg: float | None = None
    setting: GoniometerSetting | None = None
    tilts: int = 0
    """How often this crystal had been tilted: patterns of one number share a setting."""
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    electrons: float = 0.0
    """Counted, of all patterns that were summed."""
    summed: tuple[str, ...] = ()
    """Earlier patterns at the same setting whose counts were added."""
    electrons_wanted: float | None = None
    """What would settle a pattern without an answer, if the aligner can tell."""
    orientation: tuple[tuple[float, float, float], ...] | None = None
    """Rotation crystal (Cartesian) to detector, rows."""
    axes: tuple[ZoneAxis, ...] = ()
    """All members of the wanted zones, as the orientation places them."""
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


class ScanHandedOver(Frozen):
    """A scan waits for its reconstruction beside the night; the next crystal is gone to."""

    kind: Literal["handed_over"] = "handed_over"
    target: str
    folder: str


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


STOPPED_BY_PERSON = "STOP by a person"
"""How `Fault.handled` begins where nothing was wrong: somebody broke the step off on purpose."""


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
    fits_e_per_A2: float | None = None
    """Of a scan that the dose budgets forbid: the fluence that they would have allowed."""

    @property
    def is_on_purpose(self) -> bool:
        """Whether somebody broke the step off, and nothing else is wrong."""
        return self.handled.startswith(STOPPED_BY_PERSON) and self.beam_state == "blanked"


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
    | RunResumed
    | MapChecked
    | QueueChanged
    | StepStarted
    | Proposed
    | Answered
    | CalibrationAlarmed
    | ExposureMade
    | FrameStored
    | RegionsFound
    | TargetsChosen
    | Located
    | Moved
    | TiltFitted
    | ZoneChosen
    | PosteriorUpdated
    | BeamTilted
    | HeightFound
    | ScanTaken
    | ScanHandedOver
    | Reconstructed
    | TargetEnded
    | Fault
    | StepEnded
    | RunEnded,
    Field(discriminator="kind"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)
