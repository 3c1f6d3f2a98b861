"""Send jobs to Dask workers: of this machine, or of any scheduler.

A worker that dies takes its own job with it, twice at most; the others go on. Workers of another
machine must see the same paths.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from recon.checkpoint import write_atomically
from recon.cluster.job import JobResult, run_job
from recon.errors import ReconError
from recon.params import ReconstructionParams

if TYPE_CHECKING:
    from distributed import Client, Future

LOCAL = "local"
CONNECT_TIMEOUT_S = 15
ALLOWED_FAILURES = 1


class ClusterError(ReconError):
    """No workers to be had; nothing was started."""


def reconstruct_many(
    data: Sequence[str | Path],
    out: str | Path,
    params: ReconstructionParams | None = None,
    *,
    scheduler: str = LOCAL,
    workers: int | None = None,
    rng_seed: int = 0,
    on_result: Callable[[JobResult], None] | None = None,
) -> list[JobResult]:
    """Reconstruct every scan into its own folder below ``out``; results in the order of ``data``.

    Parameters
    ----------
    scheduler
        "local": workers of this machine for as long as this takes; else the address of a Dask
        scheduler, as tcp://host:8786.
    workers
        Local processes; default: as many as there are processors for their threads.
    on_result
        Hears of every job when it ends, in the order in which they do.

    Raises
    ------
    ClusterError
        Dask is not installed, or no scheduler answers.
    """
    params = params or ReconstructionParams()
    root = Path(out).absolute()
    root.mkdir(parents=True, exist_ok=True)
    paths = [str(Path(path).absolute()) for path in data]
    with _client(scheduler, workers or _local_workers(params, len(paths))) as client:
        results = _all_through(
            client,
            [(path, str(root), params, rng_seed) for path in paths],
            on_result or (lambda result: None),
        )
    whole = [result for result in results if result is not None]
    text = json.dumps([asdict(result) for result in whole], indent=2, ensure_ascii=False)
    write_atomically(root / "jobs.json", text + "\n")
    return whole


def _all_through(
    client: "Client",
    jobs: Sequence[tuple[str, str, ReconstructionParams, int]],
    tell: Callable[[JobResult], None],
) -> list[JobResult | None]:
    """Run all jobs, no more at a time than workers have threads.

    Dask blames every job that waits at a worker when it dies: only those that run may be there.
    """
    from distributed import as_completed

    results: list[JobResult | None] = [None] * len(jobs)
    waiting = list(enumerate(jobs))[::-1]
    running: dict[str, int] = {}
    futures = as_completed([])

    def fill() -> None:
        while waiting and len(running) < max(sum(client.nthreads().values()), 1):
            index, job = waiting.pop()
            future = client.submit(run_job, *job, pure=False, key=f"scan-{index}-{uuid4().hex}")
            running[future.key] = index
            futures.add(future)

    fill()
    for future in futures:
        index = running.pop(future.key)
        results[index] = result = _outcome(future, jobs[index][0])
        future.release()
        tell(result)
        fill()
    return results


def _outcome(future: "Future", path: str) -> JobResult:
    """Return a job's result, also of one whose worker died."""
    problem = future.exception()
    if problem is None:
        result: JobResult = future.result()
        return result
    return JobResult(
        path,
        "failed",
        error=f"{type(problem).__name__}: the worker died, {ALLOWED_FAILURES + 1} times, or broke; "
        f"perhaps it needed more memory. Run this scan alone ({problem})",
    )


def _local_workers(params: ReconstructionParams, jobs: int) -> int:
    return max(1, min(jobs, (os.cpu_count() or 1) // params.threads))


@contextmanager
def _client(scheduler: str, workers: int) -> Iterator["Client"]:
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as missing:
        raise ClusterError(
            f"many scans need Dask ({missing}); pip install 'lodestem[cluster]'"
        ) from missing
    settings: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
        "distributed.worker.daemon": False,
        "distributed.comm.timeouts.connect": f"{CONNECT_TIMEOUT_S}s",
    }
    logging.getLogger("distributed").setLevel(logging.WARNING)
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        address: Any = scheduler
        if scheduler == LOCAL:
            address = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=":0",
                    silence_logs=50,
                )
            )
        try:
            client = stack.enter_context(Client(address, timeout=CONNECT_TIMEOUT_S))
        except (OSError, ValueError) as problem:
            raise ClusterError(
                f"no Dask scheduler answers at {scheduler} within {CONNECT_TIMEOUT_S} s "
                f"({problem}); nothing was started. Check the address, or leave --scheduler away"
            ) from problem
        yield client
