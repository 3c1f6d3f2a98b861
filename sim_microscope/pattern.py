"""Parallel-beam diffraction of whatever the disc illuminates, weighted by area.

The disc is sampled at a few hundred points; each crystal contributes its own pattern at its mean
thickness, bend and damage, the rest contributes the film's halo or the bare beam.  Where crystals
overlap each gets its share of the electrons, as if they scattered side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim_microscope.geometry import axis_to_beam_deg
from sim_microscope.gold import GoldInBeam, gold_pattern, on_gold
from sim_microscope.layout import Crystal
from sim_microscope.optics import SimulatedOptics
from sim_microscope.scattering.diffraction import (
    CrystalInBeam,
    DiffractionCamera,
    diffraction_pattern,
)
from sim_microscope.scenario import Zone
from sim_microscope.specimen import Specimen, TruePose
from sim_microscope.zones import family

if TYPE_CHECKING:
    from sim_microscope.wear import Wear

Array = NDArray[np.float64]

_ACROSS = 23
_SPOT_SIGMA_PX = 0.55
"""Detector and lens blur of a spot."""


@dataclass(frozen=True, eq=False)
class Illuminated:
    """One crystal's share of the beam."""

    crystal: Crystal
    share: float
    thickness_nm: float
    thickness_spread: float
    carbon_nm: float
    centre_um: tuple[float, float]
    """Mean illuminated point, holder frame."""
    misorientation_deg: float
    """Of the nearest wanted zone from the beam."""
    zone: tuple[int, int, int]
    """Member of the family that lies nearest the beam."""
    family: tuple[int, int, int]
    """As the scenario names it."""
    tilt_mrad: tuple[float, float]
    """Tilt vector in the frame of the detector, to the Laue circle's centre."""


@dataclass(frozen=True, eq=False)
class DiscContents:
    """What the parallel beam illuminates."""

    crystals: list[Illuminated]
    empty_share: float
    empty_carbon_nm: float
    centre_um: tuple[float, float]
    """Holder point on the beam's axis."""
    gold: GoldInBeam | None = None
    """The standard, where the disc lies on it."""


def disc_contents(specimen: Specimen, optics: SimulatedOptics, pose: TruePose) -> DiscContents:
    """Sample the illuminated disc."""
    middle = optics.beam_centre_um()
    radius = optics.beam_diameter_nm() * 5e-4
    axis = np.linspace(-1, 1, _ACROSS) * radius
    u, v = np.meshgrid(axis, axis)
    inside = np.hypot(u, v) <= radius * 1.001
    column_x, column_y = middle[0] + u[inside], middle[1] + v[inside]
    x, y = specimen.to_holder(column_x, column_y, pose)
    centre = specimen.to_holder(np.array(middle[0]), np.array(middle[1]), pose)
    R = pose.tilt()
    upright = optics.beam_upright()
    to_detector = np.linalg.inv(optics.column_from_detector())
    carbon = specimen.solid_nm(x, y) / R[2, 2]
    open_to_beam = 1 - specimen.bar_cover(x, y)
    thickness = []
    for crystal in specimen.crystals:
        at = specimen.to_column(*crystal.centre_um, pose)
        if (
            np.hypot(at[0] - middle[0], at[1] - middle[1])
            > radius + crystal.shape.reach_nm() * 1e-3
        ):
            continue
        t = crystal.shape.thickness_nm((column_x - at[0]) * 1e3, (column_y - at[1]) * 1e3, R)
        if (t > 1).any():
            thickness.append((crystal, t))
    covered = np.sum([t > 1 for _, t in thickness], axis=0) if thickness else np.zeros(x.shape)
    weight = open_to_beam / x.size
    lit = []
    for crystal, t in thickness:
        here = t > 1
        share = weight * here / np.maximum(covered, 1)
        if share.sum() < 1e-4:
            continue
        mean = _mean(t, share)
        spread = np.sqrt(3 * max(_mean((t - mean) ** 2, share), 0.0)) / mean
        point = (_mean(x, share), _mean(y, share))
        orientation = upright @ R @ crystal.orientation_at(*point)
        family_name, zone, angle = nearest_zone(crystal, orientation)
        axis = orientation @ crystal.structure.direction(zone)
        lit.append(
            Illuminated(
                crystal=crystal,
                share=float(share.sum()),
                thickness_nm=mean,
                thickness_spread=float(min(spread, 0.9)),
                carbon_nm=_mean(carbon, share),
                centre_um=point,
                misorientation_deg=angle,
                zone=zone,
                family=family_name,
                tilt_mrad=_tilt_mrad(to_detector @ axis[:2] * np.sign(axis[2]), angle),
            )
        )
    coated = on_gold(specimen.gold, x, y)
    empty = weight * (covered == 0) * ~coated
    golden = weight * (covered == 0) * coated
    middle_um = (float(centre[0]), float(centre[1]))
    gold = None
    if specimen.gold is not None and golden.sum() > 0:
        gold = GoldInBeam(
            specimen.gold,
            specimen.seed,
            float(golden.sum()),
            middle_um,
            optics.beam_diameter_nm(),
            _mean(carbon, golden),
        )
    return DiscContents(
        lit,
        float(empty.sum()),
        _mean(carbon, empty) if empty.sum() > 0 else 0.0,
        middle_um,
        gold,
    )


