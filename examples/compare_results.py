"""Two reconstructions of one scan side by side: with three slices and with one.

python examples/compare_results.py SCAN OUT [--nominal-defocus-A D]
"""

import argparse
from pathlib import Path

from recon.compare import compare_files
from recon.output import reconstruct_file
from recon.params import ReconstructionParams


def main() -> None:
    """Reconstruct twice, then say how far the images agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--nominal-defocus-A", type=float, help="where the header is wrong")
    chosen = parser.parse_args()
    folders = []
    for slices in (3, 1):
        params = ReconstructionParams(
            n_slices=slices, half_set_frc=False, nominal_defocus_A=chosen.nominal_defocus_A
        )
        folders.append(chosen.out / f"slices-{slices}")
        reconstruct_file(chosen.scan, folders[-1], params)
    summary = compare_files(*folders, chosen.out / "comparison")
    print(summary["verdict"])
    print(summary["outputs"]["page"])


if __name__ == "__main__":
    main()
