"""A strip of evaporated gold beside the field: the standard for camera constant and distortion.

It is seen by diffraction only; pictures show the bare film there.  Which grains the beam meets
depends on the place alone, so the same place gives the same rings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim_microscope.randomness import stream
from sim_microscope.scattering.diffraction import DiffractionCamera
from sim_microscope.scattering.diffuse import add_background
from sim_microscope.scattering.electron import wavelength_A
from sim_microscope.scattering.powder import powder_rings, powder_spots
from sim_microscope.scattering.spot_image import paint_spots
from sim_microscope.scenario import GoldSpec
from sim_microscope.structures import load_structure

Array = NDArray[np.float64]

_PLACE_UM = 0.05
"""Grid on which places count as the same."""
_KEY_OFFSET = 1 << 20


@dataclass(frozen=True)
class GoldInBeam:
    """The gold that a parallel beam illuminates."""

    spec: GoldSpec
    seed: int
    share: float
    """Part of the disc that lies on gold."""
    centre_um: tuple[float, float]
    diameter_nm: float
    carbon_nm: float


def on_gold(spec: GoldSpec | None, x_um: Array, y_um: Array) -> NDArray[np.bool_]:
    """Which holder points are coated."""
    if spec is None:
        return np.zeros(np.shape(x_um), dtype=bool)
    return np.asarray((x_um >= spec.from_x_um) & (np.abs(y_um) <= spec.half_height_um))


def gold_pattern(gold: GoldInBeam, camera: DiffractionCamera, energy_keV: float) -> Array:
    """Expected intensity per incident electron on each pixel, float64 ``camera.shape``."""
    structure = load_structure("Au")
    spec = gold.spec
    rings = powder_rings(structure, spec.thickness_nm, energy_keV)
    lam = wavelength_A(energy_keV)
    volume = np.pi / 4 * gold.share * gold.diameter_nm**2 * spec.thickness_nm
    keys = (int(_KEY_OFFSET + round(c / _PLACE_UM)) for c in gold.centre_um)
    angle, share, sigma_inv_A = powder_spots(
        rings,
        grains=volume / spec.grain_nm**3,
        grain_nm=spec.grain_nm,
        wavelength_A=lam,
        rng=stream(gold.seed, "gold", *keys),
    )
    rows, cols = camera.to_pixels(angle)
    width = float(sigma_inv_A) * lam * 1e3 / camera.sampling_mrad
    bragg = paint_spots(camera.shape, rows[:1], cols[:1], share[:1], camera.spot_sigma_px)
    bragg += paint_spots(
        camera.shape, rows[1:], cols[1:], share[1:], float(np.hypot(camera.spot_sigma_px, width))
    )
    return add_background(
        bragg,
        structure,
        thickness_nm=spec.thickness_nm,
        carbon_nm=gold.carbon_nm,
        fade=None,
        energy_keV=energy_keV,
        sampling_mrad=camera.sampling_mrad,
        centre_px=camera.centre_px,
    )
