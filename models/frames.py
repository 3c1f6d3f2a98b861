"""Check raw frames, sum them, and turn detector values into electrons."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from models.classes import Mode
from models.drift import sum_frames

LEAST_SIDE_PX = 16
MOST_BAD_SHARE = 0.005
"""More outliers than this are no bad pixels but a wrong gain or a foreign image."""


class ImageError(ValueError):
    """An image or what is said about it cannot be right; nothing was picked."""


def electrons_of(
    images: Sequence[NDArray[Any]] | NDArray[Any],
    *,
    mode: str,
    pixel_size_nm: float,
    gain: float,
    offset: float,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Detected electrons per pixel of the summed frames, their drift taken out.

    Parameters
    ----------
    images
        One image (ny, nx), a stack (frame, ny, nx), or a sequence of images of one shape.
    mode, pixel_size_nm, gain, offset
        As for :meth:`models.picker.RegionPicker.pick`; checked here.

    Returns
    -------
    Electrons, float32 (ny, nx), and the shift of each frame against the first, (frame, 2) pixels.

    Raises
    ------
    ImageError
        NaN or infinite values, a wrong number of dimensions, a colour photograph, fewer than
        16 pixels along a side, or a pixel size, gain or offset that cannot be.
    """
    _check_numbers(mode, pixel_size_nm, gain, offset)
    stack = _stack(images)
    if not np.isfinite(stack).all():
        bad = int(np.count_nonzero(~np.isfinite(stack)))
        raise ImageError(
            f"{bad} of {stack.size} values are NaN or infinite; nothing was picked. "
            f"Mend dead pixels, or take the frame again"
        )
    if len(stack) == 1:
        electrons = np.asarray((stack[0].astype(np.float64) - offset) / gain, np.float32)
        return mend_bad_pixels(electrons), np.zeros((1, 2), np.int64)
    # a bad pixel stands still while the specimen drifts, so it is mended first
    frames = [mend_bad_pixels(np.asarray((f - offset) / gain, np.float32)) for f in stack]
    total, shifts = sum_frames(np.stack(frames))
    if not shifts.any():
        total = np.asarray((stack.sum(axis=0, dtype=np.float64) - len(stack) * offset) / gain)
    return mend_bad_pixels(np.asarray(total, np.float32)), shifts


def mend_bad_pixels(electrons: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace hot and dead pixels by the mean of their neighbours.

    A pixel is bad if it differs from all four neighbours by more than 8 electrons plus 8 standard
    deviations of the Poisson noise there.  Images with more than 0.5 % of such pixels come back
    unchanged: that is no defect of single pixels.

    Parameters
    ----------
    electrons
        Electrons per pixel, (ny, nx).
    """
    around = np.pad(electrons, 1, mode="reflect")
    neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    highest, lowest = np.maximum.reduce(neighbours), np.minimum.reduce(neighbours)
    far = 8 + 8 * np.sqrt(np.maximum(highest, 0))
    bad = (electrons - highest > far) | (lowest - electrons > far)
    if not bad.any() or bad.mean() > MOST_BAD_SHARE:
        return electrons
    mended = electrons.copy()
    mended[bad] = np.mean([n[bad] for n in neighbours], axis=0)
    return mended


def _check_numbers(mode: str, pixel_size_nm: float, gain: float, offset: float) -> None:
    if mode not in get_args(Mode):
        raise ImageError(f"mode is {mode!r}; it must be 'BF' or 'HAADF'. Nothing was picked")
    for name, value in (("pixel_size_nm", pixel_size_nm), ("gain", gain)):
        if not (isfinite(value) and value > 0):
            raise ImageError(
                f"{name} is {value:g}; it must be a positive number. Nothing was picked; "
                f"take it from the calibration of the magnification or the detector"
            )
    if not isfinite(offset):
        raise ImageError(f"offset is {offset:g}; it must be a number. Nothing was picked")
    if not 0.3 <= pixel_size_nm <= 100:
        raise ImageError(
            f"pixel_size_nm is {pixel_size_nm:g}; the picker works at 3-15 nm and refuses what "
            f"lies outside 0.3-100 nm. Nothing was picked; check the unit (nm, not µm or Å)"
        )


def _stack(images: Sequence[NDArray[Any]] | NDArray[Any]) -> NDArray[Any]:
    """(frame, ny, nx), real numbers."""
    if isinstance(images, np.ndarray):
        stack = images[None] if images.ndim == 2 else images
    else:
        shapes = {np.shape(i) for i in images}
        if len(shapes) != 1:
            raise ImageError(
                f"the frames of one field must have one shape, these have {sorted(shapes)}; "
                f"nothing was picked"
            )
        stack = np.stack([np.asarray(i) for i in images])
    if stack.ndim == 3 and stack.shape[-1] in (3, 4) and min(stack.shape[:2]) > 4:
        raise ImageError(
            f"an image of shape {stack.shape} looks like a colour photograph; nothing was "
            f"picked. Give raw detector values, (ny, nx) or (frame, ny, nx)"
        )
    if stack.ndim != 3 or stack.shape[0] == 0:
        raise ImageError(
            f"images have shape {stack.shape}; wanted (ny, nx) or (frame, ny, nx). "
            f"Nothing was picked"
        )
    if min(stack.shape[1:]) < LEAST_SIDE_PX:
        raise ImageError(
            f"images of {stack.shape[1]} x {stack.shape[2]} pixels are too small; at least "
            f"{LEAST_SIDE_PX} along each side are needed. Nothing was picked"
        )
    if stack.dtype.kind not in "biuf":
        raise ImageError(
            f"images hold {stack.dtype} values; wanted integers or real numbers. Nothing was picked"
        )
    return stack
