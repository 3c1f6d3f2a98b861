"""Peak memory of a process that reads a scan file and reconstructs it, part by part.

    python -m benchmarks.ptychography_memory [--positions 64 128] [--pixels 64] [--quick]

A first process writes the scan files (sparse events of a lattice of columns at 100 electrons per
pattern); each file is then opened and reconstructed with default settings by a process of its
own, whose largest resident set is noted after every part. Most of it is PyTorch itself, which is
imported for the fit. What grows from one size to the next grows with the object, the bright-field
spectra of the parallax and the electrons.
"""

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

QUICK = {"calibration_passes": 1, "max_passes": 1, "refine_patterns": 32, "half_set_frc": False}


def peak_MB() -> float:
    """Largest resident set of this program so far.

    Linux carries ``ru_maxrss`` over from the process that started this one; its own high-water mark
    stands in /proc.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return float(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_scan(path: Path, positions: int, pixels: int) -> None:
    """Poisson counts of a weak square lattice by the engine's own forward model."""
    import numpy as np
    import torch

    from recon.dataset import ScanFileWriter, ScanHeader
    from recon.patterns import Patterns
    from recon.ptychography.experiment import Experiment
    from recon.ptychography.optics import Grid
    from recon.ptychography.raster import make_canvas
    from recon.ptychography.solver import MultisliceSolver, SolverSettings

    sampling_A = 22.4 / pixels
    what = Experiment(
        grid=Grid(pixels, sampling_A, 0.0196875), k_edge_A=0.508, beam_offset_A=(0.0, 0.0),
        scan_shape=(positions, positions), scan_step_A=1.05, defocus_A=150.0, C12a_A=0.0,
        C12b_A=0.0, rotation_deg=3.0, affine=((1.0, 0.0), (0.0, 1.0)), tilt_mrad=(0.0, 0.0),
        thickness_A=200.0, n_slices=4,
    )  # fmt: skip
    count = positions**2
    one_each = Patterns(
        np.zeros(count, np.uint16), np.arange(count + 1), np.arange(count),
        np.ones((pixels, pixels), bool), (0.0, 0.0),
    )  # fmt: skip
    canvas = make_canvas(what.positions_A(), sampling_A, pixels)
    solver = MultisliceSolver(what, canvas, one_each, None, SolverSettings())
    rows, cols = torch.meshgrid(
        *(torch.arange(n) * sampling_A for n in canvas.shape), indexing="ij"
    )
    lattice = (torch.cos(rows * 2.1) + torch.cos(cols * 1.7) + torch.cos(0.9 * (rows + cols))) / 6
    solver.slices = (lattice.clamp(min=0) * 0.8)[None]
    header = ScanHeader(
        energy_keV=300.0, convergence_semiangle_mrad=10.0, defocus_A=150.0, scan_step_A=1.05,
        scan_rotation_deg=3.0, detector_sampling_mrad=1e3 * 0.0196875 / 22.4,
        scan_shape=(positions, positions), frame_shape=(pixels, pixels),
        start_time="2026-03-01T22:15:00+00:00", run_uuid="9b7c0c1e-0000-4000-8000-00000000000c",
        sample="lattice",
    )  # fmt: skip
    rng, transmission = np.random.default_rng(1), solver.transmission()
    with ScanFileWriter(path, header) as writer:
        for which in torch.split(torch.arange(count), 64):
            expected = 110 * torch.fft.fftshift(solver.expected(which, transmission), dim=(1, 2))
            writer.append_dense(rng.poisson(expected.numpy()).astype("uint16"))


def measure(path: Path, *, quick: bool) -> dict[str, float]:
    """Open and reconstruct; the peak after every part, MB."""
    import recon.output
    import recon.reconstruct
    from recon.importers import open_4d
    from recon.params import ReconstructionParams
    from recon.result import ProgressEvent

    peaks = {"imports": peak_MB()}
    data = open_4d(path)
    peaks["open"] = peak_MB()

    def hear(event: ProgressEvent) -> None:
        peaks[event.stage] = peak_MB()

    params = ReconstructionParams().updated(**(QUICK if quick else {}))
    recon.reconstruct.reconstruct(data, params, progress=hear)
    return peaks | {"electrons": float(data.n_electrons)}


def main() -> None:
    """Print a table, or one JSON line for ``--measure``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, nargs="*", default=[64, 128])
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="few passes: peaks differ little")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(chosen.measure, quick=chosen.quick)))
        return
    for positions in chosen.positions:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "scan.h5"
            writer = multiprocessing.get_context("spawn").Process(
                target=write_scan, args=(path, positions, chosen.pixels)
            )
            writer.start()
            writer.join()
            command = [sys.executable, "-m", "benchmarks.ptychography_memory", "--measure", path]
            command += ["--quick"] if chosen.quick else []
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks = json.loads(done.stdout)
        electrons = peaks.pop("electrons")
        parts = ", ".join(f"{part} {peak:.0f}" for part, peak in peaks.items())
        print(f"{positions} x {positions}, {electrons / 1e6:.2f} M electrons, peak MB: {parts}")


if __name__ == "__main__":
    main()
