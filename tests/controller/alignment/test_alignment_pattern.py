"""What the aligner looks at: pixels, spots, lattice."""

import numpy as np
import pytest

from benchmarks.alignment_patterns import Detector, record
from controller.perception.alignment.lattice import fit_lattice, reduce_basis
from controller.perception.alignment.pattern import PatternError, check_pattern
from controller.perception.alignment.spots import find_spots

RNG = np.random.default_rng(6)


def _spots(n: int = 5, electrons: float = 2e4) -> np.ndarray:
    """A made-up oblique lattice with a bright direct beam, centre (101.3, 88.6)."""
    i, j = (v.ravel() for v in np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1)))
    g = np.stack([0.11 * i + 0.03 * j, -0.02 * i + 0.14 * j], 1)
    intensity = np.exp(-((g**2).sum(1)) / 0.2)
    intensity[(i == 0) & (j == 0)] = 8.0
    detector = Detector(shape=(180, 211), centre_px=(101.3, 88.6), inv_A_per_px=0.01)
    return record(g, intensity / intensity.sum(), detector, electrons, RNG)


def test_nan_and_shapes_are_refused_with_numbers() -> None:
    image = np.ones((64, 64))
    image[0, 0], image[3, 3] = np.nan, np.inf
    with pytest.raises(PatternError, match="2 of 4096 pixels are NaN"):
        check_pattern(image)
    with pytest.raises(PatternError, match=r"got shape \(4, 64, 64\)"):
        check_pattern(np.ones((4, 64, 64)))
    with pytest.raises(PatternError, match="below zero"):
        check_pattern(-np.ones((64, 64)))


def test_the_centre_is_found_to_a_tenth_of_a_pixel() -> None:
    image = _spots()
    spots = find_spots(check_pattern(image))
    np.testing.assert_allclose(spots.centre_px, (101.3, 88.6), atol=0.1)
    assert spots.sigma_px == pytest.approx(0.9, abs=0.12)


def test_hot_pixels_and_dead_columns_are_not_spots() -> None:
    image = _spots()
    clean = len(find_spots(check_pattern(image)))
    image[20, 150] += 400
    image[160, 30] += 90
    image[:, 60] = 0
    pattern = check_pattern(image)
    assert set(pattern.hot_px) == {(20, 150), (160, 30)}
    assert not pattern.good[:, 60].any()
    spots = find_spots(pattern)
    assert len(spots) <= clean
    for row, col in ((20, 150), (160, 30)):
        assert np.hypot(spots.x_px - col, spots.y_px - row).min() > 2


def test_the_lattice_is_found_with_its_origin() -> None:
    image = _spots()
    spots = find_spots(check_pattern(image))
    found = fit_lattice(spots.x_px, spots.y_px, spots.counts, spots.centre_px, centre_is_node=True)
    assert found is not None
    truth = reduce_basis(np.array([[11.0, -2.0], [3.0, 14.0]]))
    assert found.cell_area_px2 == pytest.approx(abs(np.linalg.det(truth)), rel=0.01)
    assert found.used.mean() > 0.9


def test_a_reduced_basis_spans_the_same_lattice() -> None:
    basis = np.array([[7.0, 1.0], [2.0, 9.0]])
    skewed = np.array([[1, 0], [3, 1]]) @ basis
    reduced = reduce_basis(skewed)
    steps = reduced @ np.linalg.inv(basis)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)
    assert abs(np.linalg.det(reduced)) == pytest.approx(abs(np.linalg.det(basis)))
