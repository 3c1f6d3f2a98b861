"""How the likelihood pulls at the global parameters: by-products of the adjoint.

With g the gradient by the conjugate wave and hats for Fourier transforms, a change of phase in a
plane where psi_hat passes changes the loss of one pattern by

    dL = (2 / n^2) sum_k d phase(k) Im(conj(g_hat) psi_hat),

in the aperture (phase chi) and in every free space between slices (phase of the propagator). A
change of frame E changes it by  - sum_r gradV(r) . E (r - r_p) dL/dV(r). All are
sums over the patterns of a batch, so that the derivatives by any number of parameters cost two
small images and one weighted object gradient.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recon.ptychography.experiment import Experiment
from recon.ptychography.frame import FrameChange, slopes
from recon.ptychography.optics import aberration_phase, propagation_phase
from recon.ptychography.unknowns import Unknown, nudged

Float = NDArray[np.float64]


@dataclass
class Pulls:
    """Sums over patterns.

    ``aperture`` and ``propagator`` are dL/d phase, float32 (n, n); ``lever`` is
    sum_p dL/dV (r - r_p), float32 (2, slice, rows, cols), pixels; ``gradient`` is dL/dV.
    """

    aperture: Tensor
    propagator: Tensor
    lever: Tensor
    gradient: Tensor

    def add(self, other: "Pulls") -> None:
        """Take in another batch."""
        self.aperture += other.aperture
        self.propagator += other.propagator
        self.lever += other.lever
        self.gradient += other.gradient


def gradient_of(
    pulls: Pulls, experiment: Experiment, slices: Tensor, unknowns: tuple[Unknown, ...]
) -> Float:
    """Derivative of the loss by each unknown, the object following its frame, (unknown,)."""
    chi = aberration_phase(experiment.grid, experiment.optics())
    phi = propagation_phase(experiment.grid, experiment.slab_A, experiment.tilt_mrad)
    slope = slopes(slices)
    aperture, propagator = (p.cpu().double() for p in (pulls.aperture, pulls.propagator))
    torque = np.array(
        [[float((s * arm).sum()) for arm in (*pulls.lever, pulls.gradient)] for s in slope]
    )
    out = np.zeros(len(unknowns))
    for i, unknown in enumerate(unknowns):
        trial = nudged(experiment, unknown.name, unknown.nudge)
        d_chi = aberration_phase(trial.grid, trial.optics()) - chi
        d_phi = propagation_phase(trial.grid, trial.slab_A, trial.tilt_mrad) - phi
        frame = FrameChange.between(experiment, trial)
        strain = (torque[:, :2] * frame.strain).sum() + (torque[:, 2] * frame.shift_px).sum()
        change = float((aperture * d_chi).sum() + (propagator * d_phi).sum()) - strain
        out[i] = change / unknown.nudge
    return out
