"""Overlay pictures: the summed image, the classes in colour, the picks as numbered discs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.picker import SCORE_TO_ACT, RegionResult

COLOURS = np.array(
    [(0, 0, 0), (110, 110, 110), (0, 158, 115), (213, 94, 0), (204, 121, 167), (86, 180, 233)],
    np.float32,
)
"""Per class, readable for the colour-blind (Okabe and Ito): usable green, thick vermilion,
contamination pink, bar blue; vacuum and support stay grey."""
_STRENGTH = np.array([0, 0, 0.35, 0.35, 0.35, 0.35], np.float32)
_LISTED = 12


def draw_overlay(
    path: Path, frames: NDArray[Any], result: RegionResult, *, pixel_size_nm: float
) -> None:
    """Write a PNG of one field.

    Parameters
    ----------
    path
        Where to write; the directory exists.
    frames
        Raw values, (ny, nx) or (frame, ny, nx).
    result
        From the picker.
    pixel_size_nm
        Pixel size, nm.
    """
    from PIL import Image, ImageDraw

    picture = np.asarray(frames, np.float32)
    picture = picture.sum(axis=0) if picture.ndim == 3 else picture
    # smooth as far as the dose asks for, so that the eye sees what is there
    blur = float(np.clip(1.5 / np.sqrt(max(result.electrons_per_px, 1e-3)), 0, 4))
    picture = ndimage.gaussian_filter(picture, blur)
    low, high = np.percentile(picture, [0.5, 99.5])
    grey = np.clip((picture - low) / max(float(high - low), 1e-9), 0, 1) * 255
    strength = _STRENGTH[result.labels][..., None]
    rgb = grey[..., None] * (1 - strength) + COLOURS[result.labels] * strength
    zoom = max(1, round(640 / max(picture.shape)))
    large = np.repeat(np.repeat(rgb.astype(np.uint8), zoom, axis=0), zoom, axis=1)
    image = Image.fromarray(large)
    pen = ImageDraw.Draw(image)
    for rank, pick in enumerate(result.picks[:_LISTED], start=1):
        y, x = (pick.y_px + 0.5) * zoom, (pick.x_px + 0.5) * zoom
        r = pick.radius_nm / pixel_size_nm * zoom
        sure = pick.score >= SCORE_TO_ACT and not result.abstained
        colour = (255, 230, 0) if sure else (255, 140, 140)
        pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=2 if sure else 1)
        pen.text((x + r + 2, y - 6), f"{rank}: {pick.score:.2f}", fill=colour)
    bar_nm = _round_length(0.25 * picture.shape[1] * pixel_size_nm)
    bottom = large.shape[0] - 10
    pen.line((10, bottom, 10 + bar_nm / pixel_size_nm * zoom, bottom), fill="white", width=3)
    pen.text((10, bottom - 16), f"{bar_nm:g} nm, {result.electrons_per_px:.3g} e/px", fill="white")
    image.save(path)


def _round_length(nm: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most ``nm``."""
    decade = 10.0 ** np.floor(np.log10(max(nm, 1e-3)))
    return float(decade * max(m for m in (1, 2, 5) if m * decade <= nm * (1 + 1e-9)))
