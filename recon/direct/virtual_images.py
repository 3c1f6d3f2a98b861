"""Images of virtual detectors, each with its electrons, contrast and half-set resolution.

The counts are dealt into two halves, electron by electron; how far the two images agree says
what is specimen and what is shot noise.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recon.calibration import choose_centre, measure_disc
from recon.checkpoint import write_atomically
from recon.dataset import Dataset4D
from recon.direct.virtual_detector import VirtualDetector
from recon.importers import open_4d
from recon.metrics import ring_correlation
from recon.request import OutputError

Image = NDArray[np.float64]


@dataclass(frozen=True)
class VirtualImage:
    """Electrons that the detector saw at every scan position; NaN where none was recorded."""

    detector: VirtualDetector
    electrons: Image
    """(scan_y, scan_x)."""
    pixel_size_A: float
    centre_px: tuple[float, float]
    frc_half_A: float
    """Where the FRC of two halves falls below 0.143, at best twice the scan step; NaN: nowhere."""

    @property
    def contrast(self) -> float:
        """Standard deviation beyond shot noise, as a part of the mean; zero where noise is all."""
        mean = float(np.nanmean(self.electrons))
        excess = float(np.nanvar(self.electrons)) - mean
        return float(np.sqrt(max(excess, 0.0))) / max(mean, 1e-12)

    @property
    def verdict(self) -> str:
        """What a microscopist would say."""
        mean = float(np.nanmean(self.electrons))
        seen = (
            f"half-set FRC {self.frc_half_A:.2f} Å"
            if np.isfinite(self.frc_half_A)
            else "the half sets do not agree: this image is noise"
        )
        return (
            f"{self.detector.name}: {mean:.3g} electrons per position, contrast "
            f"{100 * self.contrast:.1f} % beyond shot noise; {seen}"
        )


def virtual_images(
    dataset: Dataset4D, detectors: Sequence[str], *, rng_seed: int = 0
) -> list[VirtualImage]:
    """Image of every detector, about the measured centre of the bright-field disc.

    Raises
    ------
    DetectorError
        A detector that is not understood or sees nothing.
    CalibrationError, DataError
        No disc to be found.
    """
    wanted = [VirtualDetector.parse(text, dataset.header) for text in detectors]
    row, col, _ = choose_centre(dataset, measure_disc(dataset))
    centre = (row.value, col.value)
    data = dataset.expanded()
    first = np.random.default_rng(rng_seed).random(len(data.pixel)) < 0.5
    images = []
    for detector in wanted:
        mask = detector.mask(data, centre)
        whole = data.virtual_image(mask)
        hit = mask.reshape(-1)[data.pixel] & first
        running = np.concatenate([[0], np.cumsum(hit)])
        half = (running[data.indptr[1:]] - running[data.indptr[:-1]]).reshape(data.scan_shape)
        images.append(
            VirtualImage(
                detector=detector,
                electrons=whole,
                pixel_size_A=data.header.scan_step_A,
                centre_px=centre,
                frc_half_A=_half_set_resolution(whole, half, data.header.scan_step_A),
            )
        )
    return images


def _half_set_resolution(whole: Image, half: Image, step_A: float) -> float:
    seen = np.isfinite(whole)
    a, b = (np.where(seen, part, part[seen].mean()) for part in (half, whole - half))
    if min(a.shape) < 8 or a.std() == 0 or b.std() == 0:
        return float("nan")
    finest = ring_correlation(a, b, step_A).resolution_A(0.143)
    return float(np.maximum(finest, 2 * step_A))


def virtual_images_of_file(
    path: str | Path, out_dir: str | Path, detectors: Sequence[str]
) -> dict[str, object]:
    """Write ``virtual.h5``, a PNG of each image and ``virtual.json``; return the latter.

    Raises
    ------
    OutputError
        ``out_dir`` already holds virtual images.
    ReconError
        As ``open_4d`` and ``virtual_images``.
    """
    out = Path(out_dir)
    if (out / "virtual.h5").exists():
        raise OutputError(f"{out} already holds virtual images; choose another --out")
    dataset = open_4d(path)
    images = virtual_images(dataset, detectors)
    out.mkdir(parents=True, exist_ok=True)
    with h5py.File(out / ".virtual.h5.writing", "w") as file:
        for image in images:
            node = file.create_dataset(image.detector.name, data=image.electrons.astype(np.float32))
            node.attrs["units"] = "electrons"
            node.attrs["pixel_size_A"] = image.pixel_size_A
            node.attrs["inner_mrad"] = image.detector.inner_mrad
            node.attrs["outer_mrad"] = image.detector.outer_mrad
            node.attrs["azimuth_deg"] = image.detector.azimuth_deg or (0.0, 360.0)
            node.attrs["beam_centre_px"] = image.centre_px
        file.attrs["input"] = dataset.source
        file.attrs["input_sha256"] = dataset.sha256
    (out / ".virtual.h5.writing").replace(out / "virtual.h5")
    pictures = {image.detector.name: str(_picture(image, out)) for image in images}
    summary: dict[str, object] = {
        "verdict": "\n".join(image.verdict for image in images),
        "pixel_size_A": dataset.header.scan_step_A,
        "images": {
            image.detector.name: {
                "inner_mrad": image.detector.inner_mrad,
                "outer_mrad": _finite(image.detector.outer_mrad),
                "azimuth_deg": image.detector.azimuth_deg,
                "electrons_per_position": float(np.nanmean(image.electrons)),
                "contrast": image.contrast,
                "frc_half_A": _finite(image.frc_half_A),
            }
            for image in images
        },
        "source": dataset.source,
        "source_sha256": dataset.sha256,
        "outputs": pictures | {"virtual": str(out / "virtual.h5")},
    }
    write_atomically(out / "virtual.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return summary


def _picture(image: VirtualImage, out: Path) -> Path:
    name = _in_a_file_name(image.detector.name)
    path = out / f"virtual-{name}.png"
    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    low, high = np.nanpercentile(image.electrons, (0.5, 99.5))
    rows, cols = (n * image.pixel_size_A / 10 for n in image.electrons.shape)
    shown = axes.imshow(
        image.electrons, cmap="gray", vmin=low, vmax=high, extent=(0.0, cols, rows, 0.0)
    )
    axes.set_xlabel("scan x (nm)")
    axes.set_ylabel("scan y (nm)")
    axes.set_title(image.verdict.replace("; ", "\n"), fontsize=8)
    figure.colorbar(shown, ax=axes, label="electrons", shrink=0.8)
    figure.savefig(path, dpi=110)
    return path


def _in_a_file_name(name: str) -> str:
    """Return the name of a detector as a part of a file name."""
    return name.replace("@", "_at_")


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
