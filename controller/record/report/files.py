"""Where the data lie and whether they are what was written.

Paths in a journal are relative to the run folder; one that leads out of it is never opened.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from controller.record.report.story import Night

Check = Literal["matches", "differs", "missing", "not recorded"]


@dataclass(frozen=True)
class DataFile:
    """One file of the run; `check` compares with the checksum in the journal."""

    path: str
    what: str
    size_bytes: int
    sha256: str
    check: Check

    def as_record(self) -> dict[str, Any]:
        """For the JSON file."""
        return asdict(self)


def inside(run_dir: Path, relative: str) -> Path | None:
    """The file that `relative` names, or None where that leads out of the run folder."""
    if not relative:
        return None
    root = run_dir.resolve()
    path = (root / relative).resolve()
    return path if path.is_relative_to(root) else None


def list_files(run_dir: Path, night: Night) -> list[DataFile]:
    """Journal, ledger, scans, reconstructions, frames and truth, with their checksums."""
    wanted: list[tuple[str, str, str]] = [("journal.jsonl", "journal", "")]
    wanted += [("ledger.sqlite", "dose ledger", "")]
    for story in night.targets.values():
        if story.scan is not None:
            wanted.append((story.scan.path, f"scan of {story.name}", story.scan.checksum_sha256))
        if story.reconstruction is not None:
            wanted.append(
                (
                    f"{story.reconstruction.folder}/reconstruction.h5",
                    f"reconstruction of {story.name}",
                    "",
                )
            )
    wanted += [(frame.path, f"{frame.role} frame", "") for frame in night.frames.values()]
    if night.simulated:
        wanted.append(("truth.h5", "the simulator's truth", ""))
    return [_looked_at(run_dir, path, what, recorded) for path, what, recorded in wanted]


def _looked_at(run_dir: Path, relative: str, what: str, recorded: str) -> DataFile:
    path = inside(run_dir, relative)
    if path is None or not path.is_file():
        return DataFile(relative, what, 0, "", "missing")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    check: Check = "not recorded"
    if recorded:
        check = "matches" if digest == recorded else "differs"
    return DataFile(relative, what, path.stat().st_size, digest, check)
