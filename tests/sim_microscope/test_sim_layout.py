from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from sim_microscope.geometry import goniometer_angles, tilt_matrix
from sim_microscope.layout import lay_out, reachable
from sim_microscope.scenario import load_scenario
from sim_microscope.zones import family


@pytest.mark.parametrize("seed", range(4))
def test_the_typical_night_has_crystals_of_every_kind(seed: int) -> None:
    crystals = lay_out(load_scenario("typical"), seed)
    roles = [crystal.role for crystal in crystals]
    assert len(crystals) >= 16
    for role in ("usable", "unreachable", "thick", "overlap"):
        assert role in roles
    usable = [c for c in crystals if c.role == "usable"]
    assert all(20 <= c.thickness_nm / np.cos(np.deg2rad(12)) <= 85 for c in usable)
    assert all(c.thickness_nm > 150 for c in crystals if c.role == "thick")


@pytest.mark.parametrize("seed", range(4))
def test_usable_crystals_are_in_reach_and_the_unreachable_are_not(seed: int) -> None:
    scenario = load_scenario("typical")
    stage = scenario.stage
    for crystal in lay_out(scenario, seed):
        within = [
            stage.alpha.low <= alpha <= stage.alpha.high
            and stage.beta.low <= beta <= stage.beta.high
            for _, _, alpha, beta in crystal.nearest_zones()
        ]
        if crystal.role == "usable":
            assert any(within)
            tilt = crystal.nearest_zones()[0][1]
            assert 0.4 < tilt < 12.1
        if crystal.role == "unreachable":
            assert not reachable(crystal.orientation, crystal.structure, crystal.zones, stage)


def test_single_crystals_lie_apart_and_heaps_overlap() -> None:
    crystals = lay_out(load_scenario("typical"), 1)
    single = [c for c in crystals if c.role != "overlap"]
    for a, b in combinations(single, 2):
        gap = np.hypot(*np.subtract(a.centre_um, b.centre_um)) - a.radius_um - b.radius_um
        assert gap > 0.1
    heap = [c for c in crystals if c.role == "overlap"]
    gaps = [
        np.hypot(*np.subtract(a.centre_um, b.centre_um)) - a.radius_um - b.radius_um
        for a, b in combinations(heap, 2)
    ]
    assert min(gaps) < 0


def test_the_same_seed_draws_the_same_crystals_and_another_seed_others() -> None:
    scenario = load_scenario("hostile")
    first, again, other = (lay_out(scenario, seed) for seed in (5, 5, 6))
    assert [c.centre_um for c in first] == [c.centre_um for c in again]
    assert all((a.orientation == b.orientation).all() for a, b in zip(first, again, strict=True))
    assert [c.centre_um for c in first] != [c.centre_um for c in other]


def test_orientations_are_rotations_and_bend_as_stated() -> None:
    for crystal in lay_out(load_scenario("hostile"), 2):
        np.testing.assert_allclose(
            crystal.orientation @ crystal.orientation.T, np.eye(3), atol=1e-12
        )
        assert np.linalg.det(crystal.orientation) == pytest.approx(1)
        (x, y), (ux, uy) = crystal.centre_um, crystal.bend_direction
        r = crystal.radius_um
        ends = [crystal.orientation_at(x + s * r * ux, y + s * r * uy) for s in (-1, 1)]
        angle = np.rad2deg(np.arccos(np.clip((np.trace(ends[0].T @ ends[1]) - 1) / 2, -1, 1)))
        assert angle == pytest.approx(crystal.bend_deg, abs=1e-4)


def test_the_listed_angles_lay_the_zone_along_the_beam() -> None:
    for crystal in lay_out(load_scenario("typical"), 3):
        zone, tilt, alpha, beta = crystal.nearest_zones()[0]
        axis = tilt_matrix(alpha, beta) @ crystal.orientation @ crystal.structure.direction(zone)
        np.testing.assert_allclose(axis, [0, 0, 1], atol=1e-9)
        assert tilt <= crystal.nearest_zones()[1][1]


def test_goniometer_angles_ignore_the_sense_of_an_axis() -> None:
    v = np.array([0.1, -0.3, 0.9])
    assert goniometer_angles(v) == pytest.approx(goniometer_angles(-v))


def test_families_have_the_size_the_point_group_gives() -> None:
    crystal = lay_out(load_scenario("easy"), 0)[0]
    sizes = [len(family(crystal.structure, zone)) for zone in ((0, 0, 1), (0, 1, 1), (1, 1, 1))]
    assert sizes == [6, 12, 8]
