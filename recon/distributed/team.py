"""Processes under ``torchrun`` that share every batch: gloo on processors, nccl on GPUs.

Each process holds the whole object, draws the same random numbers and takes every n-th pattern of
a batch; the gradients are added up over all before the step. Up to the order in which floats are
added this is the computation of a single process, whatever the number of processes.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from recon.errors import ReconError


class TeamError(ReconError):
    """Another process is gone; this one cannot go on alone."""


class TorchTeam:
    """The own process among those of the default process group."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")

    def share(self, batch: Tensor) -> Tensor:
        """Every n-th pattern of the batch, from the own rank on."""
        return batch[self.rank :: self.size]

    def add_up(self, *tensors: Tensor) -> None:
        """Sum every tensor over all processes, in place.

        Raises
        ------
        TeamError
            A process is gone or did not answer in time.
        """
        with self._lost():
            for tensor in tensors:
                dist.all_reduce(tensor)

    def agree(self, numbers: list[float]) -> list[float]:
        """Return the numbers of rank 0.

        Raises
        ------
        TeamError
            A process is gone or did not answer in time.
        """
        carrier = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        with self._lost():
            dist.broadcast(carrier, src=0)
        agreed: list[float] = carrier.tolist()
        return agreed

    @contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as problem:
            reason = str(problem).splitlines()[0]
            raise TeamError(
                f"process {self.rank} of {self.size} lost another one ({reason})"
            ) from problem


def under_torchrun() -> bool:
    """``torchrun`` has started this process and said so in the environment."""
    return dist.is_available() and dist.is_torchelastic_launched()


@contextmanager
def joined_team(*, device: str, timeout_s: float) -> Iterator[TorchTeam]:
    """Join the processes that ``torchrun`` started; leave them at the end.

    ``timeout_s`` is how long a process waits for the slowest of the others.

    Raises
    ------
    TeamError
        Not under ``torchrun``, or ``torchrun`` ends this process since another one is gone.
    """
    if not under_torchrun():
        raise TeamError(
            "this is a single process; start it as "
            "`torchrun --nproc-per-node N -m recon.distributed DATA --out DIR`"
        )
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    before = signal.signal(signal.SIGTERM, _ended)
    try:
        dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(seconds=timeout_s))
        yield TorchTeam()
    finally:
        signal.signal(signal.SIGTERM, before)
        if dist.is_initialized():
            dist.destroy_process_group()


def _ended(_number: int, _frame: FrameType | None) -> None:
    """``torchrun`` ends the others when one process is gone."""
    raise TeamError(f"process {os.environ.get('RANK', '?')} was ended since another one is gone")
