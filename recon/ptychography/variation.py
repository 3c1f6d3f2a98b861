"""Total variation of an image, smoothed where it is flat: sum sqrt(|grad V|^2 + e^2).

As a prior it prefers flat areas with sharp edges; columns of atoms on an empty background are such.
Source: Rudin, Osher & Fatemi, Physica D 60 (1992) 259.
"""

from torch import Tensor

EDGE_RAD = 0.02
"""Slopes below this many radians per pixel count as flat."""


def variation(slices: Tensor) -> Tensor:
    """Smoothed total variation, scalar, radians."""
    dy, dx = _differences(slices)
    return (dy.square() + dx.square() + EDGE_RAD**2).sqrt().sum()


def variation_gradient(slices: Tensor) -> Tensor:
    """Gradient of ``variation``, like ``slices``."""
    dy, dx = _differences(slices)
    norm = (dy.square() + dx.square() + EDGE_RAD**2).sqrt()
    ny, nx = dy / norm, dx / norm
    return ny.roll(1, -2) - ny + nx.roll(1, -1) - nx


def _differences(slices: Tensor) -> tuple[Tensor, Tensor]:
    return slices.roll(-1, -2) - slices, slices.roll(-1, -1) - slices
