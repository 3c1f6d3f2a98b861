"""One scan by several processes: all compute, the first one writes."""

from pathlib import Path

from recon.distributed.team import TeamError, joined_team
from recon.output import write_outputs
from recon.params import ReconstructionParams
from recon.reconstruct import Progress
from recon.request import open_request, reconstruct_request


def reconstruct_together(
    data: Path | None,
    out: Path | None,
    params: ReconstructionParams | None = None,
    *,
    resume: Path | None = None,
    device: str | None = None,
    timeout_s: float = 600.0,
    progress: Progress | None = None,
) -> dict[str, object] | None:
    """Reconstruct with all processes that ``torchrun`` started.

    Returns
    -------
    The summary in the first process, None in the others.

    Raises
    ------
    TeamError
        Another process is gone; says where the checkpoint lies.
    ReconError
        As ``recon.output.reconstruct_file``.
    """
    request = open_request(data, out, params, resume=resume, device=device)
    try:
        with joined_team(device=request.params.device, timeout_s=timeout_s) as team:
            first = team.rank == 0
            result = reconstruct_request(request, team=team, progress=progress if first else None)
            vacuum = request.dataset.vacuum
            summary = write_outputs(result, request.out, vacuum=vacuum) if first else None
            team.agree([0.0])
    except TeamError as problem:
        kept = request.out / "checkpoint"
        remedy = (
            f"the checkpoint in {kept} is whole; start the same command with --resume {request.out}"
            if any(kept.glob("*.h5"))
            else "there is no checkpoint yet; start again"
        )
        raise TeamError(f"{problem}; nothing was written as a result; {remedy}") from problem
    if first:
        request.checkpoints.remove()
    return summary
