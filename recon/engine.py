"""Run the multislice engine on prepared patterns: held-out stop, half sets, refinement."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from recon.direct.warm_start import warm_phase
from recon.errors import ReconError
from recon.execution import Execution
from recon.fit_state import FitState
from recon.focus_side import better_side
from recon.free_slices import Freed, free_if_better, worth_of_freedom
from recon.haste import MORE_PASSES, haste_of, headroom_rad, next_haste
from recon.joint_calibration import Bench, Found, Stated, refine_calibration
from recon.params import ReconstructionParams
from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.explained import explained_share
from recon.ptychography.projection import projected_phase
from recon.ptychography.raster import Canvas, make_canvas
from recon.ptychography.refiner import Refiner
from recon.ptychography.solver import (
    MultisliceSolver,
    SolverSettings,
    one_torch_thread,
    worker_threads,
)
from recon.ptychography.stopping import HeldOutStop
from recon.ptychography.unknowns import DISTORTIONS, UNKNOWNS, Unknown
from recon.thickness import thickness_look

NOMINAL_THICKNESS_TRUST = 0.25
"""Prior sigma of a stated thickness, as a part of it."""

PassCallback = Callable[[int, float, float, float], None]
"""Called with pass number, part of the pass that is done, fitted and held-out loss."""


@dataclass(frozen=True)
class PassSnapshot:
    """The fit after a pass, for those who watch; the picture is made only if it is asked for."""

    number: int
    fitted: float
    held_out: float
    experiment: Experiment
    slices: Tensor
    scan_centre_px: tuple[float, float]

    @property
    def pixel_size_A(self) -> float:
        """Object pixel."""
        return self.experiment.grid.sampling_A

    def phase(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Projected phase, float32 (rows, cols)."""
        image: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
        image = projected_phase(self.slices, self.experiment).cpu().numpy()
        return image


Watcher = Callable[[PassSnapshot], None]


class DeviceError(ReconError):
    """The requested device is not there; nothing was computed."""


@dataclass(frozen=True)
class EngineResult:
    """One finished fit."""

    experiment: Experiment
    canvas: Canvas
    slices: Tensor
    fitted: tuple[float, ...]
    held_out: tuple[float, ...]
    defocus_A: tuple[float, ...]
    best_pass: int
    stopped_because: str
    refined_sigma: dict[str, float] = field(default_factory=dict)
    """Standard deviations of the parameters that were refined, by name."""
    explained_share: float = float("nan")
    """Part of what the object claims to know that electrons confirm."""
    coupling: float = 0.0
    """Of the slices: 0 where they are the same, 1 where they are free."""
    haste: float = 1.0
    """How much longer than usual the first steps were."""

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
        coupling=params.coupling,
        floor_fraction=params.floor_fraction,
        positivity=params.positivity,
        variation=params.variation_weight,
        threads=params.threads,
    )


def wanted(
    params: ReconstructionParams, n_slices: int, nominal_thickness_A: float | None = None
) -> tuple[Unknown, ...]:
    """Return what to refine: what was asked for, is not fixed, and has an effect.

    A single slice knows no tilt, and its thickness is only another defocus.
    """
    fixed = {
        "defocus_A": params.defocus_A is not None,
        "rotation_deg": params.rotation_deg is not None,
        "thickness_A": params.thickness_A is not None or n_slices == 1,
        "tilt_row_mrad": params.tilt_mrad is not None or n_slices == 1,
        "tilt_col_mrad": params.tilt_mrad is not None or n_slices == 1,
    }
    chosen = [u for u in UNKNOWNS if u.name in params.refine and not fixed.get(u.name, False)]
    if nominal_thickness_A is not None:
        known = NOMINAL_THICKNESS_TRUST * nominal_thickness_A
        chosen = [replace(u, prior_sigma=known) if u.name == "thickness_A" else u for u in chosen]
    return tuple(chosen)


