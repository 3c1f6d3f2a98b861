"""First stage: find the calibration that the patterns want, on their inner part.

The bright field and what surrounds it determine the global parameters and cost less than the whole
detector. The object that forms on the way has seen too many electrons under wrong calibrations
and is thrown away, once in the middle of the stage and once at its end. In the middle its optimism
is measured (below) and given back from then on, so that the second stage begins with a raster
that is right, and the thickness is judged by other means (``recon.thickness``). The number of
slices follows the thickness while that is being found.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from recon.calibration import Measured
from recon.execution import Alone, Team
from recon.haste import haste_of, headroom_rad
from recon.params import ReconstructionParams
from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.pulls import Pulls, gradient_of
from recon.ptychography.raster import make_canvas
from recon.ptychography.refiner import Refiner, mean_of
from recon.ptychography.solver import CHUNK, MultisliceSolver, SolverSettings
from recon.ptychography.unknowns import DISTORTIONS, UNKNOWNS, Unknown, value_of

MIN_SLICES, MAX_SLICES = 2, 12
"""Even 6 nm of heavy columns are no thin object: two slices took 0.88 of the truth to 0.96."""
AVERAGED_PASSES = 3
SECOND_LEG = 10
"""Passes from a second empty object on, which know how optimistic the fit is.

