"""Where a pixel of the camera image lies on the specimen, and the other way round.

A pixel offset from the image centre (pixel ``N // 2``), as (col, row) in nanometres, is flipped
(if the camera mirrors), rotated into the stage frame by ``Calibration.image_rotation_deg``, and
taken from the column into the tilted specimen plane: with ``R = Rx(alpha) Ry(beta)`` the
specimen vector (sx, sy, 0) appears at (cos b sx, cos a sy + sin a sin b sx).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.hardware.values import Calibration, StagePose

Point = tuple[float, float]


@dataclass(frozen=True)
class View:
    """One camera image: its size, scale and the pose at which it was taken."""

    shape: tuple[int, int]
    pixel_size_nm: float
    calibration: Calibration
    pose: StagePose

    def specimen_um(self, x_px: float, y_px: float) -> Point:
        """Stage (x, y) of the specimen point at column `x_px`, row `y_px`."""
        offset = np.array([x_px - self.shape[1] // 2, y_px - self.shape[0] // 2], dtype=float) * (
            self.pixel_size_nm / 1e3
        )
        dx, dy = np.linalg.solve(self._specimen_to_image(), offset)
        return self.pose.x_um + float(dx), self.pose.y_um + float(dy)

    def pixel(self, x_um: float, y_um: float) -> Point:
        """(column, row) at which a specimen point appears."""
        offset = np.array([x_um - self.pose.x_um, y_um - self.pose.y_um])
        col, row = self._specimen_to_image() @ offset / (self.pixel_size_nm / 1e3)
        return float(col) + self.shape[1] // 2, float(row) + self.shape[0] // 2

    def column_nm(self, dx_px: float, dy_px: float) -> Point:
        """Column-frame (X along the alpha axis, Y) of an image displacement in pixels."""
        vector = np.array([dx_px, dy_px]) * self.pixel_size_nm
        x_nm, y_nm = np.linalg.solve(self._column_to_image(), vector)
        return float(x_nm), float(y_nm)

    def _column_to_image(self) -> NDArray[np.float64]:
        angle = np.deg2rad(self.calibration.image_rotation_deg)
        to_stage = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if self.calibration.image_mirrored:
            to_stage = to_stage @ np.diag([1.0, -1.0])
        inverse: NDArray[np.float64] = np.linalg.inv(to_stage)
        return inverse

    def _specimen_to_image(self) -> NDArray[np.float64]:
        a = np.deg2rad(self.pose.alpha_deg)
        b = np.deg2rad(self.pose.beta_deg or 0.0)
        foreshortening = np.array([[np.cos(b), 0.0], [np.sin(a) * np.sin(b), np.cos(a)]])
        projected: NDArray[np.float64] = self._column_to_image() @ foreshortening
        return projected


def survey_tiles(
    centre_um: Point, field_um: Point, tile_um: Point, overlap: float
) -> tuple[Point, ...]:
    """Centres of the tiles that cover a field, row by row in alternating direction.

    Parameters
    ----------
    tile_um
        (width, height) that one picture covers.
    overlap
        Least share of a tile that the next one sees again.
    """
    counts = [
        max(1, int(np.ceil((field - tile * overlap) / (tile * (1 - overlap)) - 1e-9)))
        for field, tile in zip(field_um, tile_um, strict=True)
    ]
    axes = [
        np.zeros(1) if n == 1 else np.linspace(-(field - tile) / 2, (field - tile) / 2, n)
        for n, field, tile in zip(counts, field_um, tile_um, strict=True)
    ]
    centres = []
    for row, y in enumerate(axes[1]):
        columns = axes[0] if row % 2 == 0 else axes[0][::-1]
        centres += [(centre_um[0] + float(x), centre_um[1] + float(y)) for x in columns]
    return tuple(centres)
