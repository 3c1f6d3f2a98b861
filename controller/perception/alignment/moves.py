"""From a measured tilt to the goniometer move that would put the zone axis on the beam.

The move is exact (``geometry``); what is left after it is not: the pattern's own error, the
goniometer's, and the azimuth of the alpha axis, which turns the whole correction and so costs
the length of the tilt times its error.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.perception.alignment.geometry import (
    HolderFrame,
    goniometer_for_zone,
    predicted_tilt,
    zone_in_holder,
)
from controller.perception.alignment.result import RADIUS_OF_68_PERCENT, TiltEstimate


@dataclass(frozen=True)
class HolderReach:
    """What the double-tilt holder allows, in degrees; a holder without beta has beta 0 .. 0."""

    alpha_deg: tuple[float, float] = (-30.0, 30.0)
    beta_deg: tuple[float, float] = (-30.0, 30.0)

    def __post_init__(self) -> None:
        for name, (low, high) in (("alpha", self.alpha_deg), ("beta", self.beta_deg)):
            if not -90 <= low <= high <= 90:
                raise ValueError(
                    f"the range of {name}, {low:g} .. {high:g} deg, is not an ascending range "
                    f"within -90 .. 90 deg; give low before high"
                )

    def holds(self, alpha_deg: float, beta_deg: float) -> bool:
        """Whether the holder gets there."""
        return (
            self.alpha_deg[0] <= alpha_deg <= self.alpha_deg[1]
            and self.beta_deg[0] <= beta_deg <= self.beta_deg[1]
        )

    def nearest(self, alpha_deg: float, beta_deg: float) -> tuple[float, float]:
        """The point of the box nearest in each axis."""
        return (
            min(max(alpha_deg, self.alpha_deg[0]), self.alpha_deg[1]),
            min(max(beta_deg, self.beta_deg[0]), self.beta_deg[1]),
        )


@dataclass(frozen=True)
class Goniometer:
    """Reading and manners of the goniometer when the pattern was taken."""

    alpha_deg: float
    beta_deg: float
    frame: HolderFrame
    reach: HolderReach = HolderReach()
    sigma_deg: float = 0.05
    """One sigma of how far a tilt ends from its target, per axis."""
    azimuth_sigma_deg: float = 1.0
    """One sigma of ``frame.tilt_axis_azimuth_deg``."""


@dataclass(frozen=True)
class ProposedMove:
    """Where to send the goniometer, and what is then expected."""

    alpha_deg: float
    beta_deg: float
    """Target; on the border of the reach where the zone lies beyond it."""
    change_alpha_deg: float
    change_beta_deg: float
    reachable: bool
    wanted_alpha_deg: float
    wanted_beta_deg: float
    """Where the zone axis would lie on the beam, within reach or not."""
    residual_tilt_mrad: tuple[float, float]
    """Tilt vector expected after the move; zero where the zone is within reach."""
    residual_sigma_mrad: float
    """Radius that holds 68.3 % of the tilts about it."""

    def as_record(self) -> dict[str, Any]:
        """For JSON; units in the keys."""
        length = math.hypot(*self.residual_tilt_mrad)
        return {
            "tilt_alpha_deg": self.alpha_deg,
            "tilt_beta_deg": self.beta_deg,
            "change_alpha_deg": self.change_alpha_deg,
            "change_beta_deg": self.change_beta_deg,
            "reachable": self.reachable,
            "wanted_alpha_deg": self.wanted_alpha_deg,
            "wanted_beta_deg": self.wanted_beta_deg,
            "residual_tilt_mrad": list(self.residual_tilt_mrad),
            "residual_misorientation_deg": math.degrees(1e-3 * length),
            "residual_sigma_mrad": self.residual_sigma_mrad,
        }


def propose_move(estimate: TiltEstimate, goniometer: Goniometer) -> ProposedMove | None:
    """The move that lays the measured zone axis along the beam; None without an answer.

    Parameters
    ----------
    estimate
        The tilt as measured at the reading of ``goniometer``.
    goniometer
        Reading, frame, reach and errors.
    """
    if not estimate.answered:
        return None
    tilt = (estimate.tilt_x_mrad, estimate.tilt_y_mrad)
    here = (goniometer.alpha_deg, goniometer.beta_deg)
    zone = zone_in_holder(tilt, *here, goniometer.frame)
    wanted = goniometer_for_zone(zone)
    reachable = goniometer.reach.holds(*wanted)
    target = wanted if reachable else goniometer.reach.nearest(*wanted)
    left = predicted_tilt(zone, *target, goniometer.frame)
    turned_mrad = math.hypot(*tilt) * math.radians(goniometer.azimuth_sigma_deg)
    gonio_mrad = 1e3 * math.radians(goniometer.sigma_deg) * RADIUS_OF_68_PERCENT
    return ProposedMove(
        alpha_deg=target[0],
        beta_deg=target[1],
        change_alpha_deg=target[0] - here[0],
        change_beta_deg=target[1] - here[1],
        reachable=reachable,
        wanted_alpha_deg=wanted[0],
        wanted_beta_deg=wanted[1],
        residual_tilt_mrad=(0.0, 0.0) if reachable else left,
        residual_sigma_mrad=float(np.sqrt(estimate.sigma_mrad**2 + gonio_mrad**2 + turned_mrad**2)),
    )
