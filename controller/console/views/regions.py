"""The Map screen: survey, regions, dose, where the stage stands.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from controller.console.night import Night
from controller.hardware.values import Axis
from controller.record.events import FrameStored, Pick


@dataclass(frozen=True)
class Region:
    """A place on the map, in pixels of its tile."""

    name: str
    frame: str
    x_px: float
    y_px: float
    radius_px: float
    x_um: float
    y_um: float
    state: str
    score: float
    diameter_nm: float
    dose_e_per_A2: float
    reason: str


@dataclass(frozen=True)
class MapView:
    """The screen."""

    tiles: tuple[str, ...]
    tile: str
    shape: tuple[int, int]
    pixel_nm: float
    regions: tuple[Region, ...]
    chosen: Region | None
    limits: tuple[tuple[str, float, float], ...]
    pose: dict[str, Any]
    shift_um: tuple[float, float]
    shift_words: str
    thresholds: str
    budget_e_per_A2: float
    """Of one crystal before its scan: full shading."""


SHIFTED_UM = 1.0


def map_view(night: Night, *, tile: str = "", region: str = "") -> MapView | None:
    """What the map shows; None before the first tile."""
    frames = tuple(night.belief.tile_frames.values())
    plan, run = night.plan, night.started
    if not frames or plan is None or run is None:
        return None
    regions = _regions(night)
    chosen = next((r for r in regions if r.name == region), None)
    if chosen is None and regions:
        chosen = next((r for r in regions if r.state == "active"), regions[0])
    shown = tile if tile in frames else (chosen.frame if chosen is not None else frames[0])
    stored = next(
        e.event
        for e in night.entries
        if isinstance(e.event, FrameStored) and e.event.frame == shown
    )
    pixel_nm = stored.optics.pixel_size_nm or plan.survey.pixel_size_nm
    camera = next(d for d in run.capabilities.detectors if stored.optics.mode in d.modes)
    dx, dy = night.belief.map_shift_um
    far = (dx**2 + dy**2) ** 0.5 > SHIFTED_UM
    return MapView(
        tiles=frames,
        tile=shown,
        shape=camera.shape,
        pixel_nm=pixel_nm,
        regions=tuple(r for r in regions if r.frame == shown),
        chosen=chosen,
        limits=tuple(
            (axis.value, *run.stage_limits.ranges[axis])
            for axis in Axis
            if axis in run.stage_limits.ranges
        ),
        pose={} if night.belief.pose is None else night.belief.pose.model_dump(),
        shift_um=(dx, dy),
        shift_words=f"map may be shifted by {dx:+.2f}, {dy:+.2f} µm: look at it again"
        if far
        else "",
        thresholds=f"score > {plan.targets.min_score:g}, "
        f"radius > {plan.targets.min_radius_nm:g} nm",
        budget_e_per_A2=plan.alignment.budget_e_per_A2,
    )


def _regions(night: Night) -> list[Region]:
    belief = night.belief
    pixels = {
        e.event.frame: e.event.optics.pixel_size_nm or 1.0
        for e in night.entries
        if isinstance(e.event, FrameStored)
    }
    return [
        _region(
            target.name,
            target.pick,
            target.status,
            pixels.get(target.pick.frame, 1.0),
            belief.spent_e_per_A2.get(target.name, 0.0),
            target.reason or target.pick.reason,
        )
        for target in belief.targets.values()
    ]


def _region(name: str, pick: Pick, state: str, pixel_nm: float, dose: float, reason: str) -> Region:
    return Region(
        name=name,
        frame=pick.frame,
        x_px=pick.x_px,
        y_px=pick.y_px,
        radius_px=pick.radius_nm / pixel_nm,
        x_um=pick.x_um,
        y_um=pick.y_um,
        state=state,
        score=pick.score,
        diameter_nm=pick.diameter_nm,
        dose_e_per_A2=dose,
        reason=reason,
    )
