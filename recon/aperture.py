"""The shape of the probe's aperture, as a pattern in vacuum shows it.

A disc that is not round, cut, or unevenly lit makes another probe than a round one of the same
semi-angle. The counts of a vacuum pattern are noisy, too: what they say beyond an even, round
disc is believed as far as it stands out of their noise. With noise variance n and the mean square
deviation d of a neighbourhood, the deviation of each pixel is scaled by max(d - n, 0) / d (an
empirical Wiener filter), so that few counts give the round disc and many give the pattern.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift, uniform_filter

from recon.dataset import VacuumProbe

Float = NDArray[np.float64]
NEIGHBOURHOOD_PX = 3
SKIRT_PX = 1.5
"""Counts further out than a tenth of the radius and this many pixels are scatter."""


def aperture_intensity(vacuum: VacuumProbe, centre_px: tuple[float, float]) -> Float:
    """Intensity of the illumination in every detector pixel, (det_y, det_x), its level one.

    ``centre_px`` (row, col) is where the undiffracted beam lies now, stored frame.
    """
    pattern = vacuum.pattern.astype(np.float64)
    rows, cols = np.indices(pattern.shape)
    distance = np.hypot(rows - vacuum.row_px, cols - vacuum.col_px)
    inside = distance < max(vacuum.radius_px - SKIRT_PX, 0.5 * vacuum.radius_px)
    level = float(pattern[inside].mean())
    round_disc = level * np.clip(vacuum.radius_px - distance + 0.5, 0, 1)
    seen = np.where(distance < 1.1 * vacuum.radius_px + SKIRT_PX, pattern, 0.0)
    deviation = seen - round_disc
    noise = np.maximum(seen, round_disc) / vacuum.n_patterns
    square = uniform_filter(deviation**2, NEIGHBOURHOOD_PX)
    excess = np.maximum(square - uniform_filter(noise, NEIGHBOURHOOD_PX), 0.0)
    believed = np.divide(excess, square, out=np.zeros_like(square), where=square > 0)
    intensity = np.maximum(round_disc + believed * deviation, 0.0) / level
    moved = centre_px[0] - vacuum.row_px, centre_px[1] - vacuum.col_px
    if max(map(abs, moved)) > vacuum.sigma_px:
        intensity = np.maximum(shift(intensity, moved, order=1), 0.0)
    return np.asarray(intensity, np.float64)
