"""Everything the loop may do: a closed union.  Policy returns them, the performer carries them out.

Each action says in plain fields what it will do, so that it can be proposed to a person, edited
by one, journalled and costed before anything happens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class SurveyTile:
    """Take one tile of the survey and pick regions in it."""

    tile: int
    x_um: float
    y_um: float


@dataclass(frozen=True)
class CheckMap:
    """Take a tile of the survey again, to see whether the specimen is where the map says."""

    tile: int
    frame: str
    """Picture of the tile as it was."""
    x_um: float
    y_um: float


@dataclass(frozen=True)
class ChooseTargets:
    """Merge the picks of all tiles into the queue. No beam."""


@dataclass(frozen=True)
class Visit:
    """Move a crystal under the beam at the tilt of the survey."""

    target: str
    x_um: float
    y_um: float


@dataclass(frozen=True)
class Locate:
    """Take a tracking picture, find the crystal, centre it."""

    target: str


@dataclass(frozen=True)
class FindHeight:
    """Tilt to both sides, see how far the crystal moves; far off, bring it to eucentric height."""

    target: str
    low_alpha_deg: float
    high_alpha_deg: float
    attempt: int


@dataclass(frozen=True)
class MeasurePattern:
    """Take a diffraction pattern and read the tilt from it."""

    target: str
    fluence_e_per_A2: float
    beam_diameter_nm: float
    attempt: int


@dataclass(frozen=True)
class Tilt:
    """Move the goniometer towards the zone axis."""

    target: str
    alpha_deg: float
    beta_deg: float
    from_alpha_deg: float
    from_beta_deg: float
    predicted_deg: float
    """Sigma of the misorientation expected afterwards, radius of 68 %."""
    x_um: float
    y_um: float
    """Where the crystal is expected to appear then: its height shifts it."""


@dataclass(frozen=True)
class UndoTilt:
    """Go back to where the goniometer stood before the last tilt of this crystal."""

    target: str
    alpha_deg: float
    beta_deg: float
    from_alpha_deg: float
    from_beta_deg: float
    x_um: float
    y_um: float


@dataclass(frozen=True)
class ChooseZone:
    """Settle which zone axis this crystal is to stand on. No beam."""

    target: str
    frame: str
    """The pattern from which its axes are known."""
    zone_uvw: tuple[int, int, int]
    member_uvw: tuple[int, int, int]
    alpha_deg: float
    beta_deg: float


@dataclass(frozen=True)
class TiltBeam:
    """Lay the beam along the zone axis; the goniometer stays."""

    target: str
    x_mrad: float
    y_mrad: float
    """In the column frame, as ``OpticsState.beam_tilt_mrad``."""
    from_x_mrad: float
    from_y_mrad: float
    predicted_deg: float
    """Sigma of what will be left, radius of 68 %."""


@dataclass(frozen=True)
class AcquireScan:
    """The 4D-STEM scan."""

    target: str
    fluence_e_per_A2: float
    defocus_nm: float


@dataclass(frozen=True)
class Reconstruct:
    """Reconstruct the scan and judge it. No beam."""

    target: str
    scan_path: str


@dataclass(frozen=True)
class HandOver:
    """Let the scan be reconstructed beside the night. No beam."""

    target: str


@dataclass(frozen=True)
class WaitForResults:
    """Wait for reconstructions; the beam is blanked. Not journaled as a step."""

    duration_s: float


@dataclass(frozen=True)
class EndTarget:
    """Finish with a crystal. No beam."""

    target: str
    status: str
    reason: str


@dataclass(frozen=True)
class WaitFor:
    """Wait with the beam blanked for the column to recover."""

    duration_s: float
    reason: str


@dataclass(frozen=True)
class EndRun:
    """The run is over."""

    outcome: str
    reason: str


Action = (
    SurveyTile
    | CheckMap
    | ChooseTargets
    | Visit
    | Locate
    | FindHeight
    | MeasurePattern
    | ChooseZone
    | Tilt
    | UndoTilt
    | TiltBeam
    | AcquireScan
    | Reconstruct
    | HandOver
    | EndTarget
    | WaitFor
    | WaitForResults
    | EndRun
)

NEEDS_APPROVAL = (SurveyTile, CheckMap, FindHeight, MeasurePattern, Tilt, UndoTilt, AcquireScan)
"""In supervised mode: whatever tilts the specimen, exposes it or scans it. A tracking picture
belongs to the move that it follows; tilting the beam moves nothing and costs nothing."""

EDITABLE: dict[type, frozenset[str]] = {
    MeasurePattern: frozenset({"fluence_e_per_A2", "beam_diameter_nm"}),
    Tilt: frozenset({"alpha_deg", "beta_deg"}),
    AcquireScan: frozenset({"fluence_e_per_A2", "defocus_nm"}),
}
"""Which fields a person may change before approving."""


@dataclass(frozen=True)
class Decision:
    """An action with its reason in words."""

    action: Action
    reason: str


def action_name(action: Action) -> str:
    """Name of the kind of action, as in the journal."""
    return type(action).__name__


def action_target(action: Action) -> str | None:
    """The crystal it is about, if any."""
    return getattr(action, "target", None)


def action_details(action: Action) -> dict[str, Any]:
    """Its fields, without the target."""
    return {key: value for key, value in asdict(action).items() if key != "target"}


def edited(action: Action, changes: dict[str, float]) -> Action:
    """The action with a person's changes.

    Raises
    ------
    ValueError
        A field that may not be edited; lists which may.
    """
    allowed = EDITABLE.get(type(action), frozenset())
    for key, value in changes.items():
        if key not in allowed:
            raise ValueError(
                f"{key} of {action_name(action)} cannot be edited; "
                f"editable: {', '.join(sorted(allowed)) or 'nothing'}"
            )
        if not abs(value) < float("inf"):
            raise ValueError(f"{key} = {value} is not a finite number; give one")
    return replace(action, **changes)  # type: ignore[arg-type]
