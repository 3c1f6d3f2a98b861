"""One pattern with the crystal it is said to show, and what follows from the two together.

What the fit shares between all explanations: which reflections count, the pattern ready for
apertures, the Bloch model, and which poses a prior allows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.apertures import make_plate
from controller.perception.alignment.bloch import BlochModel
from controller.perception.alignment.optics import relativistic_factor, wavenumber_inv_A
from controller.perception.alignment.pattern import Pattern
from controller.perception.alignment.pose import Pose, Scene
from controller.perception.alignment.result import TiltPrior
from controller.perception.alignment.scale import LatticeMatch
from controller.perception.alignment.spots import Spots
from controller.perception.alignment.structure import CrystalStructure
from controller.perception.alignment.structure_factors import reflections, structure_factors
from controller.perception.alignment.zone import nearest_member

Array = NDArray[np.float64]

_SCALE_SIGMA = 0.015
"""Relative standard deviation of a nominal camera constant."""
_READ_SCALE_SIGMA = 0.0007
"""The same where it was read from the lattice."""
_LARGEST_TABLE = 1_000_000
"""Structure factors tabulated for couplings, at least to 2.2/A."""
_MOST_REFLECTIONS = 60000
_SMALL_CELL_A3 = 500.0
_USUAL_INV_A, _FAR_INV_A = 1.4, (1.4, 2.0, 2.6)


@dataclass(frozen=True)
class Task:
    """One pattern and the crystal it is said to show."""

    pattern: Pattern
    spots: Spots
    structure: CrystalStructure
    zone_uvw: tuple[int, int, int]
    energy_keV: float
    inv_A_per_px: float
    prior: TiltPrior | None
    match: LatticeMatch | None = None
    """What the lattice of the spots is, where that is known; the camera constant is then its."""


def expected_poses(task: Task, poses: list[Pose]) -> list[Pose]:
    """Only what the prior allows: within four sigma, and at least 2 deg of tilt, 8 of rotation."""
    prior = task.prior
    if prior is None or prior.tilt_mrad is None:
        return poses
    allowed = max(4.0 * prior.tilt_sigma_mrad, 35.0)
    kept, turned = [], []
    for pose in poses:
        _, tilt, phi = nearest_member(task.structure, pose.zone, pose.orientation)
        if np.hypot(tilt[0] - prior.tilt_mrad[0], tilt[1] - prior.tilt_mrad[1]) <= allowed:
            kept.append(pose)
            if _is_expected_rotation(prior, np.rad2deg(phi), pose.zone.fold):
                turned.append(pose)
    # the rotation is told apart only up to symmetry: where it excludes everything, it is wrong
    return turned or kept


def _is_expected_rotation(prior: TiltPrior, phi_deg: float, fold: int) -> bool:
    if prior.in_plane_rotation_deg is None:
        return True
    period = 360.0 / fold
    off = (phi_deg - prior.in_plane_rotation_deg + period / 2) % period - period / 2
    return bool(abs(off) <= max(4.0 * prior.in_plane_rotation_sigma_deg, 8.0))


def resolution_inv_A(task: Task) -> float:
    """Largest g worth looking at, in 1/A: within the frame, and within what tables hold.

    Small cells may scatter into the corners of the frame; they are read as far as there are spots,
    in steps, so that tables serve many patterns.
    """
    reach = 0.55 * max(task.pattern.shape) * task.inv_A_per_px
    usual = float(np.clip(np.round(reach, 1), 0.4, _USUAL_INV_A))
    if not is_small(task.structure):
        return usual
    spots = task.spots
    away = np.hypot(spots.x_px - spots.centre_px[0], spots.y_px - spots.centre_px[1])
    # the second farthest: the farthest may be noise
    farthest = 1.03 * float(np.sort(away)[-2:].min(initial=np.inf)) * task.inv_A_per_px
    if len(away) < 2 or farthest <= usual:
        return usual
    return next((far for far in _FAR_INV_A if far >= farthest), _FAR_INV_A[-1])


def is_small(structure: CrystalStructure) -> bool:
    """Few, strong, strongly coupled spots."""
    return structure.volume < _SMALL_CELL_A3


def grid_step_deg(structure: CrystalStructure) -> float:
    """Small cells show few spots, each within a narrow range: a finer grid, still a small one."""
    return 0.5 if is_small(structure) else 1.0


def scene_of(task: Task, g_max: float, centre_sigma_px: float) -> Scene:
    """The pattern ready for apertures, and the reflections up to ``g_max`` (1/A)."""
    known = reflections(task.structure, g_max)
    top = np.sort(np.argsort(-known.strength, kind="stable")[:_MOST_REFLECTIONS])
    wavenumber = wavenumber_inv_A(task.energy_keV)
    unit = relativistic_factor(task.energy_keV) / (np.pi * task.structure.volume)
    spots = task.spots
    bragg = spots.counts if spots.direct is None else np.delete(spots.counts, spots.direct)
    longest = float(np.linalg.norm(task.structure.direct, axis=1).max())
    plate = make_plate(
        task.pattern, spots.background, spots.sigma_px, spots.centre_px,
        spacing_px=1.0 / longest / task.inv_A_per_px,
    )  # fmt: skip
    return Scene(
        plate=plate,
        spots=spots,
        wavenumber=wavenumber,
        g=known.g[top],
        length=np.linalg.norm(known.g[top], axis=1),
        coupling=known.strength[top] * (unit / wavenumber) ** 2,
        inv_A_per_px=task.inv_A_per_px,
        scale_sigma=_READ_SCALE_SIGMA if task.match else _SCALE_SIGMA,
        centre_sigma_px=centre_sigma_px,
        brightest=float(bragg.max(initial=5.0)),
    )


def bloch_model_of(task: Task, g_max: float) -> BlochModel:
    """The crystal at this energy, ready for Bloch waves."""
    # strong potentials of small cells reach far beams, which matter though nobody sees them
    volume = task.structure.volume
    g_max = max(g_max, min((3.0 / (4.0 * np.pi) * _MOST_REFLECTIONS / volume) ** (1 / 3), 3.0))
    g_max = float(np.round(g_max, 1))
    reach = float(
        np.round(np.clip((_LARGEST_TABLE / volume) ** (1 / 3) / 2.0, 2.2, 2.0 * g_max), 1)
    )
    known = reflections(task.structure, g_max)
    top = np.sort(np.argsort(-known.strength, kind="stable")[:_MOST_REFLECTIONS])
    unit = relativistic_factor(task.energy_keV) / (np.pi * task.structure.volume)
    return BlochModel(
        factors=structure_factors(task.structure, reach),
        coupling_unit=unit,
        wavenumber=wavenumber_inv_A(task.energy_keV),
        hkl=known.hkl[top],
        g=known.g[top],
        potential=unit * np.sqrt(known.strength[top]),
        window_inv_A=0.3 if volume < _SMALL_CELL_A3 else 0.15 if volume < 1500 else 0.06,
    )