def pattern_per_electron(
    contents: DiscContents,
    optics: SimulatedOptics,
    pose: TruePose,
    shape: tuple[int, int],
    wear: Wear,
) -> Array:
    """Expected intensity per incident electron, float64 `shape`."""
    true = optics.true
    azimuth = true.tilt_axis_azimuth_deg
    row, col = optics.direct_beam_px()
    camera = DiffractionCamera(
        shape=shape,
        sampling_mrad=optics.sampling_mrad(),
        centre_px=(shape[0] // 2 + float(row), shape[1] // 2 + float(col)),
        spot_sigma_px=_SPOT_SIGMA_PX,
        # the scattering code mirrors columns after the turn, the contract rows before it
        rotation_deg=180.0 - azimuth if true.diffraction_mirrored else azimuth,
        mirrored=true.diffraction_mirrored,
        distortion=optics.camera_distortion() if true.ellipticity else None,
    )
    total = np.zeros(shape)
    upright = optics.beam_upright()
    for lit in contents.crystals:
        crystal = lit.crystal
        in_beam = CrystalInBeam(
            crystal.structure,
            upright @ pose.tilt() @ crystal.orientation_at(*lit.centre_um),
            lit.thickness_nm,
            thickness_spread=lit.thickness_spread,
            mosaic_deg=crystal.mosaic_deg,
            fade=wear.fade(crystal.structure, lit.centre_um),
            carbon_nm=lit.carbon_nm,
        )
        total += lit.share * diffraction_pattern(
            in_beam,
            camera,
            energy_keV=optics.scenario.energy_keV,
            convergence_mrad=optics.now.convergence_semiangle_mrad,
            strong_beams=300,
        )
    if contents.empty_share > 0:
        reference = specimen_free(contents.empty_carbon_nm, optics)
        total += contents.empty_share * diffraction_pattern(
            reference,
            camera,
            energy_keV=optics.scenario.energy_keV,
            convergence_mrad=optics.now.convergence_semiangle_mrad,
        )
    if contents.gold is not None:
        total += contents.gold.share * gold_pattern(
            contents.gold, camera, optics.scenario.energy_keV
        )
    return total


def specimen_free(carbon_nm: float, optics: SimulatedOptics) -> CrystalInBeam:
    """A crystal of no thickness on a film: the direct beam and the film's halo."""
    from sim_microscope.structures import load_structure

    return CrystalInBeam(load_structure("SrTiO3"), np.eye(3), 0.0, carbon_nm=carbon_nm)


def nearest_zone(crystal: Crystal, orientation: Array) -> tuple[Zone, Zone, float]:
    """Family, member nearest the beam, and its angle in degrees, of the wanted zones."""
    found = (
        (zone, member, axis_to_beam_deg(orientation @ crystal.structure.direction(member)))
        for zone in crystal.zones
        for member in family(crystal.structure, zone)
    )
    return min(found, key=lambda entry: entry[2])


def _tilt_mrad(transverse: Array, angle_deg: float) -> tuple[float, float]:
    length = float(np.hypot(*transverse))
    if length == 0:
        return 0.0, 0.0
    x, y = np.deg2rad(angle_deg) * 1e3 * transverse / length
    return float(x), float(y)


def _mean(values: Array, weights: Array) -> float:
    return float((values * weights).sum() / weights.sum())
