"""Detectors: expected electrons in, raw values out; Poisson statistics come once, here, and last.

Counting: coincidences hide electrons at high rate, dead pixels are blind, hot ones count by
themselves, counts stop at saturation.  Integrating: each electron leaves a pulse of random
height, light spreads, then gain, offset, read noise and the converter.  Without beam both give
dark frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.hardware.values import DetectorInfo, Mode
from sim_microscope.randomness import stream
from sim_microscope.scenario import DetectorSpec

Array = NDArray[np.float64]

CAMERA, DIFFRACTION, SCAN = "camera", "diffraction", "scan4d"
READOUT_S = {CAMERA: 0.03, DIFFRACTION: 0.002, SCAN: 0.0}
_PULSE_HEIGHT_SPREAD = 0.6
"""Standard deviation of the pulse height over its mean."""


@dataclass(frozen=True, eq=False)
class BadPixels:
    """Defects of one detector; only some of them are listed."""

    dead: NDArray[np.bool_]
    hot: NDArray[np.bool_]
    listed: tuple[tuple[int, int], ...]


class Detectors:
    """The three detectors of the simulated column."""

    def __init__(self, spec: DetectorSpec, seed: int) -> None:
        self.spec = spec
        self.shapes: dict[str, tuple[int, int]] = {
            CAMERA: (spec.camera_px,) * 2,
            DIFFRACTION: (spec.diffraction_px,) * 2,
            SCAN: (spec.scan_px,) * 2,
        }
        self._bad = {
            name: _defects(spec, shape, stream(seed, f"detector.{name}"))
            for name, shape in self.shapes.items()
        }

    def describe(self) -> tuple[DetectorInfo, ...]:
        """What the capabilities say."""
        spec = self.spec
        return (
            DetectorInfo(
                name=CAMERA,
                shape=self.shapes[CAMERA],
                kind="integrating",
                modes=frozenset({Mode.IMAGE}),
                gain=spec.camera_gain,
                offset=spec.camera_offset,
                saturation=60_000.0,
                min_exposure_s=1e-3,
                max_exposure_s=20.0,
                bad_pixels=self._bad[CAMERA].listed,
            ),
            DetectorInfo(
                name=DIFFRACTION,
                shape=self.shapes[DIFFRACTION],
                kind="counting",
                modes=frozenset({Mode.DIFFRACTION}),
                saturation=spec.counting_saturation,
                min_exposure_s=1e-4,
                max_exposure_s=20.0,
                bad_pixels=self._bad[DIFFRACTION].listed,
            ),
            DetectorInfo(
                name=SCAN,
                shape=self.shapes[SCAN],
                kind="counting",
                modes=frozenset({Mode.STEM}),
                saturation=spec.counting_saturation,
                min_exposure_s=1e-5,
                max_exposure_s=1.0,
                can_scan=True,
                bad_pixels=self._bad[SCAN].listed,
            ),
        )

    def read(
        self, name: str, electrons: Array, duration_s: float, rng: np.random.Generator
    ) -> NDArray[np.uint16]:
        """Raw frame(s) from the expected electrons per pixel.

        Parameters
        ----------
        electrons
            Expectation, (row, col) or (frame, row, col).
        duration_s
            Integration time of each frame.
        """
        bad = self._bad[name]
        if name == CAMERA:
            return self._integrate(np.where(bad.dead, 0.0, electrons), bad, rng)
        hidden = self.spec.count_rate_limit_per_px_s * duration_s
        seen = electrons * np.exp(-electrons / hidden)
        seen = np.where(bad.dead, 0.0, seen) + bad.hot * self.spec.hot_rate_per_s * duration_s
        counts = rng.poisson(seen)
        return np.minimum(counts, int(self.spec.counting_saturation)).astype(np.uint16)

    def _integrate(
        self, electrons: Array, bad: BadPixels, rng: np.random.Generator
    ) -> NDArray[np.uint16]:
        spec = self.spec
        hits = rng.poisson(electrons).astype(np.float64)
        # the sum of n gamma-distributed pulses, at the normal limit
        light = hits + _PULSE_HEIGHT_SPREAD * np.sqrt(hits) * rng.standard_normal(hits.shape)
        blur = (0,) * (light.ndim - 2) + (spec.camera_blur_px,) * 2
        light = ndimage.gaussian_filter(np.maximum(light, 0.0), blur, mode="nearest")
        values = spec.camera_offset + spec.camera_gain * light
        values += spec.camera_read_noise * rng.standard_normal(light.shape)
        values = np.where(bad.dead, spec.camera_offset, values) + 20_000.0 * bad.hot
        return np.clip(np.rint(values), 0, 65535).astype(np.uint16)


def _defects(spec: DetectorSpec, shape: tuple[int, int], rng: np.random.Generator) -> BadPixels:
    number = spec.dead_pixels + spec.hot_pixels + spec.unlisted_bad_pixels
    places = rng.choice(shape[0] * shape[1], size=number, replace=False)
    rows, columns = np.unravel_index(places, shape)
    dead, hot = np.zeros(shape, bool), np.zeros(shape, bool)
    for index, (row, column) in enumerate(zip(rows, columns, strict=True)):
        unlisted = index >= spec.dead_pixels + spec.hot_pixels
        is_hot = spec.dead_pixels <= index and (not unlisted or index % 2 == 0)
        (hot if is_hot else dead)[row, column] = True
    known = spec.dead_pixels + spec.hot_pixels
    listed = tuple((int(r), int(c)) for r, c in zip(rows[:known], columns[:known], strict=True))
    return BadPixels(dead, hot, listed)
