"""Many scans: the same reconstruction for each, by as many workers as there are."""

from recon.cluster.job import JobResult, run_job
from recon.cluster.run import reconstruct_many

__all__ = ["JobResult", "reconstruct_many", "run_job"]
