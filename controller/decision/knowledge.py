"""What belief says of here and now: the goniometer's setting, the looks, what a pattern would show.

Pure functions between the journal's fold and the filter; policy and steps both ask them.
"""

from __future__ import annotations

import math

from controller.decision import dose_plan
from controller.decision.belief import Belief, Target
from controller.decision.goniometer_filter import (
    SURPRISING,
    Forecast,
    Look,
    estimate,
    forecast,
    instrument_prior,
    where_it_stands,
)
from controller.decision.reachable import Reach, candidates, choose
from controller.hardware.values import Axis
from controller.perception.alignment import HolderFrame
from controller.perception.alignment.result import RADIUS_OF_68_PERCENT
from controller.plan.run import RunPlan
from controller.record.events import (
    AxisInReach,
    FilterState,
    GoniometerSetting,
    InstrumentState,
    RunStarted,
    TiltFitted,
)

ALIKE_MRAD = 0.5
"""Two readings of one place that differ by no more agree, however sharp they say they are."""
NEAR_DEG = 1.0
SHARE_OF_RADIUS = 1.6
"""Beam diameter in usable radii of the crystal: its rim stays dark."""
LEAST_RADIUS_NM = 60.0


def started(belief: Belief) -> RunStarted:
    """The run's first event.

    Raises
    ------
    ValueError
        There is none.
    """
    if belief.started is None:
        raise ValueError("no run was started: the journal lacks run_started")
    return belief.started


def present_setting(
    belief: Belief, reading_deg: tuple[float, float] | None = None
) -> GoniometerSetting:
    """Where alpha and beta stand now; `reading_deg` is a reading that is not in belief yet."""
    readings = belief.read_deg if reading_deg is None else (*belief.read_deg, reading_deg)
    axes = started(belief).capabilities.axes
    found = []
    for n, axis in enumerate((Axis.ALPHA, Axis.BETA)):
        info = axes.get(axis)
        found.append(
            where_it_stands(
                belief.asked_deg[n],
                [reading[n] for reading in readings],
                repeatability=0.0 if info is None else info.repeatability,
                read_noise=0.0 if info is None else info.read_noise,
            )
        )
    (alpha, sigma_alpha), (beta, sigma_beta) = found
    return GoniometerSetting(
        alpha_deg=alpha, beta_deg=beta, sigma_alpha_deg=sigma_alpha, sigma_beta_deg=sigma_beta
    )


def prior_of(belief: Belief, target: Target) -> InstrumentState:
    """What was known of the instrument before this crystal."""
    run = started(belief)
    return target.prior or instrument_prior(run.calibration, run.capabilities)


def holder_frame(belief: Belief, target: Target) -> HolderFrame:
    """How the stage lies on the diffraction camera, as known by now."""
    known = belief.instrument or prior_of(belief, target)
    return HolderFrame(tilt_axis_azimuth_deg=known.mean[0], mirrored=known.mirrored)


def beam_diameter_nm(plan: RunPlan, target: Target) -> float:
    """Of the parallel beam on this crystal: within the rim, as far as that is known."""
    radius_nm = target.pick.radius_nm
    if target.radius_nm is not None:
        radius_nm = min(radius_nm, max(target.radius_nm, LEAST_RADIUS_NM))
    return min(plan.alignment.beam_diameter_nm, SHARE_OF_RADIUS * radius_nm)


def is_doubtful(target: Target) -> bool:
    """Whether the newest reading lies far from its forecast, and none at the same place agrees."""
    last, posterior = target.last_answered, target.posterior
    if last is None or posterior is None or (posterior.surprise or 0.0) <= SURPRISING:
        return False
    others = [fit for fit in target.fits if fit.answered and fit is not last]
    if not others or not _same_place(others[-1], last):
        return True
    both = math.hypot(others[-1].sigma_mrad, last.sigma_mrad, ALIKE_MRAD) / RADIUS_OF_68_PERCENT
    return math.dist(others[-1].tilt_mrad, last.tilt_mrad) > SURPRISING * both


def error_mrad(target: Target | None) -> float | None:
    """Angle between zone axis and beam in the newest pattern that was read; None before that."""
    fit = None if target is None else target.last_answered
    return None if fit is None else math.hypot(*fit.tilt_mrad)


def confidence(target: Target | None) -> float | None:
    """Probability of the newest fit against its alternatives, by their likelihoods.

    0 where the newest pattern could not be read, None where there is no pattern.
    """
    if target is None or not target.fits:
        return None
    last = target.fits[-1]
    if not last.answered:
        return 0.0
    gaps = [a["log_likelihood_gap"] for a in last.alternatives if "log_likelihood_gap" in a]
    return 1.0 / (1.0 + sum(math.exp(-min(max(float(g), 0.0), 700.0)) for g in gaps))


