"""Poisson likelihood of counted electrons with a background floor.

    L = sum_pixels m I - y log(I + b),   dL/dI = m - y / (I + b)

with y electrons where I + b are expected and m = 1 where the detector measures. The floor b stands
for what the model cannot explain (diffuse and inelastic background); it bounds the gradient of an
electron where the model expects none. Likelihoods are comparable at one floor only.
"""

import torch
from torch import Tensor


def poisson_loss(intensity: Tensor, counts: Tensor, floor: float) -> Tensor:
    """Negative log-likelihood without the constant log(y!), summed over all pixels, scalar.

    ``intensity`` and ``counts`` are float32 (batch, n, n) electrons per pixel; ``floor`` is above
    zero, so that the logarithm is finite.
    """
    expected = intensity + floor
    return (expected - counts * torch.log(expected)).sum(dtype=torch.float64)


def poisson_factor(intensity: Tensor, counts: Tensor, measured: Tensor, floor: float) -> Tensor:
    """dL/dI, float32, (batch, n, n); ``measured`` is float32 (n, n), one where pixels look."""
    return measured - counts / (intensity + floor)
