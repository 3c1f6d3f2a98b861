"""Refine the few global parameters of the experiment together with the object.

After a pass, on a random subset of the patterns, the forward model is run once as it is and once
per parameter with that parameter nudged. The differences give gradient and Fisher information,

    g_i = sum dI_i (m - y / (I + b)),   F_ij = sum dI_i dI_j / (I + b),

and a damped Gauss-Newton step  -(F + P)^-1 g  with P the inverse variances of what is known
beforehand. When the raster turns or stretches, the object turns with it (a matter of
frames, not of physics): what is compared is then the local shear of the object against the probe,
not the whole image against itself, which would hold the raster where it is.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from torch import Tensor

from recon.ptychography.counts import CountStore
from recon.ptychography.experiment import Experiment
from recon.ptychography.likelihood import poisson_factor
from recon.ptychography.multislice import forward
from recon.ptychography.raster import Canvas

Float = NDArray[np.float64]
Name = Literal[
    "defocus_A", "C12a_A", "C12b_A", "rotation_deg", "tilt_row_mrad", "tilt_col_mrad",
    "scale", "stretch", "shear", "drift_along", "drift_across", "thickness_A",
]  # fmt: skip


@dataclass(frozen=True)
class Unknown:
    """One parameter: the nudge of its finite difference, its prior sigma, its largest step.

    ``haste`` lengthens the steps of parameters that the object has settled for and that would
    creep: its co-adaptation makes the true curvature smaller than the Fisher information.
    """

    name: Name
    nudge: float
    prior_sigma: float
    largest_step: float
    haste: float = 1.0
    first_pass: int = 2
    """The object must have settled before the raster is judged by it."""


UNKNOWNS: tuple[Unknown, ...] = (
    Unknown("defocus_A", 4.0, 40.0, 20.0),
    Unknown("C12a_A", 4.0, 15.0, 10.0),
    Unknown("C12b_A", 4.0, 15.0, 10.0),
    Unknown("rotation_deg", 0.2, 1.5, 1.0, first_pass=4),
    Unknown("tilt_row_mrad", 0.3, 4.0, 2.0, 1.4),
    Unknown("tilt_col_mrad", 0.3, 4.0, 2.0, 1.4),
    Unknown("drift_along", 0.004, 0.04, 0.02, first_pass=4),
    Unknown("drift_across", 0.004, 0.04, 0.02, first_pass=4),
    Unknown("scale", 0.003, 0.015, 0.01, first_pass=4),
    Unknown("stretch", 0.003, 0.015, 0.01, first_pass=4),
    Unknown("shear", 0.003, 0.015, 0.01, first_pass=4),
    Unknown("thickness_A", 10.0, 150.0, 25.0, 1.5),
)


THICKNESS_RANGE = (0.25, 4.0)
"""The thickness stays within these multiples of its first value."""

DISTORTIONS: dict[str, Float] = {
    "scale": np.eye(2),
    "stretch": np.diag([1.0, -1.0]),
    "shear": np.array([[0.0, 1.0], [1.0, 0.0]]),
    "drift_along": np.array([[1.0, 0.0], [0.0, 0.0]]),
    "drift_across": np.array([[0.0, 0.0], [1.0, 0.0]]),
}
"""Generators of the scan distortion: symmetric ones, and a drift that is the same for every line.

