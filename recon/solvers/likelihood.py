"""Three measures of how well expected intensities explain counts, and their slopes dL/dI.

    Poisson     L = I + b - y log(I + b)
    Anscombe    L = 2 (sqrt(I + b + 3/8) - sqrt(y + 3/8))^2
    amplitude   L = 2 (sqrt(I + b) - sqrt(y))^2

All have the curvature 1 / I at y = I, so that one step fits all. b is the background floor. Only
the Poisson one is unbiased at few counts: for one electron in thirty pixels the mean of sqrt(y) is
far from the square root of the mean. Sources: Thibault & Guizar-Sicairos, New J. Phys. 14 (2012)
063004; Anscombe, Biometrika 35 (1948) 246; Godard et al., Opt. Express 20 (2012) 25914.
"""

from typing import Literal

import torch
from torch import Tensor

Name = Literal["poisson", "anscombe", "amplitude"]
OFFSET = 0.375


def losses(name: Name, intensity: Tensor, counts: Tensor, floor: float) -> Tensor:
    """L of every pixel, like ``intensity``; what does not depend on I is left out for Poisson."""
    expected = intensity + floor
    match name:
        case "poisson":
            return expected - counts * torch.log(expected)
        case "anscombe":
            return 2 * ((expected + OFFSET).sqrt() - (counts + OFFSET).sqrt()).square()
        case "amplitude":
            return 2 * (expected.sqrt() - counts.sqrt()).square()


def slopes(name: Name, intensity: Tensor, counts: Tensor, floor: float) -> Tensor:
    """dL/dI of every pixel, like ``intensity``."""
    expected = intensity + floor
    match name:
        case "poisson":
            return 1 - counts / expected
        case "anscombe":
            return 2 - 2 * ((counts + OFFSET) / (expected + OFFSET)).sqrt()
        case "amplitude":
            return 2 - 2 * (counts / expected).sqrt()
