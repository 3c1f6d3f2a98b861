"""Images that no survey of crystals gives: what the out-of-distribution flag must catch.

Other materials and things (grains of a metal, fibres, lattice fringes, a net of cells, print),
scenes with a wrong gain or offset, far out of focus, empty, saturated, screenshots.  All keep the
calibration that the microscope would believe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import cKDTree

from models.evaluation_scenes import draw_evaluation_scene
from models.imaging import SurveyImage

SHAPE = (512, 512)
Floats = NDArray[np.float32]
Maker = Callable[[np.random.Generator, float], SurveyImage]


def _seen(rng: np.random.Generator, signal: NDArray[np.float64], dose: float) -> SurveyImage:
    """A signal of any scale on a counting detector at a mean dose."""
    expected = signal * (dose / max(float(signal.mean()), 1e-9))
    return SurveyImage(
        values=rng.poisson(np.maximum(expected, 0)).astype(np.float32),
        mode="BF" if rng.random() < 0.6 else "HAADF",
        pixel_size_nm=float(rng.uniform(4, 12)),
        gain=1.0,
        offset=0.0,
        detector="counting",
        incident_electrons_per_px=None,
    )


def _scene(rng: np.random.Generator, dose: float) -> SurveyImage:
    return draw_evaluation_scene(rng, electrons_per_px=dose, shape=SHAPE).image


def grains(rng: np.random.Generator, dose: float) -> SurveyImage:
    """Polycrystalline metal film: every grain its own grey."""
    n = int(rng.integers(60, 600))
    sites = rng.uniform(0, SHAPE[0], (n, 2))
    rows, cols = np.indices(SHAPE)
    _, nearest = cKDTree(sites).query(np.stack([rows.ravel(), cols.ravel()], 1))
    return _seen(rng, rng.uniform(0.2, 1, n)[nearest].reshape(SHAPE), dose)


def fibres(rng: np.random.Generator, dose: float) -> SurveyImage:
    """Tangled fibres or nanotubes."""
    canvas = Image.new("L", SHAPE, 230)
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(30, 120))):
        walk = rng.uniform(0, SHAPE[0], 2) + np.cumsum(rng.normal(0, 25, (30, 2)), axis=0)
        pen.line([tuple(p) for p in walk], fill=int(rng.uniform(60, 180)), width=3)
    return _seen(rng, np.asarray(canvas, np.float64), dose)


def fringes(rng: np.random.Generator, dose: float) -> SurveyImage:
    """Lattice image at high magnification."""
    rows, cols = np.indices(SHAPE)
    signal = np.full(SHAPE, 3.0)
    for _ in range(3):
        k, turn = rng.uniform(0.05, 0.25), rng.uniform(0, np.pi)
        signal += np.cos(2 * np.pi * k * (rows * np.sin(turn) + cols * np.cos(turn)))
    return _seen(rng, signal, dose)


def cells(rng: np.random.Generator, dose: float) -> SurveyImage:
    """A section of tissue: blobs with dark rims all over."""
    field = ndimage.gaussian_filter(rng.normal(size=SHAPE), rng.uniform(6, 14))
    field /= field.std()
    return _seen(rng, 1.2 - np.exp(-((field / 0.25) ** 2)), dose)


def print_(rng: np.random.Generator, dose: float) -> SurveyImage:
    """A screenshot: windows, letters, a scale bar."""
    canvas = Image.new("L", SHAPE, int(rng.uniform(200, 255)))
    pen = ImageDraw.Draw(canvas)
    for _ in range(12):
        x, y = rng.uniform(0, 420, 2)
        pen.rectangle([x, y, x + rng.uniform(30, 200), y + 20], fill=int(rng.uniform(0, 200)))
        pen.text((x, y + 22), "scale 200 nm  300 kV", fill=0)
    return _seen(rng, np.asarray(canvas, np.float64) + 1, dose)


def defocused(rng: np.random.Generator, dose: float) -> SurveyImage:
    """A survey scene far out of focus: rings, no edge."""
    image = draw_evaluation_scene(rng, electrons_per_px=1e4, shape=SHAPE, mode="BF").image
    k2 = np.fft.fftfreq(SHAPE[0])[:, None] ** 2 + np.fft.rfftfreq(SHAPE[1])[None, :] ** 2
    amplitude = np.fft.rfft2(np.sqrt(np.maximum(image.electrons, 0)))
    chirp = np.exp(-1j * np.pi * rng.uniform(1500, 5000) * k2)
    return replace(
        _seen(rng, np.abs(np.fft.irfft2(amplitude * chirp, s=SHAPE)) ** 2 + 1e-3, dose),
        mode="BF",
    )


def wrong_gain(rng: np.random.Generator, dose: float) -> SurveyImage:
    """The calibration of the gain is off by a factor of 4 or more."""
    image = _scene(rng, dose)
    factor = float(np.exp(rng.uniform(np.log(4), np.log(30)))) ** rng.choice([-1, 1])
    return replace(image, gain=image.gain * factor)


def wrong_offset(rng: np.random.Generator, dose: float) -> SurveyImage:
    """The zero of the detector is off by several times the signal."""
    image = _scene(rng, dose)
    return replace(image, offset=image.offset - image.gain * dose * float(rng.uniform(3, 30)))


def empty(rng: np.random.Generator, dose: float) -> SurveyImage:
    """No specimen, no structure: read noise about zero."""
    image = _seen(rng, np.ones(SHAPE), dose)
    return replace(image, values=rng.normal(0, 0.1, SHAPE).astype(np.float32))


def saturated(rng: np.random.Generator, dose: float) -> SurveyImage:
    """Half of the pixels at the end of the scale."""
    image = _scene(rng, dose)
    top = float(np.quantile(image.values, rng.uniform(0.2, 0.6)))
    return replace(image, values=np.minimum(image.values, np.float32(max(top, 1e-3))))


FOREIGN: dict[str, Maker] = {
    "grains": grains, "fibres": fibres, "fringes": fringes, "cells": cells, "screenshot": print_,
    "defocused": defocused, "wrong gain": wrong_gain, "wrong offset": wrong_offset,
    "empty": empty, "saturated": saturated,
}  # fmt: skip


def familiar(rng: np.random.Generator, dose: float) -> SurveyImage:
    """A matching scene, of the generator that training never sees."""
    return _scene(rng, dose)
