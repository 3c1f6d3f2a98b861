"""Search for better settings by the likelihood of held-out electrons; for the daring.

Every trial fits the same electrons and is judged by the same others. The floor of the fit is one
of the settings, and likelihoods at different floors cannot be compared: all trials are judged at
the floor of the given settings. These are the first trial, so that the search never ends below
them. The winner was chosen by the held-out electrons, which flatters it a little: the final
reconstruction deals the electrons anew.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from recon.calibrate import Calibrated, calibrate
from recon.checkpoint import identity_of, write_atomically
from recon.dataset import Dataset4D
from recon.errors import ReconError
from recon.params import ReconstructionParams

if TYPE_CHECKING:
    from optuna import Trial as OptunaTrial

MAX_SLICES = 10


class SearchError(ReconError):
    """The search cannot be made as asked; nothing was written."""


@dataclass(frozen=True)
class Tried:
    """One trial: its settings, held-out loss per electron (NaN: failed) and what it took."""

    settings: dict[str, Any]
    held_out: float
    passes: int
    seconds: float
    error: str = ""


def search_settings(
    dataset: Dataset4D,
    trials: int,
    params: ReconstructionParams | None = None,
    *,
    rng_seed: int = 0,
    out: Path | None = None,
    on_trial: Callable[[int, Tried], None] | None = None,
) -> tuple[ReconstructionParams, list[Tried]]:
    """Try ``trials`` settings of step, momentum, floor, slices and coupling.

    With ``out`` every trial is kept in ``out/search.json`` when it ends, and those of an earlier
    search of the same data and settings count.

    Returns
    -------
    The best settings, and all trials in the order they were made.

    Raises
    ------
    SearchError
        Optuna is not installed, or no trial gave a finite result.
    DataError, CalibrationError
        As ``recon.calibrate.calibrate``.
    """
    try:
        import optuna
    except ImportError as missing:
        raise SearchError(
            f"the search needs Optuna ({missing}); pip install 'lodestem[search]'"
        ) from missing
    params = params or ReconstructionParams()
    if params.engine != "multislice" or params.beside_default:
        raise SearchError(
            "the search is for the default engine: leave engine, solver, likelihood, probe and "
            "regularisers as they are"
        )
    calibrated = calibrate(dataset, params)
    identity = identity_of(dataset.source, dataset.sha256, params, rng_seed)
    tried = [] if out is None else _earlier(out, identity)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=rng_seed))
    study.enqueue_trial(_own(params, dataset, calibrated))
    begun = list(tried)

    def objective(trial: "OptunaTrial") -> float:
        settings = _suggest(trial)
        if begun:  # an earlier search asked the same: the sampler is seeded
            known = begun.pop(0)
            if known.settings == settings:
                return _score(known)
            tried.remove(known)
        result = _try(dataset, calibrated, params, settings, rng_seed)
        tried.append(result)
        if out is not None:
            _keep(out, identity, tried)
        if on_trial is not None:
            on_trial(len(tried), result)
        return _score(result)

    study.optimize(objective, n_trials=trials)
    finite = [one for one in tried if np.isfinite(one.held_out)]
    if not finite:
        raise SearchError(f"none of {trials} trials gave a finite result: {tried[-1].error}")
    best = min(finite, key=lambda one: one.held_out)
    return params.updated(**best.settings), tried


def write_best(out: Path, best: ReconstructionParams) -> Path:
    """Write the winner as a parameter file; only what differs from the defaults."""
    path = out / "best-params.yaml"
    fields = best.model_dump(mode="json", exclude_defaults=True)
    write_atomically(path, yaml.safe_dump(fields, sort_keys=True) or "{}\n")
    return path


def _suggest(trial: "OptunaTrial") -> dict[str, Any]:
    return {
        "step": trial.suggest_float("step", 0.1, 1.0, log=True),
        "momentum": trial.suggest_float("momentum", 0.5, 0.95),
        "floor_fraction": trial.suggest_float("floor_fraction", 0.01, 1.0, log=True),
        "n_slices": trial.suggest_int("n_slices", 1, MAX_SLICES),
        "slice_coupling": trial.suggest_float("slice_coupling", 0.0, 1.0),
    }


def _own(
    params: ReconstructionParams, dataset: Dataset4D, calibrated: Calibrated
) -> dict[str, float]:
    """The given settings as the first trial, within the ranges."""
    from recon.joint_calibration import slices_for

    n_slices = slices_for(calibrated.calibration.thickness_A.value, params)
    return {
        "step": float(np.clip(params.step, 0.1, 1.0)),
        "momentum": float(np.clip(params.momentum, 0.5, 0.95)),
        "floor_fraction": float(np.clip(params.floor_fraction, 0.01, 1.0)),
        "n_slices": int(np.clip(n_slices, 1, MAX_SLICES)),
        "slice_coupling": params.coupling,
    }


def _try(
    dataset: Dataset4D,
    calibrated: Calibrated,
    params: ReconstructionParams,
    settings: dict[str, Any],
    rng_seed: int,
) -> Tried:
    """Fit with these settings, judge at the floor of ``params``."""
    from recon.engine import choose_device, fit_until_turn
    from recon.execution import Alone
    from recon.joint_calibration import Stated
    from recon.ptychography.experiment import Experiment
    from recon.ptychography.solver import worker_threads
    from recon.solvers.problem import Data, Problem

    begun = time.perf_counter()
    chosen = params.updated(**settings)
    patterns = calibrated.patterns
    start = Experiment.of(dataset.header, patterns, calibrated.calibration, settings["n_slices"])
    try:
        fit = fit_until_turn(
            start, patterns, chosen, np.random.default_rng(rng_seed), lambda *_: None,
            stated=Stated(dataset.header.nominal_thickness_A, dataset.header.defocus_A),
        )  # fmt: skip
        # The same seed deals the same electrons
        rng = np.random.default_rng(rng_seed)
        fitted, held = patterns.split(1 - params.held_out_fraction, rng)
        data = Data(fitted, held, "poisson", params.floor_fraction)
        device = choose_device(params.device)
        problem = Problem(fit.experiment, fit.canvas, data, device, Alone(), tied=False)
        spectra = fit.experiment.probe_spectrum()[None] * problem.per_pattern**0.5
        with worker_threads(params.threads) as executor:
            loss = problem.expected_losses(fit.slices, spectra, executor)[1]
    except (ReconError, ArithmeticError) as problem_met:
        seconds = round(time.perf_counter() - begun, 2)
        return Tried(settings, float("nan"), 0, seconds, str(problem_met))
    seconds = round(time.perf_counter() - begun, 2)
    return Tried(settings, loss / max(held.n_electrons, 1), len(fit.fitted), seconds)


def _score(tried: Tried) -> float:
    return tried.held_out if np.isfinite(tried.held_out) else float("inf")


def _keep(out: Path, identity: dict[str, Any], tried: list[Tried]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    document = {"identity": identity, "trials": [asdict(one) for one in tried]}
    write_atomically(out / "search.json", json.dumps(document, indent=2) + "\n")


def _earlier(out: Path, identity: dict[str, Any]) -> list[Tried]:
    """Trials of an earlier search of the same data and settings."""
    try:
        document = json.loads((out / "search.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return []
    if document.get("identity") != json.loads(json.dumps(identity)):
        return []
    return [Tried(**one) for one in document["trials"]]
