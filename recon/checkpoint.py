"""Checkpoints: what a fit carries from pass to pass, on disk, so that a night is not lost.

One HDF5 file per fit (the main one, the half sets), beside ``identity.json``, which says of which
counts and with which settings. Files appear under their names only when they are whole. They hold
arrays and JSON, never pickled objects: a checkpoint from elsewhere can be wrong, not dangerous.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.errors import ReconError
from recon.params import ReconstructionParams

FOLDER = "checkpoint"
FORMAT = 1
FREE_TO_CHANGE = frozenset({"device", "threads", "checkpoint_every"})
"""Settings that say how fast, not what, is computed."""

Arrays = dict[str, NDArray[Any]]
Document = dict[str, Any]


class CheckpointError(ReconError):
    """A checkpoint is missing, damaged or of something else; it was not touched."""


def identity_of(
    source: str, source_sha256: str, params: ReconstructionParams, rng_seed: int
) -> Document:
    """Return what must be the same for a fit to go on as if it had never stopped."""
    return {
        "format": FORMAT,
        "source": source,
        "source_sha256": source_sha256,
        "params": params.model_dump(mode="json"),
        "rng_seed": rng_seed,
    }


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file that is either the old one or the new one, never half of it."""
    beside = path.with_name(f".{path.name}.writing")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


class CheckpointFolder:
    """The checkpoints of one reconstruction, in ``out/checkpoint``.

    With ``begin`` a new reconstruction starts: older fits are not seen, and the first one that is
    saved replaces them, so that a request that fails before leaves nothing behind.
    """

    def __init__(self, out: str | Path, *, begin: Document | None = None) -> None:
        self.folder = Path(out) / FOLDER
        self._to_begin = begin

    @property
    def exists(self) -> bool:
        """There is something to go on from."""
        return (self.folder / "identity.json").exists()

    def identity(self) -> Document:
        """Read what this checkpoint is of.

        Raises
        ------
        CheckpointError
            There is none, or it cannot be read.
        """
        path = self.folder / "identity.json"
        try:
            document: Document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{self.folder.parent} holds no checkpoint to resume from; start without --resume"
            ) from None
        except (OSError, json.JSONDecodeError) as problem:
            raise CheckpointError(
                f"{path} cannot be read ({problem}); delete {self.folder} and start again"
            ) from problem
        return document

    def _begin(self, identity: Document) -> None:
        """Forget older fits, and note what the coming ones are of."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("*.h5"):
            old.unlink()
        write_atomically(self.folder / "identity.json", json.dumps(identity, indent=2) + "\n")

    def check(self, identity: Document) -> None:
        """Refuse to go on with other counts or other settings.

        Raises
        ------
        CheckpointError
            The message names every setting that differs, with both values.
        """
        found = self.identity()
        before, now = found["params"], identity["params"]
        differs = [
            f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
            for name in sorted(before.keys() | now.keys())
            if name not in FREE_TO_CHANGE and before.get(name) != now.get(name)
        ]
        differs += [
            f"{name} was {found.get(name)!r}, is {identity.get(name)!r}"
            for name in ("format", "source_sha256", "vacuum_sha256", "rng_seed")
            if found.get(name) != identity.get(name)
        ]
        if differs:
            raise CheckpointError(
                f"{self.folder} is of another reconstruction: {'; '.join(differs)}. Nothing was "
                f"changed; resume with the data and settings it was begun with, or choose "
                f"another --out"
            )

    def save(self, stage: str, arrays: Mapping[str, NDArray[Any]], document: Document) -> None:
        """Replace the checkpoint of one fit, atomically."""
        if self._to_begin is not None:
            self._begin(self._to_begin)
            self._to_begin = None
        path = self.folder / f"{stage}.h5"
        beside = path.with_name(f".{path.name}.writing")
        with h5py.File(beside, "w") as file:
            for name, array in arrays.items():
                file[name] = array
            file.attrs["format"] = FORMAT
            file["document_json"] = json.dumps(document)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)

    def load(self, stage: str) -> tuple[Arrays, Document] | None:
        """Arrays and document of one fit; None if it was never saved.

        Raises
        ------
        CheckpointError
            The file is damaged.
        """
        path = self.folder / f"{stage}.h5"
        if self._to_begin is not None or not path.exists():
            return None
        try:
            with h5py.File(path, "r") as file:
                document: Document = json.loads(file["document_json"][()])
                arrays = {
                    name: np.asarray(file[name][()]) for name in file if name != "document_json"
                }
        except (OSError, KeyError, json.JSONDecodeError) as problem:
            raise CheckpointError(
                f"{path} is damaged ({problem}); delete it to repeat this fit, the others are kept"
            ) from problem
        return arrays, document

    def remove(self) -> None:
        """Delete the checkpoints of a reconstruction that is finished."""
        for path in self.folder.glob("*"):
            path.unlink()
        if self.folder.exists():
            self.folder.rmdir()
