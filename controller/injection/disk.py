"""A disk that is full, slow, or damages what was written."""

from __future__ import annotations

import errno
from pathlib import Path

from controller.hardware.clock import Clock
from controller.hardware.contract import ScanSink
from controller.hardware.faults import FaultSource
from controller.hardware.values import Exposure, OpticsState, ScanBatch, StagePose

SLOW_S = 2.0
"""What one write takes on a slow disk."""
DAMAGED_BYTES = 64


class FaultyDisk:
    """A `contract.ScanSink` round another: ``disk-full``, ``disk-slow``, ``file-corrupt``."""

    def __init__(self, inner: ScanSink, faults: FaultSource, clock: Clock) -> None:
        self._inner = inner
        self._faults = faults
        self._clock = clock

    def begin(
        self, exposure: Exposure, optics: OpticsState, pose: StagePose, detector: str
    ) -> None:
        """As the inner sink."""
        self._inner.begin(exposure, optics, pose, detector)

    def append(self, batch: ScanBatch) -> None:
        """As the inner sink, late or never.

        Raises
        ------
        OSError
            The disk is full (ENOSPC); this batch was not written.
        """
        if self._faults.is_on("disk-slow"):
            self._clock.sleep(SLOW_S)
        if self._faults.strikes("disk-full"):
            raise OSError(errno.ENOSPC, "No space left on device (injected)")
        self._inner.append(batch)

    def finish(self) -> tuple[str, int, str]:
        """As the inner sink; what the receipt says is what was written, not what is left of it."""
        uri, committed, checksum = self._inner.finish()
        path = Path(uri)
        if path.is_file() and self._faults.strikes("file-corrupt"):
            damage(path)
        return uri, committed, checksum


def damage(path: Path) -> None:
    """Flip all bits of some bytes in the middle of a file, as a failing disk does."""
    with path.open("r+b") as file:
        middle = path.stat().st_size // 2
        file.seek(middle)
        held = file.read(DAMAGED_BYTES)
        file.seek(middle)
        file.write(bytes(255 - value for value in held))
