"""Read survey images: TIFF, MRC, NPY, PNG with flags, or the HDF5 image stack.

The stack holds ``/images/<id>`` (2-D raw detector values, or 3-D frames of one field) with the
attributes ``mode``, ``pixel_size_nm``, ``gain``, ``offset`` and optionally ``detector``,
``incident_electrons_per_px`` and ``energy_keV``.  An attribute missing there is looked up on
``/images`` and on the file; a flag fills what is still missing and never overrules the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.classes import Mode
from models.frames import ImageError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".nxs")
KNOWN_SUFFIXES = (".tif", ".tiff", ".mrc", ".mrcs", ".npy", ".png", *HDF5_SUFFIXES)


class ImageFlags(BaseModel):
    """What the command line says about images that do not say it themselves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode | None = None
    pixel_size_nm: Positive | None = None
    gain: Positive | None = None
    offset: Annotated[float, Field(allow_inf_nan=False)] | None = None
    incident_electrons_per_px: Positive | None = None


class FieldImage(BaseModel):
    """One field, ready for the picker."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    id: str
    frames: NDArray[Any]
    """Raw detector values, (ny, nx) or (frame, ny, nx)."""
    mode: Mode
    pixel_size_nm: Positive
    gain: Positive = 1.0
    offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    incident_electrons_per_px: Positive | None = None


def read_images(paths: Iterable[Path], flags: ImageFlags | None = None) -> list[FieldImage]:
    """Every field in the files, in order.

    Parameters
    ----------
    paths
        Image files and image stacks.
    flags
        For what a file does not say.

    Raises
    ------
    ImageError
        A file is missing, damaged, of an unknown kind, or says too little.
    """
    flags = flags or ImageFlags()
    fields: list[FieldImage] = []
    for path in paths:
        suffix = path.suffix.lower()
        if not path.is_file():
            raise ImageError(f"{path} is no file; nothing was segmented. Check the path")
        if suffix not in KNOWN_SUFFIXES:
            raise ImageError(
                f"{path}: unknown kind {suffix!r}; nothing was segmented. "
                f"Give one of {', '.join(KNOWN_SUFFIXES)}"
            )
        try:
            read = _read_stack(path) if suffix in HDF5_SUFFIXES else [_read_plain(path, suffix)]
        except (OSError, ValueError, EOFError, KeyError, SyntaxError) as problem:
            if isinstance(problem, ImageError):
                raise
            raise ImageError(
                f"{path} cannot be read ({problem}); nothing was segmented. "
                f"Is it complete and of the kind its name says?"
            ) from problem
        fields += [_complete(path, name, frames, said, flags) for name, frames, said in read]
    return _with_unique_ids(fields)


_Read = tuple[str, NDArray[Any], dict[str, Any]]


def _read_plain(path: Path, suffix: str) -> _Read:
    said: dict[str, Any] = {}
    if suffix == ".npy":
        frames = np.load(path, allow_pickle=False)
    elif suffix in (".tif", ".tiff"):
        import tifffile

        frames = tifffile.imread(path)
    elif suffix in (".mrc", ".mrcs"):
        import mrcfile

        with mrcfile.open(path, permissive=False) as file:
            frames = np.array(file.data)
            voxel_A = float(file.voxel_size.x)
        if voxel_A > 1.0:  # 0 and 1 are what writers leave when they do not know
            said["pixel_size_nm"] = voxel_A / 10
    else:
        from PIL import Image

        with Image.open(path) as picture:
            frames = np.asarray(picture)
            if picture.mode not in ("L", "I", "F") and not picture.mode.startswith("I;16"):
                raise ImageError(
                    f"{path} is a picture of kind {picture.mode} (colour or palette), not raw "
                    f"detector values; nothing was segmented. Export the image as grey TIFF"
                )
    return path.stem, frames, said


def _read_stack(path: Path) -> list[_Read]:
    names = ("mode", "pixel_size_nm", "gain", "offset", "incident_electrons_per_px")
    with h5py.File(path, "r") as file:
        group = file.get("images")
        if not isinstance(group, h5py.Group) or len(group) == 0:
            raise ImageError(
                f"{path} has no /images/<id>; nothing was segmented. "
                f"An image stack holds one dataset per field there"
            )
        read: list[_Read] = []
        for name, dataset in group.items():
            if not isinstance(dataset, h5py.Dataset):
                raise ImageError(f"{path}: /images/{name} is no dataset; nothing was segmented")
            said = {}
            for key in names:
                for holder in (dataset, group, file):
                    if key in holder.attrs:
                        said[key] = _plain(holder.attrs[key])
                        break
            read.append((str(name), np.asarray(dataset[()]), said))
        return read


def _plain(value: Any) -> Any:  # noqa: ANN401  (whatever HDF5 attributes hold)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray | np.generic):
        return value.item() if value.size == 1 else value.tolist()
    return value


def _complete(
    path: Path, name: str, frames: NDArray[Any], said: dict[str, Any], flags: ImageFlags
) -> FieldImage:
    known = {**flags.model_dump(exclude_none=True), **said}
    missing = [k for k in ("mode", "pixel_size_nm") if k not in known]
    if missing:
        options = " and ".join(f"--{k.replace('_', '-')}" for k in missing)
        raise ImageError(
            f"{path}: nothing tells the {' and '.join(missing)} of image {name!r}; nothing was "
            f"segmented. Give {options}"
        )
    try:
        return FieldImage(id=name, frames=frames, **known)
    except ValidationError as problems:
        text = "; ".join(
            f"{'.'.join(map(str, p['loc']))} = {p['input']!r}: {p['msg']}"
            for p in problems.errors()
        )
        raise ImageError(f"{path}: image {name!r}: {text}; nothing was segmented") from problems


def _with_unique_ids(fields: list[FieldImage]) -> list[FieldImage]:
    taken: set[str] = set()
    unique = []
    for field in fields:
        name, n = field.id, 2
        while name in taken:
            name, n = f"{field.id}-{n}", n + 1
        taken.add(name)
        unique.append(field if name == field.id else field.model_copy(update={"id": name}))
    return unique
