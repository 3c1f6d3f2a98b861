"""The agent's policy: (plan, belief) -> the next action, with its reason in words.  Pure.

One crystal after the other, best first: go there, find it, bring it to eucentric height, read
its tilt, tilt, find it again, read again, until it stands on its zone axis or the moves or the
budget are used up; then scan it with the defocus that its height asks for, look at the result.
"""

from __future__ import annotations

import numpy as np

from controller.decision.actions import (
    AcquireScan,
    ChooseTargets,
    Decision,
    EndRun,
    EndTarget,
    FindHeight,
    Locate,
    MeasurePattern,
    Reconstruct,
    SurveyTile,
    Tilt,
    Visit,
)
from controller.decision.belief import Belief, Target
from controller.hardware.values import Axis, PartialPose, StageLimits
from controller.perception.alignment import goniometer_for_zone
from controller.plan.run import RunPlan
from controller.record.events import RunStarted, TiltFitted


def decide(plan: RunPlan, belief: Belief, clock_s: float) -> Decision:
    """What to do now.

    Parameters
    ----------
    clock_s
        Time since the start of the run.

    Raises
    ------
    ValueError
        The belief holds no started run.
    """
    started = belief.started
    if started is None:
        raise ValueError("no run was started: the journal lacks run_started")
    if belief.held:
        return Decision(EndRun("held", belief.held), "the run holds: " + belief.held)
    if clock_s > plan.budget.time_h * 3600 and belief.active is None:
        reason = f"the {plan.budget.time_h:g} h of the plan are used up"
        return Decision(_end(plan, belief, reason), reason)
    if belief.active is not None:
        return _for_target(plan, belief, belief.target(belief.active), started)
    for tile, (x_um, y_um) in enumerate(started.tiles):
        if tile not in belief.tiles_done:
            n = len(started.tiles)
            return Decision(SurveyTile(tile, x_um, y_um), f"survey tile {tile + 1} of {n}")
    if not belief.chosen:
        return Decision(ChooseTargets(), f"{len(belief.picks)} picks in all tiles to be merged")
    return _next_target(plan, belief)


def _next_target(plan: RunPlan, belief: Belief) -> Decision:
    if belief.done >= plan.targets.wanted:
        reason = f"{belief.done} scans accepted, as many as wanted"
        return Decision(_end(plan, belief, reason), reason)
    if belief.visited >= plan.targets.max_visited:
        reason = f"{belief.visited} crystals visited, the most that the plan allows"
        return Decision(_end(plan, belief, reason), reason)
    for target in belief.targets.values():
        if target.status == "queued":
            return Decision(
                Visit(target.name, target.x_um, target.y_um),
                f"best of those left: probability {target.pick.score:.2f} to be usable, "
                f"usable radius {target.pick.radius_nm:.0f} nm",
            )
    reason = "no crystal is left in the queue"
    return Decision(_end(plan, belief, reason), reason)


def _end(plan: RunPlan, belief: Belief, reason: str) -> EndRun:
    goals_met = belief.done >= plan.targets.goal
    return EndRun("completed" if goals_met else "goals_missed", reason)


def _for_target(plan: RunPlan, belief: Belief, target: Target, started: RunStarted) -> Decision:
    if target.rejected:
        return _skip(target, target.rejected)
    if target.scan is not None:
        return _judge(plan, target)
    if not target.located:
        if target.misses >= 2:
            return _skip(target, "lost: not found in two tracking pictures")
        return Decision(Locate(target.name), "see where the crystal is and centre it")
    if _height_is_open(plan, target):
        return _find_height(plan, belief, target, started)
    if target.height is None or not target.height.ok:
        why = target.height.reason if target.height else "not measured"
        return _skip(target, f"its height, and so the focus, is not known ({why})")
    if not target.fresh_fit:
        return _measure(plan, belief, target)
    return _tilt_or_scan(plan, belief, target, started)


def _height_is_open(plan: RunPlan, target: Target) -> bool:
    """Whether the height is still to be measured: never yet, failed, or moved since."""
    known = target.height is not None and target.height.ok and not target.height.applied
    return not known and target.height_attempts < plan.height.max_attempts


def _find_height(plan: RunPlan, belief: Belief, target: Target, started: RunStarted) -> Decision:
    """Tilt to both sides of the present tilt, as far as the holder goes."""
    low, high = started.stage_limits.ranges[Axis.ALPHA]
    alpha = belief.pose.alpha_deg if belief.pose else 0.0
    below, above = max(low, alpha - plan.height.tilt_deg), min(high, alpha + plan.height.tilt_deg)
    again = target.height is not None
    reason = "measure again what is left" if again else "its height: to keep it in view, and focus"
    return Decision(FindHeight(target.name, below, above, target.height_attempts + 1), reason)


def _measure(plan: RunPlan, belief: Belief, target: Target) -> Decision:
    align = plan.alignment
    if target.unanswered >= align.max_attempts:
        why = target.fits[-1].reason if target.fits else "unknown"
        return _skip(target, f"no tilt could be read in {target.unanswered} patterns ({why})")
    base = align.fine_fluence_e_per_A2 if target.last_answered else align.coarse_fluence_e_per_A2
    fluence = base * 3.0**target.unanswered
    left = align.budget_e_per_A2 - belief.spent_e_per_A2.get(target.name, 0.0)
    if fluence * 1.5 > left:
        return _skip(
            target,
            f"the {align.budget_e_per_A2:g} e/A2 before the scan are used up "
            f"({left:.3f} left, a pattern needs {fluence * 1.5:.3f})",
        )
    diameter = min(align.beam_diameter_nm, 1.7 * target.pick.radius_nm)
    reason = "read the tilt" if target.unanswered == 0 else "read again with more electrons"
    return Decision(MeasurePattern(target.name, fluence, diameter, target.unanswered + 1), reason)


