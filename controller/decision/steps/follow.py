"""Keeping the crystal under the beam: going there, finding it again, eucentric height."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.decision.actions import FindHeight, Locate, Visit
from controller.decision.belief import Belief, Target
from controller.decision.illumination import detector_for, image_optics
from controller.decision.rig import Rig
from controller.hardware.values import Mode, PartialPose, Purpose
from controller.perception.outline import find_outline
from controller.perception.tracking import locate_template, without_outliers
from controller.perception.view import View
from controller.record.events import HeightFound, Located

SHIFT_SIGMA_UM = 0.010
"""How well the shift between two pictures at 8 electrons per pixel is known: one to two pixels."""
WINDOW_MARGIN_NM = 150.0
"""Around the picker's crystal, in which its outline is looked for."""
LEAST_GAIN_NM = 15.0
"""By how much farther from the rim the middle must lie than the picker's, to be taken."""
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
    if event.found and target.last_located is None:
        event = _centred(event, target, rig)
    recentre = math.hypot(*event.offset_um) * 1e3 > rig.plan.tracking.recentre_above_nm
    if event.found and recentre:
        x_um, y_um = event.position_um
        rig.move(action.target, PartialPose(x_um=x_um, y_um=y_um))
    rig.emit(event.replace(recentred=event.found and recentre))


def _centred(event: Located, target: Target, rig: Rig) -> Located:
    """The first look at a crystal with its own middle, where the picker's lies nearer the rim."""
    frame, view = rig.stored_frame(event.frame)
    half_nm = max(target.pick.diameter_nm / 2, target.pick.radius_nm) + WINDOW_MARGIN_NM
    near = view.pixel(*event.position_um)
    outline = find_outline(frame.electrons, near, half_nm / view.pixel_size_nm)
    if outline is None:
        return event
    radius_nm = outline.radius_px * view.pixel_size_nm
    gained_nm = radius_nm - outline.clearance_px * view.pixel_size_nm
    event = event.replace(radius_nm=radius_nm)
    if gained_nm < LEAST_GAIN_NM:
        return event
    x_um, y_um = view.specimen_um(outline.x_px, outline.y_px)
    return event.replace(
        offset_um=(x_um - view.pose.x_um, y_um - view.pose.y_um), position_um=(x_um, y_um)
    )


def find_height(action: FindHeight, belief: Belief, rig: Rig) -> None:
    """Picture at low, high and low tilt about alpha, measure the shift, tilt back.

    A point at height z off the axis appears shifted by -z (tan a2 - tan a1) / cos b along the
    specimen's y (docs/conventions.md).  Coming back to the first tilt takes out steady drift;
    what x moves, which it should not, tells how well y is known.  A large z is taken out by
    the stage.
    """
    target = belief.target(action.target)
    before_z_um = rig.microscope.stage.pose().z_um
    alpha_0, beta_0 = belief.asked_deg
    looks: list[tuple[float, Located]] = []
    for alpha_deg in (action.low_alpha_deg, action.high_alpha_deg, action.low_alpha_deg):
        achieved = rig.move(action.target, PartialPose(alpha_deg=alpha_deg)).achieved
        tan = math.tan(math.radians(achieved.alpha_deg))
        seen = target if not looks else _expected(target, looks, tan, math.radians(alpha_0))
        look = _look(seen, rig, rig.plan.height.electrons_per_px)
        rig.emit(look)
        if not look.found:
            rig.move(action.target, PartialPose(alpha_deg=alpha_0))
            rig.emit(_no_height(action.target, f"at {alpha_deg:.1f} deg: {look.reason}"))
            return
        looks.append((tan, look))
    z_um, sigma_um = height_um(looks, math.cos(math.radians(beta_0)))
    credible = 5 * rig.microscope.capabilities.eucentric_sigma_um + 0.5
    ok = abs(z_um) < credible and sigma_um < rig.plan.height.sigma_below_um
    moved = ok and abs(z_um) > rig.plan.height.move_above_um
    back = PartialPose(alpha_deg=alpha_0)
    rig.move(action.target, back.replace(z_um=before_z_um - z_um) if moved else back)
    if ok:
        rig.emit(
            HeightFound(
                target=action.target, offset_um=z_um, sigma_um=sigma_um, ok=True, applied=moved
            )
        )
    else:
        rig.emit(_no_height(action.target, f"{z_um:.2f} +- {sigma_um:.2f} um is not credible"))


def _expected(
    target: Target, looks: Sequence[tuple[float, Located]], tan: float, alpha_0: float
) -> Target:
    """The crystal with the first look as its template, where it should appear at this tilt.

    What it moved on the way to the first look tells its height well enough for that.
    """
    tan_first, first = looks[0]
    x_um, y_um = first.position_um
    per_tan = (y_um - target.y_um) / (tan_first - math.tan(alpha_0))
    y_expected = y_um + per_tan * (tan - tan_first)
    return replace(target, last_located=first, x_um=x_um, y_um=y_expected)


def height_um(looks: Sequence[tuple[float, Located]], cos_beta: float) -> tuple[float, float]:
    """Height and its sigma in um from three looks at low, high, low tilt: (tan alpha, look).

    The stage's x and y were not moved in between: the shift in the picture is free of their
    read-back noise.
    """
    (t0, a), (t1, b), (t2, c) = looks
    lever = -(t1 - (t0 + t2) / 2) / cos_beta
    y_um = b.offset_um[1] - (a.offset_um[1] + c.offset_um[1]) / 2
    x_um = b.offset_um[0] - (a.offset_um[0] + c.offset_um[0]) / 2
    return y_um / lever, math.hypot(SHIFT_SIGMA_UM, x_um) / abs(lever)


def _no_height(target: str, reason: str) -> HeightFound:
    return HeightFound(
        target=target, offset_um=0.0, sigma_um=0.0, ok=False, applied=False, reason=reason
    )


def _look(target: Target, rig: Rig, electrons_per_px: float | None = None) -> Located:
    """One tracking picture and where the crystal is in it."""
    tracking = rig.plan.tracking
    if electrons_per_px is not None:
        tracking = tracking.replace(electrons_per_px=electrons_per_px)
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
    template, at_px = _rescaled(reference.electrons, seen, view, _template_um(target))
    expected = view.pixel(target.x_um, target.y_um)
    half_px = TEMPLATE_FACTOR * max(target.pick.diameter_nm / 2, target.pick.radius_nm)
    half_px = min(half_px, 600.0) / view.pixel_size_nm
    shift = locate_template(
        template,
        at_px,
        half_px,
        frame.electrons(),
        expected,
        search_px=tracking.search_nm / view.pixel_size_nm,
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


def _template_um(target: Target) -> tuple[float, float]:
    """Where the crystal was in the picture that serves as template."""
    last = target.last_located
    return (target.pick.x_um, target.pick.y_um) if last is None else last.position_um


def _rescaled(
    image: NDArray[np.float32], seen: View, view: View, at_um: tuple[float, float]
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """The reference at the new pixel size, and where the crystal lies in it."""
    x_px, y_px = seen.pixel(*at_um)
    factor = seen.pixel_size_nm / view.pixel_size_nm
    if abs(factor - 1) < 1e-3:
        return image, (x_px, y_px)
    zoomed = ndimage.zoom(without_outliers(image), factor, order=1, grid_mode=True, mode="nearest")
    return zoomed.astype(np.float32), ((x_px + 0.5) * factor - 0.5, (y_px + 0.5) * factor - 0.5)
