from __future__ import annotations

import numpy as np
import pytest

from sim_microscope.detectors import CAMERA, DIFFRACTION, SCAN, Detectors
from sim_microscope.scenario import DetectorSpec

CLEAN = {"dead_pixels": 0, "hot_pixels": 0, "unlisted_bad_pixels": 0}


def detectors(**spec: object) -> Detectors:
    return Detectors(DetectorSpec(**{**CLEAN, **spec}), 5)  # type: ignore[arg-type]


def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def test_counting_is_poisson_once() -> None:
    """Mean and variance both equal the expectation: a second Poisson would double the variance."""
    d = detectors(scan_px=128)
    counts = d.read(SCAN, np.full((128, 128), 7.0), 1.0, rng()).astype(float)
    assert counts.mean() == pytest.approx(7.0, rel=0.01)
    assert counts.var() == pytest.approx(7.0, rel=0.05)


def test_the_camera_returns_electrons_through_gain_and_offset() -> None:
    d = detectors(camera_px=256)
    raw = d.read(CAMERA, np.full((256, 256), 20.0), 0.1, rng()).astype(float)
    electrons = (raw - d.spec.camera_offset) / d.spec.camera_gain
    assert electrons.mean() == pytest.approx(20.0, rel=0.01)


def test_pulse_height_adds_to_the_shot_noise_and_blur_takes_from_it() -> None:
    sharp = detectors(camera_px=256, camera_blur_px=0.0, camera_read_noise=0.0)
    raw = sharp.read(CAMERA, np.full((256, 256), 50.0), 0.1, rng()).astype(float)
    excess = (raw / sharp.spec.camera_gain).var() / 50.0
    assert excess == pytest.approx(1 + 0.6**2, rel=0.05)
    soft = detectors(camera_px=256, camera_blur_px=0.8, camera_read_noise=0.0)
    blurred = soft.read(CAMERA, np.full((256, 256), 50.0), 0.1, rng()).astype(float)
    assert blurred.var() < 0.5 * raw.var()


def test_no_beam_gives_dark_frames() -> None:
    d = detectors(camera_px=64)
    dark = d.read(CAMERA, np.zeros((64, 64)), 0.1, rng()).astype(float)
    assert dark.mean() == pytest.approx(d.spec.camera_offset, abs=0.5)
    assert dark.std() == pytest.approx(d.spec.camera_read_noise, rel=0.1)
    assert d.read(SCAN, np.zeros((64, 64)), 0.1, rng()).sum() == 0


def test_bad_pixels_are_blind_or_hot_and_only_some_are_listed() -> None:
    d = detectors(dead_pixels=5, hot_pixels=4, unlisted_bad_pixels=3, diffraction_px=64)
    info = next(i for i in d.describe() if i.name == DIFFRACTION)
    assert len(info.bad_pixels) == 9
    dark = d.read(DIFFRACTION, np.zeros((64, 64)), 1.0, rng())
    bright = d.read(DIFFRACTION, np.full((64, 64), 100.0), 1.0, rng())
    listed = np.zeros((64, 64), bool)
    listed[tuple(np.transpose(info.bad_pixels))] = True
    wrong = (dark > 0) | (bright < 20)
    assert wrong.sum() == 12
    assert (wrong & listed).sum() == 9


def test_counts_saturate_and_coincidences_hide_electrons() -> None:
    d = detectors(counting_saturation=1000, scan_px=16)
    assert d.read(SCAN, np.full((16, 16), 5000.0), 1.0, rng()).max() == 1000
    slow = detectors(count_rate_limit_per_px_s=1e3, scan_px=64)
    seen = slow.read(SCAN, np.full((64, 64), 100.0), 1.0, rng()).mean()
    assert seen == pytest.approx(100 * np.exp(-0.1), rel=0.01)
    faint = slow.read(SCAN, np.full((64, 64), 1.0), 1.0, rng()).mean()
    assert faint == pytest.approx(1.0, rel=0.05)


def test_a_stack_of_frames_is_read_like_single_ones() -> None:
    d = detectors(scan_px=16)
    stack = d.read(SCAN, np.full((9, 16, 16), 3.0), 1e-3, rng())
    assert stack.shape == (9, 16, 16)
    assert stack.dtype == np.uint16
