"""Programs that die, hang, ask twice, or leave their locks behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from controller.hardware.clock import Clock
from controller.hardware.contract import Column, Microscope, Optics, Stage
from controller.hardware.faults import FaultSource
from controller.hardware.values import (
    BlankResult,
    Calibration,
    Capabilities,
    DoseReading,
    Exposure,
    Frame,
    ScanReceipt,
)

EXIT_CODE = 137
"""As after ``kill -9``."""


def die() -> None:
    """End this process at once: no handler runs, nothing is flushed, nothing is blanked."""
    os._exit(EXIT_CODE)


def hang() -> None:
    """Stop this process as ``kill -STOP`` does; only ``kill -CONT`` wakes it."""
    os.kill(os.getpid(), signal.SIGSTOP)


class LedgerCrash:
    """Called at the points of every write of the ledger: fault ``server-crash``.

    ``server-crash@write:7`` dies in the seventh write, after its row was sent and before it was
    committed; ``server-crash@600s`` at the first point of a write after ten minutes.
    """

    def __init__(self, faults: FaultSource, death: Callable[[], None] = die) -> None:
        self._faults = faults
        self._death = death

    def __call__(self, point: str) -> None:
        """One point, such as ``opening:inside``."""
        if point.endswith(":inside"):
            self._faults.count("write")
        if self._faults.strikes("server-crash"):
            self._death()


class TurnCrash:
    """Asked before every step of the loop: faults ``client-crash`` and ``client-hang``."""

    def __init__(
        self,
        faults: FaultSource,
        keep_going: Callable[[], bool] = lambda: True,
        death: Callable[[], None] = die,
        stop: Callable[[], None] = hang,
    ) -> None:
        self._faults = faults
        self._keep_going = keep_going
        self._death = death
        self._stop = stop

    def __call__(self) -> bool:
        """Whether to take the next step."""
        self._faults.count("turn")
        if self._faults.strikes("client-crash"):
            self._death()
        if self._faults.strikes("client-hang"):
            self._stop()
        return self._keep_going()


def leave_stale_lock(ledger: Path) -> None:
    """Let a process take the lock of a ledger and die without letting go.

    Raises
    ------
    RuntimeError
        That process could not take it.
    """
    program = (
        "import os, pathlib, sys; from controller.safety.ledger_store import _hold_lock;"
        " lock = _hold_lock(pathlib.Path(sys.argv[1])); os._exit(137)"
    )
    lock = ledger.with_name(ledger.name + ".lock")
    done = subprocess.run(
        [sys.executable, "-c", program, str(lock)], check=False, capture_output=True, text=True
    )
    if done.returncode != EXIT_CODE:
        raise RuntimeError(f"no stale lock was left on {lock}: {done.stderr.strip()}")


class RepeatingMicroscope:
    """A `Microscope` whose caller forgets what it has asked for: fault ``exposure-repeated``."""

    def __init__(self, inner: Microscope, faults: FaultSource) -> None:
        self._inner = inner
        self._faults = faults

    @property
    def capabilities(self) -> Capabilities:
        """Of the inner one, like all below."""
        return self._inner.capabilities

    @property
    def calibration(self) -> Calibration:
        """What it believes about its geometry."""
        return self._inner.calibration

    @property
    def clock(self) -> Clock:
        """Its clock."""
        return self._inner.clock

    @property
    def stage(self) -> Stage:
        """The goniometer."""
        return self._inner.stage

    @property
    def optics(self) -> Optics:
        """Lenses and illumination."""
        return self._inner.optics

    @property
    def column(self) -> Column:
        """Vacuum, gun, valves."""
        return self._inner.column

    def expose(self, exposure: Exposure) -> Frame | ScanReceipt:
        """Expose, and if the fault is due ask for the same once more."""
        first = self._inner.expose(exposure)
        return self._inner.expose(exposure) if self._faults.strikes("exposure-repeated") else first

    def forecast(self, exposure: Exposure) -> float:
        """Upper bound in e/A2."""
        return self._inner.forecast(exposure)

    def dose(self, x_um: float, y_um: float) -> DoseReading:
        """What the ledger holds."""
        return self._inner.dose(x_um, y_um)

    def blank(self, why: str) -> BlankResult:
        """Blank now."""
        return self._inner.blank(why)

    def stop(self, why: str) -> None:
        """Blank, halt, abort."""
        self._inner.stop(why)
