"""Pictures of a run on disk: one HDF5 file per frame, written once, never overwritten.

Scans are written by the process that receives them (``recon.dataset``); this is for single
frames.  A frame file holds ``/data`` (raw detector values) and, as attributes, everything needed
to read it without the journal.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from controller.hardware.errors import DoseState, StorageError
from controller.hardware.values import Frame
from controller.record.disk import storing


@dataclass(frozen=True)
class StoredFrame:
    """A frame read back.

    electrons
        float32, (row, col).
    header
        ``pose``, ``optics``, ``gain``, ``offset``, ``exposure_s``, ``utc``, ``role``, ``target``.
    """

    electrons: NDArray[np.float32]
    header: dict[str, Any]


class RunStore:
    """The run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        (folder / "frames").mkdir(parents=True, exist_ok=True)
        self._count = len(list((folder / "frames").glob("*.h5")))

    def save_frame(self, frame: Frame, *, role: str, target: str | None) -> tuple[str, str]:
        """Write `frame` crash-safe; return (name, path relative to the run folder).

        Raises
        ------
        StorageError
            The disk refuses; no half of the frame is left behind.
        """
        name = f"{self._count:05d}-{role}" + (f"-{target}" if target else "")
        self._count += 1
        relative = f"frames/{name}.h5"
        final = self.folder / relative
        partial = final.with_suffix(".part")
        header = {
            "pose": frame.pose.model_dump(mode="json"),
            "optics": frame.optics.model_dump(mode="json"),
            "gain": frame.gain,
            "offset": frame.offset,
            "exposure_s": frame.exposure_s,
            "exposure_id": str(frame.exposure_id),
            "utc": frame.utc,
            "role": role,
            "target": target,
        }
        try:
            with storing(f"the frame {name}", DoseState.CHARGED):
                _write_frame(partial, frame, header)
                partial.rename(final)
        except StorageError:
            with suppress(OSError):
                partial.unlink()
            raise
        return name, relative


def _write_frame(path: Path, frame: Frame, header: dict[str, Any]) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", data=frame.data, compression="gzip", shuffle=True)
        data.attrs["header"] = json.dumps(header, sort_keys=True)
        if frame.valid is not None:
            file.create_dataset("valid", data=frame.valid, compression="gzip")
        file.flush()
    with path.open("rb") as written:
        os.fsync(written.fileno())


def read_frame(path: Path) -> StoredFrame:
    """Read a frame file.

    Raises
    ------
    ValueError
        Not a frame file.
    """
    try:
        with h5py.File(path, "r") as file:
            raw = np.asarray(file["data"])
            header = json.loads(str(file["data"].attrs["header"]))
            valid = np.asarray(file["valid"]) if "valid" in file else None
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is not a frame file of a run: {error}") from error
    electrons = (raw.astype(np.float32) - header["offset"]) / header["gain"]
    if valid is not None:
        electrons = np.where(valid, electrons, 0)
    return StoredFrame(electrons.astype(np.float32), header)
