"""Can this instrument carry out this plan?  Every reason against it at once, before any beam."""

from __future__ import annotations

import math
from collections.abc import Iterator

from controller.hardware.values import (
    Axis,
    Capabilities,
    DetectorInfo,
    Mode,
    StageLimits,
)
from controller.plan.budget import Budget
from controller.plan.run import RunPlan

NEEDED_SETTINGS = frozenset(
    {
        "mode",
        "pixel_size_nm",
        "detector_sampling_mrad",
        "beam_diameter_nm",
        "probe_current_pA",
        "convergence_semiangle_mrad",
        "defocus_nm",
    }
)
"""Of the optics: what `decision.illumination` changes."""
BOUND = 1.3
"""The ledger books upper bounds, this much above the planned mean."""
SPARE_GB = 0.5
"""Left free on the disk whatever happens; a scan refuses to begin with less."""
PA_TO_ELECTRONS_PER_S = 6.241509e6


def problems(
    plan: RunPlan,
    capabilities: Capabilities,
    limits: StageLimits,
    *,
    tiles: int,
    free_bytes: int | None = None,
) -> list[str]:
    """Why the plan cannot run here, one sentence each with value, limit and remedy; [] if it can.

    Parameters
    ----------
    limits
        What vendor, holder and site allow together.
    free_bytes
        On the disk of the run folder, if that is known.
    """
    return [
        *_stage(plan, limits),
        *_detectors(plan, capabilities),
        *_settings(capabilities),
        *_scan(plan, capabilities),
        *_dose(plan, tiles),
        *_calibration(plan),
        *_disk(plan, tiles, free_bytes),
    ]


def _stage(plan: RunPlan, limits: StageLimits) -> Iterator[str]:
    for axis, span in plan.limits.stage_limits().ranges.items():
        if axis not in limits.ranges:
            yield f"limits.{axis.value}: this stage has no such axis; remove the key"
            continue
        low, high = limits.ranges[axis]
        if span[0] < low or span[1] > high:
            yield (
                f"limits.{axis.value} = [{span[0]:g}, {span[1]:g}] is unreachable: the holder "
                f"allows {low:g} .. {high:g}; give a range inside that, or another holder"
            )
    if Axis.BETA not in limits.ranges:
        yield "this holder has no beta axis: zone axes cannot be reached; insert a double-tilt one"
    for axis, centre, field in (
        (Axis.X, plan.survey.centre_um[0], plan.survey.field_um[0]),
        (Axis.Y, plan.survey.centre_um[1], plan.survey.field_um[1]),
    ):
        low, high = limits.ranges.get(axis, (-math.inf, math.inf))
        if centre - field / 2 < low or centre + field / 2 > high:
            yield (
                f"survey: {axis.value} from {centre - field / 2:g} to {centre + field / 2:g} um is "
                f"outside {low:g} .. {high:g} um; move survey.centre_um or shrink survey.field_um"
            )


def _detectors(plan: RunPlan, capabilities: Capabilities) -> Iterator[str]:
    for mode, scan in ((Mode.IMAGE, False), (Mode.DIFFRACTION, False), (Mode.STEM, True)):
        if mode not in capabilities.modes or not _detector(capabilities, mode, scan):
            what = "scan in STEM mode" if scan else f"{mode.value} mode"
            yield f"this instrument has no detector for {what}; the plan needs one"
    low, high = capabilities.beam_diameter_nm
    diameter = plan.alignment.beam_diameter_nm
    if not low <= diameter <= high:
        yield (
            f"alignment.beam_diameter_nm = {diameter:g} is outside {low:g} .. {high:g} nm; "
            f"give a diameter inside that"
        )


def _settings(capabilities: Capabilities) -> Iterator[str]:
    missing = NEEDED_SETTINGS - capabilities.settings
    if missing:
        yield (
            f"this instrument cannot set {', '.join(sorted(missing))}, which every night changes "
            f"between pictures, patterns and scans; calibrate it in the site file of the driver "
            f"(docs/drivers.md), or use an instrument that can"
        )


