"""What a step may touch: the guarded microscope, the eyes, the run folder, the journal.

Handed to every step of :mod:`controller.decision.steps`; nothing else has side effects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from controller.hardware.contract import Microscope
from controller.hardware.values import (
    Approach,
    Axis,
    Exposure,
    Frame,
    MoveResult,
    OpticsState,
    PartialPose,
    Purpose,
    Scan,
    ScanReceipt,
    Settle,
    StagePose,
)
from controller.perception.protocols import Aligner, Picker, Reconstructor
from controller.perception.view import View
from controller.plan.run import RunPlan
from controller.record.events import Event, FrameStored, Moved
from controller.record.store import RunStore, StoredFrame, read_frame

SIGMAS_OF_SETTLING = 5.0
"""A move has arrived when it reads within so many of the goniometer's sigmas of its target."""
_LODESTEM = UUID("6f1c3c52-7d0e-5c7b-9a53-1f6d1f2b7a10")


@dataclass(frozen=True)
class Eyes:
    """The three perceptions that the loop calls."""

    picker: Picker
    aligner: Aligner
    reconstructor: Reconstructor


class ExposureIds:
    """Identifiers of exposures: derived from the run, so that a repeated night repeats them."""

    def __init__(self, run_id: str, first: int = 0) -> None:
        self._space = uuid5(_LODESTEM, run_id)
        self._next = first

    def __call__(self) -> UUID:
        """The next identifier."""
        self._next += 1
        return uuid5(self._space, str(self._next))


@dataclass(frozen=True)
class Rig:
    """Everything a step needs."""

    plan: RunPlan
    microscope: Microscope
    eyes: Eyes
    store: RunStore
    emit: Callable[[Event], object]
    new_id: ExposureIds

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return self.store.folder

    def move(
        self, target: str | None, pose: PartialPose, approach: Approach = Approach.FROM_BELOW
    ) -> MoveResult:
        """Move the stage and journal what was achieved."""
        result = self.microscope.stage.move(pose, approach=approach, settle=self._settle())
        self.emit(
            Moved(
                target=target,
                requested=pose,
                achieved=result.achieved,
                residual={axis.value: value for axis, value in result.residual.items()},
            )
        )
        return result

    def _settle(self) -> Settle:
        """No tighter than readings of this goniometer scatter."""
        axes = self.microscope.capabilities.axes
        tilts = [axes[a].repeatability for a in (Axis.ALPHA, Axis.BETA) if a in axes]
        usual = Settle()
        return usual.replace(
            tolerance_deg=max([usual.tolerance_deg, *(SIGMAS_OF_SETTLING * t for t in tilts)])
        )

    def take_frame(
        self, *, area: str, target: str | None, purpose: Purpose, detector: str, duration_s: float
    ) -> tuple[Frame, FrameStored]:
        """Expose one frame, store it, journal it."""
        exposure = Exposure(
            exposure_id=self.new_id(),
            area=area,
            purpose=purpose,
            detector=detector,
            duration_s=duration_s,
        )
        frame = self.microscope.expose(exposure)
        if isinstance(frame, ScanReceipt):
            raise TypeError("a frame was asked for and a scan's receipt came")
        role = _ROLES[purpose]
        name, path = self.store.save_frame(frame, role=role, target=target)
        stored = FrameStored(
            frame=name,
            path=path,
            role=role,
            target=target,
            pose=frame.pose,
            optics=frame.optics,
            electrons=round(float(frame.electrons().sum()), 1),
            charged_e_per_A2=frame.charged_e_per_A2,
            sha256=hashlib.sha256(np.ascontiguousarray(frame.data).tobytes()).hexdigest(),
        )
        self.emit(stored)
        return frame, stored

    def take_scan(self, *, area: str, purpose: Purpose, detector: str, raster: Scan) -> ScanReceipt:
        """Expose one scan; the data go to the file that the receipt names."""
        exposure = Exposure(
            exposure_id=self.new_id(),
            area=area,
            purpose=purpose,
            detector=detector,
            duration_s=raster.duration_s,
            scan=raster,
        )
        receipt = self.microscope.expose(exposure)
        if isinstance(receipt, Frame):
            raise TypeError("a scan was asked for and a frame came")
        return receipt

    def stored_frame_electrons(self, name: str) -> NDArray[np.float32]:
        """Electrons of a frame of this run."""
        return read_frame(self.run_dir / "frames" / f"{name}.h5").electrons

    def stored_frame(self, name: str) -> tuple[StoredFrame, View]:
        """A frame of this run with its geometry."""
        frame = read_frame(self.run_dir / "frames" / f"{name}.h5")
        optics = OpticsState.model_validate(frame.header["optics"])
        pose = StagePose.model_validate(frame.header["pose"])
        return frame, self.view(frame.electrons.shape, optics, pose)

    def view(self, shape: tuple[int, ...], optics: OpticsState, pose: StagePose) -> View:
        """Geometry of an image taken with `optics` at `pose`."""
        if optics.pixel_size_nm is None:
            raise ValueError(f"a frame in {optics.mode.value} mode has no image geometry")
        return View((shape[0], shape[1]), optics.pixel_size_nm, self.microscope.calibration, pose)

    def relative(self, uri: str) -> str:
        """A path inside the run folder, written relative to it."""
        path = Path(uri)
        return str(path.relative_to(self.run_dir)) if path.is_relative_to(self.run_dir) else uri


_ROLES: dict[Purpose, Literal["survey", "track", "pattern"]] = {
    Purpose.SURVEY: "survey",
    Purpose.TRACK: "track",
    Purpose.ALIGN: "pattern",
}
