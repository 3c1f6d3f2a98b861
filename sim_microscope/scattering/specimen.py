"""What the scanned beam goes through: a crystal slab, its damage, its defects, its film.

Damage moves each atom along a fixed random direction of its own, the farther the higher the
fluence: a spherical Cauchy distribution, whose characteristic function exp(-2 pi gamma g) is
exactly an exponential fading of the Bragg amplitudes with the length of g.  So the same
atoms move on as the dose goes on, and order fades as it does in the diffraction patterns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim_microscope.scattering.atom_lottery import normal, normal_vector, uniform
from sim_microscope.scattering.atoms import Atoms, carbon_film, crystal_slab
from sim_microscope.scattering.electron import lorentz_factor, wavelength_A
from sim_microscope.scattering.scattering_factors import scattering_factor_A
from sim_microscope.structures.crystal import Structure

Array = NDArray[np.float64]

_FARTHEST_A = 15.0
_HEAVY = 14


@dataclass(frozen=True, eq=False)
class ScanSpecimen:
    """A crystal under the scan.

    Attributes
    ----------
    orientation
        Active rotation, v_column = R @ v_crystal, (3, 3).
    disorder_A
        Scale gamma of the Cauchy displacement; ``DamageModel.disorder_A`` gives it.
    lost_fraction
        Fraction of the atoms lighter than silicon that has left (mass loss).
    missing_cells
        Fraction of unit cells that are missing at random, whole.
    carbon_nm
        Support film behind the crystal.
    frozen
        Thermal displacements frozen in at random; otherwise the Debye-Waller factor.
    faces
        Half-spaces (normal x, y, z, distance in Å) in the column frame that the crystal is cut to:
        atoms with n . r <= d stay; (m, 4).
    origin_A
        Where the lattice's origin lies, (x, y, z).
    """

    structure: Structure
    orientation: Array
    thickness_nm: float
    disorder_A: float = 0.0
    lost_fraction: float = 0.0
    missing_cells: float = 0.0
    carbon_nm: float = 0.0
    frozen: bool = True
    faces: Array | None = None
    origin_A: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not 0 < self.thickness_nm <= 300:
            raise ValueError(
                f"a thickness of {self.thickness_nm:g} nm is outside 0 to 300 nm for a scan; "
                f"nothing was simulated"
            )

    @property
    def depth_A(self) -> float:
        """From the entrance surface to the exit of the film, Å."""
        return 10 * (self.thickness_nm + self.carbon_nm)

    def phase_rate_per_A(self, energy_keV: float) -> float:
        """Mean phase per depth, gamma lambda F(000) / V, in radian per Å."""
        f_000 = sum(
            count * float(scattering_factor_A(z, 0.0))
            for z, count in self.structure.composition.items()
        )
        scale = lorentz_factor(energy_keV) * wavelength_A(energy_keV)
        return scale * f_000 / self.structure.volume_cubic_A

    def atoms(self, low_A: Array, high_A: Array, *, seed: int) -> Atoms:
        """Atoms between two corners (x, y) in Å, damaged; the same seed gives the same damage."""
        thickness = 10 * self.thickness_nm
        strays = _FARTHEST_A if self.disorder_A > 0 else 0.0
        atoms = crystal_slab(
            self.structure,
            self.orientation,
            low_A=np.append(low_A - strays, 0.0),
            high_A=np.append(high_A + strays, thickness),
            origin_A=self.origin_A,
        )
        if self.faces is not None:
            outside = atoms.positions_A @ self.faces[:, :3].T > self.faces[:, 3]
            atoms = atoms.select(np.logical_not(outside.any(axis=1)))
        if self.missing_cells > 0:
            atoms = atoms.select(uniform(atoms.cell, seed=seed, stream=5) >= self.missing_cells)
        if self.lost_fraction > 0:
            stays = uniform(atoms.identity, seed=seed, stream=4) >= self.lost_fraction
            atoms = atoms.select(stays | (atoms.atomic_number >= _HEAVY))
        if self.disorder_A > 0:
            atoms = atoms.displaced(self._cauchy_displacement(atoms, seed))
            x_y = atoms.positions_A[:, :2]
            here = (x_y >= low_A) & (x_y < high_A)
            atoms = atoms.select(here[:, 0] & here[:, 1])
        if self.carbon_nm > 0:
            film = carbon_film(
                low_A=np.append(low_A, thickness), high_A=np.append(high_A, self.depth_A), seed=seed
            )
            atoms = atoms.joined(film)
        return atoms

    def _cauchy_displacement(self, atoms: Atoms, seed: int) -> Array:
        """A normal vector over the modulus of a normal number, cut off far out; (n, 3) in Å."""
        direction = normal_vector(atoms.identity, seed=seed, stream=3)
        chi = np.abs(normal(atoms.identity, seed=seed, stream=2))
        by = self.disorder_A * direction / np.maximum(chi, 1e-6)[:, None]
        length = np.maximum(np.linalg.norm(by, axis=1, keepdims=True), 1e-12)
        return np.asarray(by * np.minimum(1, _FARTHEST_A / length))
