"""First stage: find the calibration that the patterns want, on their inner part.

The bright field and what surrounds it determine the global parameters; its 48 pixels instead of 64
cost half. The object that forms on the way has seen too many electrons under wrong calibrations
and is thrown away. The number of slices follows the thickness while that is being found.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from recon.execution import Team
from recon.params import ReconstructionParams
from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.raster import make_canvas
from recon.ptychography.refiner import Refiner, mean_of
from recon.ptychography.solver import MultisliceSolver, SolverSettings
from recon.ptychography.unknowns import Unknown

MIN_SLICES, MAX_SLICES = 2, 12
"""Even 6 nm of heavy columns are no thin object: two slices took 0.88 of the truth to 0.96."""
AVERAGED_PASSES = 2
REACH = 2.0
"""The part of the detector that is used reaches to this multiple of the semi-angle."""
SIZES = (24, 32, 40, 48, 54, 64, 72, 80, 96, 108, 128, 144, 160, 192, 216, 256)
"""Fast FFT lengths."""


def slices_for(thickness_A: float, params: ReconstructionParams) -> int:
    """Number of slices for a thickness, as asked for or at most ``slice_thickness_A`` thick."""
    if params.n_slices is not None:
        return params.n_slices
    return int(np.clip(np.ceil(thickness_A / params.slice_thickness_A), MIN_SLICES, MAX_SLICES))


def inner_size(experiment: Experiment) -> int:
    """Side of the inner part of the patterns, pixels."""
    radius = experiment.k_edge_A * experiment.grid.n * experiment.grid.sampling_A
    needed = 2 * REACH * radius
    return min([s for s in SIZES if s >= needed] + [experiment.grid.n, experiment.grid.n])


def resized(experiment: Experiment, n: int) -> Experiment:
    """The same experiment on patterns of ``n`` pixels: coarser object pixels, same window."""
    grid = experiment.grid
    return replace(experiment, grid=replace(grid, n=n, sampling_A=grid.n * grid.sampling_A / n))


@dataclass(frozen=True)
class Bench:
    """What a fit is run on and with."""

    settings: SolverSettings
    device: torch.device
    executor: ThreadPoolExecutor
    rng: np.random.Generator
    team: Team


def refine_calibration(
    start: Experiment,
    split: tuple[Patterns, Patterns],
    unknowns: tuple[Unknown, ...],
    bench: Bench,
    params: ReconstructionParams,
    on_pass: Callable[[int], None],
) -> tuple[Experiment, dict[str, float]]:
    """Find the calibration, with the number of slices that its thickness asks for.

    Parameters
    ----------
    split
        Fitted and held-out electrons; the latter only measure how much noise was fitted.

    Returns
    -------
    The refined experiment and the standard deviations of its parameters, object held fixed.
    """
    n = inner_size(start)
    inner = resized(start, n)
    canvas = make_canvas(inner.positions_A(), inner.grid.sampling_A, n)
    fitted, held = (part.cropped(n) for part in split)
    solver = MultisliceSolver(inner, canvas, fitted, held, bench.settings, bench.device, bench.team)
    refiner = Refiner(solver, unknowns, params.refine_patterns)
    path: list[Experiment] = []
    for number in range(1, params.calibration_passes + 1):
        hook = refiner.begin_pass(number, bench.rng, bench.executor)
        refiner.end_pass(solver.run_pass(bench.rng, bench.executor, on_pulls=hook))
        on_pass(number)
        slices = slices_for(solver.experiment.thickness_A, params)
        if solver.tied and slices != solver.experiment.n_slices:
            solver.reslice(slices)
        if number > params.calibration_passes - AVERAGED_PASSES:
            path += refiner.path
    if not path:
        return start, {}
    found = resized(mean_of(path), start.grid.n)
    return replace(found, n_slices=slices_for(found.thickness_A, params)), refiner.sigma
