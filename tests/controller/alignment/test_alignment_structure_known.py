"""With a structure: right from far away, right near the zone, silent when it cannot know."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.alignment_patterns import Crystal, Detector, diffraction, orientation, record
from controller.perception.alignment import (
    CrystalStructure,
    TiltPrior,
    estimate_tilt,
    structure_from_cif,
)
from controller.perception.alignment.geometry import correction_rotation, zone_from_tilt
from controller.perception.alignment.likelihood import best_scale, gain, null_likelihood
from controller.perception.alignment.structure_factors import reflections, structure_factors
from controller.perception.alignment.zone import nearest_member, zone_frames

DATA = Path(__file__).parent / "data"
Zone = tuple[int, int, int]


@cache
def crystal(name: str) -> Crystal:
    return Crystal.from_cif(DATA / f"{name}.cif")


@cache
def structure(name: str) -> CrystalStructure:
    return structure_from_cif(DATA / f"{name}.cif")


def pattern_of(
    name: str,
    zone: Zone,
    tilt_mrad: tuple[float, float],
    electrons: float,
    detector: Detector,
    *,
    thickness_nm: float = 50.0,
    seed: int = 4,
) -> np.ndarray:
    rotation = orientation(crystal(name), zone, np.array(tilt_mrad), 0.9)
    g, intensity = diffraction(
        crystal(name), rotation, 200, thickness_nm, thickness_spread=0.1, beams=300
    )
    return record(g, intensity, detector, electrons, np.random.default_rng(seed))


def error_mrad(found: object, tilt: tuple[float, float]) -> float:
    return float(np.hypot(found.tilt_x_mrad - tilt[0], found.tilt_y_mrad - tilt[1]))


@pytest.mark.parametrize(
    ("name", "zone", "tilt", "electrons"),
    [
        ("UiO-66", (0, 0, 1), (150.0, -120.0), 5e3),
        ("UiO-66", (1, 1, 1), (-8.0, 3.0), 5e3),
        ("ZIF-8", (0, 0, 1), (60.0, 90.0), 2e4),
        ("MFI", (0, 1, 0), (-210.0, 90.0), 1e4),
        ("MFI", (1, 0, 0), (4.0, 9.0), 1e4),
        ("SrTiO3", (0, 0, 1), (3.0, 14.0), 2e4),
    ],
)
def test_the_tilt_is_found_to_a_tenth_of_a_degree(
    name: str, zone: Zone, tilt: tuple[float, float], electrons: float
) -> None:
    """Dynamical patterns, camera constant 1.5 % off, direct beam off the middle, odd frame."""
    detector = Detector(shape=(256, 245), inv_A_per_px=0.012, centre_px=(119.3, 133.8))
    found = estimate_tilt(
        pattern_of(name, zone, tilt, electrons, detector),
        energy_keV=200,
        inv_A_per_px=0.012 * 1.015,
        structure=structure(name),
        target_zone_uvw=zone,
    )
    assert found.answered, found.reason
    assert error_mrad(found, tilt) < 1.75
    assert error_mrad(found, tilt) < 4 * found.sigma_mrad
    assert found.mode == "structure"
    assert found.inv_A_per_px == pytest.approx(0.012, rel=6e-3)
    assert found.centre_x_px == pytest.approx(119.3, abs=0.6)
    assert found.centre_y_px == pytest.approx(133.8, abs=0.6)


def test_the_orientation_says_where_the_zone_axis_is() -> None:
    detector = Detector()
    tilt = (90.0, -50.0)
    found = estimate_tilt(
        pattern_of("UiO-66", (0, 0, 1), tilt, 1e4, detector),
        energy_keV=200,
        inv_A_per_px=0.012,
        structure=structure("UiO-66"),
        target_zone_uvw=(0, 0, 1),
    )
    assert found.orientation is not None
    np.testing.assert_allclose(found.orientation @ found.orientation.T, np.eye(3), atol=1e-9)
    family = structure("UiO-66").zone_family((0, 0, 1)) @ found.orientation.T
    nearest = family[np.argmax(family[:, 2])]
    np.testing.assert_allclose(
        nearest, zone_from_tilt((found.tilt_x_mrad, found.tilt_y_mrad)), atol=1e-9
    )


def test_a_prior_narrows_the_search_and_does_not_pull() -> None:
    tilt = (40.0, 30.0)
    pattern = pattern_of("UiO-66", (0, 0, 1), tilt, 1e4, Detector())
    answers = [
        estimate_tilt(
            pattern,
            energy_keV=200,
            inv_A_per_px=0.012,
            structure=structure("UiO-66"),
            target_zone_uvw=(0, 0, 1),
            prior=prior,
        )
        for prior in (None, TiltPrior(tilt_mrad=(52.0, 25.0), tilt_sigma_mrad=8.0))
    ]
    assert error_mrad(answers[1], tilt) < 1.5
    assert error_mrad(answers[0], tilt) < 1.5


def test_behind_a_beam_stop_the_centre_is_found_again() -> None:
    tilt = (-30.0, 45.0)
    detector = Detector(centre_px=(123.6, 131.2), beam_stop_px=9.0)
    found = estimate_tilt(
        pattern_of("UiO-66", (0, 0, 1), tilt, 3e4, detector),
        energy_keV=200,
        inv_A_per_px=0.012,
        structure=structure("UiO-66"),
        target_zone_uvw=(0, 0, 1),
        beam_stop=True,
    )
    if found.answered:  # silence is allowed, a wrong answer is not
        assert error_mrad(found, tilt) < 3.5


def _halo(electrons: float) -> np.ndarray:
    rng = np.random.default_rng(8)
    g = np.array([[0.0, 0.0]])
    spread = Detector(halo_fraction=0.7)
    return record(g, np.array([1.0]), spread, electrons, rng)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (np.zeros((256, 256)), "0 electrons"),
        (np.random.default_rng(1).poisson(0.3, (256, 256)), "no crystal"),
        (_halo(2e4), "no crystal"),
        (np.full((256, 256), 4095.0), "saturated"),
    ],
)
def test_what_is_no_crystal_gets_no_answer(pattern: np.ndarray, why: str, known: bool) -> None:
    found = estimate_tilt(
        pattern,
        energy_keV=300,
        inv_A_per_px=0.012,
        structure=structure("UiO-66") if known else None,
        target_zone_uvw=(0, 0, 1) if known else None,
    )
    assert not found.answered
    assert why in found.reason


@pytest.mark.parametrize("wrong", ["MFI", "SrTiO3"])
def test_the_wrong_structure_gets_no_answer(wrong: str) -> None:
    found = estimate_tilt(
        pattern_of("UiO-66", (0, 0, 1), (30.0, 10.0), 2e4, Detector()),
        energy_keV=200,
        inv_A_per_px=0.012,
        structure=structure(wrong),
        target_zone_uvw=(0, 0, 1),
    )
    assert not found.answered
    assert found.reason


def test_structure_factors_are_those_of_another_table_to_three_percent() -> None:
    """gemmi's c4322 against Lobato and Van Dyck, every atom summed one by one."""
    for name in ("UiO-66", "ZIF-8", "SrTiO3"):
        known = reflections(structure(name), 0.8)
        some = np.argsort(-known.strength)[:40]
        other = crystal(name).structure_factors(known.hkl[some])
        np.testing.assert_allclose(np.abs(other), np.sqrt(known.strength[some]), rtol=0.03)
        table = structure_factors(structure(name), 1.0)
        np.testing.assert_allclose(table.at(-known.hkl), table.at(known.hkl).conj())