def views_near_axis(target: Target) -> int:
    """Readings within a degree of the axis that agree with each other."""
    if target.posterior is None:
        return 0
    gone = frozenset[str]().union(*(fit.summed for fit in target.fits))
    near = [
        fit
        for fit in target.fits
        if fit.answered and fit.frame not in gone and fit.misorientation_deg <= NEAR_DEG
    ]
    return len(near) - target.posterior.state.dropped


def to_read_again(target: Target) -> TiltFitted | None:
    """The newest pattern, if it was taken here and its counts are to be added to the next one.

    Those are patterns without an answer, and those with a doubtful one.
    """
    last = target.fits[-1] if target.fits else None
    here = last is not None and last.tilts == target.tilts
    if last is None or not here or last.beam_tilt_mrad != target.beam_tilt_mrad:
        return None
    return last if not last.answered or is_doubtful(target) else None


def _same_place(a: TiltFitted, b: TiltFitted) -> bool:
    return a.tilts == b.tilts and a.beam_tilt_mrad == b.beam_tilt_mrad


def filtered(
    belief: Belief, target: Target, without: frozenset[str] = frozenset()
) -> FilterState | None:
    """Posterior from all patterns of the chosen zone axis; None before the first.

    Patterns whose counts went into a later reading are left out, and those in `without`.
    """
    zone = target.zone
    if zone is None:
        return None
    frames = [fit.frame for fit in target.fits]
    first = frames.index(zone.frame) if zone.frame in frames else 0
    gone = without.union(*(fit.summed for fit in target.fits))
    used = [
        fit
        for fit in target.fits[first:]
        if fit.answered and fit.setting is not None and fit.frame not in gone
        if fit.frame == zone.frame or fit.zone_uvw == zone.chosen.zone_uvw
    ]
    settings: dict[int, GoniometerSetting] = {}
    for fit in used:
        if fit.setting is not None:
            settings[fit.tilts] = fit.setting
    order = list(settings)
    looks = [_look(fit, order.index(fit.tilts), target) for fit in used]
    if not looks:
        return None
    return estimate(looks, list(settings.values()), prior_of(belief, target))


def forecast_here(
    belief: Belief, target: Target, reading_deg: tuple[float, float] | None = None
) -> Forecast | None:
    """What a pattern would show now; None where no pattern has been read."""
    last, posterior = target.last_answered, target.posterior
    if posterior is None or last is None:
        return None
    state = posterior.state
    if last.tilts == target.tilts:
        return forecast(state, len(state.settings) - 1, target.beam_tilt_mrad)
    return forecast(state, present_setting(belief, reading_deg), target.beam_tilt_mrad)


def forecast_of_next(
    belief: Belief, target: Target, reading_deg: tuple[float, float]
) -> Forecast | None:
    """What the next pattern should show: without the one that it is to confirm."""
    again = to_read_again(target)
    if again is None or not again.answered:
        return forecast_here(belief, target, reading_deg)
    without = frozenset((again.frame, *again.summed))
    state = filtered(belief, target, without)
    if state is None:
        return None
    others = [fit for fit in target.fits if fit.answered and fit.frame not in without]
    if others and others[-1].tilts == target.tilts:
        return forecast(state, len(state.settings) - 1, target.beam_tilt_mrad)
    return forecast(state, present_setting(belief, reading_deg), target.beam_tilt_mrad)


def zones_of(
    plan: RunPlan, belief: Belief, target: Target
) -> tuple[AxisInReach | None, tuple[AxisInReach, ...]]:
    """The zone axis to go to (None: none can be reached), and all that were considered."""
    fit = target.last_answered
    if fit is None or fit.setting is None:
        return None, ()
    run = started(belief)
    reach = Reach(
        plan, fit.setting, run.stage_limits, run.capabilities, beam_diameter_nm(plan, target)
    )
    found = candidates(reach, fit, holder_frame(belief, target))
    return choose(plan, found), found


def planned_electrons(plan: RunPlan, belief: Belief, target: Target) -> float:
    """What the dose plan gives the next pattern."""
    align = plan.alignment
    here = forecast_here(belief, target)
    return dose_plan.next_electrons(
        target.fits,
        to_read_again(target),
        expected_off_deg=None if here is None else here.off_deg + 2 * here.sigma_deg,
        near_deg=max(2 * align.beam_tilt_within_deg, NEAR_DEG),
        coarse=align.coarse_electrons,
        most=align.max_electrons,
        wanted_sigma_deg=align.wanted_sigma_deg,
    )


def _look(fit: TiltFitted, index: int, target: Target) -> Look:
    zone = target.zone
    if zone is not None and fit.frame == zone.frame:
        return Look(index, fit.beam_tilt_mrad, zone.tilt_mrad, zone.sigma_mrad)
    return Look(index, fit.beam_tilt_mrad, fit.tilt_mrad, fit.sigma_mrad)
