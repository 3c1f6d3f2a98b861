"""Arrays to pictures: a small WebP that travels in the page, a full-size PNG in the folder beside.

Grey values are a display and nothing else; numbers come from the data files.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from controller.record.report.svg import add, drawing

Array = NDArray[np.floating]
Bytes = NDArray[np.uint8]

EMBEDDED_PX = 384
"""Longest side of a picture inside the page."""

_WEBP_QUALITY = 78


@dataclass(frozen=True)
class Part:
    """One embedded image: where it lies in the full picture, pixels, and its ``data:`` URI."""

    left: int
    top: int
    width: int
    height: int
    uri: str


@dataclass(frozen=True)
class Picture:
    """One picture of the page.

    width_px, height_px
        Size of the full picture; overlays are drawn in these coordinates.
    parts
        The embedded copy: one image, or several side by side where one would be too coarse.
    file
        Path of the full-size PNG relative to the run folder, for a link.
    """

    width_px: int
    height_px: int
    parts: tuple[Part, ...]
    file: str


class Album:
    """Writes the pictures of one report."""

    def __init__(self, run_dir: Path, folder: str = "report_files") -> None:
        self._run_dir = run_dir
        self._folder = folder
        self._kept: set[str] = set()
        (run_dir / folder).mkdir(parents=True, exist_ok=True)

    def keep(self, name: str, pixels: Bytes, *, pieces: int = 1) -> Picture:
        """Store `pixels`, uint8 (row, col) or (row, col, 3 or 4), under `name`.

        With `pieces` above one the embedded copy is cut into up to that many by that many.
        """
        image = Image.fromarray(np.ascontiguousarray(pixels))
        relative = f"{self._folder}/{safe_name(name)}.png"
        image.save(self._run_dir / relative, optimize=False, compress_level=4)
        self._kept.add(relative)
        height, width = pixels.shape[:2]
        return Picture(width, height, tuple(_parts(image, pieces)), relative)

    def prune(self) -> None:
        """Remove pictures of an earlier report that this one has not made again."""
        for path in (self._run_dir / self._folder).glob("*.png"):
            if f"{self._folder}/{path.name}" not in self._kept:
                path.unlink(missing_ok=True)


def safe_name(name: str) -> str:
    """`name` as a file name: letters, digits, ``-`` and ``_`` only, at most 80."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:80] or "_"


def stretch(
    values: Array, *, low: float = 0.5, high: float = 99.5, gamma: float = 1.0
) -> NDArray[np.float64]:
    """`values` onto 0 .. 1 between two percentiles of what is finite; NaN becomes 0."""
    good = np.isfinite(values)
    if not good.any():
        return np.zeros(values.shape)
    bottom, top = np.percentile(values[good], [low, high])
    scaled = (values - bottom) / max(top - bottom, 1e-12)
    return np.asarray(np.where(good, np.clip(scaled, 0, 1), 0.0) ** gamma, dtype=float)


def softened(values: Array) -> NDArray[np.float64]:
    """`values` (row, col) under a 3 x 3 binomial mean; for the eye, never for numbers."""
    padded = np.pad(np.asarray(values, dtype=float), 1, mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16)


def grey(values: Array, *, low: float = 0.5, high: float = 99.5, gamma: float = 1.0) -> Bytes:
    """Linear grey between two percentiles."""
    return np.asarray(np.round(255 * stretch(values, low=low, high=high, gamma=gamma)), np.uint8)


def log_grey(electrons: Array) -> Bytes:
    """Grey for counts over many decades: asinh, black at the median background."""
    scaled = np.arcsinh(np.maximum(electrons, 0.0) * 2.0)
    return grey(scaled, low=20, high=99.85, gamma=0.85)


def coloured(unit: Array, name: str) -> Bytes:
    """0 .. 1 through a matplotlib colour map, uint8 (row, col, 3)."""
    from matplotlib import colormaps

    rgba = np.asarray(colormaps[name](np.clip(unit, 0, 1)))
    return np.asarray(np.round(255 * rgba[..., :3]), np.uint8)


def framed(
    picture: Picture, label: str, *, origin_px: tuple[int, int] = (0, 0), css: str = "picture"
) -> ET.Element:
    """An SVG with the picture as its ground, in pixel coordinates of the frame it was cut from.

    Parameters
    ----------
    origin_px
        (x, y) in the frame of the picture's first pixel.  Pixel centres have integer
        coordinates, so the ground is shifted by half a pixel.
    """
    x, y = origin_px[0] - 0.5, origin_px[1] - 0.5
    width, height = picture.width_px, picture.height_px
    root = drawing(width, height, label, css=css)
    root.set("viewBox", f"{x} {y} {width} {height}")
    lay(root, picture, origin_px=origin_px)
    return root


def lay(parent: ET.Element, picture: Picture, *, origin_px: tuple[int, int] = (0, 0)) -> None:
    """Append the picture's images to `parent`, in the coordinates of `framed`."""
    for part in picture.parts:
        x, y = origin_px[0] + part.left - 0.5, origin_px[1] + part.top - 0.5
        image = add(parent, "image", href=part.uri, x=x, y=y, width=part.width, height=part.height)
        image.set("preserveAspectRatio", "none")


def scale_bar(root: ET.Element, pixel_size: float, unit: str, *, text: float = 5.2) -> None:
    """Draw a bar of a round length, at most a third of the width.

    Parameters
    ----------
    pixel_size
        In `unit`.
    text
        Height of the letters in percent of the width.
    """
    left, top, wide, high = (float(part) for part in root.attrib["viewBox"].split())
    length = round_length(0.34 * wide * pixel_size)
    width = length / pixel_size
    u = wide / 100
    x, y = left + 4 * u, top + high - text * u
    group = add(root, "g", class_="bar")
    add(group, "rect", x=x, y=y, width=width, height=0.23 * text * u, class_="ink")
    label = f"{length:g} {unit}"
    add(group, "text", label, x=x, y=y - 0.3 * text * u, font_size=text * u, class_="ink")


def round_length(length: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most `length`."""
    if not length > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(length))
    steps = [step * power for step in (1, 2, 5) if step * power <= length * (1 + 1e-9)]
    return float(max(steps, default=power))


def _parts(image: Image.Image, pieces: int) -> Iterator[Part]:
    """`image` in pieces that need no scaling, but not more than `pieces` each way."""
    across, down = (min(pieces, math.ceil(side / EMBEDDED_PX)) for side in image.size)
    columns = [round(image.width * n / across) for n in range(across + 1)]
    rows = [round(image.height * n / down) for n in range(down + 1)]
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            # one pixel more on the far sides, or seams show when the page is scaled
            far = min(right + 1, image.width), min(bottom + 1, image.height)
            cut = image.crop((left, top, *far))
            yield Part(left, top, cut.width, cut.height, _embedded(cut))


def _embedded(image: Image.Image) -> str:
    longest = max(image.size)
    if longest > EMBEDDED_PX:
        size = tuple(max(1, round(side * EMBEDDED_PX / longest)) for side in image.size)
        image = image.resize((size[0], size[1]), Image.Resampling.BOX)
    stream = io.BytesIO()
    alpha = image.mode == "RGBA"
    if not alpha:
        image = image.convert("RGB")
    image.save(stream, "WEBP", quality=_WEBP_QUALITY, method=4, lossless=alpha)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
