"""Optics settings that give a wanted fluence: the one place that turns e/A2 into current.

1 pA = 6.2415e6 electrons per second.
"""

from __future__ import annotations

import math

from controller.hardware.values import (
    Capabilities,
    DetectorInfo,
    Mode,
    OpticsChange,
    Scan,
    Vector,
)
from controller.plan.run import AlignmentPlan, ScanPlan

ELECTRONS_PER_S_PER_PA = 6.241509e6
UPRIGHT: Vector = (0.0, 0.0)
"""Beam tilt of pictures: every setting names its tilt, so none is carried to the next crystal."""


def image_optics(
    capabilities: Capabilities, *, pixel_size_nm: float, fluence_e_per_A2: float, frame_s: float
) -> OpticsChange:
    """Parallel beam that covers the camera's field with its diagonal."""
    camera = detector_for(capabilities, Mode.IMAGE)
    diameter_nm = 1.05 * pixel_size_nm * math.hypot(*camera.shape)
    low, high = capabilities.beam_diameter_nm
    diameter_nm = min(max(diameter_nm, low), high)
    return OpticsChange(
        mode=Mode.IMAGE,
        pixel_size_nm=pixel_size_nm,
        beam_diameter_nm=diameter_nm,
        probe_current_pA=disc_current_pA(fluence_e_per_A2 / frame_s, diameter_nm),
        beam_tilt_mrad=UPRIGHT if capabilities.beam_tilt_mrad else None,
    )


def diffraction_optics(
    plan: AlignmentPlan,
    *,
    diameter_nm: float,
    fluence_e_per_A2: float,
    beam_tilt_mrad: Vector | None,
) -> OpticsChange:
    """Parallel beam on a part of one crystal; `beam_tilt_mrad` None where it cannot be tilted."""
    return OpticsChange(
        mode=Mode.DIFFRACTION,
        detector_sampling_mrad=plan.detector_sampling_mrad,
        beam_diameter_nm=diameter_nm,
        probe_current_pA=disc_current_pA(fluence_e_per_A2 / plan.frame_s, diameter_nm),
        beam_tilt_mrad=beam_tilt_mrad,
    )


def stem_optics(
    plan: ScanPlan,
    raster: Scan,
    *,
    fluence: float,
    defocus: float,
    beam_tilt_mrad: Vector | None,
) -> OpticsChange:
    """Converged probe; `fluence` in e/A2 over the raster, `defocus` in nm.

    The beam keeps the tilt with which the crystal was aligned.
    """
    electrons = fluence * raster.step_A**2
    return OpticsChange(
        mode=Mode.STEM,
        convergence_semiangle_mrad=plan.convergence_semiangle_mrad,
        detector_sampling_mrad=plan.detector_sampling_mrad,
        defocus_nm=defocus,
        probe_current_pA=electrons / raster.dwell_s / ELECTRONS_PER_S_PER_PA,
        beam_tilt_mrad=beam_tilt_mrad,
    )


def data_raster(plan: ScanPlan) -> Scan:
    """The raster of the data scan."""
    return Scan(shape=plan.shape, step_A=plan.step_A, dwell_s=plan.dwell_s)


def disc_current_pA(flux_e_per_A2_s: float, diameter_nm: float) -> float:
    """Current of a disc of `diameter_nm` at a flux."""
    area_A2 = math.pi * (5.0 * diameter_nm) ** 2
    return flux_e_per_A2_s * area_A2 / ELECTRONS_PER_S_PER_PA


def detector_for(capabilities: Capabilities, mode: Mode, *, scan: bool = False) -> DetectorInfo:
    """The first detector for a mode (that can follow a scan).

    Raises
    ------
    LookupError
        The instrument has none; the plan is refused for it before anything moves.
    """
    for info in capabilities.detectors:
        if mode in info.modes and (info.can_scan or not scan):
            return info
    raise LookupError(
        f"no detector of this instrument works in {mode.value} mode"
        f"{' with a scan' if scan else ''}; there are {[d.name for d in capabilities.detectors]}"
    )
