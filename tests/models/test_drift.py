"""Frames of one field are summed where they belong."""

from __future__ import annotations

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.drift import sum_frames
from models.evaluation_scenes import draw_evaluation_scene


@functools.cache
def _signal(shape: tuple[int, int]) -> np.ndarray:
    """Expected electrons per pixel of a scene with a margin to drift in."""
    image = draw_evaluation_scene(
        np.random.default_rng([3, 2]), electrons_per_px=400.0, shape=shape, mode="HAADF"
    ).image
    return np.maximum(image.electrons, 0) / 400.0


@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(0, 1000))
@settings(max_examples=6, deadline=None)
def test_a_shifted_frame_is_found(dy: int, dx: int, seed: int) -> None:
    signal, rng = _signal((240, 250)), np.random.default_rng(seed)
    windows = [signal[20:212, 20:212], signal[20 - dy : 212 - dy, 20 - dx : 212 - dx]]
    total, shifts = sum_frames(rng.poisson(2.0 * np.stack(windows)).astype(np.float32))
    assert np.abs(shifts[1] - (dy, dx)).max() <= 1
    expected = 4.0 * windows[0]
    assert abs(float((total - expected).mean())) < 0.05 * float(expected.mean())


def test_drifting_frames_sum_to_a_sharp_picture() -> None:
    signal, rng = _signal((256, 256)), np.random.default_rng(1)
    frames = np.stack([rng.poisson(3 * signal[2 * k : 2 * k + 192, 30:222]) for k in range(16)])
    total, shifts = sum_frames(frames.astype(np.float32))
    left = shifts[:, 0] + 2 * np.arange(16)
    assert np.abs(left - np.median(left)).max() <= 2
    truth = 48 * signal[round(np.median(left)) :, 30:222][:192]
    assert np.abs(total - truth).mean() < 1.25 * np.sqrt(truth).mean()  # noise, no blur
    assert np.abs(frames.sum(0) - truth).mean() > np.abs(total - truth).mean()


def test_nothing_to_see_moves_nothing() -> None:
    noise = np.random.default_rng(2).poisson(0.05, (6, 128, 128)).astype(np.float32)
    total, shifts = sum_frames(noise)
    assert not shifts.any()
    np.testing.assert_allclose(total, noise.sum(0), rtol=1e-6)
