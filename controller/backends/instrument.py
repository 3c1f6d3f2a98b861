"""What a driver has to know of its vendor: one small class in our units, and nothing else.

An :class:`Instrument` translates.  It needs no threads, deadlines or state machine: all its
methods are called one at a time through a `lane.Lane`, and may block as long as the vendor's do.
`laned.LanedAdapter` makes a `contract.Adapter` of it.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from controller.hardware.values import (
    Axis,
    AxisState,
    Calibration,
    Capabilities,
    ColumnHealth,
    DetectorJob,
    LongOperation,
    OpticsChange,
    OpticsState,
    StageLimits,
    StagePose,
)


class Instrument(Protocol):
    """One vendor's interface in the units and signs of ``docs/conventions.md``."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; what is missing here is refused before it is asked for."""

    @property
    def calibration(self) -> Calibration:
        """Stored calibration."""

    def holder_limits(self) -> StageLimits:
        """What the inserted holder allows."""

    def read_pose(self) -> StagePose:
        """Read-back of the goniometer; never the last target."""

    def move(self, axis: Axis, target: float) -> None:
        """Send one axis to `target`; may return at once or when it is there."""

    def axis_state(self, axis: Axis) -> AxisState:
        """Status of one axis."""

    def halt(self) -> None:
        """Stop the stage; does nothing where ``can_stop`` is False on every axis."""

    def read_optics(self) -> OpticsState:
        """Read back.

        Raises
        ------
        ModeError
            The optics are in a state that has no place in an `OpticsState`.
        """

    def write_optics(self, change: OpticsChange) -> None:
        """Send what `change` names; only ``capabilities.settings`` and ``modes`` are asked for."""

    def read_health(self) -> ColumnHealth:
        """Interlocks; UNKNOWN for everything that nobody can tell."""

    def operate(self, operation: LongOperation) -> str:
        """Carry out a long operation; return what there is to say ("" if nothing).

        Raises
        ------
        MicroscopeError
            It failed.
        """

    def set_blanked(self, blanked: bool) -> None:
        """Take the beam off, or let it onto the specimen."""

    def is_blanked(self) -> bool | None:
        """Read back; None if the blanker cannot be read."""

    def prepare(self, job: DetectorJob) -> None:
        """Set the detector up with the beam blanked, and confirm by read-back.

        Raises
        ------
        ArmFailedError
            The settings did not take.
        """

    def acquire(self, job: DetectorJob) -> NDArray[np.generic]:
        """Integrate and return: a frame (row, col), or all of a scan (position, row, col).

        Blocks. Does not touch the blanker.
        """

    def close(self) -> None:
        """Let go of the connection."""
