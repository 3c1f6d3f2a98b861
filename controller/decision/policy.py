"""The agent's policy: (plan, belief) -> the next action, with its reason in words.  Pure.

One crystal after the other, the most promising first (:mod:`controller.decision.yields`): go there,
find it, bring it to eucentric height, read its tilt, tilt, find it again, read again, until it
stands on its zone axis or the moves or the budget are used up; then scan it with the defocus that
its height asks for and the fluence that earlier scans ask for
(:mod:`controller.decision.conditions`), look at the result.
"""

from __future__ import annotations

import math

import numpy as np

from controller.decision import conditions, dose_plan
from controller.decision.actions import (
    AcquireScan,
    CheckMap,
    ChooseTargets,
    ChooseZone,
    Decision,
    EndRun,
    EndTarget,
    FindHeight,
    HandOver,
    Locate,
    MeasurePattern,
    Reconstruct,
    SurveyTile,
    Tilt,
    TiltBeam,
    UndoTilt,
    Visit,
    WaitFor,
    WaitForResults,
)
from controller.decision.belief import Belief, Target
from controller.decision.forecast import BOUND_OVER_PLANNED
from controller.decision.goniometer_filter import Forecast, aim, beam_onto_zone, forecast
from controller.decision.knowledge import (
    NEAR_DEG,
    beam_diameter_nm,
    forecast_here,
    is_doubtful,
    planned_electrons,
    present_setting,
    to_read_again,
    views_near_axis,
    zones_of,
)
from controller.decision.reachable import in_words, name
from controller.decision.yields import in_words as in_words_of_yield
from controller.decision.yields import outlook, prospects
from controller.hardware.values import Axis, PartialPose, StageLimits
from controller.plan.run import RunPlan
from controller.record.events import FilterState, GoniometerSetting, RunStarted

WORTH_A_BEAM_TILT = 0.1
"""Share of the tolerance below which what is left is not worth another beam tilt."""
RESULTS_S = 5.0
"""How long a wait for reconstructions is at most, before everything else is looked at again."""
PAUSE_S = 1.0
"""How often a paused run looks whether it may go on."""
SURE = 0.5
"""Largest sigma of a crystal that is scanned, as a share of the tolerance: radius of 68 %."""


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
    asked = _asked_by_people(belief)
    if asked is not None:
        return asked
    looked_at = _looked_at(belief)
    if looked_at is not None:
        return _judge(plan, looked_at)
    if clock_s > plan.budget.time_h * 3600 and belief.active is None:
        reason = f"the {plan.budget.time_h:g} h of the plan are used up"
        return _end_or_wait(plan, belief, reason)
    if belief.active is not None:
        return _for_target(plan, belief, belief.target(belief.active), started)
    if belief.map_open and _is_more_to_do(plan, belief, started):
        return _check_map(belief, started)
    for tile, (x_um, y_um) in enumerate(started.tiles):
        if tile not in belief.tiles_done:
            n = len(started.tiles)
            return Decision(SurveyTile(tile, x_um, y_um), f"survey tile {tile + 1} of {n}")
    if not belief.chosen:
        return Decision(ChooseTargets(), f"{len(belief.picks)} picks in all tiles to be merged")
    return _next_target(plan, belief)


def _asked_by_people(belief: Belief) -> Decision | None:
    """What comes before anything else: a hold, a pause, an end that somebody asked for."""
    if belief.held:
        return Decision(EndRun("held", belief.held), "the run holds: " + belief.held)
    if belief.stopped and belief.finish_asked:
        reason = f"ended after STOP: {belief.finish_asked}"
        return Decision(EndRun("stopped", reason), reason)
    if belief.paused:
        return Decision(WaitFor(PAUSE_S, "paused"), f"paused: {belief.paused}")
    if belief.finish_asked and belief.active is None:
        if belief.waiting:
            return None if _looked_at(belief) else _wait_for_results(belief)
        reason = f"finished after the last crystal: {belief.finish_asked}"
        return Decision(EndRun("stopped", reason), reason)
    return None


def _looked_at(belief: Belief) -> Target | None:
    """A crystal whose scan has been reconstructed beside the night, not judged yet."""
    return next((t for t in belief.waiting if t.reconstruction is not None), None)


def _is_more_to_do(plan: RunPlan, belief: Belief, started: RunStarted) -> bool:
    """Whether anything is left for which the map is needed."""
    if len(belief.tiles_done) < len(started.tiles) or not belief.chosen:
        return True
    return not isinstance(_next_target(plan, belief).action, EndRun)


