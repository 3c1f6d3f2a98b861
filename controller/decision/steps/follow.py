"""Keeping the crystal under the beam: going there, finding it again, eucentric height."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.decision.actions import FindHeight, Locate, Visit
from controller.decision.belief import Belief, Target
from controller.decision.illumination import detector_for, image_optics
from controller.decision.rig import Rig
from controller.hardware.values import Mode, PartialPose, Purpose
from controller.perception.tracking import locate_template, without_outliers
from controller.perception.view import View
from controller.record.events import HeightFound, Located

SHIFT_SIGMA_UM = 0.006
"""How well the shift between two tracking pictures is known: about a pixel."""
TEMPLATE_FACTOR = 1.6
"""Half-width of the template in radii of the crystal: its outline is what is recognised."""


def visit(action: Visit, rig: Rig) -> None:
    """Bring the crystal under the beam, untilted, as the survey saw it."""
    rig.move(
        action.target,
        PartialPose(x_um=action.x_um, y_um=action.y_um, alpha_deg=0.0, beta_deg=0.0),
    )


def locate(action: Locate, belief: Belief, rig: Rig) -> None:
    """Take a tracking picture, find the crystal, centre it."""
    target = belief.target(action.target)
    event = _look(target, rig)
    recentre = math.hypot(*event.offset_um) * 1e3 > rig.plan.tracking.recentre_above_nm
    if event.found and recentre:
        x_um, y_um = event.position_um
        rig.move(action.target, PartialPose(x_um=x_um, y_um=y_um))
    rig.emit(event.replace(recentred=event.found and recentre))


def find_height(action: FindHeight, belief: Belief, rig: Rig) -> None:
    """Picture at two tilts about alpha, measure the shift between them, tilt back.

    A point at height z off the axis appears shifted by -z (tan a2 - tan a1) / cos b along the
    specimen's y (docs/conventions.md).  A large z is taken out by the stage.
    """
    target = belief.target(action.target)
    before = rig.microscope.stage.pose()
    low = rig.move(action.target, PartialPose(alpha_deg=action.low_alpha_deg)).achieved
    first = _look(target, rig)
    rig.emit(first)
    seen = replace(target, last_located=first) if first.found else target
    high = rig.move(action.target, PartialPose(alpha_deg=action.high_alpha_deg)).achieved
    second = _look(seen, rig)
    rig.emit(second)
    lever = -(
        math.tan(math.radians(high.alpha_deg)) - math.tan(math.radians(low.alpha_deg))
    ) / math.cos(math.radians(before.beta_deg or 0.0))
    # x and y were not moved in between: the shift in the picture is free of read-back noise
    z_um = (second.offset_um[1] - first.offset_um[1]) / lever
    found = first.found and second.found
    credible = abs(z_um) < 5 * rig.microscope.capabilities.eucentric_sigma_um + 0.5
    ok = found and credible
    moved = ok and abs(z_um) > rig.plan.height.move_above_um
    back = PartialPose(alpha_deg=before.alpha_deg)
    rig.move(action.target, back.replace(z_um=before.z_um - z_um) if moved else back)
    reason = "" if credible else f"{z_um:.2f} um is not credible"
    rig.emit(
        HeightFound(
            target=action.target,
            offset_um=z_um if found else 0.0,
            sigma_um=abs(SHIFT_SIGMA_UM / lever),
            ok=ok,
            applied=moved,
            reason=reason if found else (first.reason or second.reason),
        )
    )


def _look(target: Target, rig: Rig) -> Located:
    """One tracking picture and where the crystal is in it."""
    tracking = rig.plan.tracking
    scope = rig.microscope
    camera = detector_for(scope.capabilities, Mode.IMAGE)
    scope.optics.apply(
        image_optics(
            scope.capabilities,
            pixel_size_nm=tracking.pixel_size_nm,
            fluence_e_per_A2=tracking.fluence_e_per_A2,
            frame_s=tracking.frame_s,
        )
    )
    frame, stored = rig.take_frame(
        area=target.name,
        target=target.name,
        purpose=Purpose.TRACK,
        detector=camera.name,
        duration_s=tracking.frame_s,
    )
    view = rig.view(frame.data.shape, frame.optics, frame.pose)
    name = target.last_located.frame if target.last_located else target.pick.frame
    reference, seen = rig.stored_frame(name)
    template, at_px = _rescaled(reference.electrons, seen, view, target)
    expected = view.pixel(target.x_um, target.y_um)
    half_px = TEMPLATE_FACTOR * max(target.pick.diameter_nm / 2, target.pick.radius_nm)
    half_px = min(half_px, 600.0) / view.pixel_size_nm
    edge_px = min(view.shape) / 2 - half_px
    shift = locate_template(
        template,
        at_px,
        half_px,
        frame.electrons(),
        expected,
        search_px=max(edge_px, 20.0),
    )
    found = shift.correlation >= tracking.lost_below_correlation
    x_um, y_um = view.specimen_um(expected[0] + shift.dx_px, expected[1] + shift.dy_px)
    reason = (
        ""
        if found
        else (
            f"best correlation {shift.correlation:.2f} is below "
            f"{tracking.lost_below_correlation:g}: the crystal is not in the picture"
        )
    )
    return Located(
        target=target.name,
        frame=stored.frame,
        offset_um=(x_um - frame.pose.x_um, y_um - frame.pose.y_um),
        position_um=(x_um, y_um),
        correlation=shift.correlation,
        found=found,
        recentred=False,
        reason=reason,
    )


def _rescaled(
    image: NDArray[np.float32], seen: View, view: View, target: Target
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """The reference at the new pixel size, and where the crystal lies in it."""
    x_px, y_px = seen.pixel(target.x_um, target.y_um)
    factor = seen.pixel_size_nm / view.pixel_size_nm
    if abs(factor - 1) < 1e-3:
        return image, (x_px, y_px)
    zoomed = ndimage.zoom(without_outliers(image), factor, order=1, grid_mode=True, mode="nearest")
    return zoomed.astype(np.float32), ((x_px + 0.5) * factor - 0.5, (y_px + 0.5) * factor - 0.5)
