"""The values that cross the hardware border: frozen, with units in their names.

Everything here can be written as JSON (frames as raw arrays beside their header), so the same
values serve in process and over a wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Vector = tuple[Finite, Finite]
"""(x, y) in the unit that the name of the field gives."""


class Frozen(BaseModel):
    """Immutable value that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def replace(self, **changes: object) -> Self:
        """Return a copy with `changes`, validated again (unlike ``model_copy``)."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate(fields | changes)


# --- stage --------------------------------------------------------------------------------


class Axis(StrEnum):
    """Axes of the goniometer; the value is the field name in poses, unit included."""

    X = "x_um"
    Y = "y_um"
    Z = "z_um"
    ALPHA = "alpha_deg"
    BETA = "beta_deg"


class StagePose(Frozen):
    """Measured position of the stage.

    x and y name the specimen point that lies under the optical axis when the specimen is at
    eucentric height; they ride with the tilt.  z = 0 is eucentric height as last calibrated.
    """

    x_um: Finite
    y_um: Finite
    z_um: Finite
    alpha_deg: Finite
    beta_deg: Finite | None = None

    def get(self, axis: Axis) -> float:
        """Value of one axis; 0 for a beta that the holder does not have."""
        value = getattr(self, axis.value)
        return 0.0 if value is None else float(value)


@dataclass(frozen=True)
class AxisState:
    """Status of one axis as the goniometer reports it (it may lie)."""

    moving: bool
    limiter: bool = False
    touch: bool = False


class PartialPose(Frozen):
    """Target for some axes; the others stay."""

    x_um: Finite | None = None
    y_um: Finite | None = None
    z_um: Finite | None = None
    alpha_deg: Finite | None = None
    beta_deg: Finite | None = None

    def targets(self) -> dict[Axis, float]:
        """The named axes with their targets, in the order x, y, z, alpha, beta."""
        values = {axis: getattr(self, axis.value) for axis in Axis}
        return {axis: float(value) for axis, value in values.items() if value is not None}


class Approach(StrEnum):
    """How to come to a target."""

    DIRECT = "direct"
    FROM_BELOW = "from_below"
    """Overshoot below the target on every named axis, then arrive from below: takes out play."""
    VENDOR_SAFE = "vendor_safe"


class Settle(Frozen):
    """When a move counts as done: idle on `idle_polls` polls in a row and within tolerance."""

    idle_polls: Annotated[int, Field(ge=1)] = 3
    poll_interval_s: Positive = 0.1
    tolerance_um: Positive = 0.5
    tolerance_deg: Positive = 0.15
    wait_s: NonNegative = 0.5
    """Waited after idle, for the mechanics to come to rest."""


class MoveResult(Frozen):
    """What a move achieved; never the echoed request."""

    requested: PartialPose
    achieved: StagePose
    residual: dict[Axis, float]
    polls: int
    settle_s: float
    drift_nm_per_s: float | None = None


class StageLimits(Frozen):
    """The reachable box: vendor, holder, site and plan, intersected."""

    ranges: dict[Axis, tuple[Finite, Finite]]

    @model_validator(mode="after")
    def _ranges_are_not_empty(self) -> Self:
        for axis, (low, high) in self.ranges.items():
            if not low <= high:
                raise ValueError(f"{axis.value}: the range {low:g} .. {high:g} is empty")
        return self

    def intersect(self, other: StageLimits) -> StageLimits:
        """The box that both allow; an axis that either side lacks keeps the other's range."""
        ranges = dict(self.ranges)
        for axis, (low, high) in other.ranges.items():
            mine = ranges.get(axis, (low, high))
            ranges[axis] = (max(low, mine[0]), min(high, mine[1]))
        return StageLimits(ranges=ranges)

    def violation(self, target: PartialPose) -> str | None:
        """First violated limit in words, or None. NaN violates."""
        for axis, value in target.targets().items():
            if axis not in self.ranges:
                return f"this stage has no axis {axis.value} (asked for {value:g})"
            low, high = self.ranges[axis]
            if not low <= value <= high:
                return f"{axis.value} = {value:g} is outside {low:g} .. {high:g}"
        return None