def _check_map(belief: Belief, started: RunStarted) -> Decision:
    """The tile of the crystal that comes next, or any."""
    queued = next((t for t in belief.targets.values() if t.status == "queued"), None)
    frame = None if queued is None else queued.pick.frame
    tile = next(
        (t for t, f in belief.tile_frames.items() if f == frame), next(iter(belief.tile_frames))
    )
    x_um, y_um = started.tiles[tile]
    return Decision(
        CheckMap(tile, belief.tile_frames[tile], x_um, y_um),
        f"the run was interrupted: see whether tile {tile + 1} is where it was",
    )


def _next_target(plan: RunPlan, belief: Belief) -> Decision:
    if belief.done >= plan.targets.wanted:
        reason = f"{belief.done} scans accepted, as many as wanted"
        return Decision(_end(plan, belief, reason), reason)
    if belief.visited >= plan.targets.max_visited:
        reason = f"{belief.visited} crystals visited, the most that the plan allows"
        return _end_or_wait(plan, belief, reason)
    waiting = len(belief.waiting)
    if belief.done + waiting >= plan.targets.wanted or waiting >= plan.reconstruction.most_waiting:
        return _wait_for_results(belief)
    chosen = _best_queued(plan, belief)
    if chosen is None:
        return _end_or_wait(plan, belief, "no crystal is left in the queue")
    target, reason = chosen
    return Decision(Visit(target.name, target.x_um, target.y_um), reason)


def _best_queued(plan: RunPlan, belief: Belief) -> tuple[Target, str] | None:
    """The crystal that comes next, and why; people come before expectations."""
    queue = prospects(belief, plan.agent.order)
    if not queue:
        return None
    best, *others = queue
    if best.target.name in belief.put_first:
        return best.target, "it was put first, by a person or by the interruption of its alignment"
    if plan.agent.order == "yield":
        seen = outlook(belief.targets.values()).seen
        return best.target, in_words_of_yield(best, others, seen)
    pick = best.target.pick
    return best.target, (
        f"first of those left by {plan.agent.order}: probability {pick.score:.2f} to be usable, "
        f"usable radius {pick.radius_nm:.0f} nm"
    )


def _end_or_wait(plan: RunPlan, belief: Belief, reason: str) -> Decision:
    """The end, once every scan has been looked at."""
    if belief.waiting:
        return _wait_for_results(belief)
    return Decision(_end(plan, belief, reason), reason)


def _wait_for_results(belief: Belief) -> Decision:
    names = ", ".join(target.name for target in belief.waiting)
    return Decision(WaitForResults(RESULTS_S), f"the scans of {names} are being reconstructed")


def _end(plan: RunPlan, belief: Belief, reason: str) -> EndRun:
    goals_met = belief.done >= plan.targets.goal
    return EndRun("completed" if goals_met else "goals_missed", reason)


def _for_target(plan: RunPlan, belief: Belief, target: Target, started: RunStarted) -> Decision:
    if target.rejected:
        return _skip(target, target.rejected)
    if target.scan is not None:
        return _judge(plan, target)
    if target.undo_asked and target.can_undo:
        return _undo(belief, target, target.undo_asked)
    if not target.located:
        return _locate(belief, target)
    if _height_is_open(plan, target):
        if plan.agent.look_first and target.posterior is None:
            return _look(plan, belief, target)
        return _find_height(plan, belief, target, started)
    if target.height is None or not target.height.ok:
        why = target.height.reason if target.height else "not measured"
        return _skip(target, f"its height, and so the focus, is not known ({why})")
    if not target.fresh_fit:
        return _straight_there(plan, belief, target, started) or _measure(plan, belief, target)
    if target.zone is None or target.posterior is None:
        return _choose_zone(plan, belief, target)
    return _onto_axis(plan, belief, target, started)


def _locate(belief: Belief, target: Target) -> Decision:
    if target.misses >= 2:
        return _back_or_skip(belief, target, "lost: not found in two tracking pictures")
    return Decision(Locate(target.name), "see where the crystal is and centre it")


def _look(plan: RunPlan, belief: Belief, target: Target) -> Decision:
    """A pattern and what it says of the axes, untilted: needs no height."""
    if not target.fresh_fit:
        return _measure(plan, belief, target)
    return _choose_zone(plan, belief, target)


