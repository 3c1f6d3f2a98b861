"""Where each probe window lies on the object array: a whole pixel, and one of few sub-pixel shifts.

A raster of 4096 points needs 4096 shifted probes; rounded to an eighth of a pixel (0.02 Å) there
are 64 of them, computed once.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SUB_PIXEL_STEPS = 8
MARGIN_PX = 4


@dataclass(frozen=True)
class Canvas:
    """The object array: its shape and the (row, col) that the centre of the scan falls on."""

    shape: tuple[int, int]
    scan_centre_px: tuple[float, float]


@dataclass(frozen=True)
class Raster:
    """Upper left corners of the probe windows, int64 (n, 2), and sub-pixel indices, int64 (n,)."""

    corner: Tensor
    shift_index: Tensor

    def of(self, which: Tensor) -> "Raster":
        """The chosen positions, in that order."""
        return Raster(self.corner[which], self.shift_index[which])

    def part(self, first: int, last: int) -> "Raster":
        """Positions ``first:last``, not copied."""
        return Raster(self.corner[first:last], self.shift_index[first:last])

    def to(self, device: torch.device) -> "Raster":
        """The same on another device."""
        return Raster(self.corner.to(device), self.shift_index.to(device))


def make_canvas(positions_A: NDArray[np.float64], sampling_A: float, n: int) -> Canvas:
    """Array that holds every probe window, with a margin for corrections of the positions."""
    px = positions_A / sampling_A
    below = np.ceil(n // 2 - px.min(axis=0)).astype(int) + MARGIN_PX
    above = np.ceil(px.max(axis=0) + n - n // 2).astype(int) + MARGIN_PX
    rows, cols = (below + above + 1).tolist()
    return Canvas((rows, cols), (float(below[0]), float(below[1])))


def place(positions_A: NDArray[np.float64], sampling_A: float, n: int, canvas: Canvas) -> Raster:
    """Round positions to the sub-pixel raster; windows are kept on the canvas."""
    corner = positions_A / sampling_A + np.array(canvas.scan_centre_px) - n // 2
    fine = np.round(corner * SUB_PIXEL_STEPS).astype(np.int64)
    last = (np.array(canvas.shape) - n) * SUB_PIXEL_STEPS
    fine = np.clip(fine, 0, last)
    whole, part = np.divmod(fine, SUB_PIXEL_STEPS)
    return Raster(
        torch.from_numpy(whole), torch.from_numpy(part[:, 0] * SUB_PIXEL_STEPS + part[:, 1])
    )
