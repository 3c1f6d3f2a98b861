"""Which zone axis a crystal is to stand on: all members of all wanted zones, weighed.  Pure.

One pattern tells the orientation of the whole crystal, and so where every other zone axis lies.
Each candidate gets the goniometer angles that lay it along the beam, whether the holder reaches
them, and what the way costs; the cheapest reachable one is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.decision import dose_plan
from controller.decision.goniometer_filter import carry_onto_z
from controller.hardware.values import Axis, Capabilities, PartialPose, StageLimits
from controller.perception.alignment import HolderFrame, goniometer_for_zone, zone_from_tilt
from controller.perception.alignment.geometry import double_tilt
from controller.plan.run import RunPlan, Zone
from controller.record.events import AxisInReach, GoniometerSetting, TiltFitted

STEP_S = 6.0
"""Settling, a tracking picture and a pattern, besides the travel."""
NEAR_DEG = 0.5
"""Two candidates nearer than this to each other in cost of travel are alike: preference decides."""
DERIVED_SIGMA_MRAD = 5.0
"""Of an axis that was not read itself but follows from the orientation of the crystal."""


@dataclass(frozen=True)
class Reach:
    """What decides whether an axis can be reached, and at what cost."""

    plan: RunPlan
    setting: GoniometerSetting
    """Where the goniometer stands."""
    limits: StageLimits
    capabilities: Capabilities
    diameter_nm: float
    """Of the beam on the crystal."""

    def candidate(
        self, zone: Zone, member: Zone, holder: NDArray[np.float64], off_deg: float
    ) -> AxisInReach:
        """A zone axis, given in the holder frame, as a possible target."""
        align = self.plan.alignment
        alpha, beta = goniometer_for_zone(holder)
        travel = {
            Axis.ALPHA: alpha - self.setting.alpha_deg,
            Axis.BETA: beta - self.setting.beta_deg,
        }
        refusal = self.limits.violation(PartialPose(alpha_deg=alpha, beta_deg=beta)) or ""
        longest = max(map(abs, travel.values()))
        if not refusal and longest > align.max_step_deg:
            refusal = f"a step of {longest:.1f} deg, max_step_deg is {align.max_step_deg:g}"
        near = off_deg <= align.beam_tilt_within_deg
        axes = self.capabilities.axes
        seconds = STEP_S
        electrons = dose_plan.SigmaLaw().electrons_for(align.wanted_sigma_deg)
        fluence = dose_plan.fluence_e_per_A2(
            min(max(electrons, align.coarse_electrons), align.max_electrons), self.diameter_nm
        )
        if not near:
            fluence += self.plan.tracking.fluence_e_per_A2
            seconds += sum(abs(t) / axes[a].speed_per_s for a, t in travel.items() if a in axes)
        return AxisInReach(
            zone_uvw=zone,
            member_uvw=member,
            holder=(float(holder[0]), float(holder[1]), float(holder[2])),
            off_deg=off_deg,
            alpha_deg=alpha,
            beta_deg=beta,
            reachable=not refusal,
            why_not=refusal,
            seconds=seconds,
            fluence_e_per_A2=fluence,
        )


def candidates(reach: Reach, fit: TiltFitted, frame: HolderFrame) -> tuple[AxisInReach, ...]:
    """All wanted axes of a crystal, nearest first.

    Parameters
    ----------
    fit
        An answered pattern, taken at ``reach.setting``.
    frame
        How the stage lies on the camera, as known by now.
    """
    setting = reach.setting
    bx, by = (1e-3 * t for t in fit.beam_tilt_mrad)
    upright = carry_onto_z(np.array([bx, by, 1.0]))
    to_holder = double_tilt(setting.alpha_deg, setting.beta_deg).T @ upright.T
    seen = []
    if fit.zone_uvw is not None:
        seen = [(fit.zone_uvw, fit.zone_uvw, zone_from_tilt(fit.tilt_mrad))]
    if fit.axes:
        seen = [(a.zone_uvw, a.member_uvw, np.asarray(a.direction)) for a in fit.axes]
    found = [
        reach.candidate(
            zone,
            member,
            to_holder @ frame.stage_from_detector() @ direction,
            float(np.rad2deg(np.arctan2(np.hypot(direction[0], direction[1]), direction[2]))),
        )
        for zone, member, direction in seen
    ]
    return tuple(sorted(found, key=lambda c: c.off_deg))


def choose(plan: RunPlan, found: tuple[AxisInReach, ...]) -> AxisInReach | None:
    """The one to go to; None if none can be reached.

    With ``alignment.targets: nearest`` only the nearest is looked at.  Otherwise the reachable one
    of least fluence, then of least travel, then the one named first in the plan.
    """
    if plan.alignment.targets == "nearest":
        return found[0] if found and found[0].reachable else None
    reachable = [c for c in found if c.reachable]
    if not reachable:
        return None
    order = {zone: n for n, zone in enumerate(plan.sample.target_zones)}
    return min(
        reachable,
        key=lambda c: (
            round(c.fluence_e_per_A2, 4),
            round(c.off_deg / NEAR_DEG),
            order.get(c.zone_uvw, len(order)),
        ),
    )


def in_words(chosen: AxisInReach, found: tuple[AxisInReach, ...]) -> str:
    """Which was chosen, and why not the others that lie nearer or about as near."""
    what = (
        f"{name(chosen.member_uvw)} at alpha {chosen.alpha_deg:+.1f}, beta {chosen.beta_deg:+.1f} "
        f"deg, {chosen.off_deg:.1f} deg away: {chosen.fluence_e_per_A2:.3f} e/A2, "
        f"{chosen.seconds:.0f} s"
    )
    others = [c for c in found if c is not chosen]
    said = []
    for c in others[:3]:
        why = c.why_not or (
            f"{c.off_deg:.1f} deg away: {c.fluence_e_per_A2:.3f} e/A2, {c.seconds:.0f} s"
        )
        said.append(f"{name(c.member_uvw)} ({why})")
    return what + ("; not " + ", ".join(said) if said else "")


def name(zone: tuple[int, int, int]) -> str:
    """[u v w]."""
    return "[{} {} {}]".format(*zone)
