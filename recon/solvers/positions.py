"""Shift positions one by one, by as much as the counts carry and no more.

The adjoint gives the pull of the likelihood on each position, a tangent run of the forward model
the Fisher information F of one position. A Newton step estimates each shift with the variance 1/F;
what the estimates scatter beyond that is what positions are really off by, s^2. The posterior
mean shrinks every step by s^2 / (s^2 + 1/F): nothing moves where noise is all there is. What a
scan matrix could do is left to the calibration. An object that is not right yet pulls at positions,
too: a step stays only if the held-out electrons confirm it, and all of them only if a whole fit
gains by them what shifts of that size are worth, F shift^2 / 2 each.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.ptychography.multislice import backward, forward
from recon.ptychography.solver import worker_threads
from recon.solvers.likelihood import slopes
from recon.solvers.problem import CHUNK, Problem

Float = NDArray[np.float64]
SIGNIFICANT = 4.0
"""Scatter beyond the noise, in standard deviations, that is taken for real."""


def correct_positions(
    problem: Problem, slices: Tensor, spectra: Tensor, executor: ThreadPoolExecutor
) -> float:
    """Move the positions of ``problem``; return how far they are off, Å, zero if that is noise."""
    pull, information = position_pulls(problem, slices, spectra, executor)
    seen = information > 0
    if not seen.any():
        return 0.0
    estimate = np.where(seen, -pull / np.where(seen, information, 1.0), 0.0)
    estimate = without_affine(estimate, problem)
    noise = 1 / information[seen]
    excess = estimate[seen] ** 2 - noise
    weight = 1 / noise**2
    variance = float((weight * excess).sum() / weight.sum())
    uncertainty = float(np.sqrt(2 / weight.sum()))
    if not variance > SIGNIFICANT * uncertainty:
        return 0.0
    shrink = np.where(seen, variance / (variance + 1 / np.where(seen, information, 1.0)), 0.0)
    limit = problem.experiment.grid.sampling_A
    step = np.clip(shrink * estimate, -limit, limit)
    everyone = torch.arange(problem.patterns.n_patterns, device=problem.device)
    before, start = problem.evaluate(slices, spectra, everyone, executor), problem.shift_A
    problem.move_positions(start + step)
    after = problem.evaluate(slices, spectra, everyone, executor)
    if not after.held_out < before.held_out:
        problem.move_positions(start)
        return 0.0
    return float(np.sqrt(variance))


def worth_of_shifts(problem: Problem, solver_slices: Tensor, spectra: Tensor) -> float:
    """Nats on the held-out electrons that the shifts are worth if they are true."""
    with worker_threads(1) as executor:
        _, information = position_pulls(problem, solver_slices, spectra, executor)
    ratio = problem.electrons_held / problem.electrons
    return float(0.5 * ratio * (information * problem.shift_A**2).sum())


def without_affine(shifts: Float, problem: Problem) -> Float:
    """Leave out what shifts, turns or stretches the whole scan, (pattern, 2)."""
    positions = problem.experiment.positions_A()[problem.patterns.position]
    design = np.column_stack([np.ones(len(positions)), positions])
    return np.asarray(shifts - design @ np.linalg.lstsq(design, shifts, rcond=None)[0])


def position_pulls(
    problem: Problem, slices: Tensor, spectra: Tensor, executor: ThreadPoolExecutor
) -> tuple[Float, Float]:
    """Derivative of the loss by every position, 1/Å, and Fisher information, 1/Å², (pattern, 2)."""
    transmission = torch.polar(torch.ones_like(slices), slices)
    ky, kx = problem.experiment.grid.frequencies()
    table = problem.probe_table(spectra)
    tangents = [
        problem.probe_table(spectra * (-2j * torch.pi * k).to(problem.device, torch.complex64))
        for k in (ky, kx)
    ]

    def of_chunk(which: Tensor) -> tuple[Float, Float]:
        windows = problem.gather(transmission, which)
        index = problem.raster.shift_index[which]
        waves = forward(table[index], windows, problem.H)
        intensity = waves.intensity()
        counts = problem.counts.dense(which)
        factor = problem.measured * slopes(problem.likelihood, intensity, counts, problem.floor)
        missing = waves.detector.conj() * (-2 * factor[:, None])
        _, entering = backward(waves, windows, problem.H, missing, tied=problem.tied)
        weight = problem.measured / (intensity + problem.floor)
        pull, information = [], []
        for tangent in tangents:
            moved = tangent[index]
            pull.append(-(entering * moved).real.sum(dim=(1, 2, 3)))
            outcome = forward(moved, windows, problem.H).detector
            change = 2 * (waves.detector.conj() * outcome).real.sum(dim=1)
            information.append((weight * change.square()).sum(dim=(1, 2)))
        return _stacked(pull), _stacked(information)

    everyone = torch.arange(problem.patterns.n_patterns, device=problem.device)
    parts = list(executor.map(of_chunk, torch.split(everyone, CHUNK)))
    pull = np.concatenate([part[0] for part in parts])
    information = np.concatenate([part[1] for part in parts])
    return pull, information


def _stacked(per_direction: list[Tensor]) -> Float:
    """One column per direction, (pattern, direction)."""
    stacked: Float = torch.stack(per_direction, dim=1).cpu().double().numpy()
    return stacked
