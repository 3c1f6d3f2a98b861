"""The middle of a crystal from its outline in one noisy picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.perception.outline import find_outline


def picture(
    centre: tuple[float, float], radius: float, contrast: float, seed: int, dose: float = 4.0
) -> np.ndarray:
    """A dark hexagon on a film, Poisson noise, a hot pixel."""
    y, x = np.indices((181, 203), dtype=float)
    angle = np.arctan2(y - centre[1], x - centre[0])
    rim = radius / np.cos((angle % (np.pi / 3)) - np.pi / 6) * np.cos(np.pi / 6)
    inside = np.hypot(x - centre[0], y - centre[1]) < rim
    rng = np.random.default_rng(seed)
    image = rng.poisson(dose * np.where(inside, contrast, 1.0)).astype(np.float32)
    image[12, 30] = 500.0
    return image


@given(
    dx=st.floats(-18, 18), dy=st.floats(-18, 18), radius=st.floats(18, 35), seed=st.integers(0, 99)
)
def test_the_middle_is_found_from_a_place_beside_it(
    dx: float, dy: float, radius: float, seed: int
) -> None:
    near = (100.0, 92.0)
    image = picture((near[0] + dx, near[1] + dy), radius, 0.7, seed)
    found = find_outline(image, near, 70.0)
    assert found is not None
    assert found.x_px == pytest.approx(near[0] + dx, abs=3.0)
    assert found.y_px == pytest.approx(near[1] + dy, abs=3.0)
    assert found.radius_px == pytest.approx(radius * np.cos(np.pi / 6), abs=5.0)
    assert found.clearance_px <= found.radius_px


def test_bare_film_has_no_outline() -> None:
    assert find_outline(picture((100, 90), 25, 1.0, 3), (100.0, 90.0), 60.0) is None


def test_a_window_full_of_crystal_has_none_either() -> None:
    assert find_outline(picture((100, 90), 80, 0.6, 3), (100.0, 90.0), 40.0) is None


def test_a_place_outside_the_crystal_has_no_clearance() -> None:
    found = find_outline(picture((120, 90), 20, 0.6, 5), (90.0, 90.0), 60.0)
    assert found is not None
    assert found.clearance_px == 0.0
