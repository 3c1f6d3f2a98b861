"""Run the multislice engine on prepared patterns: held-out stop, half sets, refinement."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recon.errors import ReconError
from recon.params import ReconstructionParams
from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.projection import projected_phase
from recon.ptychography.raster import Canvas
from recon.ptychography.solver import MultisliceSolver, SolverSettings, worker_threads
from recon.ptychography.stopping import HeldOutStop

PassCallback = Callable[[int, float, float, float], None]
"""Called with pass number, part of the pass that is done, fitted and held-out loss."""


class DeviceError(ReconError):
    """The requested device is not there; nothing was computed."""


@dataclass(frozen=True)
class EngineResult:
    """One finished fit."""

    experiment: Experiment
    slices: Tensor
    fitted: tuple[float, ...]
    held_out: tuple[float, ...]
    defocus_A: tuple[float, ...]
    best_pass: int
    stopped_because: str

    def phase(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Projected phase, float32 (rows, cols)."""
        image: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
        image = projected_phase(self.slices, self.experiment).cpu().numpy()
        return image


def choose_device(name: str) -> torch.device:
    """Turn auto, cpu or cuda into a device that is there."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DeviceError("cuda was asked for but PyTorch sees no GPU; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def solver_settings(params: ReconstructionParams) -> SolverSettings:
    """The part of the parameters that the solver sees."""
    return SolverSettings(
        step=params.step,
        momentum=params.momentum,
        batch=params.batch,
        coupling=params.slice_coupling,
        floor_fraction=params.floor_fraction,
        positivity=params.positivity,
        threads=params.threads,
    )


def fit_until_turn(
    experiment: Experiment,
    canvas: Canvas,
    patterns: Patterns,
    params: ReconstructionParams,
    rng: np.random.Generator,
    on_progress: PassCallback,
) -> EngineResult:
    """Fit most of the electrons; stop where the likelihood of the others turns; keep the best."""
    fitted, held = patterns.split(1 - params.held_out_fraction, rng)
    settings = solver_settings(params)
    device = choose_device(params.device)
    solver = MultisliceSolver(experiment, canvas, fitted, held, settings, device)
    stop = HeldOutStop(params.patience)
    losses: list[tuple[float, float, float]] = []
    best = solver.slices.clone()
    reason = f"max_passes ({params.max_passes}) reached"
    with worker_threads(settings.threads) as executor:
        for number in range(1, params.max_passes + 1):
            before = losses[-1] if losses else (float("nan"),) * 3
            result = solver.run_pass(
                rng,
                executor,
                on_batch=lambda part: on_progress(number, part, *before[:2]),  # noqa: B023
            )
            losses.append((result.fitted, result.held_out, solver.experiment.defocus_A))
            if stop.observe(number, result.held_out):
                best = solver.slices.clone()
            if stop.should_stop:
                reason = f"held-out likelihood turned after pass {stop.best_pass}"
                break
    fitted_curve, held_curve, defocus_curve = zip(*losses, strict=True)
    return EngineResult(
        solver.experiment, best, fitted_curve, held_curve, defocus_curve, stop.best_pass, reason
    )


def fit_fixed(
    experiment: Experiment,
    canvas: Canvas,
    patterns: Patterns,
    params: ReconstructionParams,
    rng: np.random.Generator,
    *,
    passes: int,
    on_progress: PassCallback,
) -> EngineResult:
    """Fit all given electrons for a fixed number of passes, calibration as it is."""
    settings = solver_settings(params)
    solver = MultisliceSolver(
        experiment, canvas, patterns, None, settings, choose_device(params.device)
    )
    losses = []
    with worker_threads(settings.threads) as executor:
        for number in range(1, passes + 1):
            result = solver.run_pass(
                rng,
                executor,
                on_batch=lambda part: on_progress(number, part, float("nan"), float("nan")),  # noqa: B023
            )
            losses.append(result.fitted)
    return EngineResult(
        experiment, solver.slices, tuple(losses), (), (), passes, f"{passes} passes as asked"
    )
