"""Open what a ``ScanFileWriter`` committed: while it writes, closed, or killed."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from recon.dataset.events import Dataset4D
from recon.dataset.layout import EVENTS, read_header, write_header
from recon.errors import ScanFileError


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open for reading; a file still being written, or left by a crash, opens in SWMR mode."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        file = h5py.File(path, "r")
    except OSError:
        try:
            file = h5py.File(path, "r", libver="latest", swmr=True)
        except OSError as problem:
            raise ScanFileError(
                f"{path} cannot be opened as HDF5 ({problem}); it is truncated or no HDF5 file. "
                f"Nothing was read; copy it again from the machine that wrote it"
            ) from problem
    with file:
        yield file


def open_scan(path: str | Path) -> Dataset4D:
    """Load the committed part of a native scan file.

    Positions beyond ``committed_frames`` are there but not ``valid``, without electrons.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ScanFileError
        The file is truncated, no HDF5, or contradicts itself. It was not changed.
    """
    path = Path(path)
    with _opened(path) as file:
        header = read_header(file)
        events = file[EVENTS]
        # The scalar first: a writer may go on while we read, and never takes back what it committed
        committed = int(events["committed_frames"][()])
        if not 0 <= committed <= header.n_positions:
            raise ScanFileError(
                f"{path}: committed_frames is {committed}, the scan has {header.n_positions}"
            )
        count = np.zeros(header.n_positions, np.int64)
        count[:committed] = events["count"][:committed]
        valid = np.zeros(header.n_positions, bool)
        valid[:committed] = events["valid"][:committed] != 0
        total = int(count.sum())
        if total > len(events["pixel"]):
            raise ScanFileError(
                f"{path}: {total} events are committed but only {len(events['pixel'])} are stored; "
                f"the file is damaged. Nothing was changed"
            )
        _check_whole(path, events)
        pixel = events["pixel"][:total]
        multiplicity = events["multiplicity"][:total] if "multiplicity" in events else None
    if total and int(pixel.max()) >= header.n_pixels:
        raise ScanFileError(
            f"{path}: pixel {pixel.max()} lies outside a frame of {header.n_pixels} pixels"
        )
    return Dataset4D(
        header=header,
        pixel=pixel,
        indptr=np.concatenate([[0], np.cumsum(count)]),
        valid=valid,
        multiplicity=multiplicity,
        source=str(path),
        sha256=sha256_of(path),
    )


def _check_whole(path: Path, events: h5py.Group) -> None:
    """Refuse a file that ends before its data do: HDF5 would read zeros there."""
    size = path.stat().st_size
    for name in events:
        stored = events[name].id
        if events[name].chunks is None:
            start = stored.get_offset()
            ends = [] if start is None else [start + stored.get_storage_size()]
        else:
            chunks = [stored.get_chunk_info(n) for n in range(stored.get_num_chunks())]
            ends = [chunk.byte_offset + chunk.size for chunk in chunks]
        if ends and max(ends) > size:
            raise ScanFileError(
                f"{path} is truncated: {name} reaches byte {max(ends)}, the file has {size}. "
                f"Nothing was changed; copy it again from the machine that wrote it"
            )


def recover_scan(path: str | Path) -> int:
    """Truncate an interrupted file to its last commit and rewrite it so that any HDF5 opens it.

    The clean file is written beside the old one and then takes its name in one step: at any
    instant there is one whole file. Recovering a sound file changes only its layout.

    Returns
    -------
    The number of committed positions.

    Raises
    ------
    ScanFileError
        Nothing can be recovered. The file was not changed.
    """
    path = Path(path)
    dataset = open_scan(path)
    with _opened(path) as file:
        committed = int(file[EVENTS]["committed_frames"][()])
        log = file["entry/log/json_lines"][:] if "json_lines" in file["entry/log"] else None
    beside = path.with_name(f".{path.name}.recovering")
    beside.unlink(missing_ok=True)
    with h5py.File(beside, "x") as clean:
        write_header(clean, dataset.header)
        events = clean[EVENTS]
        events["pixel"] = dataset.pixel
        events["count"] = np.diff(dataset.indptr).astype(np.uint32)
        events["valid"] = dataset.valid.astype(np.uint8)
        events["committed_frames"] = np.uint64(committed)
        if dataset.multiplicity is not None:
            events["multiplicity"] = dataset.multiplicity
        if log is not None:
            clean["entry/log/json_lines"] = log
    with beside.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(beside, path)
    return committed
