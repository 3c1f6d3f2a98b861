"""Cases from abTEM's own Bloch waves: a generator that shares no code with ours."""

import warnings

import numpy as np

from benchmarks.alignment_corpus import Case, crystal
from benchmarks.alignment_patterns import Array, orientation

SMALL = ("SrTiO3", "Au", "Si", "TiO2-rutile", "ZrO2-baddeleyite", "SiO2-quartz")
"""Cells that abTEM computes within a second or two."""


def abtem_reflections(
    case: Case, *, g_max: float = 1.6, sg_max: float = 0.05
) -> tuple[Array, Array]:
    """Transverse g (n, 2) in 1/A and intensities (n,); no absorption, one thickness.

    abTEM takes one displacement for all atoms: their mean is used.
    """
    chosen = crystal(case.structure)
    rotation = orientation(chosen, case.zone, np.array(case.tilt_mrad), case.in_plane_rad)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from abtem.bloch import BlochWaves, StructureFactor
        from ase import Atoms

        atoms = Atoms(chosen.symbols, scaled_positions=chosen.positions, cell=chosen.cell, pbc=True)
        factor = StructureFactor(
            atoms, g_max=2 * g_max + 0.5, parametrization="lobato",
            thermal_sigma=float(np.sqrt(chosen.u_iso.mean())),
        )  # fmt: skip
        waves = BlochWaves(
            factor, energy=case.energy_keV * 1e3, sg_max=sg_max, g_max=g_max,
            orientation_matrix=rotation,
        )  # fmt: skip
        pattern = waves.calculate_diffraction_patterns([case.thickness_nm * 10], lazy=False)
    hkl = np.asarray(pattern.miller_indices)
    intensity = np.asarray(pattern.array, dtype=float).ravel()
    return (hkl @ chosen.reciprocal @ rotation.T)[:, :2], intensity / intensity.sum()
