"""Reconstructions beside the night: nothing is lost or done twice, a dead worker is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from controller.decision.pipeline import (
    Job,
    Modelled,
    Order,
    Workshop,
    dask_workshop,
    local_workshop,
)
from controller.hardware.clock import VirtualClock
from controller.perception.protocols import ReconstructionReading


def order(name: str) -> Order:
    return Order(name, Path(f"{name}.h5"), Path(name), 30.0)


@dataclass
class Bench:
    """Workers whose jobs a test ends by hand."""

    jobs: list[tuple[Path, Future[ReconstructionReading]]] = field(default_factory=list)
    restarts: int = 0

    def submit(self, function: Callable[..., Any], *args: Any) -> Job:
        self.jobs.append((args[1], Future()))
        return cast(Job, self.jobs[-1][1])

    def restart(self) -> Callable[..., Job]:
        self.restarts += 1
        return self.submit


class Echo:
    """A reconstructor that says which scan it got."""

    def reconstruct(
        self, scan_path: Path, out_dir: Path, *, expected_defocus_nm: float
    ) -> ReconstructionReading:
        return ReconstructionReading(True, 2.0, verdict=f"{scan_path} {expected_defocus_nm:g}")


class Dies:
    """A reconstructor that takes its process with it."""

    def reconstruct(
        self, scan_path: Path, out_dir: Path, *, expected_defocus_nm: float
    ) -> ReconstructionReading:
        os._exit(9)


GOOD = ReconstructionReading(True, 1.9)


def test_results_come_as_they_are_done_and_once() -> None:
    bench = Bench()
    shop = Workshop(Echo(), bench.submit)
    for name in ("T01", "T02", "T01"):
        shop.order(order(name))
    assert [str(path) for path, _ in bench.jobs] == ["T01.h5", "T02.h5"]
    assert shop.collect() == []
    bench.jobs[1][1].set_result(GOOD)
    assert [(o.target, r.resolution_A) for o, r in shop.collect()] == [("T02", 1.9)]
    assert shop.collect() == []
    assert shop.pending == {"T01"}


def test_in_virtual_time_results_come_when_they_are_due_not_when_they_are_there() -> None:
    bench, clock = Bench(), VirtualClock()
    shop = Workshop(Echo(), bench.submit, modelled=Modelled(clock, 60.0))
    shop.order(order("T01"))
    clock.sleep(10.0)
    shop.order(order("T02"))
    for _, job in bench.jobs:
        job.set_result(GOOD)
    clock.sleep(49.0)
    assert shop.collect() == []
    shop.wait(1e6)
    clock.sleep(1.0)
    assert [o.target for o, _ in shop.collect()] == ["T01"]
    clock.sleep(10.0)
    assert [o.target for o, _ in shop.collect()] == ["T02"]


def test_a_worker_that_dies_gets_its_job_again_once() -> None:
    bench = Bench()
    shop = Workshop(Echo(), bench.submit, restart=bench.restart)
    shop.order(order("T01"))
    bench.jobs[0][1].set_exception(RuntimeError("out of memory"))
    assert shop.collect() == []
    assert (bench.restarts, len(bench.jobs)) == (1, 2)
    bench.jobs[1][1].set_exception(RuntimeError("out of memory"))
    ((_, reading),) = shop.collect()
    assert not reading.ok
    assert "failed 2 times: RuntimeError: out of memory" in reading.reason


def until_collected(shop: Workshop) -> list[tuple[Order, ReconstructionReading]]:
    found: list[tuple[Order, ReconstructionReading]] = []
    for _ in range(600):
        shop.wait(0.1)
        found += shop.collect()
        if not shop.pending:
            return found
    raise AssertionError("it never came")


def test_processes_do_the_work() -> None:
    shop = local_workshop(Echo(), 1)
    for name in ("T01", "T02"):
        shop.order(order(name))
    found = until_collected(shop)
    shop.close()
    assert sorted(r.verdict for _, r in found) == ["T01.h5 30", "T02.h5 30"]


def test_a_process_that_is_gone_is_a_result() -> None:
    shop = local_workshop(Dies(), 1)
    shop.order(order("T01"))
    ((_, reading),) = until_collected(shop)
    shop.close()
    assert not reading.ok
    assert "BrokenProcessPool" in reading.reason


def test_a_dask_scheduler_does_the_work() -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        shop = dask_workshop(Echo(), cluster.scheduler_address)
        shop.order(order("T01"))
        ((_, reading),) = until_collected(shop)
        shop.close()
    assert reading.verdict == "T01.h5 30"