# --- optics -------------------------------------------------------------------------------


class Mode(StrEnum):
    """Illumination and projection that belong together."""

    IMAGE = "image"
    """Parallel beam, image on the camera."""
    DIFFRACTION = "diffraction"
    """Parallel beam of small diameter, diffraction pattern on the camera."""
    STEM = "stem"
    """Converged probe that can be scanned; detectors in the diffraction plane."""


class OpticsState(Frozen):
    """Read-back of the optics."""

    mode: Mode
    energy_keV: Positive
    probe_current_pA: NonNegative
    """Current on the specimen when the beam is open, as last measured."""
    beam_diameter_nm: Positive
    """Diameter of the illuminated disc (parallel modes) or of the probe at the specimen."""
    convergence_semiangle_mrad: NonNegative
    defocus_nm: Finite
    """Positive is underfocus."""
    pixel_size_nm: Positive | None = None
    """Nominal, of the camera image (IMAGE)."""
    camera_length_mm: Positive | None = None
    detector_sampling_mrad: Positive | None = None
    """Nominal scattering angle per detector pixel (DIFFRACTION, STEM)."""
    beam_shift_nm: Vector = (0.0, 0.0)
    image_shift_nm: Vector = (0.0, 0.0)
    beam_tilt_mrad: Vector = (0.0, 0.0)
    scan_rotation_deg: Finite = 0.0
    spot: int = 1


class OpticsChange(Frozen):
    """What to change; the rest stays.  Validated as a whole before anything is sent."""

    mode: Mode | None = None
    probe_current_pA: Positive | None = None
    beam_diameter_nm: Positive | None = None
    convergence_semiangle_mrad: Positive | None = None
    defocus_nm: Finite | None = None
    pixel_size_nm: Positive | None = None
    detector_sampling_mrad: Positive | None = None
    beam_shift_nm: Vector | None = None
    image_shift_nm: Vector | None = None
    beam_tilt_mrad: Vector | None = None
    scan_rotation_deg: Finite | None = None


# --- column -------------------------------------------------------------------------------


class Condition(StrEnum):
    """State of one part of the column."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"


class HealthReading(Frozen):
    """One reading of the column with its age."""

    condition: Condition
    age_s: NonNegative = 0.0
    detail: str = ""


class ColumnHealth(Frozen):
    """Is the column fit for a beam? Everything that an exposure depends on."""

    valve_open: HealthReading
    vacuum_ready: HealthReading
    gun_on: HealthReading
    high_tension_on: HealthReading
    screen_up: HealthReading
    holder_inserted: HealthReading
    not_refilling: HealthReading
    no_flash_due: HealthReading
    holder_id: str | None = None
    dewar_remaining_s: float | None = None
    probe_current_pA: NonNegative | None = None
    """Measured now; None where it cannot be measured without the specimen in the beam."""

    def readings(self) -> dict[str, HealthReading]:
        """The interlock readings by name."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in named.items() if isinstance(value, HealthReading)}


class LongOperation(StrEnum):
    """Operations that take minutes."""

    FLASH_LOW = "flash_low"
    FLASH_HIGH = "flash_high"
    REFILL = "refill"
    PUMP_CYCLE = "pump_cycle"
    OPEN_VALVE = "open_valve"
    CLOSE_VALVE = "close_valve"


class LongOperationResult(Frozen):
    """How a long operation ended."""

    operation: LongOperation
    succeeded: bool
    elapsed_s: NonNegative
    detail: str = ""


# --- exposure -----------------------------------------------------------------------------

AreaId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
"""Name of the piece of specimen that an exposure is meant for, e.g. ``S00`` or ``T07``."""


