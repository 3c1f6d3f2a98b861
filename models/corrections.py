"""What an operator corrected: survey images with masks, on the grid of the network.

An image stack (see `models.image_files`) in which ``/labels/<id>`` (uint8, the shape of the image)
gives the true class of each pixel, or 255 where the operator said nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from models.classes import CLASS_NAMES, N_CLASSES
from models.frames import ImageError, electrons_of
from models.image_files import read_images
from models.inputs import Acquisition, network_input, working_grid

Floats = NDArray[np.float32]
UNKNOWN = 255
"""Label of a pixel that nobody judged."""


@dataclass(frozen=True)
class Correction:
    """One corrected image on the working grid."""

    id: str
    channels: Floats
    """Input of the network, (k, ny, nx)."""
    labels: NDArray[np.uint8]
    """Values of ``RegionClass`` or `UNKNOWN`, (ny, nx)."""
    electrons_per_px: float
    """Mean detected electrons per pixel of the image as it was taken."""


def read_corrections(paths: Sequence[Path]) -> list[Correction]:
    """Every image with labels in the files.

    Raises
    ------
    ImageError
        A file cannot be read, has no labels, labels of another shape or unknown classes, or no
        pixel is labelled.
    """
    found: list[Correction] = []
    for path in paths:
        fields = {field.id: field for field in read_images([path])}
        with h5py.File(path, "r") as file:
            group = file.get("labels")
            if not isinstance(group, h5py.Group) or not len(group):
                raise ImageError(
                    f"{path} has no /labels/<id>; nothing was learned. A file of corrections "
                    f"holds /images/<id> and, for the corrected ones, /labels/<id>"
                )
            masks = {str(name): np.asarray(dataset[()]) for name, dataset in group.items()}
        for name, mask in masks.items():
            if name not in fields:
                raise ImageError(f"{path}: /labels/{name} has no /images/{name}")
            field = fields[name]
            if mask.shape != field.frames.shape[-2:]:
                raise ImageError(
                    f"{path}: labels {name!r} have shape {mask.shape}, their image "
                    f"{field.frames.shape[-2:]}; nothing was learned"
                )
            strange = sorted(set(np.unique(mask).tolist()) - set(range(N_CLASSES)) - {UNKNOWN})
            if strange:
                classes = ", ".join(f"{n} {name}" for n, name in enumerate(CLASS_NAMES))
                raise ImageError(
                    f"{path}: labels {name!r} hold {strange}; wanted {classes}, or {UNKNOWN} for "
                    f"what is not known. Nothing was learned"
                )
            electrons, _ = electrons_of(
                field.frames,
                mode=field.mode,
                pixel_size_nm=field.pixel_size_nm,
                gain=field.gain,
                offset=field.offset,
            )
            raw = Acquisition(field.mode, field.pixel_size_nm, field.incident_electrons_per_px)
            summed, acquisition, binning = working_grid(electrons, raw)
            found.append(
                Correction(
                    id=f"{path.stem}/{name}",
                    channels=network_input(summed, acquisition),
                    labels=labels_on_grid(mask.astype(np.uint8), binning),
                    electrons_per_px=float(electrons.mean()),
                )
            )
    if not any((c.labels != UNKNOWN).any() for c in found):
        raise ImageError(f"no pixel of {len(found)} images is labelled; nothing was learned")
    return found


def labels_on_grid(labels: NDArray[np.uint8], binning: int) -> NDArray[np.uint8]:
    """The most frequent judged class of each block, `UNKNOWN` where most of it is not judged.

    Parameters
    ----------
    labels
        (ny, nx).
    binning
        Pixels along a side of a block; a rest at the border is mirrored.
    """
    if binning == 1:
        return labels
    ny, nx = labels.shape
    padded = np.pad(labels, ((0, -ny % binning), (0, -nx % binning)), mode="symmetric")
    rows, cols = padded.shape[0] // binning, padded.shape[1] // binning
    blocks = padded.reshape(rows, binning, cols, binning).swapaxes(1, 2).reshape(rows, cols, -1)
    counts = np.stack([(blocks == c).sum(axis=-1) for c in range(N_CLASSES)], axis=-1)
    judged = counts.sum(axis=-1) * 2 >= blocks.shape[-1]
    return np.where(judged, counts.argmax(axis=-1), UNKNOWN).astype(np.uint8)
