"""Seconds per pass on a GPU, batch by batch, against what copying and FFTs alone allow there.

    python -m benchmarks.ptychography_gpu [--positions 256] [--pixels 128] [--slices 1 10]
        [--batches 64 256 1024] [--device cuda]

The FFT ceiling is the time of the (4S - 2) FFTs per pattern (two for one slice) in the same batches
and nothing else; the copy ceiling that of writing each of those waves once more, at the
bandwidth that a copy of the same size reaches.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.optics import Grid
from recon.ptychography.raster import make_canvas
from recon.ptychography.solver import MultisliceSolver, SolverSettings, worker_threads

ELECTRONS = 110


def solver_for(positions: int, n: int, slices: int, batch: int, device: str) -> MultisliceSolver:
    """Electrons anywhere: the arithmetic is the same."""
    what = Experiment(
        grid=Grid(n, 22.4 / n, 0.0197), k_edge_A=0.508, beam_offset_A=(0.0, 0.0),
        scan_shape=(positions, positions), scan_step_A=1.05, defocus_A=150.0, C12a_A=0.0,
        C12b_A=0.0, rotation_deg=3.0, affine=((1.0, 0.0), (0.0, 1.0)), tilt_mrad=(0.0, 0.0),
        thickness_A=200.0, n_slices=slices,
    )  # fmt: skip
    count = positions**2
    pixel = np.random.default_rng(0).integers(0, n * n, count * ELECTRONS).astype(np.uint16)
    seen = np.ones((n, n), bool)
    patterns = Patterns(pixel, np.arange(count + 1) * ELECTRONS, np.arange(count), seen, (0.0, 0.0))
    canvas = make_canvas(what.positions_A(), what.grid.sampling_A, n)
    settings = SolverSettings(batch=batch)
    return MultisliceSolver(what, canvas, patterns, None, settings, torch.device(device))


def seconds(work: Callable[[], object], device: str, repeats: int = 3) -> float:
    """Least wall time, the device's queue emptied before and after."""
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=256)
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--slices", type=int, nargs="*", default=[1, 10])
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 256, 1024])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU; --device cpu runs the same on the processor")
    device, n, count = chosen.device, chosen.pixels, chosen.positions**2
    print("slices  batch  s/pass  FFTs alone  copies alone  peak GB")
    for slices in chosen.slices:
        for batch in chosen.batches:
            solver = solver_for(chosen.positions, n, slices, batch, device)
            wave = torch.randn(batch, n, n, dtype=torch.complex64, device=device)
            other = torch.empty_like(wave)
            calls = -(-count // batch) * (2 if slices == 1 else 4 * slices - 2)
            rng = np.random.default_rng(1)
            with worker_threads(1) as executor:
                solver.run_pass(rng, executor)
                taken = seconds(lambda s=solver, e=executor: s.run_pass(rng, e), device)  # noqa: B023
            ffts = seconds(lambda c=calls, w=wave: [torch.fft.fft2(w) for _ in range(c)], device)
            copies = seconds(
                lambda c=calls, w=wave, o=other: [o.copy_(w) for _ in range(c)], device
            )
            peak = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0
            print(f"{slices:6d} {batch:6d} {taken:7.3f} {ffts:11.3f} {copies:13.3f} {peak:8.2f}")


if __name__ == "__main__":
    main()
