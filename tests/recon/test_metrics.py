"""Resolution numbers: right on known images, silent on noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import fourier_shift

from recon.judge import error_map, measure_resolution
from recon.metrics import (
    RingCorrelation,
    Spot,
    lattice_limit_A,
    lattice_spots,
    registered_correlation,
    ring_correlation,
)

SHAPE, PIXEL_A = (90, 111), 0.4


def lattice(spacing_A: float, finest: int) -> np.ndarray:
    y, x = (np.arange(n) * PIXEL_A for n in SHAPE)
    image = np.zeros(SHAPE)
    for order in range(1, finest + 1):
        image += np.cos(2 * np.pi * order * y / spacing_A)[:, None]
        image += np.cos(2 * np.pi * order * x / spacing_A)[None] * 0.8
    return image


def test_an_image_agrees_with_itself_and_noise_with_nothing(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, *SHAPE))
    assert ring_correlation(a, a, PIXEL_A).correlation == pytest.approx(1.0)
    noise = ring_correlation(a, b, PIXEL_A)
    assert np.abs(noise.correlation[5:]).max() < 0.2
    assert not np.isfinite(noise.resolution_A(noise.half_bit_threshold()))


def test_the_ring_correlation_ends_where_the_signal_does(rng: np.random.Generator) -> None:
    q = np.hypot(np.fft.fftfreq(SHAPE[0], PIXEL_A)[:, None], np.fft.fftfreq(SHAPE[1], PIXEL_A))
    signal = np.fft.ifft2(np.fft.fft2(rng.normal(size=SHAPE)) * (q < 0.6)).real * 8
    halves = [signal + rng.normal(size=SHAPE) for _ in range(2)]
    assert ring_correlation(*halves, PIXEL_A).resolution_A(0.143) == pytest.approx(
        1 / 0.6, rel=0.13
    )


def test_the_crossing_is_interpolated() -> None:
    curve = RingCorrelation(np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.6, 0.0]), np.ones(3))
    assert curve.resolution_A(0.3) == pytest.approx(1 / 0.25)
    assert curve.resolution_A(-1.0) == pytest.approx(1 / 0.3)
    assert np.isnan(curve.resolution_A(2.0))


def test_agreement_that_is_shared_counts_for_nothing() -> None:
    curve = RingCorrelation(np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.6, 0.2]), np.ones(3))
    left = curve.without_shared(0.2)
    np.testing.assert_allclose(left.correlation, [1.0, 0.5, 0.0], atol=1e-12)
    assert left.resolution_A(0.143) > curve.without_shared(0.0).resolution_A(0.143)


def test_spots_are_found_where_the_lattice_is(rng: np.random.Generator) -> None:
    image = lattice(7.0, 4)
    spots = lattice_spots(image + rng.normal(size=SHAPE), PIXEL_A)
    spacings = sorted({round(spot.spacing_A, 1) for spot in spots}, reverse=True)
    for expected in (7.0, 3.5, 2.3, 1.8):
        assert min(abs(s - expected) for s in spacings) < 0.25
    assert lattice_limit_A(spots) == pytest.approx(7.0 / 4, rel=0.35)


@pytest.mark.parametrize("pair", [False, True])
def test_noise_has_no_lattice(pair: bool, rng: np.random.Generator) -> None:
    """At most one in a thousand images may show a spot, and never three."""
    for _ in range(60):
        a, b = rng.normal(size=(2, *SHAPE))
        spots = lattice_spots(a, PIXEL_A, other=b if pair else None)
        assert len(spots) <= 1
        assert np.isnan(lattice_limit_A(spots))


def test_the_raster_of_the_scan_is_no_lattice(rng: np.random.Generator) -> None:
    image = lattice(1.6, 1) * 3 + rng.normal(size=SHAPE)
    assert len(lattice_spots(image, PIXEL_A)) == 2
    assert not lattice_spots(image, PIXEL_A, raster=np.eye(2) * 1.6)


def test_three_spots_make_a_limit() -> None:
    spots = [Spot((q, 0.0), 50.0) for q in (0.2, 0.4, 0.5, 0.8)]
    assert lattice_limit_A(spots) == pytest.approx(1 / 0.4)
    assert np.isnan(lattice_limit_A(spots[:2]))


def test_registration_undoes_a_shift_and_a_plane(rng: np.random.Generator) -> None:
    q = np.hypot(np.fft.fftfreq(SHAPE[0])[:, None], np.fft.fftfreq(SHAPE[1]))
    image = np.fft.ifft2(np.fft.fft2(rng.normal(size=SHAPE)) * (q < 0.2)).real
    moved = np.fft.ifft2(fourier_shift(np.fft.fft2(image), (2.4, -3.7))).real
    moved = 3 * moved + np.linspace(0, 5, SHAPE[1])
    assert registered_correlation(image, moved, 8) > 0.99
    assert registered_correlation(image, rng.normal(size=SHAPE), 8) < 0.3


def test_the_error_map_is_the_noise_of_the_mean_of_two_halves(rng: np.random.Generator) -> None:
    truth = lattice(7.0, 3)
    level = np.where(np.arange(SHAPE[1]) < 50, 0.2, 0.6)
    halves = [
        (truth + rng.normal(size=SHAPE) * level * 2**0.5).astype(np.float32) for _ in range(2)
    ]
    sigma = error_map(halves[0], halves[1], PIXEL_A)
    assert sigma[:, 10:40].mean() == pytest.approx(0.2, rel=0.1)
    assert sigma[:, 65:].mean() == pytest.approx(0.6, rel=0.1)


def test_spots_below_the_noise_of_the_electrons_are_no_lattice(rng: np.random.Generator) -> None:
    """Fits that do not follow the noise agree on what their model makes of the rest."""
    for strength, fluence, seen in ((0.01, 100.0, 0), (0.01, 1e4, 2), (0.3, 100.0, 2)):
        halves = [
            (strength * lattice(1.6, 1) + 1e-3 * rng.normal(size=SHAPE)).astype(np.float32)
            for _ in range(2)
        ]
        *_, spots = measure_resolution(
            halves[0], (halves[0], halves[1]), PIXEL_A, raster=1.05 * np.eye(2), electrons=1e5,
            fluence_e_per_A2=fluence,
        )  # fmt: skip
        assert len(spots) == seen


@given(st.floats(0.05, 5), st.floats(0, 0.4))
def test_noise_that_is_seen_counts_where_it_is_above_that_of_the_electrons(
    sigma: float, part: float
) -> None:
    rng = np.random.default_rng(3)
    image = lattice(3.2, 1) * 3 * sigma + sigma * rng.normal(size=SHAPE)
    least = part * sigma**2 * PIXEL_A**2
    found = lattice_spots(image, PIXEL_A, least_noise_A2=least)
    assert found == lattice_spots(image, PIXEL_A)
    assert found
