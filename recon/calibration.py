"""What was measured about the experiment, each number with its sigma and where it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recon.dataset import Dataset4D
from recon.errors import CalibrationError, DataError

Source = Literal["nominal", "fixed", "disc", "vacuum", "parallax", "joint", "held-out"]
MIN_BRIGHT_FIELD_ELECTRONS = 2000
MAX_CENTRE_OFFSET_PX = 0.6
MAX_RADIUS_ERROR = 0.1


@dataclass(frozen=True)
class Measured:
    """A number, its standard deviation (NaN: not known) and its origin."""

    value: float
    sigma: float
    source: Source


@dataclass(frozen=True)
class Calibration:
    """The experiment as the reconstruction sees it.

    ``mirrored`` says that rows and columns of the detector have to be exchanged on top of what
    the header declares. ``defocus_A`` refers to the entrance surface, positive is underfocus.
    """

    beam_centre_row_px: Measured
    beam_centre_col_px: Measured
    disc_radius_px: Measured
    defocus_A: Measured
    C12a_A: Measured
    C12b_A: Measured
    rotation_deg: Measured
    tilt_row_mrad: Measured
    tilt_col_mrad: Measured
    thickness_A: Measured
    affine: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    mirrored: bool = False
    affine_sigma: float = float("nan")
    """Standard deviation of each element of the distortion."""

    @property
    def centre_px(self) -> tuple[float, float]:
        """(row, col) of zero scattering angle in the stored frame."""
        return self.beam_centre_row_px.value, self.beam_centre_col_px.value

    def changed(
        self,
        values: Mapping[str, Measured],
        *,
        affine: tuple[tuple[float, float], tuple[float, float]],
        affine_sigma: float = float("nan"),
    ) -> "Calibration":
        """Return this calibration with some numbers measured anew."""
        present = {field.name: getattr(self, field.name) for field in fields(self)}
        return Calibration(
            **(present | dict(values) | {"affine": affine, "affine_sigma": affine_sigma})
        )

    def measured(self) -> dict[str, Measured]:
        """Every number with its sigma and source, by name."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if isinstance(getattr(self, field.name), Measured)
        }


@dataclass(frozen=True)
class Disc:
    """Centre (row, col) and radius of the bright-field disc, pixels, with sigmas."""

    row: Measured
    col: Measured
    radius: Measured


def measure_disc(dataset: Dataset4D) -> Disc:
    """Find the bright-field disc in the summed pattern.

    The plateau is the median inside; clipped at the plateau, the pattern is an area map whose
    centroid and sum give centre and radius to a fraction of a pixel, whatever the contrast in
    the disc.

    Raises
    ------
    CalibrationError
        Too few electrons, or nothing that looks like a disc.
    DataError
        The detector cuts the disc.
    """
    pattern = dataset.pattern().astype(np.float64)
    total = pattern.sum()
    if total < MIN_BRIGHT_FIELD_ELECTRONS:
        raise CalibrationError(
            f"{total:.0f} electrons in the whole scan are too few to find the bright-field disc "
            f"(at least {MIN_BRIGHT_FIELD_ELECTRONS}); nothing was reconstructed. Was the beam "
            f"open, and is the threshold of the detector right? Else scan with more electrons"
        )
    header = dataset.header
    expected = header.convergence_semiangle_mrad / header.detector_sampling_mrad
    ny, nx = pattern.shape
    row, col = np.indices(pattern.shape)
    centre = _densest_disc(pattern, expected)
    radius = expected
    area = np.zeros_like(pattern)
    for _ in range(8):
        distance = np.hypot(row - centre[0], col - centre[1])
        core = pattern[distance <= max(0.75 * radius, 1.0)]
        plateau = max(float(np.median(core)), 1e-9)
        area = np.clip(pattern / plateau, 0.0, 1.0)
        area[(area < 0.35) | (distance > 1.3 * radius + 2)] = 0.0
        weight = area.sum()
        centre = (float((row * area).sum() / weight), float((col * area).sum() / weight))
        radius = float(np.sqrt(weight / np.pi))
    _check_disc_is_whole(centre, radius, (ny, nx))
    edge_electrons = max(2 * np.pi * radius * plateau, 1.0)
    sigma = float(1 / np.sqrt(edge_electrons) + 0.05)
    return Disc(
        row=Measured(centre[0], sigma, "disc"),
        col=Measured(centre[1], sigma, "disc"),
        radius=Measured(radius, sigma, "disc"),
    )


def _densest_disc(pattern: NDArray[np.float64], radius: float) -> tuple[float, float]:
    """Centre of the disc of the expected radius that holds the most electrons."""
    ny, nx = pattern.shape
    ky, kx = np.fft.fftfreq(ny)[:, None] * ny, np.fft.fftfreq(nx)[None] * nx
    template = np.hypot(ky, kx) <= radius
    held = np.fft.ifft2(np.fft.fft2(pattern) * np.fft.fft2(template)).real
    row, col = np.unravel_index(np.argmax(held), held.shape)
    return float(row), float(col)


def _check_disc_is_whole(
    centre: tuple[float, float], radius: float, shape: tuple[int, int]
) -> None:
    room = min(*(c for c in centre), *(n - 1 - c for c, n in zip(centre, shape, strict=True)))
    if room < radius - 0.5:
        raise DataError(
            f"the detector cuts the bright-field disc: its centre ({centre[0]:.1f}, "
            f"{centre[1]:.1f}) px lies {room:.1f} px from the edge, the radius is {radius:.1f} px. "
            f"Nothing was reconstructed; centre the beam or shorten the camera length"
        )


def choose_centre(dataset: Dataset4D, disc: Disc) -> tuple[Measured, Measured, list[str]]:
    """Beam centre (row, col) to use, and what to warn about.

    Dynamical contrast of a crystal pulls the centroid of its disc by some tenths of a pixel, so
    that a stated centre is kept unless the disc lies elsewhere.
    """
    stated = dataset.header.centre_px
    off = float(np.hypot(disc.row.value - stated[0], disc.col.value - stated[1]))
    if off <= MAX_CENTRE_OFFSET_PX:
        sigma = max(off, disc.row.sigma)
        return Measured(stated[0], sigma, "nominal"), Measured(stated[1], sigma, "nominal"), []
    warning = (
        f"the bright-field disc is centred on ({disc.row.value:.1f}, {disc.col.value:.1f}) px, "
        f"{off:.1f} px from the stated beam centre; the measured one is used"
    )
    return disc.row, disc.col, [warning]


def radius_warning(dataset: Dataset4D, disc: Disc) -> list[str]:
    """A warning if semi-angle and camera length contradict the disc."""
    header = dataset.header
    expected = header.convergence_semiangle_mrad / header.detector_sampling_mrad
    ratio = disc.radius.value / expected
    if abs(ratio - 1) <= MAX_RADIUS_ERROR:
        return []
    return [
        f"the bright-field disc has a radius of {disc.radius.value:.1f} px, semi-angle and angular "
        f"sampling say {expected:.1f} px ({100 * (ratio - 1):+.0f} %); check the camera length and "
        f"the aperture, lengths in the image may be wrong by as much"
    ]
