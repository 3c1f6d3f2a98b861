"""Reconstructions beside the night: acquisition goes on while scans are looked at.

Each scan is a job for a worker process, or for a Dask scheduler that somebody else runs.  A worker
that dies gets its job again once; the second time that is the result.  What is under way is lost
with the program and begun again by the next session: the result is a function of the scan file.

In virtual time the workers are as fast as the plan says, not as fast as this machine: a result
enters at a modelled time, the night waits for it in real time if it must, and the same seed is
the same night.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, cast

from controller.hardware.clock import Clock
from controller.perception.protocols import ReconstructionReading, Reconstructor

ATTEMPTS = 2
LOOK_S = 0.05


class Job(Protocol):
    """A future, of `concurrent.futures` or of Dask."""

    def done(self) -> bool:
        """Whether it is over."""

    def result(self) -> ReconstructionReading:
        """What came, or raises what went wrong."""


Submit = Callable[..., Job]
"""(function, arguments...) -> its future."""


@dataclass(frozen=True)
class Order:
    """A scan to be reconstructed."""

    target: str
    scan: Path
    out: Path
    expected_defocus_nm: float


@dataclass
class _Running:
    order: Order
    job: Job
    due_s: float
    attempts: int = 1


@dataclass(frozen=True)
class Modelled:
    """Virtual time of the workers."""

    clock: Clock
    seconds: float
    """That a reconstruction takes."""


class Workshop:
    """Carries orders out beside the caller.

    Parameters
    ----------
    reconstructor
        Must be picklable.
    submit
        Starts a function somewhere else.
    close
        Called at the end.
    restart
        Gives a new `submit` after the workers have died.
    modelled
        In virtual time: when results come. None: when they are there.
    """

    def __init__(
        self,
        reconstructor: Reconstructor,
        submit: Submit,
        *,
        close: Callable[[], None] = lambda: None,
        restart: Callable[[], Submit] | None = None,
        modelled: Modelled | None = None,
    ) -> None:
        self._reconstructor = reconstructor
        self._submit = submit
        self._close = close
        self._restart = restart
        self._modelled = modelled
        self._running: dict[str, _Running] = {}

    @property
    def pending(self) -> frozenset[str]:
        """Targets that are being worked on, or wait for it."""
        return frozenset(self._running)

    def order(self, order: Order) -> None:
        """Begin one; an order for a target that is pending is the same order."""
        if order.target not in self._running:
            due_s = 0.0
            if self._modelled is not None:
                due_s = self._modelled.clock.now_s() + self._modelled.seconds
            self._running[order.target] = _Running(order, self._begin(order), due_s)

    def collect(self) -> list[tuple[Order, ReconstructionReading]]:
        """What has come since the last time."""
        found = []
        for running in list(self._running.values()):
            if not self._has_come(running):
                continue
            try:
                reading = running.job.result()
            except Exception as error:  # noqa: BLE001  (a worker's end is a result like any other)
                if running.attempts < ATTEMPTS:
                    running.attempts += 1
                    if self._restart is not None:
                        self._submit = self._restart()
                    running.job = self._begin(running.order)
                    continue
                reading = ReconstructionReading(
                    False,
                    None,
                    reason=f"its worker failed {running.attempts} times: "
                    f"{type(error).__name__}: {error}",
                )
            del self._running[running.order.target]
            found.append((running.order, reading))
        return found

    def wait(self, timeout_s: float) -> None:
        """Return when something has come, or after `timeout_s` of real time (virtual: at once)."""
        if self._modelled is not None:
            return
        end_s = time.monotonic() + timeout_s
        while self._running and time.monotonic() < end_s:
            if any(running.job.done() for running in self._running.values()):
                return
            time.sleep(LOOK_S)

    def close(self) -> None:
        """Give up what is under way."""
        self._close()

    def _has_come(self, running: _Running) -> bool:
        if self._modelled is None:
            return running.job.done()
        return self._modelled.clock.now_s() >= running.due_s

    def _begin(self, order: Order) -> Job:
        return self._submit(
            reconstruct_order,
            self._reconstructor,
            order.scan,
            order.out,
            order.expected_defocus_nm,
        )


def reconstruct_order(
    reconstructor: Reconstructor, scan: Path, out: Path, expected_defocus_nm: float
) -> ReconstructionReading:
    """What a worker does."""
    return reconstructor.reconstruct(scan, out, expected_defocus_nm=expected_defocus_nm)


def local_workshop(
    reconstructor: Reconstructor, workers: int, modelled: Modelled | None = None
) -> Workshop:
    """Worker processes on this machine."""
    pools: list[Executor] = []

    def start() -> Submit:
        stop()
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        pools.append(pool)
        return cast(Submit, pool.submit)

    def stop() -> None:
        while pools:
            pools.pop().shutdown(wait=False, cancel_futures=True)

    return Workshop(reconstructor, start(), close=stop, restart=start, modelled=modelled)


def dask_workshop(
    reconstructor: Reconstructor, address: str, modelled: Modelled | None = None
) -> Workshop:
    """Workers behind a Dask scheduler, which may be other machines that see the run folder.

    Raises
    ------
    ModuleNotFoundError
        The extra ``cluster`` is not installed.
    OSError
        No scheduler there.
    """
    from distributed import Client

    client: Any = Client(address, timeout=10)

    def submit(function: Callable[..., ReconstructionReading], *args: object) -> Job:
        return cast(Job, client.submit(function, *args, pure=False))

    return Workshop(reconstructor, submit, close=client.close, modelled=modelled)
