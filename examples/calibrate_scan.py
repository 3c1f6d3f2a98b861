"""What a scan says about the microscope, without an image: disc, rotation, defocus, astigmatism.

python examples/calibrate_scan.py SCAN
"""

import argparse
from pathlib import Path

from recon.calibrate import calibrate
from recon.importers import open_4d
from recon.params import ReconstructionParams


def main() -> None:
    """Print every number with its standard deviation and where it came from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    found = calibrate(open_4d(parser.parse_args().scan), ReconstructionParams())
    for name, number in found.calibration.measured().items():
        print(f"{name:22s} {number.value:9.3f} +- {number.sigma:.3f}  ({number.source})")
    for warning in found.warnings:
        print("warning:", warning)


if __name__ == "__main__":
    main()