@one_torch_thread()
def fit_until_turn(
    experiment: Experiment,
    patterns: Patterns,
    params: ReconstructionParams,
    rng: np.random.Generator,
    on_progress: PassCallback,
    *,
    stated: Stated | None = None,
    execution: Execution | None = None,
    on_pass: Watcher | None = None,
) -> EngineResult:
    """Fit most of the electrons; stop where the likelihood of the others turns; keep the best.

    Where anything is to be refined, a first stage on the inner part of the patterns finds the
    calibration, and the object then starts afresh under it. It stays as it is from there on:
    refined further under the high floor of this stage it drifts and jitters more than it gains
    (by 4 Å of defocus, 0.2° and 0.4 % of the scan matrix for ZIF-8 at 100 e/Å²).
    Without a first stage (no ``calibration_passes``) it is refined here.
    """
    execution = execution or Execution()
    team, stage = execution.team, execution.next_stage()
    fitted, held = patterns.split(1 - params.held_out_fraction, rng)
    settings = solver_settings(params)
    device = choose_device(params.device)
    stated = stated or Stated()
    unknowns = wanted(params, experiment.n_slices, stated.thickness_A)
    prior = experiment
    stop = HeldOutStop(params.patience)
    nan = float("nan")
    found = Found.from_document(stage.begun(), experiment)
    with worker_threads(settings.threads) as executor:
        if found is None and unknowns and params.calibration_passes:
            # A prior on slopes has an opinion on the shape of the scan, too: it stays out of this
            bench = Bench(replace(settings, variation=0.0), device, executor, rng, team)
            experiment = better_side(experiment, stated.defocus_A, fitted, unknowns, bench, params)
            found = refine_calibration(
                experiment, fitted, unknowns, bench, params,
                lambda number: on_progress(number - params.calibration_passes, 1.0, nan, nan),
                thickness_look(fitted, held, unknowns, prior.thickness_A, bench, params),
            )  # fmt: skip
        found = found or Found(experiment, {})
        experiment = found.experiment
        sampling = experiment.grid.sampling_A
        canvas = make_canvas(experiment.positions_A(), sampling, patterns.n)
        solver = MultisliceSolver(experiment, canvas, fitted, held, settings, device, team)
        if params.warm_start == "icom":
            solver.start_from(warm_phase(fitted, experiment, canvas))
        solver.slices += headroom_rad(found.haste)
        most = round(params.max_passes * (MORE_PASSES if found.haste > 1 else 1))
        if found.sigma:
            unknowns = ()
        if settings.variation:
            unknowns = tuple(u for u in unknowns if u.name not in DISTORTIONS)
        refiner = Refiner(
            solver, unknowns, params.refine_patterns, prior=prior, optimism=found.optimism
        )
        fit = FitState(solver, rng, stop, refiner, begun=found.document())
        stage.resume(fit)
        while not fit.reason:
            number = fit.number + 1
            before = fit.losses[-1] if fit.losses else (nan, nan, nan)
            hook = refiner.begin_pass(number, rng, executor)
            seen = [loss for _, loss, _ in fit.losses]
            solver.haste = next_haste(seen, found.haste, most)
            result = solver.run_pass(
                rng,
                executor,
                on_batch=lambda part: on_progress(number, part, *before[:2]),  # noqa: B023
                on_pulls=hook,
            )
            fit.number = number
            fit.losses.append((result.fitted, result.held_out, solver.experiment.defocus_A))
            if on_pass is not None:
                centre = canvas.scan_centre_px
                on_pass(
                    PassSnapshot(
                        number, result.fitted, result.held_out, solver.experiment,
                        solver.all_slices(), centre,
                    )
                )  # fmt: skip
            if stop.observe(number, result.held_out):
                fit.keep()
            if stop.should_stop and solver.haste == 1:
                fit.reason = f"held-out likelihood turned after pass {stop.best_pass}"
            elif number == most:
                fit.reason = f"max_passes ({most}) reached"
            stage.save(fit)
        solver.recalibrate(fit.best_experiment)
        solver.take(fit.best)
        freed = _freed(solver, fit, params, executor, on_progress)
    fitted_curve, held_curve, defocus_curve = zip(*fit.losses, strict=True)
    tied = EngineResult(
        fit.best_experiment,
        canvas,
        fit.best,
        fitted_curve,
        held_curve,
        defocus_curve,
        stop.best_pass,
        fit.reason,
        found.sigma | refiner.sigma,
        coupling=params.coupling,
        haste=found.haste,
    )
    return _finished(tied, solver, freed)


