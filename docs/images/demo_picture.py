"""The picture at the top of the README, from the report of a demo night.

    python docs/images/demo_picture.py runs/demo T03 docs/images/demo.png

Six square panels of one crystal: survey, pattern before and after the tilt, virtual image, phase,
power spectrum of the phase.
"""

import sys
from pathlib import Path

from PIL import Image, ImageOps

PANELS = ("survey", "before", "after", "virtual", "phase", "spectrum")
SIDE_PX, GAP_PX = 300, 10


def demo_picture(run: Path, target: str) -> Image.Image:
    """Panels side by side on white, (row, col)."""
    width = len(PANELS) * (SIDE_PX + GAP_PX) - GAP_PX
    page = Image.new("L", (width, SIDE_PX), 255)
    for i, name in enumerate(PANELS):
        with Image.open(run / "report_files" / f"{target}-{name}.png") as stored:
            panel = ImageOps.fit(stored.convert("L"), (SIDE_PX, SIDE_PX))
        page.paste(panel, (i * (SIDE_PX + GAP_PX), 0))
    return page


if __name__ == "__main__":
    run, target, out = sys.argv[1:4]
    demo_picture(Path(run), target).save(out)
