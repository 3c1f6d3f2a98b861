"""The network: a small U-Net with four heads, fully convolutional.

Pixels enter as 2x2 blocks (pixel unshuffle), five levels follow with two 3x3 convolutions each,
and a pixel shuffle brings the answers back to the grid (Ronneberger et al. 2015; pixel shuffle: Shi
et al. 2016).  Normalisation is by groups within each image (Wu and He 2018): doses differ by four
decades within a batch, and batch statistics would mix them.  About 0.64 million parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import Tensor, nn

from models.classes import N_CLASSES
from models.inputs import CHANNELS


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the network."""

    features: tuple[int, ...] = (24, 40, 56, 80, 80)
    in_channels: int = len(CHANNELS)


@dataclass(frozen=True)
class Answer:
    """What the network says of a batch of images."""

    logits: Tensor
    """Of the six classes, (batch, 6, ny, nx)."""
    log_thickness: Tensor
    """``log(t/mfp + 0.1)``, (batch, ny, nx)."""
    distance: Tensor
    """Distance to the border of the usable area in units of 100 nm, (batch, ny, nx)."""
    pick_logit: Tensor
    """Logit of the chance that a disc of 50 nm here is right, (batch, ny, nx)."""
    bottleneck: Tensor
    """Mean and spread of the deepest features, (batch, 2 * features[-1])."""


class RegionUNet(nn.Module):
    """U-Net from the channels of :mod:`models.inputs` to an :class:`Answer`."""

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config or UNetConfig()
        f = self.config.features
        widths = (4 * self.config.in_channels, *f)
        self.down = nn.ModuleList(_block(widths[i], f[i]) for i in range(len(f)))
        self.up = nn.ModuleList(_block(f[i] + f[i + 1], f[i]) for i in range(len(f) - 1))
        self.head = nn.Conv2d(f[0], 4 * (N_CLASSES + 3), 1)

    def forward(self, x: Tensor) -> Answer:
        """Answer for a batch, (batch, channel, ny, nx), ny and nx multiples of 32."""
        x = F.pixel_unshuffle(x, 2)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        deep = skips.pop().float()
        for block in reversed(self.up):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), skips.pop()], dim=1))
        maps = F.pixel_shuffle(self.head(x), 2).float()
        return Answer(
            logits=maps[:, :N_CLASSES],
            log_thickness=maps[:, N_CLASSES],
            distance=maps[:, N_CLASSES + 1],
            pick_logit=maps[:, N_CLASSES + 2],
            bottleneck=torch.cat(
                [deep.mean(dim=(2, 3)), deep.flatten(2).std(dim=2, correction=0)], dim=1
            ),
        )


def _block(wide_in: int, wide_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(wide_in, wide_out, 3, padding=1, bias=False),
        nn.GroupNorm(gcd(8, wide_out), wide_out),
        nn.ReLU(inplace=True),
        nn.Conv2d(wide_out, wide_out, 3, padding=1, bias=False),
        nn.GroupNorm(gcd(8, wide_out), wide_out),
        nn.ReLU(inplace=True),
    )
