"""Virtual detectors: what a bright-field, annular or first-moment detector would have seen."""

import numpy as np
from numpy.typing import NDArray

from recon.dataset import Dataset4D

Float = NDArray[np.float64]


def angle_map_mrad(dataset: Dataset4D) -> Float:
    """Scattering angle of every stored detector pixel, mrad, (det_y, det_x)."""
    header = dataset.header
    row, col = np.indices(header.frame_shape)
    cy, cx = header.centre_px
    return np.hypot(row - cy, col - cx) * header.detector_sampling_mrad


def annular_image(dataset: Dataset4D, inner_mrad: float, outer_mrad: float) -> Float:
    """Counts with inner <= angle < outer at every position, (scan_y, scan_x)."""
    angle = angle_map_mrad(dataset)
    return dataset.virtual_image((angle >= inner_mrad) & (angle < outer_mrad))


def bright_field_image(dataset: Dataset4D) -> Float:
    """Counts inside the bright-field disc, (scan_y, scan_x)."""
    return annular_image(dataset, 0.0, dataset.header.convergence_semiangle_mrad)


def dark_field_image(dataset: Dataset4D) -> Float:
    """Counts outside the bright-field disc, (scan_y, scan_x)."""
    return annular_image(dataset, dataset.header.convergence_semiangle_mrad * 1.1, np.inf)


def centre_of_mass_mrad(dataset: Dataset4D) -> tuple[Float, Float]:
    """Mean deflection (row, col) at every position in mrad, stored frame; NaN without electrons."""
    header = dataset.header
    row, col = np.indices(header.frame_shape)
    total = dataset.virtual_image(np.ones(header.frame_shape))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_row = dataset.virtual_image(row - header.centre_px[0]) / total
        mean_col = dataset.virtual_image(col - header.centre_px[1]) / total
    return mean_row * header.detector_sampling_mrad, mean_col * header.detector_sampling_mrad
