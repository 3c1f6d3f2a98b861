"""A simulated microscope on the bench, and a hand to drive it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.hardware.values import Axis, DetectorJob, Scan
from sim_microscope.adapter import SimulatedAdapter, open_adapter


@dataclass
class Bench:
    """An adapter with the few moves that most tests need."""

    adapter: SimulatedAdapter
    jobs: int = 0

    def go(self, **targets: float) -> None:
        """Send axes and wait until they have settled."""
        for name, target in targets.items():
            self.adapter.start_move(Axis(name), target)
            self.settle(Axis(name))

    def settle(self, axis: Axis) -> None:
        for _ in range(5000):
            self.adapter.clock.sleep(0.1)
            if not self.adapter.axis_state(axis).moving:
                return
        raise AssertionError(f"{axis} never settled")

    def job(self, detector: str, frame_s: float, scan: Scan | None = None) -> DetectorJob:
        self.jobs += 1
        frames = 1 if scan is None else scan.positions
        return DetectorJob(UUID(int=self.jobs), detector, frame_s, frames, scan)

    def frame(self, detector: str = "camera", frame_s: float = 0.1) -> NDArray[np.generic]:
        """One frame with the beam open for `frame_s`."""
        self.adapter.arm(self.job(detector, frame_s))
        self.adapter.open_beam()
        self.adapter.clock.sleep(frame_s)
        self.adapter.blank_beam()
        return self.adapter.collect(10.0).data

    def dark(self, detector: str = "camera", frame_s: float = 0.1) -> NDArray[np.generic]:
        """One frame with the beam blanked."""
        self.adapter.arm(self.job(detector, frame_s))
        return self.adapter.collect(10.0).data

    def scan(self, scan: Scan) -> NDArray[np.generic]:
        """All frames of a scan."""
        self.adapter.arm(self.job("scan4d", scan.dwell_s, scan))
        self.adapter.open_beam()
        batches = [batch.data for batch in self.adapter.stream(60.0)]
        self.adapter.blank_beam()
        return np.concatenate(batches)


@pytest.fixture
def open_bench() -> Iterator[Callable[..., Bench]]:
    """Open benches with options; closed after the test."""
    opened: list[SimulatedAdapter] = []

    def opener(scenario: str = "easy", seed: int = 3, **options: object) -> Bench:
        adapter = open_adapter({"scenario": scenario, "seed": seed, **options})  # type: ignore[dict-item]
        opened.append(adapter)
        return Bench(adapter)

    yield opener
    for adapter in opened:
        adapter.close()


@pytest.fixture
def bench(open_bench: Callable[..., Bench]) -> Bench:
    """The easy scenario, seed 3."""
    return open_bench()