def _straight_there(
    plan: RunPlan, belief: Belief, target: Target, started: RunStarted
) -> Decision | None:
    """The tilt to a far zone axis by the pattern from before the height was measured.

    None where another pattern is to come first: near the axis, or with nothing known.
    """
    here = forecast_here(belief, target)
    far_deg = max(2 * plan.alignment.beam_tilt_within_deg, NEAR_DEG)
    if target.moves or here is None or here.off_deg - 2 * here.sigma_deg <= far_deg:
        return None
    return _tilt(plan, belief, target, started, here)


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
    again = to_read_again(target)
    attempts = 0 if again is None else len(again.summed) + 1
    if again is not None and attempts >= align.max_attempts:
        trouble = (
            f"{attempts} patterns contradict what was expected and each other"
            if again.answered
            else f"no tilt could be read in {attempts} patterns ({again.reason})"
        )
        return _back_or_skip(belief, target, trouble)
    if len(target.fits) >= align.max_patterns:
        return _skip(target, f"{len(target.fits)} patterns, the most that the plan allows")
    diameter = beam_diameter_nm(plan, target)
    electrons = planned_electrons(plan, belief, target)
    fluence = dose_plan.fluence_e_per_A2(electrons, diameter)
    left = _left(plan, belief, target)
    if fluence * BOUND_OVER_PLANNED > left:
        return _skip(
            target,
            f"the {align.budget_e_per_A2:g} e/A2 before the scan are used up "
            f"({left:.3f} left, a pattern needs {fluence * BOUND_OVER_PLANNED:.3f})",
        )
    return Decision(
        MeasurePattern(target.name, fluence, diameter, attempts + 1),
        f"{_why_measure(belief, target)}: {electrons:.0f} electrons",
    )


def _why_measure(belief: Belief, target: Target) -> str:
    if target.unanswered:
        return "read again with more electrons, those counted so far added"
    here = forecast_here(belief, target)
    if here is None:
        return "read the tilt"
    if is_doubtful(target) and target.posterior is not None:
        off = target.posterior.surprise or 0.0
        return f"the last pattern lay {off:.1f} sigma from its forecast; see whether it holds"
    if views_near_axis(target):
        return f"a second view: {here.off_deg:.3f} +- {here.sigma_deg:.3f} deg off expected"
    return f"expected {here.off_deg:.2f} +- {here.sigma_deg:.2f} deg off; see what came"


def _left(plan: RunPlan, belief: Belief, target: Target) -> float:
    return plan.alignment.budget_e_per_A2 - belief.spent_e_per_A2.get(target.name, 0.0)


def _choose_zone(plan: RunPlan, belief: Belief, target: Target) -> Decision:
    chosen, found = zones_of(plan, belief, target)
    if not found or target.last_answered is None:
        return _skip(target, "no zone axis is known")
    if chosen is None:
        why = "; ".join(f"{name(c.member_uvw)} {c.why_not}" for c in found[:3])
        return _skip(target, f"no wanted zone axis can be reached: {why}")
    return Decision(
        ChooseZone(
            target.name,
            target.last_answered.frame,
            chosen.zone_uvw,
            chosen.member_uvw,
            chosen.alpha_deg,
            chosen.beta_deg,
        ),
        in_words(chosen, found),
    )


def _onto_axis(plan: RunPlan, belief: Belief, target: Target, started: RunStarted) -> Decision:
    """Beam, pattern, goniometer or scan: what brings the zone axis onto the beam for good."""
    posterior, here = target.posterior, forecast_here(belief, target)
    if posterior is None or here is None or target.zone is None:
        return _skip(target, "no tilt is known")
    align = plan.alignment
    what = name(target.zone.chosen.member_uvw)
    if is_doubtful(target):
        return _measure(plan, belief, target)
    beam = _beam(plan, target, posterior.state, started)
    if beam is not None and here.off_deg > WORTH_A_BEAM_TILT * align.tolerance_deg:
        after = forecast(posterior.state, len(posterior.state.settings) - 1, beam)
        if after.off_deg < here.off_deg:
            return Decision(
                TiltBeam(target.name, *beam, *target.beam_tilt_mrad, after.sigma_deg),
                f"{here.off_deg:.3f} deg from {what}: within reach of the beam",
            )
    where = f"{here.off_deg:.3f} +- {here.sigma_deg:.3f} deg from {what}"
    views = 2 if align.confirm else 1
    sure = here.sigma_deg <= SURE * align.tolerance_deg and views_near_axis(target) >= views
    if here.off_deg <= align.tolerance_deg and sure:
        return _scan(plan, belief, target, where)
    spent = _spent(plan, belief, target)
    if spent and max(here.off_deg, 2 * here.sigma_deg) <= align.acceptable_deg:
        return _scan(plan, belief, target, f"{where}, acceptable: {spent}")
    if spent:
        return _skip(target, f"still {where}, and {spent}")
    if here.off_deg <= align.tolerance_deg:
        return _measure(plan, belief, target)
    return _tilt(plan, belief, target, started, here)


