"""Run an engine beside the default one: held-out stop, checkpoints, half sets, all the same."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.direct.warm_start import warm_phase
from recon.engine import EngineResult, PassCallback, choose_device
from recon.execution import Execution
from recon.fit_state import FitState
from recon.params import ReconstructionParams
from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.raster import Canvas
from recon.ptychography.solver import worker_threads
from recon.ptychography.stopping import HeldOutStop
from recon.solvers.epie import EpieSolver
from recon.solvers.general import Choices, GeneralSolver
from recon.solvers.positions import worth_of_shifts
from recon.solvers.probe_modes import carries_free_probe, free_modes, source_modes
from recon.solvers.problem import Data, Problem
from recon.solvers.rules import Adam, Lbfgs, Momentum, Rule

SURE_NATS = 20.0
"""Gain in held-out likelihood below which shifts are not believed, whatever they are worth."""


@dataclass(frozen=True)
class BesideResult(EngineResult):
    """A finished fit of one of these engines."""

    probe: NDArray[np.complex64] | None = None
    """Modes at the first slice in real space, centred, (mode, n, n), one electron in all."""
    residual: NDArray[np.float32] | None = None
    """What does not repeat with the lattice, projected, radians."""
    shift_A: NDArray[np.float64] | None = None
    """What every position was moved by, (pattern, 2)."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Repeat:
    """A fit that is to do as an earlier one did: so many passes, the same positions."""

    passes: int
    shift_A: NDArray[np.float64] | None


def fit_beside(
    experiment: Experiment,
    canvas: Canvas,
    patterns: Patterns,
    params: ReconstructionParams,
    rng: np.random.Generator,
    *,
    on_progress: PassCallback,
    repeat: Repeat | None = None,
    execution: Execution | None = None,
) -> BesideResult:
    """Fit with the calibration as it is.

    Parameters
    ----------
    repeat
        Take all electrons for so many passes; None: hold some back, stop where their likelihood
        turns, and correct positions, if asked for, where that makes it better.
    """
    execution = execution or Execution()
    data = Data(patterns, None, params.likelihood, params.floor_fraction)
    if repeat is None:
        fitted, held = patterns.split(1 - params.held_out_fraction, rng)
        data = replace(data, fitted=fitted, held_out=held)
    solver, notes = _solver(experiment, canvas, data, params, execution)
    if repeat is not None and repeat.shift_A is not None:
        solver.problem.move_positions(repeat.shift_A)
    if params.warm_start == "icom":
        solver.start_from(warm_phase(data.fitted, experiment, canvas))
    dealt = rng.bit_generator.state
    straight = _run(solver, data, params, rng, on_progress, repeat, execution)
    result = replace(straight, notes=notes)
    if data.held_out is None or params.position_correction == "off":
        return result
    solver, _ = _solver(experiment, canvas, data, params, execution, positions=True)
    if params.warm_start == "icom":
        solver.start_from(warm_phase(data.fitted, experiment, canvas))
    rng.bit_generator.state = dealt  # the same order of patterns: what differs is the positions
    corrected = _run(solver, data, params, rng, on_progress, None, execution)
    gain = (min(straight.held_out) - min(corrected.held_out)) * data.held_out.n_electrons
    worth = worth_of_shifts(solver.problem, corrected.slices, solver.spectra)
    needed = max(SURE_NATS, worth / 2)
    if gain < needed:
        said = (
            f"positions were not corrected one by one: {gain:+.0f} nats on held-out electrons, "
            f"{needed:.0f} would be convincing"
        )
        return replace(result, notes=(*notes, said))
    shift = solver.problem.shift_A
    rms_A = float(np.sqrt((shift**2).sum(axis=1).mean()))
    said = (
        f"positions were corrected one by one, by {rms_A:.3f} Å (rms): {gain:+.0f} nats on "
        f"held-out electrons"
    )
    return replace(corrected, shift_A=shift, notes=(*notes, said))


