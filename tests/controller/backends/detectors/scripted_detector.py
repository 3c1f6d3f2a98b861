"""A detector without a network: it notes what is done to it and gives what a test put in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from controller.backends.detectors.contract import StreamReport
from controller.backends.detectors.series_tally import SeriesTally
from controller.hardware.errors import ArmFailedError
from controller.hardware.values import DetectorInfo, DetectorJob, FrameBatch, Mode

SHAPE = (12, 16)


class ScriptedDetector:
    """Implements `contract.Detector4D`."""

    def __init__(self, note: Callable[[str], None], name: str = "merlin") -> None:
        self.info = DetectorInfo(
            name=name,
            shape=SHAPE,
            kind="counting",
            modes=frozenset({Mode.STEM, Mode.DIFFRACTION}),
            can_scan=True,
            max_exposure_s=20.0,
        )
        self.note = note
        self.job: DetectorJob | None = None
        self.tally = SeriesTally(0)
        self.arm_fails = False
        self.missing: frozenset[int] = frozenset()
        self.closed = 0

    def arm(self, job: DetectorJob) -> None:
        self.note("detector armed")
        if self.arm_fails:
            raise ArmFailedError("the detector did not confirm")
        self.job = job
        self.tally = SeriesTally(job.frames)

    def start(self) -> None:
        self.note("detector started")

    def frames(self, timeout_s: float) -> Iterator[FrameBatch]:
        job = self.job
        if job is None:
            raise ArmFailedError("not armed")
        for number in range(job.frames):
            if number in self.missing or not self.tally.place(number):
                continue
            data = np.full((1, *SHAPE), 0, np.uint16)
            data[0, number % SHAPE[0], 3] = 1 + number % 5
            yield FrameBatch(job.exposure_id, number, data)

    def report(self) -> StreamReport:
        return self.tally.report()

    def headers(self) -> Mapping[str, str]:
        return {"scripted header": "armed for " + str(self.job and self.job.frames)}

    def abort(self) -> None:
        self.note("detector aborted")
        self.job = None

    def close(self) -> None:
        self.note("detector closed")
        self.closed += 1
