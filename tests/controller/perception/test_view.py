"""Pixels of a tilted specimen: there and back, and against plain vector algebra."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.hardware.values import Calibration, StagePose
from controller.perception.view import View, survey_tiles

angles = st.floats(-60, 60)


def view(
    alpha: float = 0.0, beta: float = 0.0, rotation: float = 0.0, mirrored: bool = False
) -> View:
    pose = StagePose(x_um=3.0, y_um=-7.0, z_um=0.0, alpha_deg=alpha, beta_deg=beta)
    calibration = Calibration(image_rotation_deg=rotation, image_mirrored=mirrored)
    return View((384, 512), 8.0, calibration, pose)


@given(angles, angles, st.floats(-180, 180), st.booleans(), st.floats(0, 511), st.floats(0, 383))
def test_pixel_to_specimen_and_back(
    alpha: float, beta: float, rotation: float, mirrored: bool, x: float, y: float
) -> None:
    v = view(alpha, beta, rotation, mirrored)
    assert v.pixel(*v.specimen_um(x, y)) == pytest.approx((x, y), abs=1e-6)


@given(angles, angles, st.floats(-2, 2), st.floats(-2, 2))
def test_a_specimen_point_appears_where_the_double_tilt_puts_it(
    alpha: float, beta: float, dx: float, dy: float
) -> None:
    a, b = np.deg2rad(alpha), np.deg2rad(beta)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    column_um = (rx @ ry @ np.array([dx, dy, 0.0]))[:2]

    x_px, y_px = view(alpha, beta).pixel(3.0 + dx, -7.0 + dy)

    assert (x_px - 256) * 0.008 == pytest.approx(column_um[0], abs=1e-9)
    assert (y_px - 192) * 0.008 == pytest.approx(column_um[1], abs=1e-9)


def test_the_rotation_takes_image_vectors_to_stage_vectors() -> None:
    """With the image rotated by +90 deg, what lies to the right of the centre has larger y."""
    x_um, y_um = view(rotation=90.0).specimen_um(256 + 100, 192)
    assert x_um == pytest.approx(3.0)
    assert y_um == pytest.approx(-7.0 + 0.8)


@given(st.floats(1, 60), st.floats(1, 60), st.floats(1, 6), st.floats(1, 6), st.floats(0, 0.4))
def test_survey_tiles_cover_the_field_with_the_overlap(
    width: float, height: float, tile_w: float, tile_h: float, overlap: float
) -> None:
    tiles = survey_tiles((1.0, 2.0), (width, height), (tile_w, tile_h), overlap)
    xs = np.unique(np.round([t[0] for t in tiles], 9))
    assert xs.min() - tile_w / 2 <= 1.0 - width / 2 + 1e-6 or len(xs) == 1
    if len(xs) > 1:
        assert np.diff(xs).max() <= tile_w * (1 - overlap) + 1e-6
    else:
        assert tile_w >= width - 1e-6