class Purpose(StrEnum):
    """Why electrons are spent; budgets go by purpose."""

    SURVEY = "survey"
    TRACK = "track"
    FOCUS = "focus"
    ALIGN = "align"
    DATA = "data"


class Scan(Frozen):
    """Raster of probe positions."""

    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """(rows, columns)."""
    step_A: Positive
    dwell_s: Positive
    flyback_s: NonNegative = 0.0

    @property
    def positions(self) -> int:
        """Number of probe positions."""
        return self.shape[0] * self.shape[1]

    @property
    def duration_s(self) -> float:
        """Time from the first to the last position, flyback included."""
        return self.positions * self.dwell_s + self.shape[0] * self.flyback_s


class Exposure(Frozen):
    """One opening of the beam.  The caller does not state its own dose; it may only widen it."""

    exposure_id: UUID
    area: AreaId
    purpose: Purpose
    detector: str
    duration_s: Positive
    """Integration time of the frame; for a scan, at least ``scan.duration_s``."""
    scan: Scan | None = None
    margin: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _duration_covers_the_scan(self) -> Self:
        if self.scan is not None and self.duration_s < self.scan.duration_s * (1 - 1e-9):
            raise ValueError(
                f"duration_s = {self.duration_s:g} s is shorter than the scan of "
                f"{self.scan.duration_s:g} s; give at least the duration of the scan"
            )
        return self


@dataclass(frozen=True)
class Frame:
    """One detector frame with the readings that belong to it.

    data
        Raw detector values, (row, col); electrons = (value - offset) / gain.
    """

    exposure_id: UUID
    sequence: int
    data: NDArray[np.generic]
    gain: float
    offset: float
    exposure_s: float
    utc: str
    pose: StagePose
    optics: OpticsState
    charged_e_per_A2: float
    """What the ledger charged at the centre of the illuminated area."""
    valid: NDArray[np.bool_] | None = None
    """False on dead and hot pixels; None where all are good."""

    def electrons(self) -> NDArray[np.float32]:
        """Estimated electrons per pixel, float32, (row, col)."""
        return ((self.data.astype(np.float32) - self.offset) / self.gain).astype(np.float32)


class ScanReceipt(Frozen):
    """What a scan left behind; the data stay in the file."""

    exposure_id: UUID
    uri: str
    frames_expected: int
    frames_committed: int
    gaps: tuple[int, ...] = ()
    """Positions whose frame is missing (at most the first 1000)."""
    checksum_sha256: str = ""
    complete: bool = True
    pose: StagePose
    optics: OpticsState
    scan: Scan
    charged_e_per_A2: NonNegative


class BlankResult(Frozen):
    """Outcome of blanking."""

    blanked: bool
    confirmed: bool
    """Read back, not merely commanded."""
    was_open: bool
    latency_s: NonNegative
    guard: Literal["blanker", "valve", "none"] = "blanker"


# --- what the detector hands to the guard -------------------------------------------------


@dataclass(frozen=True)
class DetectorJob:
    """How a detector is armed: `frames` frames of `frame_s` each."""

    exposure_id: UUID
    detector: str
    frame_s: float
    frames: int = 1
    scan: Scan | None = None


@dataclass(frozen=True)
class RawFrame:
    """What an adapter delivers for one frame; `job_id` tells stale frames."""

    job_id: UUID
    sequence: int
    data: NDArray[np.generic]


@dataclass(frozen=True)
class FrameBatch:
    """Consecutive frames of a scan: `data` (n, det_y, det_x), unsigned counts."""

    job_id: UUID
    first_sequence: int
    data: NDArray[np.generic]

    def __len__(self) -> int:
        """How many frames these are."""
        return len(self.data)

    def part(self, start: int, stop: int) -> FrameBatch:
        """The frames `start` to `stop` of these."""
        return FrameBatch(self.job_id, self.first_sequence + start, self.data[start:stop])


