from __future__ import annotations

import numpy as np
import pytest

from sim_microscope.geometry import random_rotation, tilt_matrix
from sim_microscope.shape import Shape, grow
from sim_microscope.structures import load_structure

CUBE = (np.concatenate([np.eye(3), -np.eye(3)]), np.ones(6))


def test_thickness_is_the_length_of_the_ray_inside_found_by_marching() -> None:
    rng = np.random.default_rng(4)
    normals, offsets = load_structure("UiO-66").habit()
    shape = Shape(normals @ random_rotation(rng).T, 100 * offsets * rng.uniform(0.8, 1.2, 8))
    tilt = tilt_matrix(14.0, -9.0)
    x, y = rng.uniform(-120, 120, (2, 40))
    z = np.linspace(-400, 400, 40_001)
    turned = shape.normals @ tilt.T
    for px, py, t in zip(x, y, shape.thickness_nm(x, y, tilt), strict=True):
        points = np.stack([np.full_like(z, px), np.full_like(z, py), z], axis=1)
        inside = (points @ turned.T <= shape.offsets_nm).all(axis=1)
        assert t == pytest.approx(inside.sum() * (z[1] - z[0]), abs=0.05)


def test_a_cube_tilted_by_45_degrees_is_thickest_in_the_middle() -> None:
    shape = Shape(CUBE[0], 50 * CUBE[1])
    middle = shape.thickness_nm(np.zeros(1), np.zeros(1), tilt_matrix(45.0, 0.0))
    assert middle[0] == pytest.approx(100 * np.sqrt(2))


def test_the_volume_does_not_depend_on_the_tilt() -> None:
    rng = np.random.default_rng(1)
    shape = Shape(CUBE[0] @ random_rotation(rng).T, 50 * CUBE[1])
    axis = np.linspace(-100, 100, 201)
    for alpha, beta in ((0, 0), (20, -10), (-33, 25)):
        t = shape.thickness_nm(axis[None, :], axis[:, None], tilt_matrix(alpha, beta))
        assert t.sum() == pytest.approx(100**3, rel=2e-3)


@pytest.mark.parametrize("name", ["UiO-66", "ZIF-8", "MFI", "NU-1000", "SrTiO3"])
def test_a_flake_has_the_size_that_was_asked_for(name: str) -> None:
    structure = load_structure(name)
    along = structure.direction((0, 1, 0))
    normals, offsets = grow(
        structure.habit(),
        width_nm=600,
        thickness_nm=40,
        lies_along=along,
        rng=np.random.default_rng(2),
    )
    from sim_microscope.geometry import carry_onto_z

    shape = Shape(normals @ carry_onto_z(along).T, offsets)
    reach = shape.reach_nm()
    axis = np.linspace(-reach, reach, 161)
    t = shape.thickness_nm(axis[None, :], axis[:, None], np.eye(3))
    area = (t > 0).sum() * (axis[1] - axis[0]) ** 2
    assert 2 * np.sqrt(area / np.pi) == pytest.approx(600, rel=0.05)
    assert t.max() == pytest.approx(40, abs=1e-6)


def test_the_outline_lies_on_the_edge() -> None:
    shape = Shape(CUBE[0], np.array([80, 50, 30, 80, 50, 30.0]))
    outline = shape.outline_nm(directions=36)
    assert np.abs(outline[:, 0]).max() == pytest.approx(80, abs=1)
    assert np.abs(outline[:, 1]).max() == pytest.approx(50, abs=1)
    assert (shape.thickness_nm(*(0.98 * outline).T, np.eye(3)) > 0).all()
    assert (shape.thickness_nm(*(1.04 * outline).T, np.eye(3)) == 0).all()