An object that has formed under a wrong raster defends it: a stretch that had been overshot by 1.2 %
was down to 0.8 % after eight more passes, to 0.4 % after eight with a new object."""
CREPT = 0.5
"""Part of what the raster still moved by in the second leg that may be left to go, seen in
simulations: 0.15 where the probes are small, 1 where they are wide."""
RASTER = ("rotation_deg", *DISTORTIONS)
TAKEN_FOR_SAME = 0.1
"""A thickness that is seen to be further off than this part has the second leg run once more."""
SECOND_LEG_RASTER = 3
"""Pass from which the raster may be judged there: it is nearly right."""
BOOTSTRAP_PASSES, HEARD_PASSES = 7, 2
REACH = 2.6
"""The part of the detector that is used reaches to this multiple of the semi-angle."""
FLOOR = 0.25
"""Part of the usual background floor: a high one bends scale, thickness and defocus."""
SIZES = (24, 32, 40, 48, 54, 64, 72, 80, 96, 108, 128, 144, 160, 192, 216, 256)
"""Fast FFT lengths."""


def slices_for(thickness_A: float, params: ReconstructionParams) -> int:
    """Number of slices for a thickness, as asked for or at most ``slice_thickness_A`` thick."""
    if params.n_slices is not None:
        return params.n_slices
    return int(np.clip(np.ceil(thickness_A / params.slice_thickness_A), MIN_SLICES, MAX_SLICES))


def inner_size(experiment: Experiment, reach: float = REACH) -> int:
    """Side of the part of the patterns that reaches to a multiple of the semi-angle, pixels."""
    radius = experiment.k_edge_A * experiment.grid.n * experiment.grid.sampling_A
    needed = 2 * reach * radius
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
    team: Team = field(default_factory=Alone)


@dataclass(frozen=True)
class Stated:
    """What the header says about numbers that are refined; None: nothing."""

    thickness_A: float | None = None
    defocus_A: float | None = None


@dataclass(frozen=True)
class Found:
    """A refined calibration.

    ``sigma`` holds standard deviations of its parameters, the object held fixed; ``optimism`` is
    what the likelihood gains per ln(area of the scan) by fitting noise, ``haste`` how much
    longer than usual the steps of a fit should be.
    """

    experiment: Experiment
    sigma: dict[str, float]
    optimism: float = 0.0
    haste: float = 1.0

    def document(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        numbers = self.experiment.numbers()
        return {
            "experiment": numbers, "sigma": self.sigma, "optimism": self.optimism,
            "haste": self.haste,
        }  # fmt: skip

    @classmethod
    def from_document(cls, document: dict[str, Any], like: Experiment) -> "Found | None":
        """Read ``document``; None if it is empty."""
        if not document:
            return None
        experiment = like.with_numbers(document["experiment"])
        return cls(
            experiment, dict(document["sigma"]), document["optimism"], document.get("haste", 1.0)
        )


def inner_solver(start: Experiment, fitted: Patterns, bench: Bench) -> MultisliceSolver:
    """An empty object under the inner part of the patterns, with a low floor."""
    n = inner_size(start)
    inner = resized(start, n)
    canvas = make_canvas(inner.positions_A(), inner.grid.sampling_A, n)
    return MultisliceSolver(
        inner, canvas, fitted.cropped(n), None, low_floor(bench), bench.device, bench.team
    )


def low_floor(bench: Bench) -> SolverSettings:
    """Settings that bend the global parameters less."""
    return replace(bench.settings, floor_fraction=FLOOR * bench.settings.floor_fraction)


def with_thickness(
    experiment: Experiment, thickness_A: float, params: ReconstructionParams
) -> Experiment:
    """Another thickness under a crossover as far from the middle of the specimen as before."""
    return replace(
        experiment,
        thickness_A=thickness_A,
        defocus_A=experiment.defocus_A + (thickness_A - experiment.thickness_A) / 2,
        n_slices=slices_for(thickness_A, params),
    )


def is_looked_at(params: ReconstructionParams) -> bool:
    """The first leg is long enough for its end to be worth a look at the thickness."""
    return params.calibration_passes - SECOND_LEG > 1


class Look(Protocol):
    """What else knows the thickness, with its standard deviation."""

    def thickness_A(self, here: Experiment, *, close: bool, haste: float = 1.0) -> Measured:
        """The most likely thickness if all else is as ``here``; ``close``: that is near it."""

    def haste(self, here: Experiment) -> float:
        """Multiple of the usual step with which a fit gets furthest."""


def refine_calibration(
    start: Experiment,
    fitted: Patterns,
    unknowns: tuple[Unknown, ...],
    bench: Bench,
    params: ReconstructionParams,
    on_pass: Callable[[int], None],
    look: Look | None = None,
) -> Found:
    """Find the calibration, with the number of slices that its thickness asks for.

    Two legs, each with an empty object. With a ``look`` the thickness is not refined at all: what
    is seen at the end of the first leg holds for the second, and is seen anew when that is over. Is
    it another then, the second leg is run once more under it.
    The scale of the scan waits for the second leg, too, which knows how optimistic the fit is.
    """
    look = look if is_looked_at(params) else None
    later = () if look is None else ("thickness_A", "scale")
    solver = inner_solver(start, fitted, bench)
    early = tuple(u for u in unknowns if u.name not in later)
    refiner = Refiner(solver, early, params.refine_patterns)
    first = max(params.calibration_passes - SECOND_LEG, 1)
    path = _run_leg(refiner, range(1, first + 1), bench, params, on_pass)
    (optimism,) = bench.team.agree([measure_optimism(solver, bench)])
    here = resized(mean_of(path[-1]) if path else solver.experiment, start.grid.n)
    prior = start
    haste = 1.0
    if look is not None:
        seen = look.thickness_A(here, close=False)
        here, prior = (with_thickness(e, seen.value, params) for e in (here, start))
        haste = look.haste(here)
        unknowns = tuple(u for u in unknowns if u.name != "thickness_A")
    unknowns = tuple(replace(u, first_pass=min(u.first_pass, SECOND_LEG_RASTER)) for u in unknowns)
    leg = _SecondLeg(fitted, unknowns, bench, params, optimism, haste)
    numbers = range(first + 1, params.calibration_passes + 1)
    found = leg.run(here, prior, numbers, on_pass)
    if found is None:
        return Found(start, {})
    if look is None:
        return found
    seen = look.thickness_A(found.experiment, close=True, haste=haste)
    if _is_another(seen, found.experiment):
        # the raster has been bent to a thickness that was not the specimen's
        here, prior = (with_thickness(e, seen.value, params) for e in (found.experiment, prior))
        found = leg.run(here, prior, numbers, lambda number: on_pass(params.calibration_passes))
        if found is None:
            return Found(start, {})
        seen = look.thickness_A(found.experiment, close=True, haste=haste)
    return replace(
        found,
        experiment=with_thickness(found.experiment, seen.value, params),
        sigma=found.sigma | {"thickness_A": seen.sigma},
    )


def _is_another(seen: Measured, here: Experiment) -> bool:
    """The thickness is too far from the one that the raster was refined under."""
    return abs(seen.value / here.thickness_A - 1) > TAKEN_FOR_SAME


@dataclass(frozen=True)
class _SecondLeg:
    """Refinement of everything but the thickness, with an empty object and known optimism."""

    fitted: Patterns
    unknowns: tuple[Unknown, ...]
    bench: Bench
    params: ReconstructionParams
    optimism: float
    haste: float

    def run(
        self,
        here: Experiment,
        prior: Experiment,
        numbers: range,
        on_pass: Callable[[int], None],
    ) -> Found | None:
        """Refine from ``here``; None if nothing was to be moved."""
        solver = inner_solver(here, self.fitted, self.bench)
        solver.slices += headroom_rad(self.haste)
        refiner = Refiner(
            solver, self.unknowns, self.params.refine_patterns,
            prior=resized(prior, solver.experiment.grid.n), optimism=self.optimism,
        )  # fmt: skip
        path = _run_leg(refiner, numbers, self.bench, self.params, on_pass, self.haste)
        moved = [experiment for steps in path[-AVERAGED_PASSES:] for experiment in steps]
        if not moved:
            return None
        found = resized(mean_of(moved), here.grid.n)
        found = replace(found, n_slices=slices_for(found.thickness_A, self.params))
        sigma = dict(refiner.sigma)
        for name in (u.name for u in self.unknowns if u.name in RASTER and u.name in sigma):
            crept = value_of(found, name) - value_of(here, name)
            sigma[name] = math.hypot(sigma[name], CREPT * crept)
        return Found(found, sigma, self.optimism, self.haste)


def _run_leg(
    refiner: Refiner,
    numbers: range,
    bench: Bench,
    params: ReconstructionParams,
    on_pass: Callable[[int], None],
    haste: float = 1.0,
) -> list[list[Experiment]]:
    """Refine for some passes; return the calibrations after every step, pass by pass."""
    solver, path = refiner.solver, []
    for since, number in enumerate(numbers, start=1):
        solver.haste = haste_of(since, len(numbers), haste)
        hook = refiner.begin_pass(since, bench.rng, bench.executor)
        solver.run_pass(bench.rng, bench.executor, on_pulls=hook)
        on_pass(number)
        slices = slices_for(solver.experiment.thickness_A, params)
        if solver.tied and slices != solver.experiment.n_slices:
            solver.reslice(slices)
        if refiner.path:
            path.append(refiner.path)
    return path


def measure_optimism(solver: MultisliceSolver, bench: Bench) -> float:
    """How the likelihood pulls at the area of the scan where the scan is known to be right.

    Counts are simulated from the object and calibration of ``solver``; a fresh object is fitted to
    them with that calibration. Whatever pull remains is not information but the fit's
    flexibility (a parametric bootstrap of the gradient).
    """
    patterns = simulated_counts(solver, bench)
    fresh = MultisliceSolver(
        solver.experiment, solver.canvas, patterns, None, solver.settings, bench.device, bench.team
    )
    scale = tuple(u for u in UNKNOWNS if u.name == "scale")
    pull: list[float] = []

    def on_pulls(pulls: Pulls, share: float) -> None:
        del share  # whole passes are summed
        pull.append(float(gradient_of(pulls, fresh.experiment, fresh.slices, scale)[0]))

    for number in range(BOOTSTRAP_PASSES):
        heard = number >= BOOTSTRAP_PASSES - HEARD_PASSES
        fresh.run_pass(bench.rng, bench.executor, on_pulls=on_pulls if heard else None)
    return -sum(pull) / HEARD_PASSES / 2  # d ln(area) / d scale = 2


def simulated_counts(solver: MultisliceSolver, bench: Bench) -> Patterns:
    """Poisson counts of what the solver expects at every position."""
    transmission = solver.transmission()
    generator = np.random.default_rng(bench.rng.integers(2**63))
    pixels, counts = [], []
    everyone = torch.arange(solver.patterns.n_patterns, device=bench.device)
    for which in torch.split(everyone, CHUNK):
        expected = solver.expected(which, transmission).cpu().numpy()
        drawn = generator.poisson(expected.reshape(len(which), -1))
        frame, pixel = np.nonzero(drawn)
        times = drawn[frame, pixel]
        pixels.append(np.repeat(pixel, times))
        counts.append(np.bincount(np.repeat(frame, times), minlength=len(which)))
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return replace(solver.patterns, pixel=np.concatenate(pixels), indptr=indptr)