def _beam(
    plan: RunPlan, target: Target, state: FilterState, started: RunStarted
) -> tuple[float, float] | None:
    """Beam tilt onto the zone axis, if plan and column allow that much."""
    within = 1e3 * math.tan(math.radians(plan.alignment.beam_tilt_within_deg))
    limit = min(within, started.capabilities.beam_tilt_mrad)
    beam = beam_onto_zone(state, len(state.settings) - 1, limit)
    return beam if beam is not None and math.hypot(*beam) <= within else None


def _spent(plan: RunPlan, belief: Belief, target: Target) -> str:
    """What is used up, if anything is."""
    align = plan.alignment
    if target.moves >= align.max_moves:
        return f"{target.moves} moves are used up"
    if len(target.fits) >= align.max_patterns:
        return f"{len(target.fits)} patterns are used up"
    electrons = planned_electrons(plan, belief, target)
    need = dose_plan.fluence_e_per_A2(electrons, beam_diameter_nm(plan, target))
    if _left(plan, belief, target) < BOUND_OVER_PLANNED * need:
        return "the budget is used up"
    return ""


def _tilt(
    plan: RunPlan, belief: Belief, target: Target, started: RunStarted, here: Forecast
) -> Decision:
    """The goniometer onto the zone axis."""
    posterior, zone = target.posterior, target.zone
    if posterior is None or zone is None:
        return _skip(target, "no tilt is known")
    what = name(zone.chosen.member_uvw)
    alpha, beta = aim(posterior.state)
    refusal = unreachable(started.stage_limits, alpha, beta)
    if refusal:
        return _skip(target, f"{what} is unreachable: {refusal}")
    alpha_0, beta_0 = belief.asked_deg
    setting = present_setting(belief)
    goal = GoniometerSetting(
        alpha_deg=alpha,
        beta_deg=beta,
        sigma_alpha_deg=setting.sigma_alpha_deg,
        sigma_beta_deg=setting.sigma_beta_deg,
    )
    after = forecast(posterior.state, goal, (0.0, 0.0))
    x_um, y_um = shifted_by_height(target, (alpha_0, beta_0), (alpha, beta))
    return Decision(
        Tilt(target.name, alpha, beta, alpha_0, beta_0, after.sigma_deg, x_um, y_um),
        f"{here.off_deg:.2f} deg from {what}; the goniometer reaches it, to about "
        f"{after.sigma_deg:.2f} deg",
    )


def _back_or_skip(belief: Belief, target: Target, trouble: str) -> Decision:
    """Undo the last tilt once; without one to undo, leave the crystal."""
    if target.can_undo and not target.undone:
        return _undo(belief, target, trouble)
    return _skip(target, trouble)


def _undo(belief: Belief, target: Target, why: str) -> Decision:
    if target.before_tilt is None:
        raise ValueError(f"{target.name} has no tilt to undo")
    now, back = belief.asked_deg, target.before_tilt
    x_um, y_um = shifted_by_height(target, now, back)
    return Decision(UndoTilt(target.name, *back, *now, x_um, y_um), f"back where it was: {why}")


def shifted_by_height(
    target: Target, before_deg: tuple[float, float], after_deg: tuple[float, float]
) -> tuple[float, float]:
    """Stage (x, y) at which the crystal will appear after a tilt, um; see docs/conventions.md."""
    height = target.height
    z_um = height.offset_um if height is not None and height.ok and not height.applied else 0.0

    def apparent(alpha_deg: float, beta_deg: float) -> tuple[float, float]:
        a, b = math.radians(alpha_deg), math.radians(beta_deg)
        return z_um * math.tan(b), -z_um * math.tan(a) / math.cos(b)

    (x0, y0), (x1, y1) = apparent(*before_deg), apparent(*after_deg)
    return target.x_um + x1 - x0, target.y_um + y1 - y0


def unreachable(limits: StageLimits, alpha_deg: float, beta_deg: float) -> str | None:
    """Why the goniometer cannot go there, or None."""
    return limits.violation(PartialPose(alpha_deg=alpha_deg, beta_deg=beta_deg))


def _scan(plan: RunPlan, belief: Belief, target: Target, where: str) -> Decision:
    fluence, because = conditions.fluence(plan, belief, target)
    why = f"on axis ({where})" + (f", {because}" if because else "")
    return Decision(AcquireScan(target.name, fluence, lens_defocus_nm(plan, belief, target)), why)


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
    if plan.reconstruction.is_beside and result is None:
        return Decision(HandOver(target.name), "reconstruct it while the night goes on")
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


def _skip(target: Target, reason: str) -> Decision:
    return Decision(EndTarget(target.name, "skipped", reason), reason)
