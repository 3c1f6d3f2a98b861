"""NumPy: a `.npy` array with its description in a YAML beside it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from recon.dataset import Dataset4D, sha256_of
from recon.errors import DataError
from recon.importers.assemble import assemble
from recon.importers.fields import REQUIRED, read_layout, yaml_beside
from recon.importers.frames import array_frames


def open_numpy(path: Path, defaults: Mapping[str, object]) -> Dataset4D:
    """Map the array and stream it; it is never copied whole.

    Raises
    ------
    DataError
        No array, truncated, or without a description.
    """
    try:
        counts = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError, OSError) as problem:
        raise DataError(
            f"{path.name} is no readable NumPy array: {problem}; it is truncated or something "
            f"else. Nothing was read; copy it again, or save it again with numpy.save"
        ) from problem
    fields = dict(defaults) | yaml_beside(path)
    if not fields:
        raise DataError(
            f"{path.name}: a bare array says nothing about the microscope; describe it in "
            f"{path.with_suffix('.yaml').name} with {', '.join(REQUIRED)}"
        )
    layout = read_layout(fields, str(path))
    frames = array_frames(counts, layout, path.name)
    return assemble(frames, fields, layout, path, sha256_of(path))
