"""How far crystals are off their zone axis, one diffraction pattern each.

python examples/align_patterns.py PATTERNS
"""

import argparse
from pathlib import Path

from controller.perception.alignment import Calibration, measure, read_patterns


def main() -> None:
    """Print the tilt of every pattern of a stack, with its error or the reason for none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patterns", type=Path)
    for pattern in read_patterns(parser.parse_args().patterns, Calibration()):
        found = measure(pattern)
        if found.answered:
            print(
                f"{pattern.id}: ({found.tilt_x_mrad:.1f}, {found.tilt_y_mrad:.1f}) mrad "
                f"+- {found.sigma_mrad:.1f} off {pattern.target_zone_uvw}"
            )
        else:
            print(f"{pattern.id}: {found.reason}")


if __name__ == "__main__":
    main()
