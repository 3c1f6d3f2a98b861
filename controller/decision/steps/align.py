"""Reading the tilt, choosing the zone, moving goniometer and beam."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from controller.calibration.alarms import Alarm
from controller.calibration.doubts import doubts
from controller.calibration.loading import calibrated_optics
from controller.decision.actions import ChooseZone, MeasurePattern, Tilt, TiltBeam, UndoTilt
from controller.decision.belief import Belief, Target, update
from controller.decision.goniometer_filter import Forecast, forecast, surprise
from controller.decision.illumination import detector_for, diffraction_optics
from controller.decision.knowledge import (
    filtered,
    forecast_here,
    forecast_of_next,
    holder_frame,
    present_setting,
    to_read_again,
    zones_of,
)
from controller.decision.reachable import DERIVED_SIGMA_MRAD
from controller.decision.rig import Rig
from controller.hardware.values import (
    Calibration,
    Mode,
    OpticsChange,
    PartialPose,
    Purpose,
    Vector,
)
from controller.perception.alignment import HolderFrame, tilt_from_zone, zone_in_holder
from controller.perception.protocols import TiltHint, TiltReading
from controller.record.events import (
    BeamTilted,
    CalibrationAlarmed,
    GoniometerSetting,
    PosteriorUpdated,
    TiltFitted,
    ZoneAxis,
    ZoneChosen,
)

UNKNOWN_SIGMA_MRAD = 1e3
"""Written where a pattern gave no answer: nothing is known about the tilt."""
LEAST_HINT_MRAD = 4.0
"""A hint never restricts the search to less than this."""
LARGEST_DOUBT = 0.1
"""Of the hand of the camera: above it the first pattern after a tilt is read without a hint."""
CANDIDATES_KEPT = 8


def measure_pattern(action: MeasurePattern, belief: Belief, rig: Rig) -> None:
    """Take a diffraction pattern of the crystal and read the tilt from it.

    The counts of patterns at this setting that gave no answer, or a doubtful one, are added: they
    are paid for.
    """
    plan = rig.plan.alignment
    scope = rig.microscope
    target = belief.target(action.target)
    detector = detector_for(scope.capabilities, Mode.DIFFRACTION)
    scope.optics.apply(
        diffraction_optics(
            plan,
            diameter_nm=action.beam_diameter_nm,
            fluence_e_per_A2=action.fluence_e_per_A2,
            beam_tilt_mrad=beam_tilt_of(target, rig),
        )
    )
    frame, stored = rig.take_frame(
        area=action.target,
        target=action.target,
        purpose=Purpose.ALIGN,
        detector=detector.name,
        duration_s=plan.frame_s,
    )
    counts = frame.electrons()
    again = to_read_again(target)
    summed = () if again is None else (*again.summed, again.frame)
    for earlier in summed:
        counts = counts + rig.stored_frame_electrons(earlier)
    if frame.valid is not None:
        counts = np.where(frame.valid, counts, np.nan).astype(np.float32)
    reading_deg = (frame.pose.alpha_deg, frame.pose.beta_deg or 0.0)
    setting = present_setting(belief, reading_deg)
    expected = forecast_of_next(belief, target, reading_deg)
    hint = _hint(target, expected)
    zones = rig.plan.sample.target_zones if hint is None else (hint.zone_uvw,)
    optics = calibrated_optics(frame.optics, rig.microscope.calibration)
    reading = rig.eyes.aligner.read(counts, optics=optics, zones=zones, hint=hint)
    fit = _fitted(target, stored.frame, reading, setting, expected, holder_frame(belief, target))
    fit = fit.replace(
        beam_tilt_mrad=frame.optics.beam_tilt_mrad,
        electrons=round(float(np.nansum(counts)), 1),
        summed=summed,
    )
    rig.emit(fit)
    after = update(belief, fit).target(action.target)
    if fit.answered and after.zone is not None:
        _emit_posterior(rig, target, _posterior(update(belief, fit), after, fit, expected))


def choose_zone(action: ChooseZone, belief: Belief, rig: Rig) -> None:
    """Settle the zone axis, with all that were considered, and start its filter."""
    target = belief.target(action.target)
    _, found = zones_of(rig.plan, belief, target)
    chosen = next(c for c in found if c.member_uvw == action.member_uvw)
    fit = target.last_answered
    if fit is None:
        raise ValueError(f"{action.target} has no pattern that was read")
    tilt, sigma = fit.tilt_mrad, fit.sigma_mrad
    for seen in fit.axes:
        if seen.member_uvw == chosen.member_uvw:
            tilt = tilt_from_zone(np.asarray(seen.direction))
            if math.dist(tilt, fit.tilt_mrad) > fit.sigma_mrad:  # not the one that was read
                sigma = math.hypot(sigma, DERIVED_SIGMA_MRAD)
    event = ZoneChosen(
        target=action.target,
        chosen=chosen,
        candidates=found[:CANDIDATES_KEPT],
        frame=fit.frame,
        tilt_mrad=tilt,
        sigma_mrad=sigma,
    )
    rig.emit(event)
    after = update(belief, event)
    _emit_posterior(rig, target, _posterior(after, after.target(action.target), fit, None))


def _emit_posterior(rig: Rig, before: Target, posterior: PosteriorUpdated) -> None:
    """Journal what the filter says, and once per crystal that it contradicts the calibration."""
    rig.emit(posterior)
    known = rig.microscope.calibration
    told = [] if before.posterior is None else _doubts(known, before.posterior)
    if told:
        return
    for alarm in _doubts(known, posterior):
        rig.emit(
            CalibrationAlarmed(
                calibration=alarm.kind,
                code=alarm.code,
                severity=alarm.severity,
                message=alarm.message,
                remedy=alarm.remedy,
                target=posterior.target,
            )
        )


def _doubts(known: Calibration, posterior: PosteriorUpdated) -> list[Alarm]:
    return doubts(
        known,
        azimuth_deg=posterior.azimuth_deg,
        azimuth_sigma_deg=posterior.azimuth_sigma_deg,
        mirrored=posterior.mirrored,
        doubt_of_hand=posterior.doubt_of_hand,
    )


def tilt(action: Tilt | UndoTilt, rig: Rig) -> None:
    """Move the goniometer, from below on both axes, and the crystal's expected place with it."""
    rig.move(
        action.target,
        PartialPose(
            x_um=action.x_um, y_um=action.y_um, alpha_deg=action.alpha_deg, beta_deg=action.beta_deg
        ),
    )


