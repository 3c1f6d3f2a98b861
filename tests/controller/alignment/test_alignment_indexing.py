"""Orientations from pairs of spots: found in sparse patterns, and equal under symmetry."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.alignment_corpus import DATA, Case, Zone, crystal, draw_case, pattern_of
from benchmarks.alignment_patterns import orientation
from controller.perception.alignment import CrystalStructure, estimate_tilt, structure_from_cif
from controller.perception.alignment.indexing import index_pairs
from controller.perception.alignment.pattern import check_pattern
from controller.perception.alignment.pose import Pose, Scene
from controller.perception.alignment.spots import find_spots
from controller.perception.alignment.task import Task, resolution_inv_A, scene_of
from controller.perception.alignment.zone import zone_frames

SPARSE = [
    ("sanidine", (1, 0, 0), 12.0, 3e3),
    ("CsPbBr3", (1, 0, 1), 6.5, 1e4),
    ("ZIF-8", (0, 0, 1), 14.0, 1e4),
    ("TiO2-rutile", (0, 0, 1), 11.0, 1e5),
    ("gypsum", (0, 1, 0), 9.0, 3e3),
]


def sparse(name: str, zone: Zone, tilt_deg: float, electrons: float, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    return draw_case(rng, name, zone, (tilt_deg, tilt_deg + 1.0), electrons, varied=False)


def true_pose(case: Case, structure: CrystalStructure) -> Pose:
    """In the aligner's frame of the crystal."""
    drawn = crystal(case.structure)
    turn = orientation(drawn, case.zone, np.array(case.tilt_mrad), case.in_plane_rad)
    known = turn @ drawn.cell.T @ np.linalg.inv(structure.direct.T)
    frame = zone_frames(structure, case.zone)[0]
    centre = case.detector.centre_px
    assert centre is not None
    return Pose(frame, known, centre, case.detector.inv_A_per_px, 400.0, 0.0)


def task_of(case: Case, structure: CrystalStructure) -> Task:
    checked = check_pattern(pattern_of(case))
    spots = find_spots(checked, centre_px=case.detector.centre_px)
    return Task(checked, spots, structure, case.zone, case.energy_keV,
                case.nominal_inv_A_per_px, None)  # fmt: skip


def scene(case: Case, structure: CrystalStructure) -> Scene:
    task = task_of(case, structure)
    return scene_of(task, resolution_inv_A(task), 0.03)


@pytest.mark.parametrize(("name", "zone", "tilt_deg", "electrons"), SPARSE)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_few_spots_give_the_orientation(
    name: str, zone: Zone, tilt_deg: float, electrons: float, seed: int
) -> None:
    case = sparse(name, zone, tilt_deg, electrons, seed)
    structure = structure_from_cif(DATA / f"{name}.cif")
    found = index_pairs(
        scene(case, structure), structure, zone_frames(structure, zone), reach_deg=20.0,
        scale_reach=0.03, most=30,
    )  # fmt: skip
    truth = true_pose(case, structure)
    assert min(np.rad2deg(truth.apart_rad(pose)) for pose in found) < 1.0
    for pose in found:
        assert pose.inv_A_per_px == pytest.approx(case.nominal_inv_A_per_px, rel=0.045)
        lean = np.arccos(np.clip((pose.orientation @ pose.zone.frame[2])[2], -1, 1))
        assert np.rad2deg(lean) <= 20.6, "the target zone, not another member of its family"


def test_one_spot_gives_none() -> None:
    case = sparse("sanidine", (1, 0, 0), 12.0, 3e3, 1)
    structure = structure_from_cif(DATA / "sanidine.cif")
    seen = scene(case, structure)
    one = replace(
        seen.spots, x_px=seen.spots.x_px[:1], y_px=seen.spots.y_px[:1],
        counts=seen.spots.counts[:1], direct=None, centre_px=(10.0, 10.0), rivals=(),
    )  # fmt: skip
    zones = zone_frames(structure, case.zone)
    assert not index_pairs(
        replace(seen, spots=one), structure, zones, reach_deg=20.0, scale_reach=0.03, most=30
    )


def test_six_spots_of_a_thick_crystal_far_from_its_zone_are_answered() -> None:
    """Two-beam intensities rank the right orientation below the wrong ones here."""
    rng = np.random.default_rng(7)
    right = 0
    for _ in range(3):
        case = draw_case(rng, "sanidine", (1, 0, 0), (10.0, 13.0), 3e3, varied=False)
        found = estimate_tilt(
            pattern_of(case), energy_keV=case.energy_keV,
            inv_A_per_px=case.nominal_inv_A_per_px,
            structure=structure_from_cif(DATA / "sanidine.cif"), target_zone_uvw=case.zone,
        )  # fmt: skip
        off = np.hypot(found.tilt_x_mrad - case.tilt_mrad[0], found.tilt_y_mrad - case.tilt_mrad[1])
        assert not found.answered or np.rad2deg(1e-3 * off) < 0.2
        right += found.answered
    assert right >= 2


@pytest.mark.parametrize("name", ["Au", "SrTiO3", "gypsum"])
def test_orientations_that_symmetry_makes_equal_are_not_apart(name: str) -> None:
    structure = structure_from_cif(DATA / f"{name}.cif")
    zone = zone_frames(structure, (1, 1, 0))[0]
    pose = Pose(zone, zone.orientation((30.0, -20.0), 0.4), (128.0, 128.0), 0.01, 400.0, 0.0)
    for turn in structure.rotations:
        equal = replace(pose, orientation=pose.orientation @ turn)
        assert pose.apart_rad(equal) < 1e-6
        assert pose.apart_rad(equal.rotated(np.array([0.0, 4e-3, 3e-3]))) == pytest.approx(5e-3)
