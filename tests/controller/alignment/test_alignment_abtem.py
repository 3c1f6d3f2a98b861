"""abTEM's Bloch waves against the pattern generator of these tests, and against the aligner."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from benchmarks.alignment_patterns import Crystal, Detector, diffraction, orientation, record
from controller.perception.alignment import TiltPrior, estimate_tilt, structure_from_cif
from controller.perception.alignment.bloch import (
    THICKNESSES_A,
    BlochModel,
    intensities,
    select_beams,
)
from controller.perception.alignment.optics import relativistic_factor, wavenumber_inv_A
from controller.perception.alignment.structure_factors import reflections, structure_factors

DATA = Path(__file__).parent / "data"
TILT = np.array([12.0, 5.0])


def abtem_intensities(
    crystal: Crystal, rotation: np.ndarray, thickness_A: float, g_max: float, sg_max: float
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n, 3) and intensities (n,) from abTEM."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from abtem.bloch import BlochWaves, StructureFactor
        from ase import Atoms

        atoms = Atoms(
            crystal.symbols, scaled_positions=crystal.positions, cell=crystal.cell, pbc=True
        )
        factor = StructureFactor(
            atoms, g_max=2 * g_max + 0.5, parametrization="lobato",
            thermal_sigma=float(np.sqrt(crystal.u_iso[0])),
        )  # fmt: skip
        waves = BlochWaves(
            factor, energy=200e3, sg_max=sg_max, g_max=g_max, orientation_matrix=rotation
        )
        pattern = waves.calculate_diffraction_patterns([thickness_A], lazy=False)
    return np.asarray(pattern.miller_indices), np.asarray(pattern.array).ravel()


@pytest.mark.parametrize(
    ("name", "g_max", "sg_max"), [("SrTiO3", 1.8, 0.05), ("ZIF-8", 0.55, 0.018)]
)
def test_the_generator_is_abtem_to_a_part_in_a_thousand(
    name: str, g_max: float, sg_max: float
) -> None:
    """Also without an inversion centre (ZIF-8), where the sign of the phase shows."""
    crystal = Crystal.from_cif(DATA / f"{name}.cif")
    rotation = orientation(crystal, (0, 0, 1), TILT / (1 if name == "SrTiO3" else 4), 0.2)
    hkl, expected = abtem_intensities(crystal, rotation, 400.0, g_max, sg_max)
    g, found = diffraction(crystal, rotation, 200, 40.0, g_max=g_max, beams=2000)
    places = (hkl @ crystal.reciprocal @ rotation.T)[:, :2]
    order = np.argsort(-expected)[:25]
    for i in order:
        nearest = int(np.argmin(np.hypot(*(g - places[i]).T)))
        assert found[nearest] == pytest.approx(expected[i], rel=0.02, abs=2e-3)


def test_the_aligner_s_bloch_waves_are_abtem_s_within_the_scattering_factors() -> None:
    crystal = Crystal.from_cif(DATA / "SrTiO3.cif")
    rotation = orientation(crystal, (0, 0, 1), TILT, 0.2)
    hkl, expected = abtem_intensities(crystal, rotation, 320.0, 1.8, 0.05)
    known = structure_from_cif(DATA / "SrTiO3.cif")
    unit = relativistic_factor(200) / (np.pi * known.volume)
    some = reflections(known, 1.8)
    model = BlochModel(
        structure_factors(known, 3.0), unit, wavenumber_inv_A(200), some.hkl, some.g,
        unit * np.sqrt(some.strength),
    )  # fmt: skip
    beams = select_beams(model, rotation, 150)
    found, _, _ = intensities(model, beams, rotation)
    ours = {
        tuple(model.hkl[row]): found[k, int(np.argmin(np.abs(THICKNESSES_A - 320)))]
        for k, row in enumerate(np.concatenate([beams.strong, beams.weak]))
    }
    both = np.array(
        [(ours.get(tuple(h), 0.0), v) for h, v in zip(hkl, expected, strict=True) if h.any()]
    )
    # different scattering factors, and a spread of thicknesses in ours: alike, not equal
    assert np.corrcoef(both.T)[0, 1] > 0.97
    assert np.abs(both[:, 0] - both[:, 1]).sum() < 0.2 * both[:, 1].sum()


def test_a_pattern_of_abtem_intensities_gives_its_tilt_back() -> None:
    """45 nm of SrTiO3: the direct beam is weaker than its neighbours, so its place is given."""
    crystal = Crystal.from_cif(DATA / "SrTiO3.cif")
    rotation = orientation(crystal, (0, 0, 1), TILT, 0.2)
    hkl, intensity = abtem_intensities(crystal, rotation, 450.0, 1.8, 0.05)
    g = (hkl @ crystal.reciprocal @ rotation.T)[:, :2]
    detector = Detector(centre_px=(131.2, 125.8))
    pattern = record(g, intensity, detector, 2e4, np.random.default_rng(9))
    found = estimate_tilt(
        pattern,
        energy_keV=200,
        inv_A_per_px=0.0119,
        structure=structure_from_cif(DATA / "SrTiO3.cif"),
        target_zone_uvw=(0, 0, 1),
        prior=TiltPrior(centre_px=(131.2, 125.8)),
    )
    assert found.answered, found.reason
    assert np.hypot(found.tilt_x_mrad - TILT[0], found.tilt_y_mrad - TILT[1]) < 1.2
