"""Order of resolution and imperfect crystals: found where they are, silent where they are not."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.alignment_patterns import Crystal, Detector, diffraction, orientation, record
from controller.perception.alignment import (
    CrystalStructure,
    TiltEstimate,
    estimate_tilt,
    find_imperfection,
    order_of_resolution,
    structure_from_cif,
)
from controller.perception.alignment.geometry import rotation_from_vector

DATA = Path(__file__).parent / "data"
TILT = np.array([14.0, -9.0])


@pytest.fixture(scope="module")
def crystal() -> tuple[Crystal, CrystalStructure]:
    return Crystal.from_cif(DATA / "UiO-66.cif"), structure_from_cif(DATA / "UiO-66.cif")


def pattern(
    crystal: Crystal,
    *,
    turns: list[np.ndarray] | None = None,
    cut_inv_A: float = 9.0,
    electrons: float = 5e4,
    seed: int = 1,
) -> np.ndarray:
    """A pattern summed over small rotations of the crystal, spots beyond the cut left out."""
    upright = orientation(crystal, (0, 0, 1), TILT, 0.3)
    parts, weights = [], []
    for turn in turns or [np.zeros(3)]:
        seen = rotation_from_vector(turn) @ upright
        reach, beams = (1.0, 90) if turns else (1.4, 500)
        g, intensity = diffraction(crystal, seen, 200, 50, g_max=reach, beams=beams)
        keep = np.hypot(*g.T) < cut_inv_A
        parts.append(g[keep])
        weights.append(intensity[keep] / intensity[keep].sum() / len(turns or [0]))
    g, intensity = np.concatenate(parts), np.concatenate(weights)
    return record(g, intensity, Detector(), electrons, np.random.default_rng(seed))


def measured(image: np.ndarray, structure: CrystalStructure | None) -> TiltEstimate:
    zone = None if structure is None else (0, 0, 1)
    return estimate_tilt(
        image, energy_keV=200, inv_A_per_px=0.012, structure=structure, target_zone_uvw=zone
    )


def test_spots_end_where_they_were_cut_off(crystal: tuple[Crystal, CrystalStructure]) -> None:
    atoms, structure = crystal
    image = pattern(atoms, cut_inv_A=0.75)
    found = order_of_resolution(
        image, measured(image, structure), energy_keV=200, structure=structure
    )
    assert found is not None
    assert 0.6 <= found.g_inv_A <= 0.801
    assert found.d_A == pytest.approx(1 / found.g_inv_A)
    assert not found.limited_by_detector
    whole = pattern(atoms)
    more = order_of_resolution(
        whole, measured(whole, structure), energy_keV=200, structure=structure
    )
    assert more is not None
    assert more.g_inv_A > 0.9
    dark = [s for s in found.shells if s.low_inv_A >= 0.799]
    assert dark
    assert all(s.chance > 1e-5 for s in dark)


def test_without_a_structure_the_outermost_spots_count(
    crystal: tuple[Crystal, CrystalStructure],
) -> None:
    image = pattern(crystal[0], cut_inv_A=0.5)
    estimate = measured(image, None)
    found = order_of_resolution(image, estimate, energy_keV=200)
    if not estimate.answered:
        assert found is None
        return
    assert found is not None
    assert found.g_inv_A <= 0.5


def test_no_answer_has_no_order_and_no_flag(crystal: tuple[Crystal, CrystalStructure]) -> None:
    image = np.random.default_rng(0).poisson(0.3, (128, 128)).astype(float)
    silent = measured(image, crystal[1])
    assert order_of_resolution(image, silent, energy_keV=200, structure=crystal[1]) is None
    assert find_imperfection(image, silent, energy_keV=200, structure=crystal[1]) is None


def test_a_perfect_crystal_is_not_flagged(crystal: tuple[Crystal, CrystalStructure]) -> None:
    atoms, structure = crystal
    image = pattern(atoms)
    found = find_imperfection(
        image, measured(image, structure), energy_keV=200, structure=structure
    )
    assert found is not None
    assert not found.flagged
    assert found.text() == ""
    assert found.confidence < 0.5


@pytest.mark.parametrize("kind", ["mosaic", "bent"])
def test_a_spread_of_orientations_is_flagged_with_its_width(
    crystal: tuple[Crystal, CrystalStructure], kind: str
) -> None:
    atoms, structure = crystal
    rng = np.random.default_rng(3)
    if kind == "mosaic":
        turns = [np.deg2rad(0.4) * rng.normal(size=3) for _ in range(8)]
    else:
        axis = np.array([np.cos(0.5), np.sin(0.5), 0.0])
        turns = [np.deg2rad(0.4) * q * axis for q in np.linspace(-1.6, 1.6, 8)]
    image = pattern(atoms, turns=turns)
    estimate = measured(image, structure)
    found = find_imperfection(image, estimate, energy_keV=200, structure=structure)
    if not estimate.answered:
        assert found is None
        return
    assert found is not None
    assert found.flagged
    assert 0.2 <= found.spread_deg <= 0.9
    assert found.confidence > 0.8
    assert "confidence" in found.text()


def test_a_second_crystal_shows_as_spots_off_the_lattice(
    crystal: tuple[Crystal, CrystalStructure],
) -> None:
    atoms, structure = crystal
    parts = [
        diffraction(atoms, orientation(atoms, (0, 0, 1), tilt, phi), 200, 50, g_max=1.2, beams=90)
        for tilt, phi in ((TILT, 0.3), (np.array([5.0, -5.3]), 1.1))
    ]
    g = np.concatenate([p[0] for p in parts])
    intensity = np.concatenate([0.65 * parts[0][1], 0.35 * parts[1][1]])
    image = record(g, intensity, Detector(), 5e4, np.random.default_rng(0))
    estimate = measured(image, structure)
    found = find_imperfection(image, estimate, energy_keV=200, structure=structure)
    if not estimate.answered:
        assert found is None
        return
    assert found is not None
    assert found.kind == "second crystal"
    assert "off the lattice" in found.text()
