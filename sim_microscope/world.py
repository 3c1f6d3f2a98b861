"""The simulated world: specimen, stage, optics, column and detectors, and what they do together.

It knows no clock, no lock and no driver contract: every method takes the simulated instant.  The
adapter in front of it may come and go; the world keeps its damage, its drift and its beam.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.hardware.values import DetectorJob, OpticsState, Scan
from sim_microscope.bad_patterns import bent, with_few_spots, with_second_crystal
from sim_microscope.column import SimulatedColumn
from sim_microscope.detectors import CAMERA, DIFFRACTION, SCAN, Detectors
from sim_microscope.dose import ELECTRONS_PER_PA_S, TrueDose
from sim_microscope.exposure import Running, beam_pieces, cut, electrons_between, footprint
from sim_microscope.faults import FaultBoard
from sim_microscope.imaging import BrightField
from sim_microscope.optics import SimulatedOptics
from sim_microscope.options import Options
from sim_microscope.pattern import DiscContents, disc_contents, pattern_per_electron
from sim_microscope.randomness import stream
from sim_microscope.raster import Circumstances, Raster, prepare_raster
from sim_microscope.specimen import Specimen, TruePose
from sim_microscope.stage import SimulatedStage
from sim_microscope.truth import ExposureTruth, Truth
from sim_microscope.wear import Wear

Array = NDArray[np.float64]

_CHARGING_UM_PER_FLUX = 2.0
"""Image shift per e/Å²/s under the charging fault."""
_FRAGILE = 100.0
"""Under the fault of beam damage."""
_BLUR_STEPS = 5
_FASTEST_BLUR_UM = 5.0


@dataclass(frozen=True)
class Shutter:
    """When an exposure began and ended, where the stage was when it began, and its number."""

    number: int
    from_s: float
    to_s: float
    pose: TruePose


class World:
    """Everything that is simulated.  Not thread-safe: the owner holds the lock."""

    def __init__(self, options: Options) -> None:
        scenario = options.scenario
        self.scenario = scenario
        self.seed = options.seed
        self.faults = FaultBoard((*scenario.faults, *options.faults), options.seed)
        self.stage = SimulatedStage(scenario.stage, options.seed, self.faults)
        self.optics = SimulatedOptics(scenario, options.seed, self.faults)
        self.column = SimulatedColumn(scenario.beam, options.seed, self.faults)
        self.specimen = Specimen(scenario, options.seed)
        self.detectors = Detectors(scenario.detectors, options.seed)
        self._images = BrightField(
            self.specimen, scenario.energy_keV, scenario.optics.objective_aperture_mrad
        )
        self.dose = TrueDose()
        self._accounted_s = 0.0
        self.wear = Wear(self.dose, scenario.damage, self._harm)
        self.truth = Truth(self.specimen, self.optics.true, self.dose, self.faults.struck)

    def _harm(self) -> float:
        """How many times more harmful the beam is than the table says."""
        fragile = self.faults.active("beam-damage", self._accounted_s)
        return _FRAGILE if fragile else 1.0

    def measured_pA(self, now_s: float) -> float:
        """Current as the meter shows it."""
        return self.column.measured_pA(self.optics.now.probe_current_pA, now_s)

    def optics_state(self, now_s: float) -> OpticsState:
        """Read-back of the optics."""
        return self.optics.state(self.measured_pA(now_s))

    def true_beam_um(self, now_s: float) -> tuple[float, float]:
        """Specimen point on the axis of the beam."""
        middle = self.optics.beam_centre_um()
        pose = self.stage.true_pose(now_s)
        x, y = self.specimen.to_holder(np.array(middle[0]), np.array(middle[1]), pose)
        return float(x), float(y)

    def account(self, until_s: float, running: Running | None, number: int) -> None:
        """Book the true dose up to an instant; call it before anything changes.

        Parameters
        ----------
        running
            The scan that has been running, if any.
        number
            Of the exposure that the beam belongs to.
        """
        since, self._accounted_s = self._accounted_s, max(until_s, self._accounted_s)
        if until_s <= since:
            return
        nominal = self.optics.now.probe_current_pA * ELECTRONS_PER_PA_S
        for start, end, factor in beam_pieces(self.column, self.faults, since, until_s):
            moving = not (self.stage.is_quiet(start) and self.stage.is_quiet(end))
            for a, b in cut(start, end, moving=moving):
                pose = self.stage.true_pose(0.5 * (a + b))
                electrons = nominal * factor * (b - a)
                self.dose.add(
                    footprint(self.specimen, self.optics, pose, electrons, (a, b), running, number)
                )

    def frame(self, job: DetectorJob, shutter: Shutter, now_s: float) -> NDArray[np.generic]:
        """Raw data of one frame."""
        shape = self.detectors.shapes[job.detector]
        nominal = self.optics.now.probe_current_pA
        electrons = electrons_between(
            self.column, self.faults, nominal, shutter.from_s, shutter.to_s
        )
        pose = self.stage.true_pose(now_s)
        expected = np.zeros(shape)
        disc = None
        if job.detector == DIFFRACTION:
            disc = disc_contents(self.specimen, self.optics, pose)
        if electrons > 0:
            if job.detector == CAMERA:
                expected = self._picture(shape, shutter, pose, electrons, now_s)
            elif disc is not None:
                expected = electrons * self._pattern(disc, pose, shape, now_s)
            else:
                expected = electrons * self._still_probe(job, pose)
        self.remember(job, shutter, electrons, now_s, disc=disc)
        rng = stream(self.seed, "frame", shutter.number)
        return self.detectors.read(job.detector, expected, job.frame_s, rng)

    def _pattern(
        self, disc: DiscContents, pose: TruePose, shape: tuple[int, int], now_s: float
    ) -> Array:
        """Pattern per electron, misleading if a fault wants it so."""

        def pattern(at: TruePose) -> Array:
            return pattern_per_electron(disc, self.optics, at, shape, self.wear)

        on = self.faults.active
        seen = bent(pattern, pose) if on("bent-crystal", now_s) else pattern(pose)
        row, col = self.optics.direct_beam_px()
        centre = (shape[0] // 2 + float(row), shape[1] // 2 + float(col))
        if on("two-crystals", now_s):
            seen = with_second_crystal(seen, centre)
        if on("few-spots", now_s):
            seen = with_few_spots(seen, centre)
        return seen

    def raster(self, scan: Scan, shutter: Shutter, now_s: float) -> Raster:
        """Make the armed scan ready."""
        electrons = self.optics.now.probe_current_pA * ELECTRONS_PER_PA_S
        return prepare_raster(
            self.specimen,
            self.optics,
            shutter.pose,
            scan,
            self.detectors.shapes[SCAN],
            Circumstances(
                self.wear,
                self.seed,
                self.stage.drift_um_per_s(now_s),
                electrons * scan.dwell_s / scan.step_A**2,
            ),
        )

    def remember(
        self,
        job: DetectorJob,
        shutter: Shutter,
        electrons: float,
        now_s: float,
        *,
        disc: DiscContents | None = None,
        raster: Raster | None = None,
    ) -> None:
        """Write one exposure into the truth."""
        pose = self.stage.true_pose(now_s)
        self.truth.exposures.append(
            ExposureTruth(
                number=shutter.number,
                exposure_id=str(job.exposure_id),
                detector=job.detector,
                from_s=shutter.from_s,
                electrons=electrons,
                pose=pose,
                read=self.stage.read(now_s),
                optics=self.optics_state(now_s),
                beam_um=self.true_beam_um(now_s),
                disc=disc,
                raster=raster,
            )
        )

    def _picture(
        self,
        shape: tuple[int, int],
        shutter: Shutter,
        last: TruePose,
        electrons: float,
        now_s: float,
    ) -> Array:
        """Expected camera image, blurred by the motion during the exposure."""
        shift = np.zeros(2)
        if self.faults.active("charging", now_s):
            radius_A = self.optics.beam_diameter_nm() * 5.0
            flux = electrons / (np.pi * radius_A**2) / (shutter.to_s - shutter.from_s)
            shift = np.array([_CHARGING_UM_PER_FLUX * flux, 0.0])
        first = shutter.pose
        moved = np.hypot(last.x_um - first.x_um, last.y_um - first.y_um)
        pixel_um = (self.optics.now.pixel_size_nm or 1.0) * 1e-3
        poses = [last]
        if 0.7 * pixel_um < moved < _FASTEST_BLUR_UM:
            poses = [
                TruePose(
                    first.x_um + share * (last.x_um - first.x_um),
                    first.y_um + share * (last.y_um - first.y_um),
                    last.z_um,
                    last.alpha_deg,
                    last.beta_deg,
                )
                for share in np.linspace(0, 1, _BLUR_STEPS)
            ]
        pictures = [
            self._images.expected(shape, self.optics, pose, electrons, shift) for pose in poses
        ]
        picture = np.asarray(np.mean(pictures, axis=0))
        if self.faults.active("focus-flat", now_s):
            return np.full(shape, picture.mean())
        return picture

    def _still_probe(self, job: DetectorJob, pose: TruePose) -> Array:
        """Pattern per electron of a probe that stands still."""
        raster = prepare_raster(
            self.specimen,
            self.optics,
            pose,
            Scan(shape=(1, 1), step_A=1.0, dwell_s=job.frame_s),
            self.detectors.shapes[SCAN],
            Circumstances(self.wear, self.seed, np.zeros(2), 0.0),
        )
        return next(raster.patterns())[0].astype(np.float64)
