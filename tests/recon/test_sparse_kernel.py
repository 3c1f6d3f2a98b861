"""The sparse kernel is the dense likelihood, looked at only where electrons are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.patterns import Patterns
from recon.ptychography.counts import CountStore, distinct_hits
from recon.ptychography.experiment import Experiment
from recon.ptychography.likelihood import poisson_factor, poisson_loss
from recon.ptychography.multislice import backward
from recon.ptychography.optics import Grid
from recon.ptychography.patches import _add_pixels, add_patches, cut_patches
from recon.ptychography.raster import make_canvas
from recon.ptychography.solver import (
    MultisliceSolver,
    SolverSettings,
    one_torch_thread,
    worker_threads,
)

N = 24
EXPERIMENT = Experiment(
    grid=Grid(N, 0.45, 0.0197), k_edge_A=0.5, beam_offset_A=(0.0, 0.0), scan_shape=(5, 7),
    scan_step_A=0.9, defocus_A=60.0, C12a_A=0.0, C12b_A=5.0, rotation_deg=8.0,
    affine=((1.0, 0.0), (0.0, 1.0)), tilt_mrad=(2.0, -1.0), thickness_A=120.0, n_slices=3,
)  # fmt: skip


def patterns_of(counts: np.ndarray, measured: np.ndarray | None = None) -> Patterns:
    flat = counts.reshape(len(counts), -1)
    pixel = np.concatenate([np.repeat(np.arange(flat.shape[1]), row) for row in flat])
    indptr = np.concatenate([[0], np.cumsum(flat.sum(axis=1))])
    n = counts.shape[-1]
    everywhere = np.ones((n, n), bool) if measured is None else measured
    return Patterns(pixel, indptr, np.arange(len(counts)), everywhere, (0.0, 0.0))


def test_windows_come_out_and_go_back_where_they_belong(rng: np.random.Generator) -> None:
    images = torch.from_numpy(rng.normal(size=(2, 19, 23)))
    corner = torch.from_numpy(np.stack([rng.integers(0, 12, 9), rng.integers(0, 16, 9)], axis=1))
    patches = torch.from_numpy(rng.normal(size=(2, 9, 8, 8)))
    cut = cut_patches(images, corner, 8)
    for p, (row, col) in enumerate(corner.tolist()):
        torch.testing.assert_close(cut[:, p], images[:, row : row + 8, col : col + 8])
    back = torch.zeros_like(images)
    add_patches(back, corner, patches)
    torch.testing.assert_close((cut * patches).sum(), (images * back).sum())
    at_once = torch.zeros_like(images)
    _add_pixels(at_once, corner, patches)
    torch.testing.assert_close(at_once, back)
    strided = torch.zeros_like(images)
    add_patches(strided, corner, torch.complex(patches, -patches).imag)
    torch.testing.assert_close(strided, -back)


def test_every_electron_is_stored_once(rng: np.random.Generator) -> None:
    """Also in bright pixels and empty patterns, and for both sets."""
    counts = rng.poisson(0.3, size=(9, N, N))
    counts[2] = 0
    counts[4, 3, 5] = 700
    first, second = patterns_of(counts).split(0.7, rng)
    store = CountStore(first, torch.device("cpu"), second)
    hits = store.hits(torch.tensor([4, 2, 0]))
    held = torch.zeros(3 * N * N)
    held[hits.index] = hits.electrons[1]
    dense = store.dense(torch.tensor([4, 2, 0])) + held.view(3, N, N)
    np.testing.assert_array_equal(dense.numpy(), counts[[4, 2, 0]])
    assert hits.electrons.sum() == counts[[4, 2, 0]].sum()
    assert len(np.unique(hits.index)) == len(hits.index)
    part = hits.part(1, 3, N * N)
    assert part.electrons.sum() == counts[0].sum()
    assert part.index.min() >= N * N  # the second of the two, for the first one is empty


def test_hits_do_not_depend_on_the_size_of_a_block(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    patterns = patterns_of(rng.poisson(0.2, size=(31, 8, 8)))
    whole = distinct_hits(patterns)
    monkeypatch.setattr("recon.ptychography.counts.BLOCK", 17)
    for a, b in zip(distinct_hits(patterns), whole, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("blind", [0.0, 0.2])
def test_a_batch_is_what_all_pixels_say(tied: bool, blind: float, rng: np.random.Generator) -> None:
    """Losses and gradient against the dense likelihood, also where pixels do not measure."""
    measured = rng.random((N, N)) >= blind
    counts = rng.poisson(0.4, size=(35, N, N)) * measured
    fitted, held = patterns_of(counts, measured).split(0.8, rng)
    canvas = make_canvas(EXPERIMENT.positions_A(), EXPERIMENT.grid.sampling_A, N)
    settings = SolverSettings(coupling=0.0 if tied else 1.0)
    solver = MultisliceSolver(EXPERIMENT, canvas, fitted, held, settings)
    solver.slices = torch.from_numpy(rng.normal(size=tuple(solver.slices.shape)) * 0.3).float()
    which = torch.from_numpy(rng.permutation(35)[:33])
    with worker_threads(2) as executor:
        pulls, losses = solver.look(which, executor, with_pulls=False)

    windows, waves = solver.lit.send(solver.lit.raster.of(which), solver.transmission())
    intensity, seen = waves.intensity(), solver.measured
    expected = [
        poisson_loss(share * intensity * seen, CountStore(p, solver.device).dense(which), b)
        for share, p, b in (
            (1.0, fitted, solver.floor),
            (float(solver.shares[1]), held, float(solver.shares[1]) * solver.floor),
        )
    ]
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-5, atol=0)
    factor = poisson_factor(intensity, solver.counts.dense(which), seen, solver.floor)
    missing = waves.detector.conj() * (-2 * factor[:, None])
    gradient, _ = backward(waves, windows, solver.lit.H, missing, tied=tied)
    dense = torch.zeros_like(solver.slices)
    add_patches(dense, solver.lit.raster.corner[which], gradient)
    scale = float(dense.abs().max())
    torch.testing.assert_close(pulls.gradient / scale, dense / scale, rtol=0, atol=2e-5)


def test_the_size_of_a_worker_call_changes_nothing(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, held = patterns_of(rng.poisson(0.3, size=(35, N, N))).split(0.9, rng)
    canvas = make_canvas(EXPERIMENT.positions_A(), EXPERIMENT.grid.sampling_A, N)
    experiment = replace(EXPERIMENT, n_slices=1)

    def after_a_pass(chunk: int, threads: int) -> tuple[torch.Tensor, float]:
        monkeypatch.setattr("recon.ptychography.solver.CHUNK", chunk)
        solver = MultisliceSolver(experiment, canvas, fitted, held, SolverSettings(batch=16))
        with worker_threads(threads) as executor:
            result = solver.run_pass(np.random.default_rng(1), executor)
        return solver.slices, result.held_out

    once, loss = after_a_pass(1, 1)
    again, same = after_a_pass(7, 3)
    torch.testing.assert_close(once, again, rtol=1e-4, atol=1e-6)
    assert loss == pytest.approx(same, rel=1e-6)
    twice, identical = after_a_pass(7, 1)
    assert torch.equal(again, twice)  # whatever the number of threads
    assert identical == same


def test_torch_keeps_to_one_thread_while_a_fit_runs_and_gets_the_others_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_torch_thread():
            assert torch.get_num_threads() == 1
            with worker_threads(2) as executor:
                assert executor.submit(torch.get_num_threads).result() == 1
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