Drift moves the slow axis only: ``drift_along`` stretches it, ``drift_across`` slants it. Use
either set, not both; the rest is rotation.
"""


def nudged(experiment: Experiment, name: Name, by: float) -> Experiment:
    """Return the experiment with one parameter increased."""
    row, col = experiment.tilt_mrad
    match name:
        case "tilt_row_mrad":
            return replace(experiment, tilt_mrad=(row + by, col))
        case "tilt_col_mrad":
            return replace(experiment, tilt_mrad=(row, col + by))
        case "scale" | "stretch" | "shear" | "drift_along" | "drift_across":
            affine = np.array(experiment.affine) @ (np.eye(2) + by * DISTORTIONS[name])
            (a, b), (c, d) = affine.tolist()
            return replace(experiment, affine=((a, b), (c, d)))
        case "defocus_A":
            return replace(experiment, defocus_A=experiment.defocus_A + by)
        case "C12a_A":
            return replace(experiment, C12a_A=experiment.C12a_A + by)
        case "C12b_A":
            return replace(experiment, C12b_A=experiment.C12b_A + by)
        case "rotation_deg":
            return replace(experiment, rotation_deg=experiment.rotation_deg + by)
        case "thickness_A":
            return replace(experiment, thickness_A=experiment.thickness_A + by)


@dataclass(frozen=True)
class Fitted:
    """The object and its data, as the joint step needs them.

    ``slices`` is (1, rows, cols) where all slices are the same.
    """

    experiment: Experiment
    canvas: Canvas
    slices: Tensor
    counts: CountStore
    position: NDArray[np.int64]
    measured: Tensor
    per_pattern: float
    floor: float


def predict(fit: Fitted, experiment: Experiment, slices: Tensor, which: Tensor) -> Tensor:
    """Expected electrons of the chosen patterns with exact (unrounded) positions, (batch, n, n)."""
    n, sampling = experiment.grid.n, experiment.grid.sampling_A
    device = slices.device
    chosen = fit.position[which.cpu().numpy()]
    corner = experiment.positions_A()[chosen] / sampling
    corner += np.array(fit.canvas.scan_centre_px) - n // 2
    last = np.array(fit.canvas.shape) - n
    whole = np.clip(np.floor(corner).astype(np.int64), 0, last)
    part = torch.from_numpy((corner - whole + n // 2) * sampling).to(device, torch.float32)
    ky, kx = (k.to(device, torch.float32) for k in experiment.grid.frequencies())
    walk = part[:, 0, None, None] * ky + part[:, 1, None, None] * kx
    spectrum = (experiment.probe_spectrum() * fit.per_pattern**0.5).to(device, torch.complex64)
    probes = torch.fft.ifft2(spectrum * torch.exp(-2j * torch.pi * walk), norm="ortho")
    start = torch.from_numpy(whole).to(device)
    along = torch.arange(n, device=device)
    rows = (start[:, 0, None] + along) * fit.canvas.shape[1]
    window = (rows[:, :, None] + (start[:, 1, None] + along)[:, None, :]).view(-1)
    patches = slices.view(len(slices), -1)[:, window].view(-1, len(which), n, n)
    transmission = torch.polar(torch.ones_like(patches), patches)
    transmission = transmission.expand(experiment.n_slices, -1, -1, -1)
    H = experiment.propagator().to(device)
    return forward(probes[:, None], transmission, H).intensity()


def sheared(fit: Fitted, target: Experiment) -> Tensor:
    """First-order change of the object when its frame follows the raster, like ``slices``."""
    change = target.scan_matrix() @ np.linalg.inv(fit.experiment.scan_matrix()) - np.eye(2)
    if np.abs(change).max() < 1e-12:
        return fit.slices
    rows, cols = fit.canvas.shape
    device = fit.slices.device
    y = (
        torch.arange(rows, device=device, dtype=torch.float32)[:, None]
        - fit.canvas.scan_centre_px[0]
    )
    x = torch.arange(cols, device=device, dtype=torch.float32)[None] - fit.canvas.scan_centre_px[1]
    e = change.tolist()
    walk_y, walk_x = e[0][0] * y + e[0][1] * x, e[1][0] * y + e[1][1] * x
    spectrum = torch.fft.rfft2(fit.slices)
    ky = torch.fft.fftfreq(rows, device=device)[:, None]
    kx = torch.fft.rfftfreq(cols, device=device)[None]
    slope_y = torch.fft.irfft2(2j * torch.pi * ky * spectrum, s=(rows, cols))
    slope_x = torch.fft.irfft2(2j * torch.pi * kx * spectrum, s=(rows, cols))
    return fit.slices - slope_y * walk_y - slope_x * walk_x


def warped(slices: Tensor, canvas: Canvas, before: Experiment, after: Experiment) -> Tensor:
    """Turn and stretch the object by as much as the raster (cubic splines)."""
    matrix = before.scan_matrix() @ np.linalg.inv(after.scan_matrix())
    if np.abs(matrix - np.eye(2)).max() < 1e-9:
        return slices
    centre = np.array(canvas.scan_centre_px)
    offset = centre - matrix @ centre
    moved = [
        affine_transform(image, matrix, offset, order=3, mode="nearest")
        for image in slices.cpu().numpy()
    ]
    return torch.from_numpy(np.stack(moved)).to(slices.device, slices.dtype)


@dataclass(frozen=True)
class JointStep:
    """Where the step leads, and the covariance of the parameters with the object held fixed."""

    experiment: Experiment
    step: dict[str, float]
    sigma: dict[str, float]


def joint_step(
    fit: Fitted,
    unknowns: tuple[Unknown, ...],
    start: Experiment,
    which: Tensor,
    executor: ThreadPoolExecutor,
    *,
    relaxation: float = 1.0,
) -> JointStep:
    """One damped Gauss-Newton step on the patterns ``which``.

    ``start`` is the calibration before any refinement: the centre of the prior.
    """
    scale = len(fit.position) / len(which)
    names = [unknown.name for unknown in unknowns]
    gradient, fisher = _derivatives(fit, unknowns, which, executor)
    gradient, fisher = gradient * scale, fisher * scale
    precision = np.array([unknown.prior_sigma**-2 for unknown in unknowns])
    drift = np.array([_value(fit.experiment, n) - _value(start, n) for n in names])
    damped = fisher + np.diag(precision)
    haste = np.array([unknown.haste for unknown in unknowns])
    step = -np.linalg.solve(damped, gradient + precision * drift) * haste * relaxation
    largest = np.array([unknown.largest_step for unknown in unknowns])
    step *= min(1.0, float(np.min(largest / np.maximum(np.abs(step), 1e-12))))
    experiment = fit.experiment
    for name, by in zip(names, step.tolist(), strict=True):
        experiment = nudged(experiment, name, by)
    bounds = THICKNESS_RANGE[0] * start.thickness_A, THICKNESS_RANGE[1] * start.thickness_A
    thickness = float(np.clip(experiment.thickness_A, *bounds))
    experiment = replace(experiment, thickness_A=thickness)
    sigma = np.sqrt(np.diag(np.linalg.inv(damped)))
    return JointStep(
        experiment,
        dict(zip(names, step.tolist(), strict=True)),
        dict(zip(names, sigma.tolist(), strict=True)),
    )


def _derivatives(
    fit: Fitted, unknowns: tuple[Unknown, ...], which: Tensor, executor: ThreadPoolExecutor
) -> tuple[Float, Float]:
    """Gradient and Fisher information summed over the patterns ``which``."""
    trials = [nudged(fit.experiment, u.name, u.nudge) for u in unknowns]
    objects = [sheared(fit, trial) for trial in trials]

    def of_chunk(chunk: Tensor) -> tuple[Float, Float]:
        base = predict(fit, fit.experiment, fit.slices, chunk)
        counts = fit.counts.dense(chunk)
        residual = poisson_factor(base, counts, fit.measured, fit.floor).view(-1)
        weight = (fit.measured / (base + fit.floor)).view(-1)
        changes = torch.stack(
            [
                (predict(fit, trial, moved, chunk) - base).view(-1) / unknown.nudge
                for trial, moved, unknown in zip(trials, objects, unknowns, strict=True)
            ]
        )
        gradient = (changes @ residual).cpu().double().numpy()
        return gradient, ((changes * weight) @ changes.T).cpu().double().numpy()

    parts = list(executor.map(of_chunk, torch.split(which, 32)))
    gradient: Float = np.sum([part[0] for part in parts], axis=0)
    fisher: Float = np.sum([part[1] for part in parts], axis=0)
    return gradient, fisher


def _value(experiment: Experiment, name: Name) -> float:
    """A parameter's present value; distortions are read off the affine matrix."""
    match name:
        case "tilt_row_mrad":
            return experiment.tilt_mrad[0]
        case "tilt_col_mrad":
            return experiment.tilt_mrad[1]
        case "scale" | "stretch" | "shear" | "drift_along" | "drift_across":
            strain = np.array(experiment.affine) - np.eye(2)
            generator = DISTORTIONS[name]
            return float((strain * generator).sum() / (generator**2).sum())
        case _:
            return float(getattr(experiment, name))
