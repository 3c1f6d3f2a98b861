"""Parallel-beam and nano-beam diffraction of one crystal at any tilt, as expected intensity.

Pixel (row r, col c) shows the transverse wave vector g_x = (c - c_x) s, g_y = (r - c_y) s, with
s = sampling / lambda; the angle scale is linear in g, as everywhere in the project.  A camera
turned by ``rotation_deg`` shows the column's +x axis at that angle from its own +col towards +row;
a mirrored one has its columns reversed afterwards.

Every incident electron is accounted for: Bragg beams (dynamical near the sphere, see ``bloch``),
thermal and damage diffuse scattering from the same atoms, and energy losses that follow
both with a narrow Lorentzian.  Counting statistics belong to the detector, not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim_microscope.scattering.bloch import Fade, beam_intensities, importance
from sim_microscope.scattering.diffuse import add_background
from sim_microscope.scattering.electron import lorentz_factor, wavelength_A
from sim_microscope.scattering.ewald import beams_near_sphere
from sim_microscope.scattering.spot_image import paint_spots
from sim_microscope.scattering.structure_factors import StructureFactors, structure_factors
from sim_microscope.structures.crystal import Structure
from sim_microscope.structures.orientation import rotation_by_vector

Array = NDArray[np.float64]

_MOST_BEAMS = 3000
_LEAST_WEIGHT = 1e-8


@dataclass(frozen=True)
class DiffractionCamera:
    """Geometry of the pattern: pixels, angular sampling, where the direct beam lands."""

    shape: tuple[int, int]
    sampling_mrad: float
    centre_px: tuple[float, float]
    """(row, col) of the direct beam."""
    spot_sigma_px: float = 1.0
    rotation_deg: float = 0.0
    mirrored: bool = False
    distortion: Array | None = None
    """(2, 2): what becomes of (x, y) on the detector about the direct beam; none if not given."""

    def to_pixels(self, angle_mrad: Array) -> tuple[Array, Array]:
        """(rows, cols) of scattering angles (n, 2) given as (x, y) in the column frame."""
        turn = np.deg2rad(self.rotation_deg)
        x, y = angle_mrad.T / self.sampling_mrad
        cols = np.cos(turn) * x - np.sin(turn) * y
        rows = np.sin(turn) * x + np.cos(turn) * y
        if self.mirrored:
            cols = -cols
        if self.distortion is not None:
            cols, rows = np.asarray(self.distortion) @ np.stack([cols, rows])
        return self.centre_px[0] + rows, self.centre_px[1] + cols


@dataclass(frozen=True, eq=False)
class CrystalInBeam:
    """What the beam passes through.

    ``orientation`` is the active rotation R, v_column = R @ v_crystal; ``thickness_spread`` the
    relative half-width of a uniform distribution of thickness in the illuminated area (facets,
    wedge); ``mosaic_deg`` the standard deviation of the misorientation per axis; ``fade`` the
    factor on the Bragg intensity as a function of the length of g in 1/Å (see ``damage``);
    ``carbon_nm`` a support film behind it.
    """

    structure: Structure
    orientation: Array
    thickness_nm: float
    thickness_spread: float = 0.0
    mosaic_deg: float = 0.0
    fade: Fade | None = None
    carbon_nm: float = 0.0

    def __post_init__(self) -> None:
        r = np.asarray(self.orientation)
        if r.shape != (3, 3) or not (np.abs(r @ r.T - np.eye(3)) < 1e-6).all():
            raise ValueError(
                f"the orientation {r.tolist()} is not a rotation (R @ R.T must be 1 within 1e-6); "
                f"no pattern was computed. Build it with rotation_for_zone"
            )
        if not 0 <= self.thickness_nm < 2000:
            raise ValueError(
                f"a thickness of {self.thickness_nm:g} nm is outside 0 to 2000 nm; "
                f"no pattern was computed"
            )


@dataclass(frozen=True, eq=False)
class Spots:
    """Bragg beams: angles in mrad (n, 2) as (x, y) in the column frame, intensity (n,), hkl (n, 3).

    Intensities sum to one; the direct beam is among them, once per orientation sampled.
    """

    angle_mrad: Array
    intensity: Array
    hkl: NDArray[np.int64]


def bragg_spots(
    crystal: CrystalInBeam,
    *,
    energy_keV: float,
    convergence_mrad: float = 0.0,
    g_max_per_A: float = 0.0,
    strong_beams: int = 450,
) -> Spots:
    """Dynamical intensities of all Bragg beams, averaged over thickness, mosaic and convergence.

    ``convergence_mrad`` is the semi-angle of the (incoherently treated) illumination; beams beyond
    ``g_max_per_A`` matter only to the others and are included as far as they do.
    """
    lam = wavelength_A(energy_keV)
    factors = structure_factors(crystal.structure)
    g_max_per_A = max(g_max_per_A, 1.6, factors.g_max_per_A / 2)
    spread = np.hypot(np.deg2rad(crystal.mosaic_deg), convergence_mrad * 1e-3 / 2)
    t = 10 * crystal.thickness_nm * (1 + crystal.thickness_spread * np.linspace(-0.8, 0.8, 5))
    t = np.maximum(t if crystal.thickness_spread > 0 else t[2:3], 0.1)
    s_max = float(
        np.clip(8 / t.max() + 30 * _inverse_extinction_per_A(factors, energy_keV), 0.02, 0.15)
    )
    parts: list[tuple[Array, Array, NDArray[np.int64]]] = []
    for weight, tilt in _gaussian_cubature(float(spread)):
        orientation = rotation_by_vector(tilt) @ crystal.orientation
        beams = beams_near_sphere(
            factors, orientation, wavelength_A=lam, g_max_per_A=g_max_per_A, s_max_per_A=s_max
        )
        rank = importance(factors, beams, float(t.mean()), energy_keV=energy_keV)
        order = np.argsort(-rank, kind="stable")[:_MOST_BEAMS]
        beams = beams.take(order[rank[order] > _LEAST_WEIGHT])
        by_thickness = beam_intensities(
            factors, beams, t, energy_keV=energy_keV, strong=strong_beams, fade=crystal.fade
        )
        parts.append((beams.g_per_A * lam * 1e3, weight * by_thickness.mean(axis=0), beams.hkl))
    angle, intensity, hkl = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Spots(angle, intensity, hkl)


def diffraction_pattern(
    crystal: CrystalInBeam,
    camera: DiffractionCamera,
    *,
    energy_keV: float,
    convergence_mrad: float = 0.0,
    strong_beams: int = 450,
) -> NDArray[np.float32]:
    """Expected intensity per incident electron on each pixel, float32 ``camera.shape``.

    The sum is the fraction of the beam that lands on the camera.
    """
    corner = np.abs(np.array([[0, 0], camera.shape]) - np.array(camera.centre_px)).max(axis=0)
    reach = float(np.hypot(*corner)) * camera.sampling_mrad * 1e-3 / wavelength_A(energy_keV)
    spots = bragg_spots(
        crystal,
        energy_keV=energy_keV,
        convergence_mrad=convergence_mrad,
        g_max_per_A=reach,
        strong_beams=strong_beams,
    )
    rows, cols = camera.to_pixels(spots.angle_mrad)
    sigma = float(np.hypot(camera.spot_sigma_px, convergence_mrad / 2 / camera.sampling_mrad))
    bragg = paint_spots(camera.shape, rows, cols, spots.intensity, sigma)
    return add_background(
        bragg,
        crystal.structure,
        thickness_nm=crystal.thickness_nm,
        carbon_nm=crystal.carbon_nm,
        fade=crystal.fade,
        energy_keV=energy_keV,
        sampling_mrad=camera.sampling_mrad,
        centre_px=camera.centre_px,
    ).astype(np.float32)


def _inverse_extinction_per_A(factors: StructureFactors, energy_keV: float) -> float:
    """Strongest |U_g| / K, in 1/Å."""
    scale = lorentz_factor(energy_keV) * wavelength_A(energy_keV)
    return scale * factors.strongest_A / (np.pi * factors.structure.volume_cubic_A)


def _gaussian_cubature(sigma_rad: float) -> list[tuple[float, Array]]:
    """Weights and tilts that integrate a 2-D Gaussian to fifth degree (Stroud, E2 r2 5-1)."""
    if sigma_rad < 1e-4:
        return [(1.0, np.zeros(3))]
    azimuth = np.arange(6) * np.pi / 3 + 0.3
    ring = 2 * sigma_rad * np.stack([np.cos(azimuth), np.sin(azimuth), 0 * azimuth], axis=1)
    return [(0.5, np.zeros(3)), *((1 / 12, tilt) for tilt in ring)]
