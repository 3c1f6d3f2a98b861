"""abTEM's Bloch waves against the pattern generator of these tests, and against the aligner."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from benchmarks.alignment_patterns import Crystal, Detector, diffraction, orientation, record
from controller.perception.alignment import TiltPrior, estimate_tilt, structure_from_cif
from controller.perception.alignment.bloch import seen, select_beams, solve
from controller.perception.alignment.pattern import check_pattern
from controller.perception.alignment.spots import find_spots
from controller.perception.alignment.task import Task, bloch_model_of

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
    ("name", "g_max", "sg_max"), [("SrTiO3", 2.4, 0.2), ("ZIF-8", 0.55, 0.018)]
)
def test_the_generator_is_abtem_to_a_part_in_a_thousand(
    name: str, g_max: float, sg_max: float
) -> None:
    """Also without an inversion centre (ZIF-8), where the sign of the phase shows."""
    crystal = Crystal.from_cif(DATA / f"{name}.cif")
    rotation = orientation(crystal, (0, 0, 1), TILT / (1 if name == "SrTiO3" else 4), 0.2)
    hkl, expected = abtem_intensities(crystal, rotation, 400.0, g_max, sg_max)
    g, found = diffraction(
        crystal, rotation, 200, 40.0, g_max=g_max, window_inv_A=sg_max, beams=2000
    )
    places = (hkl @ crystal.reciprocal @ rotation.T)[:, :2]
    order = np.argsort(-expected)[:25]
    for i in order:
        nearest = int(np.argmin(np.hypot(*(g - places[i]).T)))
        assert found[nearest] == pytest.approx(expected[i], rel=0.02, abs=2e-3)


def aligner_intensities(
    cif: Path, rotation: np.ndarray, thickness_A: float, beams: int
) -> dict[tuple[int, ...], float]:
    known = structure_from_cif(cif)
    blank = check_pattern(np.random.default_rng(0).poisson(1.0, (64, 64)))
    spots = find_spots(blank)
    task = Task(blank, spots, known, (0, 0, 1), 200.0, 0.012, None)
    model = bloch_model_of(task, 1.2)
    chosen = select_beams(model, rotation, beams)
    found = solve(model, chosen, rotation).at(np.array([thickness_A]), 0.0)[:, 0]
    rows = seen(chosen)
    return {tuple(model.hkl[row].tolist()): float(v) for row, v in zip(rows, found, strict=True)}


def test_the_aligner_s_bloch_waves_are_abtem_s_within_the_scattering_factors() -> None:
    crystal = Crystal.from_cif(DATA / "SrTiO3.cif")
    rotation = orientation(crystal, (0, 0, 1), TILT, 0.2)
    hkl, expected = abtem_intensities(crystal, rotation, 320.0, 3.0, 0.3)
    ours = aligner_intensities(DATA / "SrTiO3.cif", rotation, 320.0, 150)
    both = np.array(
        [(ours.get(tuple(h), 0.0), v) for h, v in zip(hkl, expected, strict=True) if h.any()]
    )
    # different scattering factors: alike, not equal
    assert np.corrcoef(both.T)[0, 1] > 0.99
    assert np.abs(both[:, 0] - both[:, 1]).sum() < 0.1 * both[:, 1].sum()


@pytest.mark.parametrize("name", ["Si", "ZrO2-baddeleyite", "TiO2-rutile"])
def test_a_few_beams_with_the_rest_as_perturbation_are_nearly_all_beams(name: str) -> None:
    crystal = Crystal.from_cif(DATA / f"{name}.cif")
    rotation = orientation(crystal, (0, 0, 1), np.array([60.0, -40.0]), 0.2)
    g, expected = diffraction(crystal, rotation, 200, 50.0)
    ours = aligner_intensities(DATA / f"{name}.cif", rotation, 500.0, 90)
    places = {hkl: (np.array(hkl) @ crystal.reciprocal @ rotation.T)[:2] for hkl in ours}
    off = 0.0
    brightest = [i for i in np.argsort(-expected) if np.hypot(*g[i]) > 1e-6][:15]
    total = sum(expected[i] for i in brightest)
    for i in brightest:
        off += min(
            abs(expected[i] - v) if np.hypot(*(places[h] - g[i])) < 1e-3 else expected[i]
            for h, v in ours.items()
        )
    assert off < 0.1 * total


def test_a_pattern_of_abtem_intensities_gives_its_tilt_back() -> None:
    """45 nm of SrTiO3: the direct beam is weaker than its neighbours, so its place is given."""
    crystal = Crystal.from_cif(DATA / "SrTiO3.cif")
    rotation = orientation(crystal, (0, 0, 1), TILT, 0.2)
    hkl, intensity = abtem_intensities(crystal, rotation, 450.0, 2.4, 0.2)
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
