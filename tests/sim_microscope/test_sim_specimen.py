from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_microscope.scenario import load_scenario
from sim_microscope.specimen import Grid, Specimen, TruePose

SPECIMEN = Specimen(load_scenario("typical"), 1)


def rx(deg: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(deg)), np.sin(np.deg2rad(deg))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def ry(deg: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(deg)), np.sin(np.deg2rad(deg))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-2, 2), st.floats(-30, 30), st.floats(-20, 20))
@settings(max_examples=60)
def test_a_point_appears_where_the_tilted_holder_carries_it(
    x: float, y: float, z: float, alpha: float, beta: float
) -> None:
    """Rx(alpha) Ry(beta) applied to the point's distance from the stage, its height included."""
    pose = TruePose(1.5, -0.7, z, alpha, beta)
    height = float(SPECIMEN.film.height_um(np.array(x), np.array(y)))
    expected = rx(alpha) @ ry(beta) @ np.array([x - 1.5, y + 0.7, height + z])
    np.testing.assert_allclose(SPECIMEN.to_column(x, y, pose), expected, atol=1e-12)
    back = SPECIMEN.to_holder(np.array(expected[0]), np.array(expected[1]), pose)
    np.testing.assert_allclose(back, [x, y], atol=2e-4)


def test_a_point_below_the_axis_moves_against_y_when_alpha_is_tilted() -> None:
    """A point h downstream of the tilt axis shifts by -h sin(alpha) along Y."""
    x = y = np.array(0.0)
    height = float(SPECIMEN.film.height_um(x, y)) + 2.0
    seen = SPECIMEN.to_column(0.0, 0.0, TruePose(0, 0, 2.0, 15.0, 0.0))
    assert seen[1] == pytest.approx(-height * np.sin(np.deg2rad(15.0)))
    assert seen[2] == pytest.approx(height * np.cos(np.deg2rad(15.0)))


def grid(pixel_um: float = 0.02, shape: tuple[int, int] = (61, 83)) -> Grid:
    return Grid(shape, (0.0, 0.0), pixel_um * np.eye(2))


def test_a_crystal_is_seen_where_the_stage_brings_it() -> None:
    crystal = next(c for c in SPECIMEN.crystals if c.role == "usable")
    x, y = crystal.centre_um
    for alpha, beta in ((0.0, 0.0), (18.0, -11.0)):
        pose = TruePose(x, y, 0.0, alpha, beta)
        seen = SPECIMEN.project(grid(), pose).crystal_nm
        found, rows, columns, t = next(entry for entry in seen if entry[0].id == crystal.id)
        assert found is crystal
        v, u = np.nonzero(t > 0)
        column_x = (u.mean() + columns.start - 83 // 2) * 0.02
        column_y = (v.mean() + rows.start - 61 // 2) * 0.02
        middle = SPECIMEN.to_column(x, y, pose)
        assert column_x == pytest.approx(middle[0], abs=0.04)
        assert column_y == pytest.approx(middle[1], abs=0.04)


def test_tilting_thickens_the_film_by_the_length_of_the_path() -> None:
    clean = Specimen(
        load_scenario("easy").model_copy(
            update={
                "specimen": load_scenario("easy").specimen.model_copy(
                    update={
                        "film": load_scenario("easy").specimen.film.model_copy(
                            update={"kind": "continuous", "roughness": 0.0}
                        )
                    }
                )
            }
        ),
        1,
    )
    flat = clean.project(grid(), TruePose(0, 0, 0, 0, 0)).film_nm
    tilted = clean.project(grid(), TruePose(0, 0, 0, 20, -15)).film_nm
    ratio = 1 / (np.cos(np.deg2rad(20)) * np.cos(np.deg2rad(15)))
    np.testing.assert_allclose(tilted, flat * ratio, rtol=1e-5)


def test_the_bar_lies_at_its_edge_of_the_field_and_stops_the_beam() -> None:
    bar = SPECIMEN.bar_cover(np.array([-6.0, 0.0, 6.0]), np.zeros(3))
    np.testing.assert_allclose(bar, [1, 0, 0], atol=1e-3)


def test_the_open_share_of_the_film_is_about_what_was_asked_for() -> None:
    for name in ("typical", "hostile"):
        scenario = load_scenario(name)
        film = Specimen(scenario, 2).film
        holes = (film.map_nm < 1.0).mean()
        assert holes == pytest.approx(scenario.specimen.film.open_share, abs=0.08)


def test_interpolated_and_exact_grids_agree() -> None:
    pose = TruePose(0.4, -0.2, 0.1, 21.0, -13.0)
    g = grid(0.05, (45, 71))
    fine = SPECIMEN._holder_grid(g, pose)
    exact = SPECIMEN.to_holder(*g.points(slice(45), slice(71)), pose)
    np.testing.assert_allclose(fine, exact, atol=2e-3)
