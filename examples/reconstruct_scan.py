"""From a scan to a phase image, a verdict and a folder of pictures.

    python examples/reconstruct_scan.py SCAN OUT [--nominal-defocus-A D]

The same as ``lodestem reconstruct SCAN --out OUT``.
"""

import argparse
import math
from pathlib import Path

from recon.output import reconstruct_file
from recon.params import ReconstructionParams
from recon.result import ProgressEvent


def tell(event: ProgressEvent) -> None:
    """Print how far it is, with the held-out loss while there is one."""
    loss = f", held-out loss {event.held_out:.4f}" if math.isfinite(event.held_out) else ""
    print(f"{100 * event.fraction:3.0f} % {event.stage}: {event.message}{loss}", end="\r")


def main() -> None:
    """Reconstruct one scan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--nominal-defocus-A", type=float, help="where the header is wrong")
    chosen = parser.parse_args()
    params = ReconstructionParams(nominal_defocus_A=chosen.nominal_defocus_A)
    summary = reconstruct_file(chosen.scan, chosen.out, params, progress=tell)
    print(f"\n{summary['verdict']}")
    print("stopped because", summary["stopped_because"])


if __name__ == "__main__":
    main()
