"""What a plan will need, before any beam: fluence, time and bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from controller.plan.run import RunPlan

MOVE_S = 6.0
"""A stage move with its settling, typically."""
BYTES_PER_ELECTRON = 4
PATTERNS_PER_TARGET = 3
PICTURES_PER_TARGET = 5
FINE_ELECTRONS = 10_000.0
"""On the crystal, of a pattern near the axis; `decision.dose_plan` decides case by case."""
ILLUMINATED_NM = 200.0
"""Disc on a crystal of 300 nm; larger crystals take more electrons at the same fluence."""


@dataclass(frozen=True)
class Line:
    """One step of the run: how often, and what one costs."""

    step: str
    count: int
    fluence_e_per_A2: float
    """Planned, on the specimen, each time."""
    where: str
    seconds: float
    megabytes: float


@dataclass(frozen=True)
class Budget:
    """The forecast of a run."""

    lines: tuple[Line, ...]
    before_scan_e_per_A2: float
    """On a crystal, planned, everything before its scan."""
    scan_e_per_A2: float
    hours: float
    gigabytes: float

    @classmethod
    def of(cls, plan: RunPlan, tiles: int) -> Budget:
        """Forecast for `tiles` survey tiles and the crystals that the plan may visit.

        Planned means: the ledger books up to a third more, as an upper bound.
        """
        visits = min(plan.targets.max_visited, max(3 * plan.targets.wanted, plan.targets.wanted))
        scans = plan.targets.wanted
        positions = plan.scan.shape[0] * plan.scan.shape[1]
        electrons = positions * plan.scan.electrons_per_position
        fine = min(FINE_ELECTRONS, plan.alignment.max_electrons)
        lines = [
            Line(
                "survey tile", tiles, plan.survey.most_fluence_e_per_A2, "whole field",
                MOVE_S + plan.survey.frame_s, 0.6,
            ),
            Line(
                "tracking picture", PICTURES_PER_TARGET * visits,
                plan.tracking.fluence_e_per_A2, "crystal and surroundings",
                MOVE_S + plan.tracking.frame_s, 0.6,
            ),
            Line(
                "height picture", 3 * visits,
                plan.height.electrons_per_px / (plan.tracking.pixel_size_nm * 10) ** 2,
                "crystal and surroundings", MOVE_S + plan.tracking.frame_s, 0.6,
            ),
            Line(
                "diffraction pattern", PATTERNS_PER_TARGET * visits,
                _fluence(fine, plan), "crystal",
                MOVE_S + plan.alignment.frame_s, 0.2,
            ),
        ]  # fmt: skip
        lines.append(
            Line(
                "4D-STEM scan", scans, plan.scan.fluence_e_per_A2, "crystal",
                MOVE_S + positions * plan.scan.dwell_s + plan.reconstruction.modelled_time_s,
                electrons * BYTES_PER_ELECTRON / 1e6,
            )
        )  # fmt: skip
        before = (
            2 * plan.survey.most_fluence_e_per_A2
            + PICTURES_PER_TARGET * plan.tracking.fluence_e_per_A2
            + 3 * plan.height.electrons_per_px / (plan.tracking.pixel_size_nm * 10) ** 2
            + _fluence(plan.alignment.coarse_electrons, plan)
            + (PATTERNS_PER_TARGET - 1) * _fluence(fine, plan)
        )
        return cls(
            lines=tuple(lines),
            before_scan_e_per_A2=before,
            scan_e_per_A2=plan.scan.fluence_e_per_A2,
            hours=sum(line.count * line.seconds for line in lines) / 3600,
            gigabytes=sum(line.count * line.megabytes for line in lines) / 1000,
        )


def _fluence(electrons: float, plan: RunPlan) -> float:
    """Of so many electrons on the disc that a crystal of 300 nm gets."""
    diameter_nm = min(plan.alignment.beam_diameter_nm, ILLUMINATED_NM)
    return electrons / (math.pi * (5.0 * diameter_nm) ** 2)
