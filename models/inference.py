"""Run the network on an image of any size: working grid, padding, tiles, and back.

The channels are made of the whole image, so that its dose and spread are seen everywhere alike;
the network then runs on tiles that overlap by more than half its reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.classes import DISTANCE_UNIT_NM, N_CLASSES
from models.inputs import Acquisition, network_input
from models.network import Network

Floats = NDArray[np.float32]
TILE_PX = 1024
OVERLAP_PX = 96


@dataclass(frozen=True)
class Fields:
    """What the network says of one image on the working grid."""

    logits: Floats
    """Uncalibrated, (6, ny, nx)."""
    thickness_mfp: Floats
    """(ny, nx)."""
    distance_nm: Floats
    """Distance to the border of the usable area, (ny, nx)."""
    pick_logit: Floats
    """(ny, nx)."""
    bottleneck: Floats
    """Mean and spread of the deepest features, averaged over tiles, (2 * width,)."""


def run_network(network: Network, electrons: Floats, acquisition: Acquisition) -> Fields:
    """Fields of one image.

    Parameters
    ----------
    network
        From :func:`models.network.open_network`.
    electrons
        Electrons per pixel of the working grid, (ny, nx).
    acquisition
        Of the working grid.
    """
    ny, nx = electrons.shape
    channels = network_input(electrons, acquisition)
    maps = np.empty((N_CLASSES + 3, ny, nx), np.float32)
    deep: list[Floats] = []
    for rows, cols, core in _tiles(ny, nx):
        tile = channels[:, rows, cols]
        height, width = tile.shape[1:]
        padding = ((0, 0), (0, -height % network.stride), (0, -width % network.stride))
        padded, deepest = network(np.pad(tile, padding, mode="symmetric"))
        stacked = padded[:, :height, :width]
        r, c = core
        inner = (slice(r.start - rows.start, r.stop - rows.start),
                 slice(c.start - cols.start, c.stop - cols.start))  # fmt: skip
        maps[:, r, c] = stacked[:, inner[0], inner[1]]
        deep.append(deepest)
    return Fields(
        logits=maps[:N_CLASSES],
        thickness_mfp=np.maximum(np.exp(maps[N_CLASSES]) - np.float32(0.1), 0),
        distance_nm=np.maximum(maps[N_CLASSES + 1], 0) * np.float32(DISTANCE_UNIT_NM),
        pick_logit=maps[N_CLASSES + 2],
        bottleneck=np.mean(deep, axis=0, dtype=np.float32),
    )


def _tiles(ny: int, nx: int) -> Iterator[tuple[slice, slice, tuple[slice, slice]]]:
    """Rows and columns of each tile, and the core that it answers for."""
    for r0 in range(0, ny, TILE_PX):
        for c0 in range(0, nx, TILE_PX):
            core = (slice(r0, min(r0 + TILE_PX, ny)), slice(c0, min(c0 + TILE_PX, nx)))
            rows = slice(max(0, r0 - OVERLAP_PX), min(ny, r0 + TILE_PX + OVERLAP_PX))
            cols = slice(max(0, c0 - OVERLAP_PX), min(nx, c0 + TILE_PX + OVERLAP_PX))
            yield rows, cols, core
