"""Taking the patterns of a calibration: through the guarded microscope, on a standard.

The stage and the beam are put back as they were found, also after an error.  Every exposure is
booked in the ledger like any other; the standard needs an area of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import numpy as np

from controller.calibration.recorded import Recorded, Recording
from controller.hardware.contract import Microscope
from controller.hardware.errors import UnsupportedError
from controller.hardware.values import (
    Approach,
    Exposure,
    Frame,
    Mode,
    OpticsChange,
    PartialPose,
    Purpose,
    ScanReceipt,
    StagePose,
)
from controller.perception.alignment.optics import wavelength_A

_ELECTRONS_PER_S_PER_PA = 6.241509e6
_CROSS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1), (0, 0))
"""Steps along the two axes: twice as many as there are unknowns, so that a misread one shows."""
_READINGS = 8
_BETWEEN_READINGS_S = 0.05


@dataclass(frozen=True)
class Bench:
    """The microscope and how it is lit for a calibration."""

    microscope: Microscope
    new_id: Callable[[], UUID]
    detector_sampling_mrad: float = 0.25
    beam_diameter_nm: float = 400.0
    electrons: float = 2e5
    """Per pattern."""
    frame_s: float = 0.5
    area: str = "calibration"
    say: Callable[[str], None] = lambda text: None

    def light(self) -> None:
        """Set the diffraction mode, untilted."""
        self.microscope.optics.apply(
            OpticsChange(
                mode=Mode.DIFFRACTION,
                detector_sampling_mrad=self.detector_sampling_mrad,
                beam_diameter_nm=self.beam_diameter_nm,
                probe_current_pA=self.electrons / self.frame_s / _ELECTRONS_PER_S_PER_PA,
                beam_tilt_mrad=(0.0, 0.0),
            )
        )

    def pattern(self, name: str) -> Recorded:
        """Expose one pattern; its reading is the mean of several."""
        exposure = Exposure(
            exposure_id=self.new_id(),
            area=self.area,
            purpose=Purpose.ALIGN,
            detector=self._detector(),
            duration_s=self.frame_s,
        )
        bound = self.microscope.forecast(exposure)
        self.say(f"{name}: at most {bound:.3g} e/A2")
        frame = self.microscope.expose(exposure)
        if isinstance(frame, ScanReceipt):
            raise TypeError("a frame was asked for and a scan's receipt came")
        alpha, beta = self._reading()
        return _recorded(name, frame, alpha, beta)

    def _reading(self) -> tuple[float, float]:
        poses = []
        for _ in range(_READINGS):
            poses.append(self.microscope.stage.pose())
            self.microscope.clock.sleep(_BETWEEN_READINGS_S)
        return (
            float(np.mean([p.alpha_deg for p in poses])),
            float(np.mean([p.beta_deg or 0.0 for p in poses])),
        )

    def _detector(self) -> str:
        for info in self.microscope.capabilities.detectors:
            if Mode.DIFFRACTION in info.modes:
                return info.name
        raise UnsupportedError(
            f"no detector works in diffraction mode, there are "
            f"{[d.name for d in self.microscope.capabilities.detectors]}; nothing was exposed. "
            f"Calibrate from recorded patterns instead"
        )

    def name(self) -> str:
        """The instrument in words."""
        made = self.microscope.capabilities
        return f"{made.vendor} {made.model}"


def acquire_tilt_axes(bench: Bench, *, step_deg: float = 1.0) -> Recording:
    """Patterns on a cross and its corners about the present reading, and in the middle again.

    Raises
    ------
    LimitError
        The step leaves the holder's range. Nothing more has moved.
    """
    patterns = []
    with _put_back(bench) as start:
        bench.light()
        for n, (da, db) in enumerate(_CROSS):
            target = PartialPose(
                alpha_deg=start.alpha_deg + da * step_deg,
                beta_deg=None if start.beta_deg is None else start.beta_deg + db * step_deg,
            )
            bench.microscope.stage.move(target, approach=Approach.FROM_BELOW)
            patterns.append(bench.pattern(f"{n:02d}"))
    return Recording(tuple(patterns), bench.name())


def acquire_rings(bench: Bench, *, places: int = 3, apart_um: float = 1.0) -> Recording:
    """Ring patterns at some places of a polycrystalline standard, along y."""
    patterns = []
    with _put_back(bench) as start:
        bench.light()
        for n in range(places):
            to = PartialPose(x_um=start.x_um, y_um=start.y_um + n * apart_um)
            bench.microscope.stage.move(to)
            patterns.append(bench.pattern(f"{n:02d}"))
    return Recording(tuple(patterns), bench.name())


def acquire_beam_tilts(bench: Bench, *, step_mrad: float = 12.0) -> Recording:
    """Patterns without beam tilt, on a cross and its corners, and without again.

    Raises
    ------
    LimitError
        The column does not tilt the beam so far. Nothing more was exposed.
    """
    patterns = []
    with _put_back(bench):
        bench.light()
        for n, (bx, by) in enumerate(_CROSS):
            tilt = (bx * step_mrad, by * step_mrad)
            bench.microscope.optics.apply(OpticsChange(mode=Mode.DIFFRACTION, beam_tilt_mrad=tilt))
            patterns.append(bench.pattern(f"{n:02d}"))
    return Recording(tuple(patterns), bench.name())


def go_to(microscope: Microscope, place_um: Sequence[float]) -> None:
    """Bring a specimen point (x, y) under the beam."""
    microscope.stage.move(PartialPose(x_um=place_um[0], y_um=place_um[1]))


@contextmanager
def _put_back(bench: Bench) -> Iterator[StagePose]:
    start = bench.microscope.stage.pose()
    try:
        yield start
    finally:
        bench.microscope.blank("the calibration ends")
        if bench.microscope.optics.state().mode is Mode.DIFFRACTION:
            bench.microscope.optics.apply(OpticsChange(beam_tilt_mrad=(0.0, 0.0)))
        bench.microscope.stage.move(
            PartialPose(
                x_um=start.x_um,
                y_um=start.y_um,
                alpha_deg=start.alpha_deg,
                beta_deg=start.beta_deg,
            ),
            approach=Approach.FROM_BELOW,
        )


def _recorded(name: str, frame: Frame, alpha_deg: float, beta_deg: float) -> Recorded:
    counts = frame.electrons().astype(np.float64)
    if frame.valid is not None:
        counts = np.where(frame.valid, counts, np.nan)
    optics = frame.optics
    if optics.detector_sampling_mrad is None:
        raise UnsupportedError(
            "the optics give no nominal angle per detector pixel; the pattern was taken but cannot "
            "be used. Calibrate from recorded patterns with --inv-A-per-px instead"
        )
    return Recorded(
        id=name,
        counts=counts,
        energy_keV=optics.energy_keV,
        inv_A_per_px=optics.detector_sampling_mrad * 1e-3 / wavelength_A(optics.energy_keV),
        alpha_deg=alpha_deg,
        beta_deg=beta_deg,
        beam_tilt_mrad=optics.beam_tilt_mrad,
        utc=frame.utc,
        charged_e_per_A2=frame.charged_e_per_A2,
    )
