"""Memory grows with the object and the batch, not with the dense patterns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ptychography_memory import write_scan


def peaks_MB(path: Path, *options: str) -> dict[str, float]:
    """Peaks of a process that only reads: what wrote the file does not count."""
    command = [sys.executable, "-m", "benchmarks.ptychography_memory", "--measure", str(path)]
    done = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_memory_does_not_grow_with_the_patterns(tmp_path: Path) -> None:
    """Four times the positions: far less than one dense copy of the patterns more."""
    peaks = {}
    for positions in (32, 64):
        write_scan(tmp_path / f"{positions}.h5", positions, 64)
        peaks[positions] = peaks_MB(tmp_path / f"{positions}.h5", "--quick")["judge"]
    dense_MB = (64**2 - 32**2) * 64**2 * 4 / 2**20
    assert peaks[64] - peaks[32] < 0.75 * dense_MB
    assert peaks[64] < 600


@pytest.mark.soak
def test_the_default_reconstruction_stays_below_600_MB(tmp_path: Path) -> None:
    """64 x 64 x 64 x 64 at 100 electrons per pattern, with half sets and verdict."""
    write_scan(tmp_path / "scan.h5", 64, 64)
    assert peaks_MB(tmp_path / "scan.h5")["judge"] < 600
