"""A request to reconstruct a file: everything is checked before anything is computed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recon.checkpoint import CheckpointError, CheckpointFolder, identity_of
from recon.dataset import Dataset4D
from recon.errors import ReconError
from recon.execution import Alone, Execution, Team
from recon.importers import open_4d
from recon.params import ReconstructionParams
from recon.reconstruct import reconstruct, with_nominal_defocus
from recon.result import ProgressEvent, Reconstruction
from recon.vacuum import open_vacuum, with_vacuum


class OutputError(ReconError):
    """The results cannot be written where they were asked for; nothing was overwritten."""


@dataclass(frozen=True)
class Request:
    """Data that were opened, settings, a folder that is free, and whether to go on from there."""

    dataset: Dataset4D
    params: ReconstructionParams
    out: Path
    rng_seed: int
    resumed: bool

    @property
    def checkpoints(self) -> CheckpointFolder:
        """Where this reconstruction is kept between passes."""
        return CheckpointFolder(self.out)


def open_request(
    data: str | Path | None,
    out: str | Path | None,
    params: ReconstructionParams | None = None,
    *,
    resume: str | Path | None = None,
    device: str | None = None,
    rng_seed: int | None = None,
    vacuum: str | Path | None = None,
) -> Request:
    """Open the data of a new reconstruction, or of one to ``resume`` in its folder.

    What is left None is taken from the checkpoint when resuming, else from the defaults.

    Raises
    ------
    OutputError
        Nothing to write to, or the folder already holds a reconstruction.
    CheckpointError
        Nothing to resume, or data or settings are not those it was begun with.
    DataError
        As ``open_4d``.
    """
    if resume is None and (data is None or out is None):
        raise OutputError("give the data and a folder for the results, or a folder to resume")
    folder = free_folder(out if resume is None else resume)
    if resume is not None:
        if out is not None and Path(out) != folder:
            raise OutputError(f"--out {out} and --resume {folder} are two folders; give one")
        found = CheckpointFolder(folder).identity()
        data = data or found["source"]
        params = params or ReconstructionParams.model_validate(found["params"])
        rng_seed = found["rng_seed"] if rng_seed is None else rng_seed
        vacuum = vacuum or found["vacuum"] or None
    params = params or ReconstructionParams()
    if device is not None:
        params = params.updated(device=device)
    if resume is not None and not Path(data or "").exists():
        raise CheckpointError(f"{data}, which {folder} was begun with, is gone; put it back")
    dataset = open_4d(data or "")
    dataset = with_nominal_defocus(dataset, params)
    if vacuum is not None:
        dataset = with_vacuum(dataset, open_vacuum(vacuum, dataset.header))
    request = Request(dataset, params, folder, rng_seed or 0, resume is not None)
    if request.resumed:
        request.checkpoints.check(_identity(request))
    return request


def free_folder(out: str | Path | None) -> Path:
    """Return the folder if results can be written there without overwriting others."""
    folder = Path(out or "")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, not a folder; choose another --out")
    if (folder / "reconstruction.h5").exists():
        raise OutputError(
            f"{folder} already holds a reconstruction, which was not touched; choose another --out"
        )
    return folder


def reconstruct_request(
    request: Request,
    *,
    team: Team | None = None,
    progress: Callable[[ProgressEvent], None] | None = None,
) -> Reconstruction:
    """Reconstruct, keeping a checkpoint every ``checkpoint_every`` passes."""
    team = team or Alone()
    begin = None if request.resumed else _identity(request)
    execution = Execution(
        team, CheckpointFolder(request.out, begin=begin), request.params.checkpoint_every
    )
    return reconstruct(
        request.dataset,
        request.params,
        rng_seed=request.rng_seed,
        progress=progress,
        execution=execution,
    )


def _identity(request: Request) -> dict[str, object]:
    source = str(Path(request.dataset.source).absolute())
    identity = identity_of(source, request.dataset.sha256, request.params, request.rng_seed)
    vacuum = request.dataset.vacuum
    identity["vacuum"] = "" if vacuum is None else str(Path(vacuum.source).absolute())
    identity["vacuum_sha256"] = "" if vacuum is None else vacuum.sha256
    return identity
