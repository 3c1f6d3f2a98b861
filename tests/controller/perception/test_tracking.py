"""Following a crystal through noise."""

import numpy as np
import pytest
from scipy import ndimage

from controller.perception.tracking import locate_template


def scene(shape: tuple[int, int], shift: tuple[float, float], dose: float, seed: int) -> np.ndarray:
    """A dark hexagon-like blob and a smaller one on film, displaced by (dx, dy)."""
    rows, cols = np.indices(shape, dtype=float)
    x, y = cols - 150 - shift[0], rows - 110 - shift[1]
    crystal = np.abs(x) + 0.6 * np.abs(y) < 34
    dirt = (x - 70) ** 2 + (y + 30) ** 2 < 15**2
    mean = dose * (1 - 0.35 * ndimage.gaussian_filter(crystal.astype(float), 1) - 0.2 * dirt)
    return np.random.default_rng(seed).poisson(mean).astype(np.float32)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (23.4, -17.7), (-60.2, 41.5)])
def test_finds_the_shift_within_two_pixels_at_four_electrons_per_pixel(
    shift: tuple[float, float],
) -> None:
    reference = scene((240, 320), (0, 0), 4, seed=1)
    image = scene((240, 320), shift, 4, seed=2)

    found = locate_template(reference, (150, 110), 60, image, (150, 110), search_px=80)

    assert (found.dx_px, found.dy_px) == pytest.approx(shift, abs=2.0)
    assert found.correlation > 0.5


def test_an_empty_picture_has_no_correlation() -> None:
    reference = scene((240, 320), (0, 0), 4, seed=1)
    empty = np.random.default_rng(3).poisson(4.0, (240, 320)).astype(np.float32)
    found = locate_template(reference, (150, 110), 60, empty, (150, 110), search_px=80)
    assert found.correlation < 0.25


def test_a_template_outside_the_picture_is_no_find() -> None:
    image = scene((240, 320), (0, 0), 4, seed=1)
    assert locate_template(image, (900, 900), 40, image, (150, 110), search_px=20).correlation == 0


def test_a_hot_pixel_is_not_followed() -> None:
    reference, image = scene((240, 320), (0, 0), 4, seed=1), scene((240, 320), (30, 20), 4, seed=2)
    for picture in (reference, image):
        picture[100:102, 140] = 4000
    found = locate_template(reference, (150, 110), 60, image, (150, 110), search_px=80)
    assert (found.dx_px, found.dy_px) == pytest.approx((30, 20), abs=2.0)


def test_a_thin_crystal_is_followed() -> None:
    """A tenth of the beam missing at four electrons per pixel."""
    rows, cols = np.indices((400, 420))

    def thin(dx: float, dy: float, seed: int) -> np.ndarray:
        inside = np.abs(cols - 200 - dx) + np.abs(rows - 190 - dy) < 50
        return np.random.default_rng(seed).poisson(4 * (1 - 0.1 * inside)).astype(np.float32)

    found = locate_template(
        thin(0, 0, 1), (200, 190), 80, thin(-41, 27, 2), (200, 190), search_px=90
    )
    assert (found.dx_px, found.dy_px) == pytest.approx((-41, 27), abs=5.0)
    assert found.correlation > 0.5
