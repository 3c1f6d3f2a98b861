"""Somebody at the hand panel: the stage or the mode changes while no command of ours is under way.

A person at the column has precedence.  Commands that drive are refused while things change by hand
and for a while afterwards; then whoever drives reads the state back and decides.
"""

from __future__ import annotations

import threading

from controller.hardware.errors import StoppedByOtherError
from controller.hardware.values import Axis, Capabilities, OpticsState, StagePose

QUIET_S = 30.0
"""Nobody has touched anything for this long: the person is gone."""


class HandWatch:
    """Compares read-backs with those after the last command of ours.  Thread-safe."""

    def __init__(self, capabilities: Capabilities, *, quiet_s: float = QUIET_S) -> None:
        self._capabilities = capabilities
        self._quiet_s = quiet_s
        self._lock = threading.Lock()
        self._left: tuple[StagePose, OpticsState] | None = None
        self._generation = 0
        self._touched_s = -float("inf")
        self.what = ""
        """What was changed by hand, last."""

    def ours(self) -> int:
        """A command of ours begins or ends: what is read from now on is the new reference."""
        with self._lock:
            self._generation += 1
            self._left = None
            return self._generation

    @property
    def generation(self) -> int:
        """Changes with every command of ours; readings that straddle one are not compared."""
        with self._lock:
            return self._generation

    def look(
        self, pose: StagePose, optics: OpticsState, now_s: float, *, generation: int
    ) -> str | None:
        """What changed by hand since the last look, in words, or None."""
        with self._lock:
            if generation != self._generation:
                return None
            left, self._left = self._left, (pose, optics)
            if left is None:
                return None
            changed = self._difference(left, pose, optics)
            if not changed:
                # slow creep is no hand: keep the first reference
                self._left = left
                return None
            self._touched_s = now_s
            self.what = changed
            return changed

    def check(self, now_s: float, what: str) -> None:
        """Refuse a command while a person is at work.

        Raises
        ------
        StoppedByOtherError
            Nothing was done.
        """
        with self._lock:
            quiet_s = now_s - self._touched_s
            if quiet_s >= self._quiet_s:
                return
            raise StoppedByOtherError(
                f"{what} was refused: somebody works at the panel ({self.what}, {quiet_s:.0f} s "
                f"ago); nothing was done. It is taken up again after {self._quiet_s:.0f} s of "
                f"quiet: read the state back then, and find the crystal again."
            )

    def _difference(
        self, left: tuple[StagePose, OpticsState], pose: StagePose, optics: OpticsState
    ) -> str:
        before, setting = left
        moved = [
            f"{axis.value} from {before.get(axis):.3g} to {pose.get(axis):.3g}"
            for axis, info in self._capabilities.axes.items()
            if abs(pose.get(axis) - before.get(axis)) > self._known(axis) + 5 * info.repeatability
        ]
        if optics.mode is not setting.mode:
            moved.append(f"mode from {setting.mode.value} to {optics.mode.value}")
        elif not 0.9 < optics.beam_diameter_nm / setting.beam_diameter_nm < 1.1:
            moved.append(
                f"beam from {setting.beam_diameter_nm:.3g} to {optics.beam_diameter_nm:.3g} nm"
            )
        return ", ".join(moved)

    def _known(self, axis: Axis) -> float:
        is_length = axis.value.endswith("_um")
        return 3e-3 * self._capabilities.position_sigma_nm if is_length else 0.1
