"""Seconds per pass against the bare FFTs of a pass, in one run on one machine.

    python -m benchmarks.ptychography_speed [--threads 1] [--positions 64]

A pass over N patterns of n x n pixels and S slices needs N (4S - 2) FFTs (two for one slice); the
floor is the time that the same FFTs take, batched like the engine's and doing nothing else.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.optics import Grid
from recon.ptychography.raster import make_canvas
from recon.ptychography.solver import MultisliceSolver, SolverSettings, chunk_size, worker_threads


def experiment(positions: int, n: int, slices: int) -> Experiment:
    """300 kV, 10 mrad, 15 nm underfocus, 20 nm thick."""
    return Experiment(
        grid=Grid(n, 0.35, 0.0197), k_edge_A=0.508, beam_offset_A=(0.0, 0.0),
        scan_shape=(positions, positions), scan_step_A=1.05, defocus_A=150.0, C12a_A=0.0,
        C12b_A=0.0, rotation_deg=3.0, affine=((1.0, 0.0), (0.0, 1.0)), tilt_mrad=(0.0, 0.0),
        thickness_A=200.0, n_slices=slices,
    )  # fmt: skip


def noise_patterns(count: int, n: int, electrons: int) -> Patterns:
    """Electrons anywhere: the arithmetic is the same."""
    pixel = np.random.default_rng(0).integers(0, n * n, count * electrons)
    indptr = np.arange(count + 1) * electrons
    return Patterns(pixel, indptr, np.arange(count), np.ones((n, n), bool), (0.0, 0.0))


def floor_s(executor: ThreadPoolExecutor, count: int, n: int, ffts: int) -> float:
    """Wall seconds of ``ffts`` FFTs for each of ``count`` patterns."""
    wave = torch.randn(chunk_size(n), n, n, dtype=torch.complex64)

    def work(_: int) -> None:
        for _ in range(ffts):
            torch.fft.fft2(wave)

    started = time.perf_counter()
    list(executor.map(work, range(count // len(wave))))
    return time.perf_counter() - started


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=64)
    chosen = parser.parse_args()
    count, n = chosen.positions**2, chosen.pixels
    print("slices  s/pass  FFT floor  ratio")
    for slices in (1, 4):
        what = experiment(chosen.positions, n, slices)
        canvas = make_canvas(what.positions_A(), what.grid.sampling_A, n)
        settings = SolverSettings(threads=chosen.threads)
        solver = MultisliceSolver(what, canvas, noise_patterns(count, n, 110), None, settings)
        rng = np.random.default_rng(1)
        with worker_threads(chosen.threads) as executor:
            solver.run_pass(rng, executor)
            pairs = []
            for _ in range(3):
                started = time.perf_counter()
                solver.run_pass(rng, executor)
                taken = time.perf_counter() - started
                ffts = 2 if slices == 1 else 4 * slices - 2
                pairs.append((taken, floor_s(executor, count, n, ffts)))
        taken, bare = np.median(pairs, axis=0)
        print(f"{slices:6d}  {taken:6.2f}  {bare:9.2f}  {taken / bare:5.2f}")


if __name__ == "__main__":
    main()
