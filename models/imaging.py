"""From a specimen to detector values: contrast, optics, dose and detector.

Bright field: the unscattered beam, ``I = I0 exp(-t/mfp - diffraction)``.  Dark field: proportional
to mass thickness, ``I = I0 (b + f (1 - exp(-s t/mfp)))``, which bends over only for thick matter.
Light is uneven, the edges carry a Fresnel fringe, the transfer is blurred.  Then counting,
integrating or scanned detection turns the expected electrons into values: quantum noise, pulse
heights, blur after detection, read noise, gain and offset, and a small error of the calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.classes import Mode
from models.scenes import SceneConfig, Specimen, draw_specimen
from models.supports import smooth_noise

Floats = NDArray[np.float32]
Detector: TypeAlias = Literal["counting", "integrating", "scan"]


@dataclass(frozen=True)
class ImagingConfig:
    """Ranges over which images are drawn."""

    electrons_per_px: tuple[float, float] = (0.02, 100.0)
    """Mean detected electrons per pixel, log-uniform for a skew of 1."""
    dose_skew: float = 1.0
    """Below 1 bright images come more often: log dose goes with u**skew, u uniform."""
    dark_field_share: float = 0.4
    incident_known_share: float = 0.5
    uneven_light: float = 0.4
    """Greatest peak-to-peak unevenness of the illumination."""
    randomise_detector: bool = True
    """False: an ideal counting detector (for ablations)."""

    def draw_dose(self, rng: np.random.Generator) -> float:
        """Mean detected electrons per pixel of one image."""
        low, high = np.log(self.electrons_per_px)
        return float(np.exp(low + (high - low) * rng.uniform() ** self.dose_skew))


@dataclass(frozen=True)
class SurveyImage:
    """One drawn image with what a calibrated microscope knows about it."""

    values: Floats
    """Raw detector values, (ny, nx)."""
    mode: Mode
    pixel_size_nm: float
    gain: float
    """Detector values per electron, as calibrated."""
    offset: float
    """Detector value without electrons, as calibrated."""
    detector: Detector
    incident_electrons_per_px: float | None
    """Electrons sent per pixel, if the microscope knows."""

    @property
    def electrons(self) -> Floats:
        """Detected electrons per pixel by the calibration."""
        return (self.values - np.float32(self.offset)) / np.float32(self.gain)


@dataclass(frozen=True)
class Scene:
    """A specimen and one image of it."""

    specimen: Specimen
    image: SurveyImage


def draw_scene(
    rng: np.random.Generator,
    scene: SceneConfig | None = None,
    imaging: ImagingConfig | None = None,
    *,
    pixel_size_nm: float | None = None,
    electrons_per_px: float | None = None,
    mode: Mode | None = None,
) -> Scene:
    """Draw a specimen and an image of it; the keywords fix what would be drawn."""
    specimen = draw_specimen(rng, scene, pixel_size_nm=pixel_size_nm)
    image = take_image(rng, specimen, imaging, electrons_per_px=electrons_per_px, mode=mode)
    return Scene(specimen, image)


def take_image(
    rng: np.random.Generator,
    specimen: Specimen,
    config: ImagingConfig | None = None,
    *,
    electrons_per_px: float | None = None,
    mode: Mode | None = None,
    binning: int = 1,
) -> SurveyImage:
    """Expose a specimen.

    Parameters
    ----------
    rng
        Source of randomness.
    specimen
        What is in the beam.
    config
        Ranges; ``ImagingConfig()`` by default.
    electrons_per_px
        Mean detected electrons per pixel of the specimen's grid, instead of drawing it.
    mode
        "BF" or "HAADF", instead of drawing it.
    binning
        How many detector pixels make one pixel of the grid along a side; blur shrinks with it
        and read noise grows.
    """
    config = config or ImagingConfig()
    if mode is None:
        mode = "HAADF" if rng.random() < config.dark_field_share else "BF"
    if electrons_per_px is None:
        electrons_per_px = config.draw_dose(rng)
    signal = bright_field(rng, specimen) if mode == "BF" else dark_field(rng, specimen)
    signal = _uneven(rng, signal, config.uneven_light)
    blur = rng.uniform(0.2, 0.9) / binning
    if blur > 0.25:
        signal = ndimage.gaussian_filter(signal, blur)
    per_signal = electrons_per_px / max(float(signal.mean()), 1e-6)
    expected = np.maximum(signal * np.float32(per_signal), 0)
    detector: Detector = "counting"
    if config.randomise_detector:
        kinds: tuple[Detector, ...] = ("counting", "integrating", "scan")
        detector = kinds[int(rng.choice(3, p=[0.4, 0.35, 0.25]))]
    values, gain, offset = detect(rng, expected, detector, binning=binning)
    known = rng.random() < config.incident_known_share
    return SurveyImage(
        values=values,
        mode=mode,
        pixel_size_nm=specimen.pixel_size_nm,
        gain=gain,
        offset=offset,
        detector=detector,
        incident_electrons_per_px=per_signal * float(rng.normal(1, 0.02)) if known else None,
    )


def bright_field(rng: np.random.Generator, specimen: Specimen) -> Floats:
    """Bright-field signal per incident electron, (ny, nx), with a fringe at edges."""
    t = specimen.film_mfp + specimen.crystal_mfp + specimen.dirt_mfp
    signal = np.exp(-t - specimen.diffraction)
    fringe = rng.uniform(-0.25, 0.5) if rng.random() < 0.5 else 0.0
    if fringe:
        width = max(0.6, rng.uniform(4, 14) / specimen.pixel_size_nm)
        signal += np.float32(fringe) * (signal - ndimage.gaussian_filter(signal, width))
    signal[specimen.bars] = np.float32(rng.uniform(0, 0.02))
    return np.maximum(signal, 0)


def dark_field(rng: np.random.Generator, specimen: Specimen) -> Floats:
    """Annular dark-field signal per incident electron, (ny, nx)."""
    film, crystal, dirt = rng.uniform(0.5, 1.0), rng.uniform(0.8, 2.0), rng.uniform(0.5, 1.5)
    mass = (
        np.float32(film) * specimen.film_mfp
        + np.float32(crystal) * specimen.crystal_mfp
        + np.float32(dirt) * specimen.dirt_mfp
        + np.float32(0.3 * crystal * rng.uniform(0, 1)) * specimen.diffraction
    )
    bend = np.float32(rng.uniform(0.05, 0.5))
    fraction = np.float32(np.exp(rng.uniform(np.log(0.02), np.log(0.12))))
    background = np.float32(fraction * np.exp(rng.uniform(np.log(0.002), np.log(0.06))))
    signal = background + fraction * (1 - np.exp(-bend * mass)) / bend
    signal[specimen.bars] = fraction * np.float32(rng.uniform(0.5, 2.0) / bend)
    return np.asarray(signal, np.float32)


def _uneven(rng: np.random.Generator, signal: Floats, most: float) -> Floats:
    if rng.random() < 0.4 or most <= 0:
        return signal
    slow = smooth_noise(rng, (signal.shape[0], signal.shape[1]), 1.2 * max(signal.shape))
    swing = np.float32(rng.uniform(0, most) / max(float(np.ptp(slow)), 1e-6))
    return np.asarray(signal * np.clip(1 + swing * slow, 0.3, 2), np.float32)


def detect(
    rng: np.random.Generator, expected: Floats, detector: Detector, *, binning: int = 1
) -> tuple[Floats, float, float]:
    """Detector values of the expected electrons.

    Parameters
    ----------
    rng
        Source of randomness.
    expected
        Expected electrons per pixel, float32, (ny, nx), >= 0.
    detector
        "counting": whole electrons.  "integrating": pulse heights vary, the signal spreads after
        detection, the read-out adds noise.  "scan": pulse heights, amplifier noise and a little
        wandering of the zero from line to line.
    binning
        Detector pixels along a side of one grid pixel.

    Returns
    -------
    values float32 (ny, nx), and the gain and the offset that the calibration believes.
    """
    counts = rng.poisson(expected).astype(np.float32)
    if detector == "counting":
        return counts, 1.0, 0.0
    level = float(expected.mean())
    shape = counts.shape
    if detector == "integrating":
        gain = float(np.exp(rng.uniform(np.log(3), np.log(500))))
        counts += np.sqrt(np.float32(rng.uniform(0, 0.6)) * counts) * _normal(rng, shape)
        spread = rng.uniform(0.3, 0.8) / binning
        if spread > 0.25:
            counts = ndimage.gaussian_filter(counts, spread)
        noise = np.exp(rng.uniform(np.log(0.005), np.log(0.15)))
    else:
        gain = float(np.exp(rng.uniform(np.log(10), np.log(3000))))
        counts += np.sqrt(np.float32(rng.uniform(0, 1.0)) * counts) * _normal(rng, shape)
        noise = np.exp(rng.uniform(np.log(0.005), np.log(0.2)))
        wander = np.float32(rng.uniform(0, 0.03) * level) * _normal(rng, (shape[0], 1))
        counts += wander
    counts += np.float32(noise * binning) * _normal(rng, shape)
    offset = float(rng.uniform(0, 200))
    values = counts * np.float32(gain) + np.float32(offset)
    # the calibration is good to a few per cent of gain and of zero
    known_gain = gain * float(rng.normal(1, 0.02))
    known_offset = offset + gain * level * float(rng.normal(0, 0.01))
    return values, known_gain, known_offset


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return rng.standard_normal(shape, dtype=np.float32)
