"""One scan as a job that may be repeated: done once, resumed if interrupted, never in the way.

A job is known by the hash of its input and settings. Its folder bears the hash, so that other
settings make another folder and the same ones find the old result; ``job.json``, written last,
says that it is complete. What goes wrong is told in the result: other jobs go on.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from recon.checkpoint import FREE_TO_CHANGE, CheckpointError, CheckpointFolder, write_atomically
from recon.dataset import sha256_of
from recon.errors import ReconError
from recon.output import program_version, reconstruct_file
from recon.params import ReconstructionParams

KEY_CHARACTERS = 12
SIDECARS = (".yaml", ".yml")
"""Files beside the data that describe them belong to the input."""

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class JobResult:
    """What became of one scan."""

    data: str
    status: Status
    key: str = ""
    out: str = ""
    seconds: float = 0.0
    summary: dict[str, Any] | None = None
    error: str = ""

    def row(self) -> tuple[str, str, str, str, str]:
        """File, status, FRC, lattice limit, and verdict or error, for a table."""
        resolution = (self.summary or {}).get("resolution", {})
        words = self.error or str((self.summary or {}).get("verdict", ""))
        return (
            Path(self.data).name,
            self.status,
            _angstrom(resolution.get("frc_half_A")),
            _angstrom(resolution.get("lattice_limit_A")),
            words.splitlines()[0] if words else "",
        )


def job_key(data: Path, params: ReconstructionParams, rng_seed: int = 0) -> str:
    """Hash of input, settings and program; settings that only change the speed do not count."""
    settings = params.model_dump(mode="json", exclude=set(FREE_TO_CHANGE))
    parts = [sha256_of(data), json.dumps(settings, sort_keys=True), program_version(), rng_seed]
    parts += [
        sha256_of(beside)
        for beside in (data.with_suffix(suffix) for suffix in SIDECARS)
        if beside.exists() and beside != data
    ]
    text = json.dumps(parts).encode()
    return hashlib.sha256(text).hexdigest()[:KEY_CHARACTERS]


def run_job(data: str, out_root: str, params: ReconstructionParams, rng_seed: int = 0) -> JobResult:
    """Reconstruct one scan unless that is done already; never raises for what a file may hold."""
    begun = time.perf_counter()
    path = Path(data)
    try:
        key = job_key(path, params, rng_seed)
        out = Path(out_root) / f"{path.stem}-{key}"
        known = finished(out, key)
        if known is not None:
            return JobResult(data, "skipped", key, str(out), 0.0, known)
        summary = _reconstruct(path, out, params, rng_seed)
    except (ReconError, OSError, ValueError, ArithmeticError, MemoryError) as problem:
        words = f"{type(problem).__name__}: {problem}"
        return JobResult(data, "failed", seconds=_since(begun), error=words)
    summary = json.loads(json.dumps(summary))  # as it will be read again
    result = JobResult(data, "done", key, str(out), _since(begun), summary)
    write_atomically(out / "job.json", json.dumps(asdict(result), indent=2) + "\n")
    return result


def finished(out: Path, key: str) -> dict[str, Any] | None:
    """Summary of a job that was completed in this folder, else None."""
    try:
        job = json.loads((out / "job.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    summary: dict[str, Any] | None = job.get("summary")
    return summary if job.get("key") == key else None


def _reconstruct(
    path: Path, out: Path, params: ReconstructionParams, rng_seed: int
) -> dict[str, Any]:
    """From the checkpoint of an interrupted job where there is one, else from the start."""
    if (out / "reconstruction.h5").exists():
        # Stopped between the result and job.json: the result is whole, its summary may not be
        (out / "reconstruction.h5").unlink()
    if CheckpointFolder(out).exists:
        try:
            return reconstruct_file(path, None, params, resume=out, rng_seed=rng_seed)
        except CheckpointError:
            CheckpointFolder(out).remove()
    return reconstruct_file(path, out, params, rng_seed=rng_seed)


def _since(begun: float) -> float:
    return round(time.perf_counter() - begun, 2)


def _angstrom(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else "-"
