"""First images of a scan, in seconds and without iteration: virtual detectors and phases.

python examples/first_images.py SCAN OUT
"""

import argparse
from pathlib import Path

import numpy as np

from recon.direct import direct_phase
from recon.direct.virtual_images import virtual_images
from recon.importers import open_4d


def main() -> None:
    """Write the images as ``.npy`` and say what they show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    dataset = open_4d(chosen.scan)
    for image in virtual_images(dataset, ["bf", "adf", "12-25"]):
        np.save(chosen.out / f"{image.detector.name}.npy", image.electrons)
        print(image.verdict)
    for engine in ("parallax", "icom", "ssb"):
        phase = direct_phase(dataset, engine)
        np.save(chosen.out / f"{engine}.npy", phase.phase_rad)
        print(
            f"{engine}: {phase.phase_rad.std():.2f} rad rms, pixels of {phase.pixel_size_A:.2f} Å"
        )
        for note in phase.notes:
            print(note)


if __name__ == "__main__":
    main()