def _freed(
    solver: MultisliceSolver,
    fit: FitState,
    params: ReconstructionParams,
    executor: ThreadPoolExecutor,
    on_progress: PassCallback,
) -> Freed | None:
    """Free slices, if the choice is left to the counts and they want them."""
    stop = fit.stop
    if params.slice_coupling != "auto" or solver.experiment.n_slices == 1 or stop is None:
        return None
    if not stop.should_stop:
        return None  # whatever goes on gains something: no sign of slices that differ
    losses, rng = fit.losses[-1][:2], deepcopy(fit.rng)  # a trial in vain leaves no trace
    return free_if_better(
        solver, stop.best, rng, executor, patience=params.patience, most=params.max_passes,
        needed=worth_of_freedom(stop, fit.losses[0][1]),
        on_pass=lambda since: on_progress(fit.number + since, 1.0, *losses),
    )  # fmt: skip


def _finished(tied: EngineResult, solver: MultisliceSolver, freed: Freed | None) -> EngineResult:
    """The result of a fit that may have gone on with free slices; what it claims is judged."""
    if freed is None:
        return replace(tied, explained_share=explained_share(solver))
    fitted, held_out = zip(*freed.losses, strict=True)
    best_pass = len(tied.fitted) + freed.best
    return replace(
        tied,
        slices=freed.solver.all_slices(),
        fitted=tied.fitted + fitted,
        held_out=tied.held_out + held_out,
        defocus_A=tied.defocus_A + (tied.experiment.defocus_A,) * len(fitted),
        best_pass=best_pass,
        stopped_because=f"held-out likelihood turned after pass {best_pass}, with free slices",
        explained_share=explained_share(freed.solver),
        coupling=1.0,
    )


@one_torch_thread()
def fit_fixed(  # noqa: PLR0913  (what a fit is made of)
    experiment: Experiment,
    canvas: Canvas,
    patterns: Patterns,
    params: ReconstructionParams,
    rng: np.random.Generator,
    *,
    passes: int,
    on_progress: PassCallback,
    execution: Execution | None = None,
    haste: float = 1.0,
) -> EngineResult:
    """Fit all given electrons for a fixed number of passes, calibration as it is."""
    execution = execution or Execution()
    settings = solver_settings(params)
    solver = MultisliceSolver(
        experiment, canvas, patterns, None, settings, choose_device(params.device), execution.team
    )
    if params.warm_start == "icom":
        solver.start_from(warm_phase(patterns, experiment, canvas))
    solver.slices += headroom_rad(haste)
    fit = _run_fixed(solver, rng, passes, on_progress, execution, haste)
    losses = tuple(loss for loss, *_ in fit.losses)
    return EngineResult(experiment, canvas, solver.all_slices(), losses, (), (), passes, fit.reason)


@one_torch_thread()
def close_fit(
    best: EngineResult,
    patterns: Patterns,
    params: ReconstructionParams,
    rng: np.random.Generator,
    *,
    on_progress: PassCallback,
    execution: Execution | None = None,
) -> EngineResult:
    """Go on from the best pass with all electrons, those that had been held out too.

    They would be lost otherwise, and the last batches' noise with the momentum is forgotten.
    """
    execution = execution or Execution()
    solver = MultisliceSolver(
        best.experiment, best.canvas, patterns, None, solver_settings(params),
        choose_device(params.device), execution.team,
    )  # fmt: skip
    solver.take(best.slices)
    _run_fixed(solver, rng, params.closing_passes, on_progress, execution)
    return replace(best, slices=solver.all_slices())


def _run_fixed(
    solver: MultisliceSolver,
    rng: np.random.Generator,
    passes: int,
    on_progress: PassCallback,
    execution: Execution,
    haste: float = 1.0,
) -> FitState:
    fit, stage = FitState(solver, rng), execution.next_stage()
    stage.resume(fit)
    with worker_threads(solver.settings.threads) as executor:
        while not fit.reason:
            number = fit.number + 1
            solver.haste = haste_of(number, passes, haste)
            result = solver.run_pass(
                rng,
                executor,
                on_batch=lambda part: on_progress(number, part, float("nan"), float("nan")),  # noqa: B023
            )
            fit.number = number
            fit.losses.append((result.fitted, float("nan"), solver.experiment.defocus_A))
            fit.reason = f"{passes} passes as asked" if number >= passes else ""
            stage.save(fit)
    return fit