@settings(max_examples=25)
@given(
    tilt=st.tuples(st.floats(-200, 200), st.floats(-200, 200)),
    phi=st.floats(-3, 3),
    symmetry=st.integers(0, 23),
)
def test_symmetry_moves_the_answer_to_the_nearest_member(
    tilt: tuple[float, float], phi: float, symmetry: int
) -> None:
    """Any symmetry-equivalent orientation gives the same tilt of the nearest zone."""
    cubic = structure("UiO-66")
    (zone,) = zone_frames(cubic, (0, 0, 1))
    assert zone.fold == 4
    there = zone.orientation(tilt, phi)
    _, found, _ = nearest_member(cubic, zone, there @ cubic.rotations[symmetry])
    np.testing.assert_allclose(found, tilt, atol=1e-8)
    np.testing.assert_allclose(
        correction_rotation(found) @ zone_from_tilt(found), [0, 0, 1], atol=1e-9
    )


def test_empty_nodes_count_against_a_prediction() -> None:
    n, b = np.array([50.0, 0.0, 0.0]), np.full(3, 0.5)
    unknown, null = null_likelihood(n, b, 60.0)
    right = gain(n, b, np.array([49.0, 0.0, 0.0]), unknown, null, 0.12)
    wrong = gain(n, b, np.array([49.0, 20.0, 20.0]), unknown, null, 0.12)
    nothing = gain(n, b, np.zeros(3), unknown, null, 0.12)
    assert nothing == 0.0
    assert right > wrong + 5.0
    scale, best = best_scale(n, b, np.array([1.0, 0.0, 0.0]), unknown, null, 0.12)
    assert scale == pytest.approx(49.5, rel=0.15)
    assert best >= right - 0.2