def _detector(capabilities: Capabilities, mode: Mode, scan: bool) -> DetectorInfo | None:
    found = (d for d in capabilities.detectors if mode in d.modes and (d.can_scan or not scan))
    return next(found, None)


def _scan(plan: RunPlan, capabilities: Capabilities) -> Iterator[str]:
    engine = capabilities.scan
    if engine is None:
        yield "this instrument cannot scan; 4D-STEM is not possible here"
        return
    shape, dwell_s = plan.scan.shape, plan.scan.dwell_s
    if shape[0] > engine.max_shape[0] or shape[1] > engine.max_shape[1]:
        yield (
            f"scan.shape = {shape} is larger than the scan engine's {engine.max_shape}; "
            f"take fewer positions"
        )
    if dwell_s < engine.min_dwell_s:
        yield (
            f"scan.dwell_s = {dwell_s:g} s is shorter than the detector's "
            f"{engine.min_dwell_s:g} s; dwell longer"
        )
    electrons = plan.scan.electrons_per_position
    current_pA = electrons / dwell_s / PA_TO_ELECTRONS_PER_S
    if current_pA > capabilities.max_current_pA:
        yield (
            f"scan: {electrons:.0f} electrons in {dwell_s:g} s need {current_pA:.3g} pA, the "
            f"gun gives {capabilities.max_current_pA:g} pA; dwell longer or lower the fluence"
        )
    detector = _detector(capabilities, Mode.STEM, scan=True)
    if detector is not None:
        reach = plan.scan.detector_sampling_mrad * min(detector.shape) / 2
        if reach <= plan.scan.convergence_semiangle_mrad:
            yield (
                f"the detector ends at {reach:g} mrad, inside the bright-field disc "
                f"({plan.scan.convergence_semiangle_mrad:g} mrad); "
                f"raise scan.detector_sampling_mrad or take a smaller aperture"
            )


def _dose(plan: RunPlan, tiles: int) -> Iterator[str]:
    limit = plan.budget.specimen_e_per_A2
    need = BOUND * plan.scan.fluence_e_per_A2 + plan.alignment.budget_e_per_A2
    if limit is not None and need > limit:
        yield (
            f"scan.fluence_e_per_A2 = {plan.scan.fluence_e_per_A2:g} books up to {need:.4g} e/A2 "
            f"with everything before it, above budget.specimen_e_per_A2 = {limit:.4g} "
            f"({plan.sample.material}); lower the fluence or raise the budget"
        )
    budget = Budget.of(plan, tiles)
    if BOUND * budget.before_scan_e_per_A2 > plan.alignment.budget_e_per_A2:
        yield (
            f"alignment.budget_e_per_A2 = {plan.alignment.budget_e_per_A2:g} does not cover the "
            f"planned pictures and patterns (about {BOUND * budget.before_scan_e_per_A2:.3g} "
            f"e/A2); raise the budget or lower the fluences"
        )


def _calibration(plan: RunPlan) -> Iterator[str]:
    path = plan.instrument.calibration
    if path is not None and not path.is_file():
        yield (
            f"instrument.calibration = {path} is no file; make one with `lodestem calibrate`, or "
            f"remove the key to take what the instrument believes of itself"
        )


def _disk(plan: RunPlan, tiles: int, free_bytes: int | None) -> Iterator[str]:
    gigabytes = Budget.of(plan, tiles).gigabytes
    if gigabytes > plan.budget.disk_GB:
        yield (
            f"budget.disk_GB = {plan.budget.disk_GB:g} is less than the forecast of "
            f"{gigabytes:.3g} GB; raise it or scan less"
        )
    if free_bytes is not None and free_bytes < 1e9 * (gigabytes + SPARE_GB):
        yield (
            f"the disk of the run folder has {free_bytes / 1e9:.3g} GB free, the forecast is "
            f"{gigabytes:.3g} GB and {SPARE_GB:g} GB stay spare; free some, give another --out, "
            f"or scan less"
        )
