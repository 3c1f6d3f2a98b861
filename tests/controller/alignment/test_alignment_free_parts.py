"""The parts of the structure-free mode: symmetry of nodes, shared intensities, the posterior."""

import numpy as np
import pytest
from scipy.special import gammaln

from controller.perception.alignment.laue_posterior import LatticeNodes, laue_posterior
from controller.perception.alignment.node_symmetry import orbits, symmetry_groups
from controller.perception.alignment.shared_intensity import (
    EMPTY_SHARE,
    SHAPE,
    _log_gamma,
    gains,
    relrod_profile,
)

SQUARE = np.array([[9.0, 0.0], [0.0, 9.0]])
HEXAGONAL = np.array([[8.0, 0.0], [4.0, 4.0 * np.sqrt(3)]])
OBLIQUE = np.array([[8.0, 0.0], [1.7, 11.0]])
K = 39.9


def test_the_metric_says_which_symmetries_are_possible() -> None:
    assert [len(g) for g in symmetry_groups(OBLIQUE)] == [2]
    assert sorted(len(g) for g in symmetry_groups(np.diag([8.0, 13.0]))) == [2, 4]
    assert sorted(len(g) for g in symmetry_groups(SQUARE)) == [2, 4, 4, 4, 8]
    assert sorted(len(g) for g in symmetry_groups(HEXAGONAL)) == [2, 4, 4, 4, 6, 12]


@pytest.mark.parametrize("basis", [SQUARE, HEXAGONAL])
def test_nodes_of_one_orbit_lie_on_one_circle_and_are_as_many_as_the_group(
    basis: np.ndarray,
) -> None:
    group = max(symmetry_groups(basis), key=len)
    i, j = (v.ravel() for v in np.meshgrid(np.arange(-6, 7), np.arange(-6, 7)))
    index = np.stack([i, j], 1)[(i != 0) | (j != 0)]
    number = orbits(index, group)
    radius = np.hypot(*(index @ basis).T)
    inside = radius < 6 * np.hypot(*basis[0]) * 0.85
    for n in np.unique(number[inside]):
        members = number == n
        assert np.ptp(radius[members]) < 1e-9
        assert len(group) % members.sum() == 0


def test_the_relrod_profile_is_the_average_over_thicknesses() -> None:
    s = np.linspace(0.01, 0.05, 9)
    t = np.random.default_rng(0).normal(1.0, 0.3, 200_000)[:, None] * 100.0
    mean = (np.sin(np.pi * s * t) ** 2 / (np.pi * s * 100.0) ** 2).mean(0) / 1.09
    np.testing.assert_allclose(relrod_profile(s * 100.0, 0.3), mean, atol=5e-3)


def test_the_quick_log_gamma_is_that_of_the_library() -> None:
    x = np.geomspace(1e-3, 1e6, 200)
    np.testing.assert_allclose([_log_gamma(v) for v in x], gammaln(x), rtol=1e-6, atol=1e-6)


def test_the_likelihood_is_that_of_its_docstring() -> None:
    """One orbit of two nodes, written out with the library's functions."""
    g = np.array([[0.3, 0.0], [-0.3, 0.0]])
    h = K - np.sqrt(K**2 - (g**2).sum(1))
    counts, fall = np.array([30.0, 4.0]), np.ones(2)
    p, t, k = np.array([[0.004, 0.0]]), np.array([300.0]), 8.0
    found = gains(p, (g, h, fall, counts, np.array([0, 2])), t, k)[0, 0]
    w = relrod_profile((g @ p[0] - h) * 300.0, 0.3) + EMPTY_SHARE
    n, share = counts.sum(), k * w / w.sum()
    mean = n / SHAPE  # the scale that suits a single orbit best
    total = gammaln(n + SHAPE) - gammaln(SHAPE) + n * np.log(mean) - (n + SHAPE) * np.log1p(mean)
    split = gammaln(k) - gammaln(n + k) + (gammaln(counts + share) - gammaln(share)).sum()
    assert found == pytest.approx(total + split, rel=2e-3)


@pytest.mark.parametrize("tilt", [(6.0, -3.0), (-18.0, 11.0)])
def test_intensities_of_the_model_give_their_tilt_back(tilt: tuple[float, float]) -> None:
    rng = np.random.default_rng(7)
    basis = HEXAGONAL / np.hypot(*HEXAGONAL[0])
    i, j = (v.ravel() for v in np.meshgrid(np.arange(-12, 13), np.arange(-12, 13)))
    index = np.stack([i, j], 1)[(i != 0) | (j != 0)]
    g = 0.08 * index @ basis
    slope = np.tan(np.hypot(*tilt) * 1e-3) * np.array(tilt) / np.hypot(*tilt)
    h = K - np.sqrt(K**2 - (g**2).sum(1))
    orbit = orbits(index, max(symmetry_groups(basis), key=len))
    strength = rng.gamma(SHAPE, 1.0, orbit.max() + 1)[orbit] * np.exp(-(g**2).sum(1))
    expected = 40 * strength * (relrod_profile((g @ slope - h) * 400.0, 0.3) + EMPTY_SHARE)
    nodes = LatticeNodes(g, index, rng.poisson(expected).astype(float), 10 * basis)
    found = laue_posterior(nodes, K, reach_deg=6.0)
    off = np.hypot(found.tilt_mrad[0] - tilt[0], found.tilt_mrad[1] - tilt[1])
    assert off < 4 * max(found.sigma_mrad, 0.1)
    assert off < 1.0
    assert found.across_mrad <= found.along_mrad * 1.5
