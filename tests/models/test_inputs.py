"""The channels of the network tell their story at every dose."""

from __future__ import annotations

import numpy as np
import pytest

from models.classes import Mode
from models.imaging import take_image
from models.inputs import CHANNELS, Acquisition, binning_of, network_input, working_grid
from models.scenes import SceneConfig, draw_specimen


@pytest.mark.parametrize("mode", ["BF", "HAADF"])
@pytest.mark.parametrize("dose", [0.02, 1.0, 100.0])
def test_every_channel_is_unsaturated_and_of_order_one(mode: Mode, dose: float) -> None:
    rng = np.random.default_rng(3)
    for _ in range(4):
        specimen = draw_specimen(rng, SceneConfig(shape=(96, 160)), pixel_size_nm=9.0)
        image = take_image(rng, specimen, electrons_per_px=dose, mode=mode)
        x = network_input(image.electrons, Acquisition(mode, 9.0, 2 * dose))
        assert x.shape == (len(CHANNELS), 96, 160)
        assert np.isfinite(x).all()
        assert np.abs(x).max() < 12


@pytest.mark.parametrize("mode", ["BF", "HAADF"])
@pytest.mark.parametrize("dose", [0.02, 1.0, 100.0])
def test_more_electrons_always_move_every_channel(mode: Mode, dose: float) -> None:
    """On a ramp from a tenth to twice the dose no channel stands still: nothing is clipped."""
    ramp = np.tile(np.linspace(0.1, 2.0, 192, dtype=np.float32) * np.float32(dose), (64, 1))
    x = network_input(ramp, Acquisition(mode, 9.0, 1.5 * dose))
    for k, name in enumerate(CHANNELS[:8]):
        steps = np.diff(x[k, 32, 16:-16:8])
        assert (steps > 1e-3 * np.ptp(x[k])).all(), name


def test_noise_has_the_same_size_at_every_dose() -> None:
    """Anscombe: the standard deviation of the significance does not depend on the dose."""
    rng = np.random.default_rng(0)
    spread = []
    for dose in (2.0, 20.0, 200.0):
        flat = rng.poisson(dose, (128, 128)).astype(np.float32)
        spread.append(float(np.sinh(network_input(flat, Acquisition("BF", 9.0))[0]).std()))
    np.testing.assert_allclose(spread, 1.0, rtol=0.08)


@pytest.mark.parametrize(
    ("pixel_nm", "binning"), [(3, 6), (4, 5), (6, 3), (7, 2), (10, 2), (15, 1)]
)
def test_fine_pixels_are_summed_to_at_most_20_nm(pixel_nm: float, binning: int) -> None:
    assert binning_of(pixel_nm) == binning


def test_summing_keeps_the_electrons_and_scales_what_is_known() -> None:
    electrons = np.random.default_rng(1).poisson(0.5, (62, 94)).astype(np.float32)
    summed, acquisition, b = working_grid(electrons, Acquisition("BF", 9.0, 0.6))
    assert (b, summed.shape) == (2, (31, 47))
    assert summed.sum() == electrons.sum()
    assert acquisition == Acquisition("BF", 18.0, pytest.approx(2.4))
    odd, _, _ = working_grid(electrons[:61, :93], Acquisition("BF", 9.0))
    assert odd.shape == (31, 47)
