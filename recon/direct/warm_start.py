"""A first object for the iterative engines: the integrated centre of mass of the same electrons.

It knows no defocus, so that a wrong one does it no harm, and takes its scan matrix from the
experiment. Only the fitted electrons enter: the held-out ones stay unseen.
"""

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from recon.direct.deflection import mean_deflection
from recon.direct.integrate import integrate_deflection
from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.raster import Canvas

BACKGROUND_PERCENTILE = 20
"""What lies below is taken for empty: the mean phase is not seen, and positive is what is there."""


def warm_phase(patterns: Patterns, experiment: Experiment, canvas: Canvas) -> Tensor:
    """Projected phase on the canvas, float32 (rows, cols), radians, zero outside the scan."""
    n, sampling = experiment.grid.n, experiment.grid.sampling_A
    deflection = mean_deflection(
        patterns, 1 / (n * sampling), experiment.scan_shape, k_max_A=1.5 * experiment.k_edge_A
    )
    matrix = experiment.scan_matrix()
    image = integrate_deflection(deflection, matrix)
    rows, cols = np.indices(canvas.shape).reshape(2, -1)
    r = (np.stack([rows, cols]) - np.array(canvas.scan_centre_px)[:, None]) * sampling
    half = (np.array(experiment.scan_shape) - 1) / 2
    scan = np.linalg.inv(matrix) @ r + half[:, None]
    inside = (scan >= 0).all(axis=0) & (scan <= 2 * half[:, None]).all(axis=0)
    values = map_coordinates(image, scan, order=3, mode="nearest")
    empty = np.percentile(values[inside], BACKGROUND_PERCENTILE)
    phase = np.where(inside, np.maximum(values - empty, 0.0), 0.0)
    return torch.from_numpy(phase.reshape(canvas.shape).astype(np.float32))