@dataclass(frozen=True)
class CountedBatch:
    """Consecutive frames of a scan as lists of electrons, the way they are stored."""

    job_id: UUID
    first_sequence: int
    frame_shape: tuple[int, int]
    pixel: NDArray[np.unsignedinteger]
    """``row * width + column`` of every electron, frame after frame."""
    count: NDArray[np.uint32]
    """Electrons of each frame, (n,)."""

    def __len__(self) -> int:
        """How many frames these are."""
        return len(self.count)

    def part(self, start: int, stop: int) -> CountedBatch:
        """The frames `start` to `stop` of these."""
        first, last = (int(self.count[:n].sum(dtype=np.int64)) for n in (start, stop))
        return CountedBatch(
            self.job_id,
            self.first_sequence + start,
            self.frame_shape,
            self.pixel[first:last],
            self.count[start:stop],
        )

    @property
    def data(self) -> NDArray[np.uint32]:
        """Dense counts, uint32, (n, det_y, det_x); made anew each time."""
        n_pixels = self.frame_shape[0] * self.frame_shape[1]
        frame = np.repeat(np.arange(len(self)), self.count)
        index = frame * n_pixels + self.pixel
        counts = np.bincount(index, minlength=len(self) * n_pixels)
        return counts.astype(np.uint32).reshape(-1, *self.frame_shape)


ScanBatch = FrameBatch | CountedBatch
"""What a detector delivers of a scan; both hold frames in their order."""


# --- calibration and capabilities ---------------------------------------------------------


class Calibration(Frozen):
    """What the instrument believes about its geometry; never exactly true.

    Angles in degrees, positive from +x (column) towards +y (row) of the detector.
    """

    image_rotation_deg: Finite = 0.0
    """Rotates a vector in the camera image (col, row) into stage (x, y)."""
    image_mirrored: bool = False
    """Image rows are flipped before the rotation."""
    tilt_axis_azimuth_deg: Finite = 0.0
    """Direction of the alpha axis in the diffraction pattern."""
    diffraction_mirrored: bool = False
    """The camera shows the pattern with the sense of rotation reversed."""
    scan_to_detector_rotation_deg: Finite = 0.0
    """Rotates scan (row, col) vectors into detector (row, col) vectors."""
    pixel_size_relative_sigma: NonNegative = 0.02
    camera_constant_relative_sigma: NonNegative = 0.02
    azimuth_sigma_deg: NonNegative = 1.0
    alpha_gain: Positive = 1.0
    beta_gain: Positive = 1.0
    """Angle that the specimen turns per degree of the reading."""
    gain_sigma: NonNegative = 0.003
    axes_skew_deg: Finite = 0.0
    """By which the beta axis misses the right angle with alpha, about the holder's normal."""
    axes_skew_sigma_deg: NonNegative = 0.1
    camera_constant_factor: Positive = 1.0
    """True over nominal angle per detector pixel, parallel-beam patterns."""
    diffraction_ellipticity: NonNegative = 0.0
    """Long over short axis of a ring on the diffraction camera, less one."""
    ellipse_azimuth_deg: Finite = 0.0
    """Direction of the long axis in the pattern."""
    beam_tilt_matrix: tuple[Vector, Vector] = ((1.0, 0.0), (0.0, 1.0))
    """True beam tilt (column frame) = this times the nominal one; two rows."""
    beam_tilt_sigma: NonNegative = 0.02
    """Of each element of `beam_tilt_matrix`."""
    diffraction_shift_px_per_mrad: tuple[Vector, Vector] = ((0.0, 0.0), (0.0, 0.0))
    """Walk of the direct beam on the camera (x, y) per mrad of nominal beam tilt; two rows."""
    date: str = ""
    method: str = ""


class AxisInfo(Frozen):
    """Range and manners of one axis."""

    low: Finite
    high: Finite
    speed_per_s: Positive
    repeatability: NonNegative
    """One sigma of the residual after a move, as read back, in the unit of the axis."""
    read_noise: NonNegative = 0.0
    """The part of `repeatability` that is noise of the reading: one sigma of a single one."""
    backlash: NonNegative = 0.0
    can_stop: bool = True
    reads_back: bool = True