def _tilt_or_scan(plan: RunPlan, belief: Belief, target: Target, started: RunStarted) -> Decision:
    fit = target.last_answered
    pose = belief.pose
    if fit is None or fit.holder_zone is None or pose is None:
        return _skip(target, "no tilt is known")
    align = plan.alignment
    off = fit.misorientation_deg
    if off <= align.tolerance_deg:
        return _scan(plan, belief, target, f"{off:.3f} deg from {_zone(fit)}")
    out_of_moves = target.moves >= align.max_moves
    left = align.budget_e_per_A2 - belief.spent_e_per_A2.get(target.name, 0.0)
    out_of_dose = left < 2.0 * align.fine_fluence_e_per_A2
    if (out_of_moves or out_of_dose) and off <= align.acceptable_deg:
        return _scan(plan, belief, target, f"{off:.3f} deg from {_zone(fit)}, acceptable")
    if out_of_moves:
        return _skip(target, f"still {off:.2f} deg from {_zone(fit)} after {target.moves} moves")
    if out_of_dose:
        return _skip(target, f"still {off:.2f} deg from {_zone(fit)}, and the budget is used up")
    alpha, beta = goniometer_for_zone(np.asarray(fit.holder_zone))
    refusal = unreachable(started.stage_limits, alpha, beta)
    if refusal:
        return _skip(target, f"{_zone(fit)} is unreachable: {refusal}")
    step = max(abs(alpha - pose.alpha_deg), abs(beta - (pose.beta_deg or 0.0)))
    if step > align.max_step_deg:
        return _skip(
            target, f"{_zone(fit)} needs a step of {step:.1f} deg, limit {align.max_step_deg:g}"
        )
    return Decision(
        Tilt(
            target.name,
            alpha,
            beta,
            pose.alpha_deg,
            pose.beta_deg or 0.0,
            float(np.rad2deg(fit.sigma_mrad * 1e-3)),
        ),
        f"{off:.2f} deg from {_zone(fit)}; the goniometer reaches it",
    )


def unreachable(limits: StageLimits, alpha_deg: float, beta_deg: float) -> str | None:
    """Why the goniometer cannot go there, or None."""
    return limits.violation(PartialPose(alpha_deg=alpha_deg, beta_deg=beta_deg))


def _scan(plan: RunPlan, belief: Belief, target: Target, where: str) -> Decision:
    return Decision(
        AcquireScan(target.name, plan.scan.fluence_e_per_A2, lens_defocus_nm(plan, belief, target)),
        f"on axis ({where})",
    )


def lens_defocus_nm(plan: RunPlan, belief: Belief, target: Target) -> float:
    """Defocus to set so that the crystal's entrance surface has the planned one.

    The lens is in focus at the tilt axis; a crystal at z (positive downstream) is reached by the
    crossover z later, so the lens is underfocused by z more.  What was measured is the middle of
    the crystal: its entrance surface lies half the thickness upstream.
    """
    z_nm = 1e3 * target.height.offset_um if target.height and target.height.ok else 0.0
    fit = target.last_answered
    if fit is not None and fit.thickness_nm is not None:
        z_nm -= fit.thickness_nm / 2
    alpha = np.deg2rad(belief.pose.alpha_deg if belief.pose else 0.0)
    beta = np.deg2rad((belief.pose.beta_deg or 0.0) if belief.pose else 0.0)
    return float(plan.scan.defocus_nm + z_nm * np.cos(alpha) * np.cos(beta))


def _judge(plan: RunPlan, target: Target) -> Decision:
    scan = target.scan
    result = target.reconstruction
    if scan is None:
        raise ValueError(f"{target.name} has no scan to judge")
    if plan.reconstruction.enabled and result is None:
        return Decision(Reconstruct(target.name, scan.path), "look at the result")
    if not scan.complete:
        missing = scan.frames_expected - scan.frames_committed
        return Decision(
            EndTarget(target.name, "failed", f"{missing} frames of the scan are missing"),
            "the scan is incomplete; what came is kept",
        )
    if result is None:
        reason = "scanned; reconstruction was not asked for"
        return Decision(EndTarget(target.name, "done", reason), reason)
    limit = plan.reconstruction.accept_resolution_A
    if result.ok and result.resolution_A is not None and result.resolution_A <= limit:
        reason = f"{result.resolution_A:.2f} A: {result.verdict}"
        return Decision(EndTarget(target.name, "done", reason), "good enough for the plan")
    reason = result.reason or (
        f"resolution {result.resolution_A or float('nan'):.2f} A, wanted {limit:g} A"
    )
    return Decision(EndTarget(target.name, "failed", reason), "not good enough; go elsewhere")


def _zone(fit: TiltFitted) -> str:
    return "the zone axis" if fit.zone_uvw is None else "[{} {} {}]".format(*fit.zone_uvw)


def _skip(target: Target, reason: str) -> Decision:
    return Decision(EndTarget(target.name, "skipped", reason), reason)
