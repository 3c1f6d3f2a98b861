"""The probe without a specimen: what a pattern taken in vacuum says about the illumination."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class VacuumProbe:
    """Aperture as the detector sees it, with the same optics and no specimen.

    Centre and radius in detector pixels with one sigma for all three; ``ellipticity`` is the ratio
    of the axes of the disc less one, its long axis at ``ellipse_angle_deg`` from +col towards
    +row; ``unevenness`` the relative scatter of the intensity in the disc beyond counting noise.
    ``pattern`` (det_y, det_x) is the mean pattern, electrons, float32.
    """

    row_px: float
    col_px: float
    radius_px: float
    sigma_px: float
    electrons_per_pattern: float
    n_patterns: int
    ellipticity: float
    ellipse_angle_deg: float
    unevenness: float
    pattern: NDArray[np.float32]
    source: str = ""
    sha256: str = ""
