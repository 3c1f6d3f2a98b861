"""The object under each probe: windows cut out of images, and gradients added back to them."""

import torch
from torch import Tensor


def cut_patches(images: Tensor, corner: Tensor, n: int) -> Tensor:
    """Copy the windows with these upper left corners.

    Parameters
    ----------
    images
        (layer, rows, cols), any dtype.
    corner
        Row and column, int64, (batch, 2); windows must lie inside the images.

    Returns
    -------
    Tensor, (layer, batch, n, n)
    """
    # one index per window, none per pixel: whole rows are copied at a time
    start = _start(images, corner)
    cut = images.new_empty((len(images), len(corner), n, n))
    for windows, layer in zip(_windows(images, n), cut, strict=True):
        torch.index_select(windows, 0, start, out=layer)
    return cut


def add_patches(images: Tensor, corner: Tensor, patches: Tensor) -> None:
    """Add windows (layer, batch, n, n) to the images in place: the adjoint of ``cut_patches``.

    In a fixed order, so that sums are the same every time, on a processor.
    """
    add = _add_rows if images.device.type == "cpu" else _add_pixels
    add(images, corner, patches)


def _add_rows(images: Tensor, corner: Tensor, patches: Tensor) -> None:
    """Row by row, one window after the other."""
    where = (_start(images, corner),)
    for windows, layer in zip(_windows(images, patches.shape[-1]), patches, strict=True):
        windows.index_put_(where, layer, accumulate=True)


def _add_pixels(images: Tensor, corner: Tensor, patches: Tensor) -> None:
    """All at once: where threads write at the same time, windows must not share memory."""
    along = torch.arange(patches.shape[-1], device=corner.device)
    rows = (corner[:, 0, None] + along) * images.shape[-1]
    flat = rows[:, :, None] + (corner[:, 1, None] + along)[:, None, :]
    images.view(len(images), -1).index_add_(1, flat.view(-1), patches.reshape(len(images), -1))


def _windows(images: Tensor, n: int) -> Tensor:
    """Windows that start at every pixel, a view (layer, start, n, n): rows follow each other."""
    layers, rows, cols = images.shape
    starts = (rows - n) * cols + cols - n + 1
    layer, row, col = images.stride()
    return images.as_strided((layers, starts, n, n), (layer, col, row, col))


def _start(images: Tensor, corner: Tensor) -> Tensor:
    """Which of ``_windows`` has this corner, int64 (batch,)."""
    return torch.add(corner[:, 1], corner[:, 0], alpha=images.shape[-1])
