"""Sum the frames of one field on the grid of the first, drift taken out.

Each frame is correlated with the sum so far, both band-passed, and is moved by whole pixels where
the black and the white squares of a chess-board, whose noise is independent, agree about the
shift; where they do not (too few electrons, an empty field) it keeps the shift of the frame before.
Correlation of band-passed pictures by Fourier transform: Kuglin and Hines 1975, without their
whitening, which Poisson noise would dominate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Floats = NDArray[np.float32]

MOST_SHIFT_PX = 48
"""Between the first frame and any other."""
_FINE_PX, _COARSE_PX = 1.5, 10.0
_STILL_PX = 1
_AGREE_PX = 2
"""Two independent halves of the pixels agree if they differ by no more."""


def sum_frames(frames: NDArray[np.float32]) -> tuple[Floats, NDArray[np.int64]]:
    """Sum of all frames on the grid of the first.

    Parameters
    ----------
    frames
        Electrons per pixel, (frame, ny, nx).

    Returns
    -------
    The sum, float32 (ny, nx), and the shift of each frame against the first, (frame, 2) whole
    pixels (row, column): what is at ``(y, x)`` in the first is at ``(y, x) + shift`` in the frame.
    Pixels that not every frame covers are scaled up to the exposure of all.
    """
    shifts = np.zeros((len(frames), 2), np.int64)
    if len(frames) == 1:
        return frames[0].astype(np.float32), shifts
    total, cover = frames[0].astype(np.float64), np.ones(frames.shape[1:], np.int64)
    for k, frame in enumerate(frames[1:], start=1):
        shifts[k] = _shift(total / cover, frame, shifts[k - 1])
        _add(total, cover, frame, shifts[k])
    # once more against all others: the first sums were noisy, and errors had added up
    for k, frame in enumerate(frames if len(frames) > 2 else ()):
        _add(total, cover, frame, shifts[k], sign=-1)
        others = np.divide(total, cover, out=np.full(total.shape, frame.mean()), where=cover > 0)
        shifts[k] = _shift(others, frame, shifts[k])
        _add(total, cover, frame, shifts[k])
    shifts -= shifts[0]
    total[:], cover[:] = 0, 0
    for frame, shift in zip(frames, shifts, strict=True):
        _add(total, cover, frame, shift)
    return np.asarray(total * len(frames) / cover, np.float32), shifts


def _add(
    total: NDArray[np.float64],
    cover: NDArray[np.int64],
    frame: Floats,
    shift: NDArray[np.int64],
    *,
    sign: int = 1,
) -> None:
    source, target = _overlap(total.shape, shift)
    total[target] += sign * frame[source]
    cover[target] += sign


def _shift(
    reference: NDArray[np.floating], frame: Floats, before: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Shift of a frame against the reference, or the one before if it cannot be told.

    A step of one pixel may be noise and is not taken: a specimen that stands still stays sharp.
    """
    rows, cols = np.ogrid[: reference.shape[0], : reference.shape[1]]
    squares = ((rows + cols) % 2).astype(np.float32)
    whole, one, other = (
        _peak(reference * part, frame * part) for part in (np.float32(1), squares, 1 - squares)
    )
    agree = max(np.abs(whole - half).max() for half in (one, other)) <= _AGREE_PX
    return whole if agree and np.abs(whole - before).max() > _STILL_PX else before


def _peak(reference: NDArray[np.floating], frame: Floats) -> NDArray[np.int64]:
    """Where the correlation within reach is greatest."""
    ny, nx = reference.shape
    shape = (fft.next_fast_len(2 * ny, real=True), fft.next_fast_len(2 * nx, real=True))
    a, b = (fft.rfft2(_band(picture), s=shape) for picture in (reference, frame))
    correlation = fft.irfft2(np.conj(a) * b, s=shape)
    reach = (min(MOST_SHIFT_PX, ny // 3), min(MOST_SHIFT_PX, nx // 3))
    rows, cols = (np.arange(-r, r + 1) for r in reach)
    near = correlation[np.ix_(rows % shape[0], cols % shape[1])]
    # a shift leaves less to compare: without this the frames would be drawn towards none
    near /= np.outer(ny - np.abs(rows), nx - np.abs(cols))
    at = np.unravel_index(int(near.argmax()), near.shape)
    return np.array([rows[at[0]], cols[at[1]]], np.int64)


def _band(picture: NDArray[np.floating]) -> Floats:
    fine = ndimage.gaussian_filter(picture, _FINE_PX)
    return np.asarray(fine - ndimage.gaussian_filter(picture, _COARSE_PX), np.float32)


def _overlap(
    shape: tuple[int, ...], shift: NDArray[np.int64]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the frame and of the first grid that show the same."""
    source = [slice(max(0, s), min(n, n + s)) for n, s in zip(shape, shift.tolist(), strict=True)]
    target = [slice(max(0, -s), min(n, n - s)) for n, s in zip(shape, shift.tolist(), strict=True)]
    return (source[0], source[1]), (target[0], target[1])