class BlankInfo(Frozen):
    """What the blanker can do."""

    latency_s: NonNegative
    readable: bool
    independent: bool
    """Does not queue behind a move."""
    kind: Literal["electrostatic", "shutter", "screen", "none"]


class DetectorInfo(Frozen):
    """A camera or pixel detector."""

    name: str
    shape: tuple[int, int]
    kind: Literal["counting", "integrating"]
    modes: frozenset[Mode]
    gain: Positive = 1.0
    offset: Finite = 0.0
    saturation: Positive = 65535.0
    """Largest trustworthy value per pixel and frame."""
    min_exposure_s: Positive = 1e-4
    max_exposure_s: Positive = 100.0
    can_scan: bool = False
    bad_pixels: tuple[tuple[int, int], ...] = ()


class ScanInfo(Frozen):
    """What the scan engine can do."""

    max_shape: tuple[int, int]
    min_dwell_s: Positive


SETTINGS = frozenset(OpticsChange.model_fields)
"""Names of everything that an `OpticsChange` can ask for."""


class Capabilities(Frozen):
    """What this instrument is and can do; checked when the plan is validated."""

    vendor: str
    model: str
    api: str
    adapter_version: str
    simulated: bool
    """Drives the SIMULATOR banner; nothing else may depend on it."""
    axes: dict[Axis, AxisInfo]
    blank: BlankInfo
    current_from: Literal["gun", "screen", "camera", "none"]
    current_relative_sigma: NonNegative = 0.02
    max_current_pA: Positive
    """Hard cap of the gun: no upper bound of a dose is computed with more."""
    detectors: tuple[DetectorInfo, ...]
    scan: ScanInfo | None
    modes: frozenset[Mode]
    settings: frozenset[str] = SETTINGS
    """Fields of `OpticsChange` that can be written; any other is refused."""
    beam_diameter_nm: tuple[Positive, Positive] = (50.0, 50_000.0)
    """Smallest and largest illuminated disc of the parallel modes."""
    beam_tilt_mrad: NonNegative = 0.0
    """Largest beam tilt with descan, on each axis; 0 where the beam cannot be tilted."""
    beam_tail_factor: Annotated[float, Field(ge=1)] = 1.2
    """The beam is below 1e-4 of its peak beyond this multiple of its radius."""
    position_sigma_nm: NonNegative = 60.0
    """How well the stage read-back tells which specimen point is under the beam, untilted."""
    drift_nm_per_s: NonNegative = 0.0
    """One sigma of how fast specimen and read-back part, since nobody registers them again."""
    eucentric_sigma_um: NonNegative = 0.5
    """How far the specimen may be from the tilt axis: its sine shifts the illuminated point."""
    long_operations: frozenset[LongOperation] = frozenset()
    dead_man: Literal["independent", "server", "none"] = "none"
    quirks: frozenset[str] = frozenset()

    def detector(self, name: str) -> DetectorInfo:
        """The detector called `name`.

        Raises
        ------
        KeyError
            No such detector; the message lists what there is.
        """
        for info in self.detectors:
            if info.name == name:
                return info
        raise KeyError(f"no detector {name!r}; there are {[d.name for d in self.detectors]}")


@dataclass(frozen=True)
class DoseReading:
    """What the ledger holds for one specimen point, e/A2, by purpose."""

    by_purpose: dict[Purpose, float] = field(default_factory=dict)

    @property
    def total_e_per_A2(self) -> float:
        """Everything."""
        return sum(self.by_purpose.values())

    @property
    def before_scan_e_per_A2(self) -> float:
        """Everything but the data themselves."""
        return sum(v for p, v in self.by_purpose.items() if p is not Purpose.DATA)
