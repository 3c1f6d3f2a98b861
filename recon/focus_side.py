"""Which side of focus: where a thick crystal deceives the parallax, the patterns decide.

The images of a thick specimen with its middle near focus can be aligned from the entrance and from
the exit: one is underfocus, the other overfocus, and either may score higher. The opposite
defocus is a rival if it is no further from the stated one than defoci usually are. Both are
refined for a few passes; the likelihood of their patterns differs by far more than noise.
"""

from dataclasses import replace

from recon.joint_calibration import Bench, inner_solver
from recon.params import ReconstructionParams
from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.refiner import Refiner
from recon.ptychography.unknowns import Unknown

REACH_A = 250.0
"""Stated defoci are right within 20 nm; the parallax of thick crystals within 5 nm."""
TRIAL_PASSES = 4


def other_side(start: Experiment, stated_defocus_A: float | None) -> Experiment | None:
    """The opposite defocus, if the stated one does not rule it out."""
    if stated_defocus_A is None:
        return None
    rival = replace(start, defocus_A=-start.defocus_A, C12a_A=0.0, C12b_A=0.0)
    return rival if abs(rival.defocus_A - stated_defocus_A) <= REACH_A else None


def better_side(
    start: Experiment,
    stated_defocus_A: float | None,
    fitted: Patterns,
    unknowns: tuple[Unknown, ...],
    bench: Bench,
    params: ReconstructionParams,
) -> Experiment:
    """Return ``start`` or its rival, whichever explains the patterns better after a few passes."""
    rival = other_side(start, stated_defocus_A)
    if rival is None or all(u.name != "defocus_A" for u in unknowns):
        return start
    return min((start, rival), key=lambda e: _trial_loss(e, fitted, unknowns, bench, params))


def _trial_loss(
    start: Experiment,
    fitted: Patterns,
    unknowns: tuple[Unknown, ...],
    bench: Bench,
    params: ReconstructionParams,
) -> float:
    solver = inner_solver(start, fitted, bench)
    refiner = Refiner(solver, unknowns, params.refine_patterns)
    loss = float("nan")
    for number in range(1, TRIAL_PASSES + 1):
        hook = refiner.begin_pass(number, bench.rng, bench.executor)
        loss = solver.run_pass(bench.rng, bench.executor, on_pulls=hook).fitted
    return loss
