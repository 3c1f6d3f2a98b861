"""From detected electrons to the channels that the network sees.

An image of n electrons per pixel carries Poisson noise sqrt(n), from 0.02 to 100 electrons alike.
So the channels are built such that their noise, and not only their signal, is the same at every
dose, and the dose itself is told:

* *significance*, Anscombe's ``2 sqrt(n + 3/8)`` against the mean, at four smoothing scales:
  how sure the deviation is, in standard deviations, compressed by asinh (no clipping);
* *contrast*, ``log((m + e)/(M + e))`` at three scales, with e the value of one electron in the
  smoothed area: how strong it is, regularised where one cannot know;
* *transmission*, ``log(m / incident)`` if the microscope knows what it sent;
* constants: dose, mode, pixel size, spread of the image.

Pixels finer than 10 nm are first summed (``working_grid``): that loses nothing a 50 nm disc needs,
and the network sees crystals at one scale, and far around them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.classes import Mode

Floats = NDArray[np.float32]

COARSEST_PIXEL_NM = 20.0
"""Pixels are summed as long as the sum is no coarser than this."""
CHANNELS = (
    "significance_1px", "significance_fine", "significance_middle", "significance_coarse",
    "contrast_fine", "contrast_middle", "contrast_coarse",
    "transmission", "transmission_known",
    "log_dose", "mode", "log_pixel_size", "spread_up", "spread_down",
)  # fmt: skip
_SMOOTH_PX = (1.0, 2.5, 6.5)
_ANSCOMBE = 0.375


@dataclass(frozen=True)
class Acquisition:
    """What is known about an image besides its electrons."""

    mode: Mode
    pixel_size_nm: float
    incident_electrons_per_px: float | None = None


def binning_of(pixel_size_nm: float) -> int:
    """How many pixels are summed along a side: the sum stays at or below 20 nm."""
    return max(1, int(COARSEST_PIXEL_NM / pixel_size_nm + 1e-6))


def working_grid(electrons: Floats, acquisition: Acquisition) -> tuple[Floats, Acquisition, int]:
    """Sum pixels to the working grid.

    Parameters
    ----------
    electrons
        Detected electrons per pixel, float32, (ny, nx).
    acquisition
        Mode, pixel size and incident dose of that grid.

    Returns
    -------
    Summed electrons (ceil(ny/b), ceil(nx/b)), the acquisition of the summed grid, and b.
    A rest at the lower and right border is mirrored before it is summed.
    """
    b = binning_of(acquisition.pixel_size_nm)
    if b == 1:
        return electrons, acquisition, 1
    ny, nx = electrons.shape
    padded = np.pad(electrons, ((0, -ny % b), (0, -nx % b)), mode="symmetric")
    rows, cols = padded.shape[0] // b, padded.shape[1] // b
    summed = padded.reshape(rows, b, cols, b).sum(axis=(1, 3), dtype=np.float32)
    incident = acquisition.incident_electrons_per_px
    coarse = Acquisition(
        acquisition.mode,
        acquisition.pixel_size_nm * b,
        None if incident is None else incident * b * b,
    )
    return summed, coarse, b


def network_input(electrons: Floats, acquisition: Acquisition) -> Floats:
    """Channels of one image on its working grid.

    Parameters
    ----------
    electrons
        Detected electrons per working pixel, float32, (ny, nx); finite.
    acquisition
        Of the working grid.

    Returns
    -------
    float32, (len(CHANNELS), ny, nx); every channel of order one at every dose.
    """
    mean = max(float(electrons.mean()), 1e-3)
    fine, middle, coarse = _smoothed(electrons)
    areas = [4 * np.pi * s * s for s in _SMOOTH_PX]  # pixels averaged by a Gaussian
    channels = np.empty((len(CHANNELS), *electrons.shape), np.float32)
    channels[0] = np.arcsinh(_significance(electrons, mean, 1.0))
    for k, (m, area) in enumerate(zip((fine, middle, coarse), areas, strict=True)):
        channels[1 + k] = np.arcsinh(_significance(m, mean, area) / np.float32(3))
        channels[4 + k] = _log_ratio(m, mean, 1 / area)
    incident = acquisition.incident_electrons_per_px
    known = incident is not None
    channels[7] = _transmission(middle, incident, acquisition.mode, areas[1]) if known else 0
    channels[8] = 1.0 if known else 0.0
    channels[9] = np.log10(mean) / 2
    channels[10] = 1.0 if acquisition.mode == "HAADF" else -1.0
    channels[11] = 2 * np.log(acquisition.pixel_size_nm / 14.0)
    low, high = np.percentile(coarse[::2, ::2], [2, 98])
    channels[12] = np.log((max(float(high), 0.0) + 0.05 * mean) / (1.05 * mean))
    channels[13] = np.log((max(float(low), 0.0) + 0.05 * mean) / (1.05 * mean))
    return channels


def _smoothed(electrons: Floats) -> tuple[Floats, Floats, Floats]:
    """Gaussian means at the three scales; the coarse one through a 4x4 binned image."""
    s1, s2, s3 = _SMOOTH_PX
    fine = ndimage.gaussian_filter(electrons, s1, truncate=3)
    middle = ndimage.gaussian_filter(fine, float(np.sqrt(s2**2 - s1**2)), truncate=3)
    ny, nx = electrons.shape
    padded = np.pad(middle, ((0, -ny % 4), (0, -nx % 4)), mode="symmetric")
    small = padded.reshape(padded.shape[0] // 4, 4, padded.shape[1] // 4, 4).mean(axis=(1, 3))
    small = ndimage.gaussian_filter(small, float(np.sqrt(s3**2 - s2**2)) / 4, truncate=3)
    coarse = np.repeat(np.repeat(small, 4, axis=0), 4, axis=1)[:ny, :nx]
    coarse = ndimage.uniform_filter(coarse, 4)  # back to a smooth, piecewise linear field
    return fine, middle, coarse


def _significance(m: Floats, mean: float, area: float) -> Floats:
    """Deviation from the mean in standard deviations of Poisson noise in ``area`` pixels."""
    floor = _ANSCOMBE / area
    root = np.sqrt(np.maximum(m, 0) + np.float32(floor))
    return np.float32(2 * np.sqrt(area)) * (root - np.float32(np.sqrt(mean + floor)))


def _log_ratio(m: Floats, level: float, one_electron: float) -> Floats:
    floor = np.float32(one_electron + 0.01 * level)
    return np.log((np.maximum(m, 0) + floor) / (np.float32(level) + floor))


def _transmission(m: Floats, incident: float | None, mode: Mode, area: float) -> Floats:
    """Log of detected over incident; the dark field is referred to 3 % of the beam."""
    level = max(incident or 0.0, 1e-6) * (1.0 if mode == "BF" else 0.03)
    return _log_ratio(m, level, 1 / area)
