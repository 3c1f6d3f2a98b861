"""The object follows the frame: when raster or tilt are corrected, it turns and moves along.

Turning the raster by E turns the reconstruction by E (a matter of frames, not of physics); tilting
the beam by d tau moves it by d tau times the mean depth of the slices. Corrections that leave the
object behind are held back by the whole image; with it, only the shape of the object
within a probe decides. A frame change takes  V(r)  to  V((1 + E)^-1 (r - t)),  r from the centre of
the scan in pixels; to first order  dV = - grad V . (E r + t).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from torch import Tensor

from recon.ptychography.experiment import Experiment
from recon.ptychography.raster import Canvas

Float = NDArray[np.float64]


@dataclass(frozen=True)
class FrameChange:
    """E (2, 2) and t (2,) in object pixels."""

    strain: Float
    shift_px: Float

    @classmethod
    def between(cls, before: Experiment, after: Experiment) -> "FrameChange":
        """What the object has to do when the calibration changes."""
        strain = after.scan_matrix() @ np.linalg.inv(before.scan_matrix()) - np.eye(2)
        turn = np.array(after.tilt_mrad) - np.array(before.tilt_mrad)
        depth_A = (before.n_slices - 1) / 2 * before.slab_A
        return cls(strain, turn * 1e-3 * depth_A / before.grid.sampling_A)

    def furthest_px(self, canvas: Canvas) -> float:
        """How far the corner of the canvas moves."""
        corner = np.array(canvas.shape) / 2
        return float(np.hypot(*(np.abs(self.strain) @ corner + np.abs(self.shift_px))))


def slopes(slices: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives (row, col) per pixel of each slice, like ``slices``."""
    rows, cols = slices.shape[-2:]
    spectrum = torch.fft.rfft2(slices)
    ky = torch.fft.fftfreq(rows, device=slices.device)[:, None]
    kx = torch.fft.rfftfreq(cols, device=slices.device)[None]
    return (
        torch.fft.irfft2(2j * torch.pi * ky * spectrum, s=(rows, cols)),
        torch.fft.irfft2(2j * torch.pi * kx * spectrum, s=(rows, cols)),
    )


def moved(slices: Tensor, canvas: Canvas, change: FrameChange) -> Tensor:
    """The object in its new frame (cubic splines)."""
    if change.furthest_px(canvas) < 1e-6:
        return slices
    matrix = np.linalg.inv(np.eye(2) + change.strain)
    centre = np.array(canvas.scan_centre_px)
    offset = centre - matrix @ (centre + change.shift_px)
    images = [
        affine_transform(image, matrix, offset, order=3, mode="nearest")
        for image in slices.cpu().numpy()
    ]
    return torch.from_numpy(np.stack(images)).to(slices.device, slices.dtype)