def tilt_beam(action: TiltBeam, belief: Belief, rig: Rig) -> None:
    """Lay the beam along the zone axis; what is read back is what counts from now on."""
    target = belief.target(action.target)
    asked = (action.x_mrad, action.y_mrad)
    optics = rig.microscope.optics.apply(OpticsChange(mode=Mode.DIFFRACTION, beam_tilt_mrad=asked))
    after = replace(target, beam_tilt_mrad=optics.beam_tilt_mrad)
    here = forecast_here(belief, after)
    rig.emit(
        BeamTilted(
            target=action.target,
            requested_mrad=asked,
            achieved_mrad=optics.beam_tilt_mrad,
            off_deg=0.0 if here is None else here.off_deg,
            sigma_deg=action.predicted_deg if here is None else here.sigma_deg,
        )
    )


def beam_tilt_of(target: Target, rig: Rig) -> Vector | None:
    """The beam tilt to set for this crystal; None where the column has none."""
    return target.beam_tilt_mrad if rig.microscope.capabilities.beam_tilt_mrad else None


def _hint(target: Target, expected: Forecast | None) -> TiltHint | None:
    """What the filter expects; nothing where it may be wrong altogether."""
    posterior, last = target.posterior, target.last_answered
    if expected is None or posterior is None or last is None or target.unanswered:
        return None
    if posterior.doubt_of_hand > LARGEST_DOUBT and last.tilts != target.tilts:
        return None
    sigma = max(2.0 * expected.sigma_mrad, LEAST_HINT_MRAD)
    zone = posterior.zone_uvw
    turn = last.in_plane_rotation_deg if last.zone_uvw == zone else None
    return TiltHint(zone, expected.tilt_mrad, sigma, turn)


def _fitted(
    target: Target,
    frame_name: str,
    reading: TiltReading,
    setting: GoniometerSetting,
    expected: Forecast | None,
    frame: HolderFrame,
) -> TiltFitted:
    zone = None
    if reading.answered:
        zone = zone_in_holder(reading.tilt_mrad, setting.alpha_deg, setting.beta_deg, frame)
    tilt_mrad = reading.tilt_mrad if reading.answered else (0.0, 0.0)
    return TiltFitted(
        target=target.name,
        frame=frame_name,
        answered=reading.answered,
        reason=reading.reason,
        zone_uvw=reading.zone_uvw,
        tilt_mrad=tilt_mrad,
        sigma_mrad=reading.sigma_mrad if reading.answered else UNKNOWN_SIGMA_MRAD,
        misorientation_deg=math.degrees(math.hypot(*tilt_mrad) * 1e-3),
        centre_px=reading.centre_px,
        inv_A_per_px=reading.inv_A_per_px,
        mode=reading.mode,
        alternatives=reading.alternatives,
        spots_px=reading.spots_px,
        thickness_nm=reading.thickness_nm,
        holder_zone=None if zone is None else (float(zone[0]), float(zone[1]), float(zone[2])),
        predicted_deg=None if expected is None else expected.off_deg,
        predicted_sigma_deg=None if expected is None else expected.sigma_deg,
        in_plane_rotation_deg=reading.in_plane_rotation_deg,
        setting=setting,
        tilts=target.tilts,
        electrons_wanted=reading.electrons_wanted,
        orientation=reading.orientation,
        axes=tuple(
            ZoneAxis(zone_uvw=a.zone_uvw, member_uvw=a.member_uvw, direction=a.direction)
            for a in reading.axes
        ),
    )


def _posterior(
    belief: Belief, target: Target, fit: TiltFitted, expected: Forecast | None
) -> PosteriorUpdated:
    """What the filter makes of all patterns, and how the newest met its forecast."""
    state = filtered(belief, target)
    if state is None or target.zone is None:
        raise ValueError(f"{target.name} has no pattern to filter")
    here = forecast(state, len(state.settings) - 1, target.beam_tilt_mrad)
    known = state.instrument
    return PosteriorUpdated(
        target=target.name,
        zone_uvw=target.zone.chosen.zone_uvw,
        off_deg=here.off_deg,
        sigma_deg=here.sigma_deg,
        expected_off_deg=None if expected is None else expected.off_deg,
        expected_sigma_deg=None if expected is None else expected.sigma_deg,
        surprise=None if expected is None else surprise(expected, fit.tilt_mrad, fit.sigma_mrad),
        azimuth_deg=known.mean[0],
        azimuth_sigma_deg=math.sqrt(known.covariance[0][0]),
        mirrored=known.mirrored,
        doubt_of_hand=known.doubt,
        state=state,
    )
