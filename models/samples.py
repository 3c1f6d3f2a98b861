"""Training samples: a drawn scene as channels in and targets out, on the working grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classes import DISTANCE_UNIT_NM, LEAST_RADIUS_NM
from models.imaging import ImagingConfig, SurveyImage, take_image
from models.inputs import Acquisition, binning_of, network_input
from models.scenes import SceneConfig, draw_specimen
from models.truth import Truth

CENTRE_DEPTH_NM = 0.7 * LEAST_RADIUS_NM
"""A 50 nm disc is at least 80 % inside an area if its centre is this deep in it (a strip of
half width 0.7 R leaves out 2 * 9.4 % of the disc)."""


@dataclass(frozen=True)
class Batch:
    """Channels and targets of several scenes."""

    channels: Tensor
    """float32, (batch, channel, ny, nx)."""
    labels: Tensor
    """int64, (batch, ny, nx)."""
    log_thickness: Tensor
    """``log(t/mfp + 0.1)``, (batch, ny, nx)."""
    distance: Tensor
    """Distance to the border of the usable area in 100 nm, at most 3, (batch, ny, nx)."""
    pickable: Tensor
    """1 where a disc of 50 nm is right, (batch, ny, nx)."""


@dataclass(frozen=True)
class Sample:
    """One scene on the working grid."""

    image: SurveyImage
    """``pixel_size_nm`` and electrons are those of the working grid."""
    raw_electrons_per_px: float
    """Mean detected electrons per pixel of the detector (before summing)."""
    truth: Truth


def draw_sample(
    rng: np.random.Generator,
    scene: SceneConfig,
    imaging: ImagingConfig,
    *,
    electrons_per_px: float | None = None,
) -> Sample:
    """Draw a scene at a raw pixel size and dose, directly on the working grid.

    A raw pixel below 10 nm stands for b x b summed pixels, so its dose is b^2 times the raw one.
    """
    low, high = scene.pixel_size_nm
    raw_pixel_nm = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    b = binning_of(raw_pixel_nm)
    if electrons_per_px is None:
        electrons_per_px = imaging.draw_dose(rng)
    specimen = draw_specimen(rng, scene, pixel_size_nm=raw_pixel_nm * b)
    image = take_image(rng, specimen, imaging, electrons_per_px=electrons_per_px * b * b, binning=b)
    return Sample(image, electrons_per_px, specimen.truth)


def acquisition_of(image: SurveyImage) -> Acquisition:
    """What the network may know of a drawn image."""
    return Acquisition(image.mode, image.pixel_size_nm, image.incident_electrons_per_px)


def make_batch(samples: list[Sample]) -> Batch:
    """Stack samples of one shape."""

    def stack(arrays: list[NDArray[np.float32]]) -> Tensor:
        return torch.from_numpy(np.stack(arrays))

    depth = [s.truth.usable_distance_nm for s in samples]
    return Batch(
        channels=stack(
            [network_input(s.image.electrons, acquisition_of(s.image)) for s in samples]
        ),
        labels=torch.from_numpy(np.stack([s.truth.labels for s in samples]).astype(np.int64)),
        log_thickness=stack([np.log(s.truth.thickness_mfp + np.float32(0.1)) for s in samples]),
        distance=stack([np.minimum(d / np.float32(DISTANCE_UNIT_NM), 3) for d in depth]),
        pickable=stack([(d >= CENTRE_DEPTH_NM).astype(np.float32) for d in depth]),
    )
