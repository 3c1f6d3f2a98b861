"""HDF5: the native scan file, a described array, a DECTRIS master file, or EMD 1.0 / py4DSTEM."""

from collections.abc import Mapping
from pathlib import Path

import h5py

from recon.dataset import Dataset4D, open_scan, sha256_of
from recon.errors import DataError
from recon.importers.assemble import assemble
from recon.importers.checks import check_counts
from recon.importers.dectris import dectris_frames, is_dectris_master
from recon.importers.emd import emd_frames, find_datacubes
from recon.importers.fields import known_fields, read_layout, yaml_beside
from recon.importers.frames import array_frames


def open_hdf5(path: Path, defaults: Mapping[str, object]) -> Dataset4D:
    """Look inside and read; compressed blocks that need a plug-in say so.

    Raises
    ------
    DataError
        Damaged, truncated, or none of the known trees.
    """
    _load_filters()
    try:
        file = h5py.File(path, "r")
    except OSError:
        # still being written, crashed, or truncated: it knows which
        return check_counts(open_scan(path), axes_stated=True)
    with file:
        if "entry/events" in file:
            return check_counts(open_scan(path), axes_stated=True)
        fields = dict(defaults) | yaml_beside(path)
        layout = read_layout(fields, str(path))
        digest = sha256_of(path)
        try:
            if layout.dataset is not None:
                if layout.dataset not in file:
                    raise DataError(
                        f"{path.name}: the YAML names {layout.dataset}, which is not there"
                    )
                frames = array_frames(file[layout.dataset], layout, path.name)
            elif "counts" in file:
                fields = known_fields(file.attrs) | fields
                layout = read_layout(fields, str(path))
                frames = array_frames(file["counts"], layout, path.name)
            elif is_dectris_master(file):
                frames, digest = dectris_frames(file, path)
            else:
                cubes = find_datacubes(file)
                if not cubes:
                    raise DataError(_unknown(file, path))
                frames = emd_frames(file, cubes, layout, path, fields)
            return assemble(frames, fields, layout, path, digest)
        except OSError as problem:
            raise DataError(
                f"{path.name}: the counts cannot be read ({problem}); the file is damaged or "
                f"truncated (copy it again), or compressed with a filter that `pip install "
                f"hdf5plugin` brings"
            ) from problem


def _unknown(file: h5py.File, path: Path) -> str:
    held = ", ".join(sorted(file)) or "nothing"
    if "Data/Image" in file or "Presentation" in file:
        return f"{path.name}: a Velox EMD file, which is not read; export it as EMD 1.0 or .npy"
    return (
        f"{path.name}: neither a lodestem scan file (/entry/events), a described array (/counts), "
        f"a DECTRIS master file (/entry/data/data_000001) nor an EMD datacube; it holds {held}. "
        f"Name the array with `dataset: /path` in {path.with_suffix('.yaml').name}"
    )


def _load_filters() -> None:
    """Register the HDF5 filters (bitshuffle/LZ4 and others) where they are installed."""
    try:
        import hdf5plugin  # noqa: F401
    except ImportError:
        return  # reading says what is missing
