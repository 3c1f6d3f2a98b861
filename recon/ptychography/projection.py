"""From slices to the picture: projection along the beam, referred to the entrance surface."""

import torch
from torch import Tensor

from recon.ptychography.experiment import Experiment


def projected_phase(slices: Tensor, experiment: Experiment) -> Tensor:
    """Sum of the slices along the tilted beam, float32, (rows, cols), radians.

    A ray that meets the first slice at r meets slice s at r + tau s dz, so that slice s is moved
    back by this much (in Fourier space) before the sum.
    """
    rows, cols = slices.shape[1:]
    sampling = experiment.grid.sampling_A
    ky = torch.fft.fftfreq(rows, sampling, device=slices.device)[:, None]
    kx = torch.fft.rfftfreq(cols, sampling, device=slices.device)[None]
    walk = ky * experiment.tilt_mrad[0] + kx * experiment.tilt_mrad[1]
    spectrum = torch.fft.rfft2(slices)
    depth = torch.arange(len(slices), device=slices.device) * (experiment.slab_A * 1e-3)
    moved = spectrum * torch.exp(2j * torch.pi * depth[:, None, None] * walk)
    return torch.fft.irfft2(moved.sum(dim=0), s=(rows, cols)).to(torch.float32)
