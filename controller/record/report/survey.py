"""The survey as one picture, and what the machine made of it.

Tiles are laid out as the camera sees them (columns to the right): only their places are turned
from stage axes into picture axes, so no picture is resampled by rotation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from controller.hardware.values import Calibration, StagePose
from controller.record.report.pictures import (
    Album,
    Array,
    Bytes,
    framed,
    grey,
    lay,
    scale_bar,
    softened,
)
from controller.record.report.svg import add, tip

LONGEST_PX = 1400
"""Longest side of the mosaic picture."""

UNSEEN = (30, 38, 52)
"""Colour where no tile lies."""

CLASS_COLOURS = {
    2: (70, 200, 235, 110),
    3: (240, 150, 40, 120),
    4: (220, 80, 200, 120),
    5: (130, 130, 130, 120),
}
"""Crystal, thick or overlapping, contamination, bar; vacuum and support stay clear."""


@dataclass(frozen=True)
class Tile:
    """One survey picture: electrons (row, col), where it was taken, nm per pixel."""

    name: str
    electrons: Array
    pose: StagePose
    pixel_size_nm: float
    labels: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Mosaic:
    """Tiles in one array, and the way from the stage to its pixels."""

    values: Array
    labels: NDArray[np.uint8]
    pixel_size_nm: float
    from_stage: NDArray[np.float64]
    """(2, 2): stage (x, y) in um to picture (x, y) in pixels."""
    origin_px: tuple[float, float]

    def pixel(self, x_um: float, y_um: float) -> tuple[float, float]:
        """(x, y) in pixels of a stage position."""
        x, y = self.from_stage @ (x_um, y_um)
        return float(x - self.origin_px[0]), float(y - self.origin_px[1])


def picture_from_stage(calibration: Calibration) -> NDArray[np.float64]:
    """(2, 2) from stage (x, y) at zero tilt to camera (column, row): the calibration undone.

    The calibration says (X, Y) = R(rotation) M (column, row), M flipping rows where mirrored.
    """
    angle = math.radians(calibration.image_rotation_deg)
    c, s = math.cos(angle), math.sin(angle)
    mirror = -1.0 if calibration.image_mirrored else 1.0
    return np.array([[c, s], [-s * mirror, c * mirror]])


def stitch(tiles: list[Tile], calibration: Calibration) -> Mosaic | None:
    """Lay the tiles out by their stage positions; later tiles cover earlier ones."""
    if not tiles:
        return None
    turn = picture_from_stage(calibration)
    fine_nm = tiles[0].pixel_size_nm
    extent = [_corners(tile, turn * 1e3 / fine_nm) for tile in tiles]
    spread = max(max(e[2] for e in extent) - min(e[0] for e in extent),
                 max(e[3] for e in extent) - min(e[1] for e in extent))  # fmt: skip
    coarse = max(1, math.ceil(spread / LONGEST_PX))
    pixel_nm = fine_nm * coarse
    scale = turn * 1e3 / pixel_nm
    left = min(e[0] for e in extent) / coarse
    top = min(e[1] for e in extent) / coarse
    width = math.ceil(max(e[2] for e in extent) / coarse - left)
    height = math.ceil(max(e[3] for e in extent) / coarse - top)
    values = np.full((height, width), np.nan)
    labels = np.zeros((height, width), np.uint8)
    for tile in tiles:
        binned = _binned(tile.electrons / max(float(np.median(tile.electrons)), 1e-9), coarse)
        x, y = scale @ (tile.pose.x_um, tile.pose.y_um) - (left, top)
        row = round(y - tile.electrons.shape[0] // 2 / coarse)
        col = round(x - tile.electrons.shape[1] // 2 / coarse)
        _paste(values, binned, row, col)
        if tile.labels is not None and tile.labels.shape == tile.electrons.shape:
            _paste(labels, tile.labels[coarse // 2 :: coarse, coarse // 2 :: coarse], row, col)
    return Mosaic(values, labels, pixel_nm, scale, (left + 0.5, top + 0.5))


@dataclass(frozen=True)
class Marker:
    """A numbered target on the survey."""

    name: str
    x_um: float
    y_um: float
    radius_nm: float
    status: str
    words: str


def mosaic_drawing(album: Album, mosaic: Mosaic, markers: list[Marker]) -> ET.Element:
    """The survey with the picker's classes as a layer (group ``classes``) and numbered targets."""
    picture = album.keep("survey", _with_unseen(mosaic.values), pieces=3)
    root = framed(picture, f"Survey with {len(markers)} targets", css="picture survey")
    if mosaic.labels.any():
        classes = album.keep("survey-classes", _class_colours(mosaic.labels), pieces=3)
        lay(add(root, "g", class_="classes"), classes)
    unit = picture.width_px / 100
    for marker in markers:
        _mark(root, marker, mosaic, unit)
    scale_bar(root, mosaic.pixel_size_nm * 1e-3, "µm", text=2.6)
    _stage_axes(root, mosaic, unit)
    return root


