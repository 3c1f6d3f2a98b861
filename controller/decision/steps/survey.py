"""The survey: tiles at low dose, regions in each, one queue of all."""

from __future__ import annotations

import math

import h5py
import numpy as np
from numpy.typing import NDArray

from controller.decision.actions import SurveyTile
from controller.decision.belief import Belief
from controller.decision.illumination import detector_for, image_optics
from controller.decision.rig import Rig
from controller.hardware.errors import DoseState
from controller.hardware.values import Mode, PartialPose, Purpose
from controller.perception.credible import credible
from controller.perception.protocols import RegionsSeen
from controller.plan.run import SurveyPlan
from controller.record.disk import storing
from controller.record.events import Pick, RegionsFound, TargetsChosen
from models.sequential import ExposureRule


def survey_tile(action: SurveyTile, rig: Rig) -> None:
    """Take a tile and pick regions in it."""
    survey = rig.plan.survey
    scope = rig.microscope
    camera = detector_for(scope.capabilities, Mode.IMAGE)
    rig.move(None, PartialPose(x_um=action.x_um, y_um=action.y_um))
    scope.optics.apply(
        image_optics(
            scope.capabilities,
            pixel_size_nm=survey.pixel_size_nm,
            fluence_e_per_A2=survey.fluence_e_per_A2,
            frame_s=survey.frame_s,
        )
    )
    frames: list[NDArray[np.generic]] = []
    taken, more = 0.0, survey.electrons_per_px
    while True:
        frame, latest = rig.take_frame(
            area=f"S{action.tile:02d}",
            target=None,
            purpose=Purpose.SURVEY,
            detector=camera.name,
            duration_s=survey.frame_s * more / survey.electrons_per_px,
        )
        if not frames:
            stored = latest
            view = rig.view(frame.data.shape, frame.optics, frame.pose)
        frames.append(frame.data)
        taken += more
        seen = rig.eyes.picker.pick(
            frames,
            detector=camera,
            pixel_size_nm=view.pixel_size_nm,
            incident_electrons_per_px=taken,
        )
        seen = credible(seen, camera.shape, view.pixel_size_nm)
        more, looked_until = further_look(seen, taken, survey)
        if more <= 0:
            break
    labels_path = f"regions/{stored.frame}.h5"
    with storing(f"the regions of {stored.frame}", DoseState.CHARGED):
        (rig.run_dir / "regions").mkdir(exist_ok=True)
        with h5py.File(rig.run_dir / labels_path, "w") as file:
            file.create_dataset("labels", data=seen.labels, compression="gzip")
    picks = []
    for pick in seen.picks:
        x_um, y_um = view.specimen_um(pick.x_px, pick.y_px)
        picks.append(
            Pick(
                x_um=x_um,
                y_um=y_um,
                radius_nm=pick.radius_nm,
                score=pick.score,
                diameter_nm=pick.diameter_nm,
                frame=stored.frame,
                x_px=pick.x_px,
                y_px=pick.y_px,
                reason=pick.reason,
            )
        )
    rig.emit(
        RegionsFound(
            tile=action.tile,
            frame=stored.frame,
            looks=len(frames),
            looked_until=looked_until,
            picks=tuple(picks),
            class_fractions=seen.class_fractions,
            abstained=seen.abstained,
            reason=seen.reason,
            out_of_distribution=seen.out_of_distribution,
            labels_path=labels_path,
        )
    )


def further_look(seen: RegionsSeen, taken: float, survey: SurveyPlan) -> tuple[float, str]:
    """Electrons per pixel to send in a further look at the tile, 0 for none, and why.

    Parameters
    ----------
    seen
        What the picker said of all looks so far.
    taken
        Electrons per pixel sent for them.
    survey
        Says how much all looks may take.
    """
    # the rule speaks of detected electrons, the plan of those that are sent
    share = (seen.electrons_per_px or taken) / taken
    if not share > 0:
        return 0.0, "no electrons were detected"
    rule = ExposureRule(most_e_per_px=max(survey.most, taken) * share)
    detected, why = rule.further(seen, taken * share)
    return detected / share, why


def choose_targets(belief: Belief, rig: Rig) -> None:
    """Merge the picks: best first, no crystal twice, none that the plan does not want."""
    wanted = rig.plan.targets
    chosen: list[Pick] = []
    rejected: list[tuple[str, str]] = []
    for _, pick in sorted(belief.picks, key=lambda item: -item[1].score):
        where = f"({pick.x_um:.2f}, {pick.y_um:.2f}) um"
        twin = next((c for c in chosen if _same_crystal(c, pick)), None)
        if pick.score < wanted.min_score:
            rejected.append((where, f"score {pick.score:.2f} below {wanted.min_score:g}"))
        elif pick.radius_nm < wanted.min_radius_nm:
            rejected.append(
                (where, f"usable radius {pick.radius_nm:.0f} nm below {wanted.min_radius_nm:g} nm")
            )
        elif twin is not None:
            rejected.append((where, f"seen before at ({twin.x_um:.2f}, {twin.y_um:.2f}) um"))
        else:
            chosen.append(pick)
    rig.emit(
        TargetsChosen(
            targets={f"T{n:02d}": pick for n, pick in enumerate(chosen, start=1)},
            rejected=tuple(rejected),
        )
    )


def _same_crystal(a: Pick, b: Pick) -> bool:
    reach_um = max(a.diameter_nm, b.diameter_nm, 2 * a.radius_nm) / 2e3 + 0.1
    if not np.isfinite(reach_um):
        reach_um = 0.3
    return a.frame != b.frame and math.hypot(a.x_um - b.x_um, a.y_um - b.y_um) < reach_um
