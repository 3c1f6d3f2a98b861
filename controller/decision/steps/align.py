"""Reading the tilt and moving the goniometer, with exact double-tilt geometry."""

from __future__ import annotations

import math

import numpy as np

from controller.decision.actions import MeasurePattern, Tilt
from controller.decision.belief import Belief
from controller.decision.illumination import detector_for, diffraction_optics
from controller.decision.rig import Rig
from controller.hardware.values import Calibration, Frame, Mode, PartialPose, Purpose
from controller.perception.alignment import HolderFrame, predicted_tilt, zone_in_holder
from controller.perception.protocols import TiltHint, TiltReading
from controller.record.events import TiltFitted

UNKNOWN_SIGMA_MRAD = 1e3
"""Written where a pattern gave no answer: nothing is known about the tilt."""


def holder_frame(calibration: Calibration) -> HolderFrame:
    """How the goniometer lies on the diffraction camera, as calibrated."""
    return HolderFrame(
        tilt_axis_azimuth_deg=calibration.tilt_axis_azimuth_deg,
        mirrored=calibration.diffraction_mirrored,
    )


def measure_pattern(action: MeasurePattern, belief: Belief, rig: Rig) -> None:
    """Take a diffraction pattern of the crystal and read the tilt from it."""
    plan = rig.plan.alignment
    scope = rig.microscope
    detector = detector_for(scope.capabilities, Mode.DIFFRACTION)
    scope.optics.apply(
        diffraction_optics(
            plan,
            diameter_nm=action.beam_diameter_nm,
            fluence_e_per_A2=action.fluence_e_per_A2,
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
    if frame.valid is not None:
        counts = np.where(frame.valid, counts, np.nan).astype(np.float32)
    hint = _hint(belief, rig, frame)
    zones = rig.plan.sample.target_zones if hint is None else (hint.zone_uvw,)
    reading = rig.eyes.aligner.read(counts, optics=frame.optics, zones=zones, hint=hint)
    rig.emit(_fitted(action.target, stored.frame, reading, frame, rig, hint))


def tilt(action: Tilt, rig: Rig) -> None:
    """Move the goniometer, from below on both axes."""
    rig.move(action.target, PartialPose(alpha_deg=action.alpha_deg, beta_deg=action.beta_deg))


def _hint(belief: Belief, rig: Rig, frame: Frame) -> TiltHint | None:
    """What the last pattern predicts for this one, at the goniometer reading of this one."""
    target = belief.target(frame_target(belief))
    last = target.last_answered
    if last is None or last.holder_zone is None or last.zone_uvw is None or target.unanswered:
        return None
    t = predicted_tilt(
        np.asarray(last.holder_zone),
        frame.pose.alpha_deg,
        frame.pose.beta_deg or 0.0,
        holder_frame(rig.microscope.calibration),
    )
    moved_mrad = math.hypot(t[0] - last.tilt_mrad[0], t[1] - last.tilt_mrad[1])
    sigma = math.hypot(last.sigma_mrad, 0.04 * moved_mrad, 4.0)
    return TiltHint(last.zone_uvw, t, sigma, last.in_plane_rotation_deg)


def frame_target(belief: Belief) -> str:
    """Name of the crystal that is being worked on."""
    if belief.active is None:
        raise ValueError("no crystal is active")
    return belief.active


def _fitted(
    name: str, frame_name: str, reading: TiltReading, frame: Frame, rig: Rig, hint: TiltHint | None
) -> TiltFitted:
    zone = None
    if reading.answered:
        zone = zone_in_holder(
            reading.tilt_mrad,
            frame.pose.alpha_deg,
            frame.pose.beta_deg or 0.0,
            holder_frame(rig.microscope.calibration),
        )
    tilt_mrad = reading.tilt_mrad if reading.answered else (0.0, 0.0)
    return TiltFitted(
        target=name,
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
        predicted_deg=None if hint is None else math.degrees(math.hypot(*hint.tilt_mrad) * 1e-3),
        in_plane_rotation_deg=reading.in_plane_rotation_deg,
    )
