"""Seconds per pass against the bare FFTs of a pass and against PtyRAD, in one run on one machine.

    python -m benchmarks.ptychography_speed [--threads 2] [--positions 64] [--pixels 64]
        [--peer-python ENV/bin/python] [--peer-batch 32]

A pass over N patterns of n x n pixels and S slices needs N (4S - 2) FFTs (two for one slice); the
floor is the time that the same FFTs take, batched like the engine's and doing nothing else. The
peer runs in a process of its own environment on the exported counts (PtyRAD 1.0.0 does not import
on Python 3.11 as it is published: nested quotes in one f-string of ``plotting/basic.py``).

Engine, floor and peer take turns and the fastest of each is given: on a shared machine that
is the one that was disturbed least. CPU seconds are those of all threads together.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recon.calibrate import calibrate
from recon.dataset import Dataset4D, ScanHeader
from recon.export.ptyrad import export_ptyrad
from recon.params import ReconstructionParams
from recon.patterns import Patterns
from recon.ptychography.experiment import Experiment
from recon.ptychography.raster import make_canvas
from recon.ptychography.solver import MultisliceSolver, SolverSettings, chunk_size, worker_threads
from recon.reconstruct import reconstruct

PASSES = 3
PEER = Path(__file__).parent / "peers" / "ptyrad_passes.py"


@dataclass(frozen=True)
class Seconds:
    """Of one pass."""

    wall: float
    cpu: float


@contextmanager
def fastest(into: list[Seconds]) -> Iterator[None]:
    """Add the time of what is done inside."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    into.append(Seconds(time.perf_counter() - wall, time.process_time() - cpu))


def counted_disc(positions: int, n: int) -> Dataset4D:
    """110 electrons per pattern in a disc of 10 mrad at 300 kV: the arithmetic is that of a MOF."""
    sampling = 56.0 / n
    header = ScanHeader(
        energy_keV=300.0, convergence_semiangle_mrad=10.0, defocus_A=150.0, scan_step_A=1.05,
        detector_sampling_mrad=sampling, scan_shape=(positions, positions), frame_shape=(n, n),
        start_time="2026-03-01T22:15:00+00:00", run_uuid="9b7c0c1e-0000-4000-8000-00000000000b",
        sample="nothing",
    )  # fmt: skip
    away = np.hypot(*(np.indices((n, n)) - n // 2)) * sampling
    disc = np.clip((10.0 - away) / sampling + 0.5, 0, 1)
    rng = np.random.default_rng(0)
    counts = rng.poisson(110 * disc / disc.sum(), (positions, positions, n, n))
    return Dataset4D.from_dense(counts.astype(np.uint16), header)


def as_given(slices: int) -> ReconstructionParams:
    """One pass with everything known."""
    return ReconstructionParams(
        n_slices=slices, thickness_A=200.0, defocus_A=150.0, rotation_deg=3.0,
        tilt_mrad=(0.0, 0.0), refine=(), max_passes=1, half_set_frc=False,
    )  # fmt: skip


def engine(data: Dataset4D, patterns: Patterns, slices: int, threads: int) -> MultisliceSolver:
    """A solver that holds some electrons out, as the default reconstruction does."""
    calibration = calibrate(data, as_given(slices)).calibration
    what = Experiment.of(data.header, patterns, calibration, slices)
    canvas = make_canvas(what.positions_A(), what.grid.sampling_A, patterns.n)
    fitted, held = patterns.split(0.9, np.random.default_rng(0))
    return MultisliceSolver(what, canvas, fitted, held, SolverSettings(threads=threads))


def bare_ffts(executor: ThreadPoolExecutor, count: int, n: int, ffts: int) -> None:
    """``ffts`` FFTs for each of ``count`` patterns."""
    wave = torch.randn(chunk_size(n), n, n, dtype=torch.complex64)

    def work(_: int) -> None:
        for _ in range(ffts):
            torch.fft.fft2(wave)

    list(executor.map(work, range(count // len(wave))))


def peer_passes(python: Path, folder: Path, threads: int, batch: int) -> list[Seconds]:
    """Let the peer take some passes over the exported counts."""
    command = [str(python), str(PEER), str(folder), str(PASSES), str(threads), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the peer failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return [Seconds(w, c) for w, c in zip(found["wall_s"], found["cpu_s"], strict=True)]


def least(times: list[Seconds]) -> Seconds:
    """The least disturbed, wall and CPU each."""
    return Seconds(min(t.wall for t in times), min(t.cpu for t in times))


def row(
    slices: int, data: Dataset4D, chosen: argparse.Namespace, peer: Callable[[], list[Seconds]]
) -> str:
    """Take turns; one line of the table."""
    patterns = calibrate(data, as_given(slices)).patterns
    solver = engine(data, patterns, slices, chosen.threads)
    rng = np.random.default_rng(1)
    ffts = 2 if slices == 1 else 4 * slices - 2
    own: list[Seconds] = []
    floor: list[Seconds] = []
    theirs: list[Seconds] = []
    with worker_threads(chosen.threads) as executor:
        solver.run_pass(rng, executor)
        for _ in range(chosen.rounds):
            theirs += peer()
            for _ in range(PASSES):
                with fastest(own):
                    solver.run_pass(rng, executor)
                with fastest(floor):
                    bare_ffts(executor, patterns.n_patterns, patterns.n, ffts)
    ours, bare = least(own), least(floor)
    text = f"{slices:6d}  {ours.wall:6.2f} {ours.cpu:6.2f}  {bare.wall:6.2f} {bare.cpu:6.2f}"
    text += f"  {ours.wall / bare.wall:5.2f} {ours.cpu / bare.cpu:5.2f}"
    if theirs:
        other = least(theirs)
        text += f"  {other.wall:6.2f} {other.cpu:6.2f}"
        text += f"  {other.wall / ours.wall:5.2f} {other.cpu / ours.cpu:5.2f}"
    return text


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--positions", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--slices", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", type=Path, help="interpreter that has PtyRAD")
    parser.add_argument("--peer-batch", type=int, default=32)
    chosen = parser.parse_args()
    data = counted_disc(chosen.positions, chosen.pixels)
    head = "        engine        bare FFTs      ratio"
    units = "slices    wall    cpu    wall    cpu   wall   cpu"
    if chosen.peer_python:
        head, units = (
            f"{head}        peer          peer/engine",
            f"{units}    wall    cpu   wall   cpu",
        )
    print(f"{head}\n{units}")
    for slices in chosen.slices:
        with tempfile.TemporaryDirectory() as folder:

            def peer(slices: int = slices, folder: str = folder) -> list[Seconds]:
                if chosen.peer_python is None:
                    return []
                if not (Path(folder) / "params.yaml").exists():
                    result = reconstruct(data, as_given(slices))
                    export_ptyrad(data, result, Path(folder))
                python = chosen.peer_python.absolute()
                return peer_passes(python, Path(folder), chosen.threads, chosen.peer_batch)

            print(row(slices, data, chosen, peer), flush=True)


if __name__ == "__main__":
    main()
