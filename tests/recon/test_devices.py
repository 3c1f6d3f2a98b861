"""The same arithmetic wherever it runs: nothing in the inner loop leaves the chosen device."""

import numpy as np
import pytest
import torch

from recon.ptychography.raster import make_canvas
from recon.ptychography.solver import MultisliceSolver, PassResult, SolverSettings, worker_threads
from tests.recon.test_sparse_kernel import EXPERIMENT, N, patterns_of


def solver_on(device: str, rng: np.random.Generator, *, coupling: float = 0.0) -> MultisliceSolver:
    measured = rng.random((N, N)) > 0.05
    counts = rng.poisson(0.4, size=(35, N, N)) * measured
    fitted, held = patterns_of(counts, measured).split(0.8, rng)
    canvas = make_canvas(EXPERIMENT.positions_A(), EXPERIMENT.grid.sampling_A, N)
    settings = SolverSettings(coupling=coupling, batch=16)
    return MultisliceSolver(EXPERIMENT, canvas, fitted, held, settings, torch.device(device))


@pytest.mark.parametrize("coupling", [0.0, 0.5])
def test_a_batch_stays_on_its_device(coupling: float, rng: np.random.Generator) -> None:
    """A device without numbers: reading one back, or mixing in another device, is an error."""
    solver = solver_on("meta", rng, coupling=coupling)
    with worker_threads(1) as executor:
        pulls, losses = solver.look(torch.arange(20), executor, with_pulls=True)
    solver._step(pulls.gradient, 0.5)
    for tensor in (pulls.aperture, pulls.propagator, pulls.lever, pulls.gradient, losses):
        assert tensor.device.type == "meta"
    assert solver.slices.device.type == solver.velocity.device.type == "meta"
    assert pulls.lever.shape == (2, *solver.slices.shape)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU")
@pytest.mark.parametrize("coupling", [0.0, 0.5])
def test_a_gpu_gives_what_the_processor_gives(coupling: float) -> None:
    found: list[tuple[torch.Tensor, PassResult]] = []
    for device in ("cpu", "cuda"):
        solver = solver_on(device, np.random.default_rng(5), coupling=coupling)
        rng = np.random.default_rng(1)
        with worker_threads(1) as executor:
            for _ in range(3):
                result = solver.run_pass(rng, executor, on_pulls=lambda pulls, share: None)
        found.append((solver.slices.cpu(), result))
    (here, loss), (there, same) = found
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3 * float(here.abs().max()))
    assert same.fitted == pytest.approx(loss.fitted, rel=1e-4)
    assert same.held_out == pytest.approx(loss.held_out, rel=1e-4)
