"""What an exposure would do, from what the instrument itself reports, and whether that still holds.

The caller states no dose: current, illuminated area and position are read here, next to the
hardware.  They are read again after the detector has armed, because a mode switch, a drifting gun
or a hand on the panel may have changed them meanwhile.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

from controller.hardware.contract import Adapter
from controller.hardware.errors import (
    CurrentDriftError,
    MicroscopeError,
    ModeError,
    StoppedByOtherError,
)
from controller.hardware.values import Exposure, OpticsState, StagePose
from controller.safety.fluence import FluenceBound, current_bound_pA, fluence_bound
from controller.safety.footprint import Footprint, footprint_of
from controller.safety.interlocks import check_interlocks

OVERHEAD_S = 0.01
"""Round trips of the commands to open and to blank, in which the beam may be on."""

RELEASED = "nothing was exposed, the booking was released and the beam is blanked"


@dataclass(frozen=True)
class Assessment:
    """Pose and optics as read, and what follows from them."""

    pose: StagePose
    optics: OpticsState
    footprint: Footprint
    bound: FluenceBound


class Assessor:
    """Reads the instrument before the beam may open.

    Parameters
    ----------
    drifting_s
        How long the specimen has already drifted against the map of the ledger.
    """

    def __init__(
        self, adapter: Adapter, *, holder_id: str | None, cell_nm: float, drifting_s: float = 0.0
    ) -> None:
        self._adapter = adapter
        self._holder_id = holder_id
        self._cell_nm = cell_nm
        self._agreed_s = adapter.clock.now_s() - drifting_s

    @property
    def holder_id(self) -> str | None:
        """The holder that the session started with."""
        return self._holder_id

    def assess(self, exposure: Exposure) -> Assessment:
        """Upper bound and footprint, here and now."""
        pose, optics = self._adapter.read_pose(), self._adapter.read_optics()
        capabilities, calibration = self._adapter.capabilities, self._adapter.calibration
        measured_pA = self._adapter.read_health().probe_current_pA
        bound = fluence_bound(
            exposure,
            optics,
            capabilities,
            calibration,
            current_pA=current_bound_pA([optics.probe_current_pA, measured_pA], capabilities),
            overhead_s=OVERHEAD_S,
            cell_nm=self._cell_nm,
        )
        footprint = footprint_of(
            pose,
            optics,
            exposure.scan,
            capabilities,
            calibration,
            drifting_s=self._adapter.clock.now_s() - self._agreed_s,
        )
        return Assessment(pose, optics, footprint, bound)

    def way(self, exposure: Exposure, then: Assessment, now: StagePose) -> Footprint:
        """What the beam may have touched while somebody moved the stage under it."""
        middle = now.replace(
            x_um=(then.pose.x_um + now.x_um) / 2, y_um=(then.pose.y_um + now.y_um) / 2
        )
        at_middle = footprint_of(
            middle,
            then.optics,
            exposure.scan,
            self._adapter.capabilities,
            self._adapter.calibration,
            drifting_s=self._adapter.clock.now_s() - self._agreed_s,
        )
        half_way_nm = 500 * math.hypot(now.x_um - then.pose.x_um, now.y_um - then.pose.y_um)
        return at_middle.replace(radius_nm=at_middle.radius_nm + half_way_nm)

    def check_column(self) -> None:
        """Refuse a column that is not known to be fit."""
        check_interlocks(self._adapter.read_health(), holder_id=self._holder_id)

    def check_still(self) -> None:
        """Refuse a stage that moves."""
        axes = self._adapter.capabilities.axes
        moving = [axis.value for axis in axes if self._adapter.axis_state(axis).moving]
        if moving:
            raise ModeError(
                f"{', '.join(moving)} still moves; nothing was exposed and the beam is blanked. "
                f"Wait until the stage has settled."
            )

    def check_unchanged(self, then: Assessment) -> None:
        """Refuse to open the beam on anything else than what was booked."""
        self.check_column()
        pose, optics = self._adapter.read_pose(), self._adapter.read_optics()
        if not _same_illumination(optics, then.optics):
            raise ModeError(
                f"the illumination changed between booking and opening; {RELEASED}. Read the "
                f"optics and apply them again.",
                snapshot={"optics": optics.model_dump(mode="json")},
            )
        if not optics.probe_current_pA <= then.bound.current_pA:
            raise CurrentDriftError(
                f"the current rose to {optics.probe_current_pA:.3g} pA, above the "
                f"{then.bound.current_pA:.3g} pA that was booked; {RELEASED}. Measure the current, "
                f"then expose again."
            )
        if not self.is_unmoved(pose, then.pose):
            raise StoppedByOtherError(
                f"the stage moved between booking and opening, and not by this session; "
                f"{RELEASED}. Ask who moved it.",
                snapshot={"pose": pose.model_dump(mode="json")},
            )

    def current_now_pA(self, seen_pA: float | None = None) -> float | None:
        """Bound of the current measured again, and of `seen_pA`; None where it cannot be read."""
        readings = [seen_pA]
        with suppress(MicroscopeError):
            readings.append(self._adapter.read_optics().probe_current_pA)
            readings.append(self._adapter.read_health().probe_current_pA)
        if not any(readings):
            return None
        return current_bound_pA(readings, self._adapter.capabilities)

    def is_unmoved(self, now: StagePose, then: StagePose) -> bool:
        """Whether two read-backs are the same place, within what the goniometer repeats."""
        for axis, info in self._adapter.capabilities.axes.items():
            is_length = axis.value.endswith("_um")
            known = 3e-3 * self._adapter.capabilities.position_sigma_nm if is_length else 0.1
            if not abs(now.get(axis) - then.get(axis)) <= known + 5 * info.repeatability:
                return False
        return True


def _same_illumination(now: OpticsState, then: OpticsState) -> bool:
    """Whether area and place of the beam are those that were booked."""
    if now.mode is not then.mode:
        return False
    smaller = now.beam_diameter_nm < 0.98 * then.beam_diameter_nm
    larger = now.beam_diameter_nm > 1.02 * then.beam_diameter_nm
    shifted = any(
        abs(a - b) > 10.0 for a, b in zip(now.beam_shift_nm, then.beam_shift_nm, strict=True)
    )
    refocused = abs(now.defocus_nm - then.defocus_nm) > 20.0 + 0.05 * abs(then.defocus_nm)
    return not (smaller or larger or shifted or refocused)