def crop_drawing(
    album: Album,
    name: str,
    tile: Tile,
    centre_px: tuple[float, float],
    radius_nm: float,
    label: str,
) -> tuple[ET.Element, str]:
    """The surroundings of a place in a picture, softened for the eye, with a disc around it."""
    half = math.ceil(max(4.5 * radius_nm, 500.0) / tile.pixel_size_nm)
    x, y = centre_px
    left, top = round(x) - half, round(y) - half
    rows, cols = np.arange(top, top + 2 * half + 1), np.arange(left, left + 2 * half + 1)
    height, width = tile.electrons.shape
    values = softened(tile.electrons)[
        np.ix_(np.clip(rows, 0, height - 1), np.clip(cols, 0, width - 1))
    ]
    inside = ((rows >= 0) & (rows < height))[:, None] & ((cols >= 0) & (cols < width))
    picture = album.keep(name, _with_unseen(np.where(inside, values, np.nan)))
    root = framed(picture, label, origin_px=(left, top))
    add(root, "circle", cx=x, cy=y, r=radius_nm / tile.pixel_size_nm, class_="pick")
    scale_bar(root, tile.pixel_size_nm, "nm")
    return root, picture.file


def _mark(root: ET.Element, marker: Marker, mosaic: Mosaic, unit: float) -> None:
    x, y = mosaic.pixel(marker.x_um, marker.y_um)
    link = add(root, "a", href=f"#target-{marker.name}")
    group = add(link, "g", class_=f"marker {marker.status}")
    tip(group, marker.words)
    radius = max(marker.radius_nm / mosaic.pixel_size_nm, 1.1 * unit)
    status_shape(group, marker.status, x, y, radius)
    size = 2.5 * unit
    add(group, "text", marker.name, x=x + radius + 0.5 * unit, y=y + 0.35 * size, font_size=size)


def status_shape(group: ET.Element, status: str, x: float, y: float, r: float) -> None:
    """Done circle, skipped diamond, failed cross; dotted circle not visited, barred unfinished."""
    if status == "skipped":
        points = f"{x},{y - 1.2 * r} {x + 1.2 * r},{y} {x},{y + 1.2 * r} {x - 1.2 * r},{y}"
        add(group, "polygon", points=points)
    elif status == "failed":
        for sign in (1, -1):
            add(group, "line", x1=x - r, y1=y - sign * r, x2=x + r, y2=y + sign * r)
    else:
        add(group, "circle", cx=x, cy=y, r=r)
        if status == "unfinished":
            add(group, "line", x1=x - 0.5 * r, y1=y, x2=x + 0.5 * r, y2=y)


def _stage_axes(root: ET.Element, mosaic: Mosaic, unit: float) -> None:
    """Small arrows along the stage's +x and +y in the upper right corner."""
    height, width = mosaic.values.shape
    x0, y0, length = width - 9 * unit, min(9 * unit, height / 2), 4.5 * unit
    for name, direction in (("x", (1.0, 0.0)), ("y", (0.0, 1.0))):
        step = mosaic.from_stage @ direction
        step = step / np.linalg.norm(step) * length
        add(root, "line", x1=x0, y1=y0, x2=x0 + float(step[0]), y2=y0 + float(step[1]),
            class_="axis")  # fmt: skip
        place = {"x": x0 + 1.45 * float(step[0]), "y": y0 + 1.45 * float(step[1]) + 0.8 * unit}
        add(root, "text", name, **place, font_size=2.3 * unit, class_="ink", text_anchor="middle")


def _corners(tile: Tile, scale: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x, y = scale @ (tile.pose.x_um, tile.pose.y_um)
    rows, cols = tile.electrons.shape
    left, top = float(x) - cols // 2, float(y) - rows // 2
    return left, top, left + cols, top + rows


def _binned(values: Array, factor: int) -> Array:
    rows, cols = (side // factor * factor for side in values.shape)
    blocks = values[:rows, :cols].reshape(rows // factor, factor, cols // factor, factor)
    return np.asarray(blocks.mean(axis=(1, 3)))


def _paste(canvas: NDArray[np.generic], part: NDArray[np.generic], row: int, col: int) -> None:
    top, left = max(row, 0), max(col, 0)
    bottom = min(row + part.shape[0], canvas.shape[0])
    right = min(col + part.shape[1], canvas.shape[1])
    if bottom > top and right > left:
        canvas[top:bottom, left:right] = part[top - row : bottom - row, left - col : right - col]


def _with_unseen(values: Array) -> Bytes:
    """Grey (row, col, 3), and its own colour where nothing was seen."""
    return np.where(np.isnan(values)[..., None], UNSEEN, grey(values)[..., None]).astype(np.uint8)


def _class_colours(labels: NDArray[np.uint8]) -> Bytes:
    rgba = np.zeros((*labels.shape, 4), np.uint8)
    for label, colour in CLASS_COLOURS.items():
        rgba[labels == label] = colour
    return rgba
