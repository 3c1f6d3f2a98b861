"""Fluence per cell of the specimen: sparse tiles, grown where the beam has been."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controller.hardware.values import Purpose
from controller.safety.footprint import Footprint

TILE = 64
"""Cells along the side of a tile."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """A block of cells: its first row and column (y, x), and how many of each."""

    row: int
    col: int
    shape: tuple[int, int]


@dataclass(frozen=True)
class DoseMap:
    """Charged fluence on a regular grid, for the report and for comparison with the truth.

    fluence_e_per_A2
        By purpose, float64, (row, col) = (y, x), y downwards as in images.
    extent_um
        (x of the left edge, x of the right edge, y of the top edge, y of the bottom edge).
    """

    fluence_e_per_A2: dict[Purpose, Array]
    extent_um: tuple[float, float, float, float]
    cell_nm: float

    @property
    def total_e_per_A2(self) -> Array:
        """All purposes, (row, col)."""
        return np.asarray(sum(self.fluence_e_per_A2.values()), dtype=np.float64)

    @property
    def before_scan_e_per_A2(self) -> Array:
        """All but DATA, (row, col)."""
        parts = [a for p, a in self.fluence_e_per_A2.items() if p is not Purpose.DATA]
        return np.asarray(sum(parts), dtype=np.float64)

    def write_csv(self, path: Path) -> None:
        """Write one line per touched cell: centre in um, fluence by purpose and in total."""
        total = self.total_e_per_A2
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            names = [f"{p.value}_e_per_A2" for p in Purpose]
            writer.writerow(["x_um", "y_um", *names, "total_e_per_A2"])
            for row, col in np.argwhere(total > 0):
                x = self.extent_um[0] + (col + 0.5) * self.cell_nm / 1000
                y = self.extent_um[2] + (row + 0.5) * self.cell_nm / 1000
                values = [self.fluence_e_per_A2[p][row, col] for p in Purpose]
                numbers = [*values, total[row, col]]
                writer.writerow([f"{x:.4f}", f"{y:.4f}", *(f"{v:.6g}" for v in numbers)])


class SparseFluence:
    """Fluence by purpose; memory grows with the touched area only."""

    def __init__(self, cell_nm: float) -> None:
        self.cell_nm = cell_nm
        self._tiles: dict[tuple[Purpose, int, int], Array] = {}

    def window(self, footprint: Footprint) -> Window:
        """The cells that `footprint` can touch."""
        slack = self.cell_nm * math.sqrt(0.5)
        half_x, half_y = footprint.half_extent_nm(slack)
        x, y = 1000 * footprint.x_um, 1000 * footprint.y_um
        col, row = self.cell_of_nm(x - half_x), self.cell_of_nm(y - half_y)
        last_col, last_row = self.cell_of_nm(x + half_x), self.cell_of_nm(y + half_y)
        return Window(row, col, (last_row - row + 1, last_col - col + 1))

    def cell_of_nm(self, position_nm: float) -> int:
        """Index of the cell that holds a coordinate."""
        return math.floor(position_nm / self.cell_nm)

    def touched(self, footprint: Footprint, window: Window) -> NDArray[np.bool_]:
        """Which cells of `window` the footprint touches, bool, ``window.shape``."""
        rows, cols = window.shape
        x = self._centres_nm(window.col, cols) - 1000 * footprint.x_um
        y = self._centres_nm(window.row, rows) - 1000 * footprint.y_um
        return footprint.touches(x[None, :], y[:, None], self.cell_nm * math.sqrt(0.5))

    def _centres_nm(self, first: int, count: int) -> Array:
        return (np.arange(first, first + count, dtype=np.float64) + 0.5) * self.cell_nm

    def add(self, footprint: Footprint, purpose: Purpose, fluence_e_per_A2: float) -> None:
        """Charge every touched cell."""
        window = self.window(footprint)
        touched = self.touched(footprint, window)
        for tile, inside, there in self._overlaps(window):
            key = (purpose, *tile)
            if touched[there].any():
                values = self._tiles.setdefault(key, np.zeros((TILE, TILE)))
                values[inside] += fluence_e_per_A2 * touched[there]

    def read(self, window: Window) -> dict[Purpose, Array]:
        """Fluence by purpose in `window`, (row, col)."""
        found = {purpose: np.zeros(window.shape) for purpose in Purpose}
        for tile, inside, there in self._overlaps(window):
            for purpose in Purpose:
                values = self._tiles.get((purpose, *tile))
                if values is not None:
                    found[purpose][there] = values[inside]
        return found

    def bounds(self) -> Window | None:
        """The smallest window of whole tiles that holds everything, or None."""
        if not self._tiles:
            return None
        rows = [row for _, row, _ in self._tiles]
        cols = [col for _, _, col in self._tiles]
        shape = (max(rows) - min(rows) + 1, max(cols) - min(cols) + 1)
        return Window(min(rows) * TILE, min(cols) * TILE, (shape[0] * TILE, shape[1] * TILE))

    def _overlaps(
        self, window: Window
    ) -> list[tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]]:
        """Tiles under the window: (tile, where in the tile, where in the window)."""
        found = []
        for tile_row, inside_row, there_row in _spans(window.row, window.shape[0]):
            for tile_col, inside_col, there_col in _spans(window.col, window.shape[1]):
                found.append(
                    ((tile_row, tile_col), (inside_row, inside_col), (there_row, there_col))
                )
        return found


def _spans(first: int, count: int) -> list[tuple[int, slice, slice]]:
    spans = []
    for tile in range(first // TILE, (first + count - 1) // TILE + 1):
        start, stop = max(first, tile * TILE), min(first + count, (tile + 1) * TILE)
        spans.append(
            (
                tile,
                slice(start - tile * TILE, stop - tile * TILE),
                slice(start - first, stop - first),
            )
        )
    return spans
