"""After an interruption: whether the specimen is still where the map says."""

from __future__ import annotations

import math

from controller.decision.actions import CheckMap
from controller.decision.illumination import detector_for, image_optics
from controller.decision.rig import Rig
from controller.hardware.values import Mode, PartialPose, Purpose
from controller.perception.tracking import locate_template
from controller.record.events import MapChecked

TEMPLATE_SHARE = 0.35
"""Half-width of the template in widths of the tile."""
SEARCH_SHARE = 0.12
"""How far it is looked for, in widths of the tile."""
LEAST_CORRELATION = 0.25
MOST_UM = 1.5
"""A map that has moved further is not trusted: the dose map lies on the same specimen."""


def check_map(action: CheckMap, rig: Rig) -> None:
    """Take a survey tile again, as it was taken, and see how far the specimen has moved."""
    survey = rig.plan.survey
    scope = rig.microscope
    camera = detector_for(scope.capabilities, Mode.IMAGE)
    before, seen = rig.stored_frame(action.frame)
    rig.move(
        None,
        PartialPose(
            x_um=action.x_um,
            y_um=action.y_um,
            alpha_deg=seen.pose.alpha_deg,
            beta_deg=seen.pose.beta_deg,
        ),
    )
    scope.optics.apply(
        image_optics(
            scope.capabilities,
            pixel_size_nm=survey.pixel_size_nm,
            fluence_e_per_A2=survey.fluence_e_per_A2,
            frame_s=survey.frame_s,
        )
    )
    frame, stored = rig.take_frame(
        area=f"S{action.tile:02d}",
        target=None,
        purpose=Purpose.SURVEY,
        detector=camera.name,
        duration_s=survey.frame_s,
    )
    view = rig.view(frame.data.shape, frame.optics, frame.pose)
    rows, cols = frame.data.shape
    centre = ((cols - 1) / 2, (rows - 1) / 2)
    expected = view.pixel(*seen.specimen_um(*centre))
    shift = locate_template(
        before.electrons,
        centre,
        TEMPLATE_SHARE * min(rows, cols),
        rig.stored_frame_electrons(stored.frame),
        expected,
        search_px=SEARCH_SHARE * min(rows, cols),
    )
    was_um = view.specimen_um(*expected)
    is_um = view.specimen_um(expected[0] + shift.dx_px, expected[1] + shift.dy_px)
    moved = (is_um[0] - was_um[0], is_um[1] - was_um[1])
    reason = ""
    if shift.correlation < LEAST_CORRELATION:
        reason = (
            f"tile {action.tile} does not look as it did (correlation {shift.correlation:.2f}, at "
            f"least {LEAST_CORRELATION:g} is needed)"
        )
    elif math.hypot(*moved) > MOST_UM:
        reason = f"the specimen has moved by {math.hypot(*moved):.2f} um (at most {MOST_UM:g})"
    rig.emit(
        MapChecked(
            tile=action.tile,
            frame=stored.frame,
            shift_um=moved,
            correlation=shift.correlation,
            found=not reason,
            reason=reason,
        )
    )
