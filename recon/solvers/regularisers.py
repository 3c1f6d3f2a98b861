"""Priors on the object, each a function of the slices; labelled as priors in the output.

Total variation enters the gradient, sum sqrt(|grad V|^2 + e^2); band limit and lattice average act
on the object after every pass. A lattice average leaves a residual map, object minus average: a
defect that the counts insist on stays visible there.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor

from recon.ptychography.variation import variation_gradient
from recon.solvers.settings import BandLimit, LatticeAverage, Regulariser, TotalVariation


def penalty_gradient(slices: Tensor, priors: Sequence[Regulariser]) -> Tensor | None:
    """Gradient of all penalties by the slices, like ``slices``; None without penalties."""
    weight = sum(prior.weight for prior in priors if isinstance(prior, TotalVariation))
    return weight * variation_gradient(slices) if weight else None


def band_limited(slices: Tensor, finest_A: float, sampling_A: float) -> Tensor:
    """Without frequencies beyond 1 / ``finest_A``, like ``slices``."""
    rows, cols = slices.shape[-2:]
    ky = torch.fft.fftfreq(rows, sampling_A, device=slices.device)[:, None]
    kx = torch.fft.rfftfreq(cols, sampling_A, device=slices.device)[None]
    inside = torch.hypot(ky, kx) <= 1 / finest_A
    return torch.fft.irfft2(torch.fft.rfft2(slices) * inside, s=(rows, cols))


def lattice_averaged(
    image: NDArray[np.float32],
    a_px: tuple[float, float],
    b_px: tuple[float, float],
    known: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Average over all cells, put back everywhere.

    Parameters
    ----------
    image
        float32, (rows, cols).
    a_px, b_px
        Lattice vectors (row, col) in pixels.
    known
        Pixels that may enter the average, bool (rows, cols).
    """  # fmt: skip
    cell = np.array([a_px, b_px]).T
    shape = np.maximum(np.ceil(np.linalg.norm(cell, axis=0)).astype(int), 1)
    fraction = np.linalg.inv(cell) @ np.indices(image.shape).reshape(2, -1)
    place = (fraction % 1.0) * shape[:, None]
    total, weight = np.zeros(shape), np.zeros(shape)
    whole = np.floor(place).astype(int)
    part = place - whole
    chosen = known.ravel()
    for up in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - up - part[0]) * np.abs(1 - right - part[1]) * chosen
            at = (whole[0] + up) % shape[0], (whole[1] + right) % shape[1]
            np.add.at(weight, at, share)
            np.add.at(total, at, share * image.ravel())
    mean = total / np.maximum(weight, 1e-9)
    mean[weight < 1e-6] = float(image[known].mean())
    padded = np.pad(mean, ((0, 1), (0, 1)), mode="wrap")
    values = map_coordinates(padded, place, order=1, mode="nearest")
    return np.asarray(values.reshape(image.shape), dtype=np.float32)


def shaped(
    slices: Tensor, priors: Sequence[Regulariser], sampling_A: float, known: NDArray[np.bool_]
) -> tuple[Tensor, NDArray[np.float32] | None]:
    """Band limit and lattice average on every slice; and the residual of the latter, summed."""
    residual: NDArray[np.float32] | None = None
    for prior in priors:
        if isinstance(prior, BandLimit):
            slices = band_limited(slices, prior.finest_A, sampling_A)
        elif isinstance(prior, LatticeAverage):
            a, b = (
                (vector[0] / sampling_A, vector[1] / sampling_A)
                for vector in (prior.a_A, prior.b_A)
            )
            before = slices.cpu().numpy()
            mean = np.stack([lattice_averaged(image, a, b, known) for image in before])
            residual = (before - mean).sum(axis=0)
            mixed = before + prior.strength * (mean - before)
            slices = torch.from_numpy(mixed).to(slices.device, slices.dtype)
    return slices, residual