def _run(
    solver: GeneralSolver | EpieSolver,
    data: Data,
    params: ReconstructionParams,
    rng: np.random.Generator,
    on_progress: PassCallback,
    repeat: Repeat | None,
    execution: Execution,
) -> BesideResult:
    """Pass after pass until the held-out likelihood turns, or as many as an earlier fit had."""
    experiment, watching = solver.experiment, data.held_out is not None
    stop = HeldOutStop(params.patience)
    fit, stage = FitState(solver, rng, stop), execution.next_stage()
    stage.resume(fit)
    last = params.max_passes if repeat is None else repeat.passes
    with worker_threads(params.threads) as executor:
        while not fit.reason:
            number = fit.number + 1
            before = fit.losses[-1] if fit.losses else (float("nan"),) * 3
            result = solver.run_pass(
                rng,
                executor,
                on_batch=lambda part: on_progress(number, part, *before[:2]),  # noqa: B023
            )
            fit.number = number
            fit.losses.append((result.fitted, result.held_out, experiment.defocus_A))
            if not watching or stop.observe(number, result.held_out):
                fit.keep()
            if watching and stop.should_stop:
                fit.reason = f"held-out likelihood turned after pass {stop.best_pass}"
            elif number >= last:
                limit = f"max_passes ({last}) reached"
                fit.reason = limit if watching else f"{last} passes as asked"
            stage.save(fit)
    fitted_curve, held_curve, defocus_curve = zip(*fit.losses, strict=True)
    return BesideResult(
        experiment,
        solver.problem.canvas,
        fit.best,
        fitted_curve,
        held_curve if watching else (),
        defocus_curve if watching else (),
        stop.best_pass or fit.number,
        fit.reason,
        probe=_in_real_space(solver.spectra),
        residual=_projected(solver.residual, experiment, params),
    )


def _solver(
    experiment: Experiment,
    canvas: Canvas,
    data: Data,
    params: ReconstructionParams,
    execution: Execution,
    *,
    positions: bool = False,
) -> tuple[GeneralSolver | EpieSolver, tuple[str, ...]]:
    device = choose_device(params.device)
    problem = Problem(experiment, canvas, data, device, execution.team, tied=params.coupling == 0)
    notes: tuple[str, ...] = ()
    free = params.probe == "free"
    if free:
        electrons = data.fitted.n_electrons
        reason = carries_free_probe(experiment, params.probe_modes, electrons)
        free, notes = not reason, ((reason,) if reason else ())
    if free:
        spectra = free_modes(experiment, params.probe_modes)
    else:
        modes = params.probe_modes if params.source_size_A else 1
        spectra = source_modes(experiment, modes, params.source_size_A)
    if params.solver == "epie":
        return EpieSolver(problem, spectra, params.step), notes
    rules: dict[str, Rule] = {
        "lsq": Momentum(params.step, params.momentum),
        "adam": Adam(params.step, params.momentum),
        "lbfgs": Lbfgs(params.step),
    }
    choices = Choices(
        batch=params.batch,
        coupling=params.coupling,
        positivity=params.positivity,
        priors=params.regularisers,
        free_probe=free,
        positions=positions,
    )
    return GeneralSolver(problem, spectra, rules[params.solver], choices), notes


def _in_real_space(spectra: Tensor) -> NDArray[np.complex64]:
    psi = torch.fft.fftshift(torch.fft.ifft2(spectra, norm="ortho"), dim=(1, 2))
    psi = psi / psi.abs().square().sum().sqrt()
    return psi.cpu().numpy().astype(np.complex64)


def _projected(
    residual: NDArray[np.float32] | None, experiment: Experiment, params: ReconstructionParams
) -> NDArray[np.float32] | None:
    """The residual of a slice that stands for all counts as many times."""
    if residual is None:
        return None
    times = experiment.n_slices if params.coupling == 0 else 1
    return (residual * times).astype(np.float32)
