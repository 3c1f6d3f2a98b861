"""Files to try everything on: images, diffraction patterns, a 4D-STEM scan, and the truth.

    python examples/simulate_files.py OUT [--points 24]

The simulated grid carries UiO-66. A microscope knows from the height of the crystal what the
defocus at the specimen is; here the truth says it.
"""

import argparse
from pathlib import Path

import h5py

from controller.hardware.values import Scan
from sim_microscope.dataset import DatasetSize, write_dataset


def main() -> None:
    """Write the files and print where they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--points", type=int, default=24, help="scan points along each axis")
    chosen = parser.parse_args()
    scan = Scan(shape=(chosen.points, chosen.points), step_A=1.5, dwell_s=1e-3)
    size = DatasetSize(most_tiles=1, pattern_crystals=1, scans=1, scan=scan)
    written = write_dataset("uio-66", chosen.out, seed=1, size=size)
    print("patterns:", written["patterns"])
    print("scan:", written["scans"][0])
    with h5py.File(written["truth"]) as truth:
        for one in truth["scans"].values():
            print(f"defocus at the specimen: {10 * one.attrs['defocus_nm']:.0f} Å")


if __name__ == "__main__":
    main()
