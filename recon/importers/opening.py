"""Which reader takes a file: by its ending, and for HDF5 by what is in it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from recon.dataset import Dataset4D
from recon.errors import DataError
from recon.importers.empad import open_empad
from recon.importers.hdf5 import open_hdf5
from recon.importers.merlin import open_merlin
from recon.importers.numpy_array import open_numpy

READERS: dict[str, Callable[[Path, Mapping[str, object]], Dataset4D]] = {
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
    ".nxs": open_hdf5,
    ".emd": open_hdf5,
    ".npy": open_numpy,
    ".raw": open_empad,
    ".xml": open_empad,
    ".mib": open_merlin,
    ".hdr": open_merlin,
}


def open_4d(path: str | Path, *, defaults: Mapping[str, object] | None = None) -> Dataset4D:
    """Open ``path`` as a counted 4D-STEM data set.

    Parameters
    ----------
    defaults
        Fields that hold where the YAML beside the file does not say otherwise.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    DataError
        The file is damaged, undescribed, or holds something other than counts; the message says
        which field or axis and what to do. The file was not changed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path.name}: files ending in {path.suffix!r} are not read; known are "
            f"{', '.join(sorted(READERS))}. Save it as .npy or HDF5 with /counts and a YAML"
        )
    return reader(path, defaults or {})
