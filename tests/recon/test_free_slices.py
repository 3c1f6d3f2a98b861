"""Slices are one and the same until electrons that no fit has seen say otherwise."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.free_slices import TRIAL_PASSES, WORTH_NATS, free_if_better, worth_of_freedom
from recon.params import ReconstructionParams
from recon.patterns import Patterns
from recon.ptychography.optics import Grid
from recon.ptychography.raster import make_canvas
from recon.ptychography.solver import MultisliceSolver, SolverSettings, worker_threads
from recon.ptychography.stopping import HeldOutStop
from recon.reconstruct import reconstruct
from tests.recon.conftest import Truth
from tests.recon.test_global_parameters import ON_PIXELS, smooth

THICK = replace(
    ON_PIXELS, grid=Grid(32, 0.45, 0.0197), scan_shape=(11, 13), thickness_A=400.0, n_slices=2
)


def scanned(slices: torch.Tensor, rng: np.random.Generator) -> tuple[Patterns, Patterns]:
    """Fitted and held-out electrons of a known stack of slices."""
    n, count = THICK.grid.n, THICK.scan_shape[0] * THICK.scan_shape[1]
    canvas = make_canvas(THICK.positions_A(), THICK.grid.sampling_A, n)
    dummy = Patterns(
        np.zeros(300 * count, np.int64), 300 * np.arange(count + 1), np.arange(count),
        np.ones((n, n), bool), (0.0, 0.0),
    )  # fmt: skip
    truth = MultisliceSolver(THICK, canvas, dummy, None, SolverSettings(coupling=1.0))
    truth.slices = slices
    expected = truth.expected(torch.arange(count), truth.transmission()).numpy()
    drawn = rng.poisson(expected).reshape(count, -1)
    pixel = np.concatenate([np.repeat(np.arange(n * n), row) for row in drawn])
    indptr = np.concatenate([[0], np.cumsum(drawn.sum(axis=1))])
    return replace(dummy, pixel=pixel, indptr=indptr).split(0.9, rng)


def fitted_tied(slices: torch.Tensor, rng: np.random.Generator) -> tuple[MultisliceSolver, float]:
    """A tied fit to electrons of ``slices``, and its held-out loss."""
    fitted, held = scanned(slices, rng)
    canvas = make_canvas(THICK.positions_A(), THICK.grid.sampling_A, THICK.grid.n)
    solver = MultisliceSolver(THICK, canvas, fitted, held, SolverSettings(batch=24))
    with worker_threads(1) as executor:
        for _ in range(8):
            loss = solver.run_pass(rng, executor).held_out
    return solver, loss


@pytest.mark.parametrize("alike", [True, False])
def test_slices_are_set_free_where_they_differ_and_only_there(
    alike: bool, rng: np.random.Generator
) -> None:
    canvas = make_canvas(THICK.positions_A(), THICK.grid.sampling_A, THICK.grid.n)
    one, other = (4 * smooth((1, *canvas.shape), rng).clamp(min=0) for _ in range(2))
    truth = torch.cat([one, one if alike else other])
    tied, loss = fitted_tied(truth, rng)
    before = tied.slices.clone()
    passes: list[int] = []
    with worker_threads(1) as executor:
        freed = free_if_better(
            tied, loss, rng, executor, patience=2, most=12, needed=WORTH_NATS, on_pass=passes.append
        )
    assert torch.equal(tied.slices, before)
    if alike:
        assert freed is None
        assert passes == list(range(1, TRIAL_PASSES + 1))
        return
    assert freed is not None
    assert freed.losses[freed.best - 1][1] == min(held for _, held in freed.losses) < loss
    found, inner = freed.solver.all_slices(), (..., slice(14, -14), slice(14, -14))
    for image, true in zip(found, truth, strict=True):
        right = torch.corrcoef(torch.stack([image[inner].ravel(), true[inner].ravel()]))[0, 1]
        assert (
            right
            > torch.corrcoef(torch.stack([before[0][inner].ravel(), true[inner].ravel()]))[0, 1]
        )


def test_a_crystal_keeps_its_slices_tied(turned: Truth) -> None:
    """And the result says so."""
    result = reconstruct(turned.counted(300.0))
    assert np.ptp(result.slices_phase_rad, axis=0).max() == 0
    assert any("slices equal" in prior for prior in result.priors)


def test_passes_that_were_not_worth_waiting_for_are_no_sign_of_freedom(turned: Truth) -> None:
    """Neither a slow end of the tied fit nor one that was cut short sets slices free."""
    stop = HeldOutStop(patience=2)
    for number, loss in enumerate((9.0, 5.0, 4.99, 4.98), start=1):
        stop.observe(number, loss)
    assert stop.should_stop
    assert worth_of_freedom(stop, 9.0) > 0.02 > worth_of_freedom(stop, 5.1) == WORTH_NATS
    short = reconstruct(
        turned.counted(300.0), ReconstructionParams(max_passes=2, half_set_frc=False)
    )
    assert short.passes == 2
    assert any("slices equal" in prior for prior in short.priors)
