"""The simulated microscope behind the driver contract.

`SimulatedAdapter` joins stage, optics, column, specimen and detectors, keeps the one lock, lives by
the clock it is given, and books the true dose.  Nothing here sleeps but through the clock, and
no random number depends on anything but the seed, counts and simulated instants.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controller.hardware.clock import Clock, VirtualClock, WallClock
from controller.hardware.errors import (
    ArmFailedError,
    ExposureTimeoutError,
    LimitError,
    ModeError,
    UnsupportedError,
)
from controller.hardware.values import (
    Axis,
    AxisState,
    BlankInfo,
    Calibration,
    Capabilities,
    ColumnHealth,
    DetectorJob,
    FrameBatch,
    LongOperation,
    LongOperationResult,
    Mode,
    OpticsChange,
    OpticsState,
    RawFrame,
    ScanInfo,
    StageLimits,
    StagePose,
)
from sim_microscope.column import OPERATION_S, SimulatedColumn
from sim_microscope.detectors import CAMERA, DIFFRACTION, READOUT_S, SCAN, Detectors
from sim_microscope.dose import ELECTRONS_PER_PA_S, TrueDose
from sim_microscope.exposure import (
    Running,
    beam_pieces,
    cut,
    electrons_between,
    electrons_per_frame,
    footprint,
)
from sim_microscope.faults import FaultBoard
from sim_microscope.imaging import BrightField
from sim_microscope.optics import BEAM_DIAMETER_NM, SimulatedOptics
from sim_microscope.options import Options, PacedClock, read_options
from sim_microscope.pattern import disc_contents, pattern_per_electron
from sim_microscope.randomness import stream
from sim_microscope.raster import BATCH, prepare_raster
from sim_microscope.scenario import Scenario
from sim_microscope.specimen import Specimen, TruePose
from sim_microscope.stage import SimulatedStage
from sim_microscope.truth import ExposureTruth, Truth
from sim_microscope.wear import Wear

Array = NDArray[np.float64]

_CHARGING_UM_PER_FLUX = 2.0
"""Image shift per e/Å²/s under the charging fault."""
_BLUR_STEPS = 5


@dataclass
class _Armed:
    """What is armed, and when it began."""

    job: DetectorJob
    number: int
    from_s: float | None = None
    pose: TruePose | None = None
    aborted: bool = False


def open_adapter(
    options: Mapping[str, str | int | float | bool | tuple[str, ...] | None],
    *,
    clock: Clock | None = None,
    run_dir: Path | None = None,
) -> SimulatedAdapter:
    """Open a simulated microscope, beam blanked.

    Parameters
    ----------
    options
        ``scenario`` (name or path), ``seed``, ``faults`` (tuple of ``NAME@WHEN``), ``realtime`` and
        ``speed`` (a wall clock that runs that many times as fast).
    clock
        Default: a new virtual clock, or a paced wall clock with ``realtime``.
    run_dir
        Where ``truth.h5`` is written at the end; nowhere if None.

    Raises
    ------
    ValueError
        An unknown key or a bad value, named, with the remedy.
    """
    wanted = read_options(options)
    if clock is None:
        clock = PacedClock(WallClock(), wanted.speed) if wanted.realtime else VirtualClock()
    return SimulatedAdapter(wanted, clock, run_dir)


class SimulatedAdapter:
    """Implements ``controller.hardware.contract.Adapter`` on simulated physics."""

    def __init__(self, options: Options, clock: Clock, run_dir: Path | None) -> None:
        scenario: Scenario = options.scenario
        self._scenario = scenario
        self._seed = options.seed
        self._clock = clock
        self._origin_s = clock.now_s()
        self._run_dir = run_dir
        self._lock = threading.RLock()
        self._faults = FaultBoard((*scenario.faults, *options.faults), options.seed)
        self._stage = SimulatedStage(scenario.stage, options.seed, self._faults)
        self._optics = SimulatedOptics(scenario, options.seed, self._faults)
        self._column = SimulatedColumn(scenario.beam, options.seed, self._faults)
        self._specimen = Specimen(scenario, options.seed)
        self._detectors = Detectors(scenario.detectors, options.seed)
        self._images = BrightField(
            self._specimen, scenario.energy_keV, scenario.optics.objective_aperture_mrad
        )
        dose = TrueDose()
        self._wear = Wear(dose, scenario.damage)
        self._truth = Truth(self._specimen, self._optics.true, dose, self._faults.struck)
        self._armed: _Armed | None = None
        self._running: Running | None = None
        self._late: RawFrame | None = None
        self._last_job: DetectorJob | None = None
        self._number = 0
        self._accounted_s = 0.0
        self._closed = False

    # --- what it is ------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """What this instrument can do."""
        spec = self._scenario
        play = max(spec.stage.x.play, spec.stage.y.play)
        wander = (play / 3.5, spec.stage.x.repeatability, spec.optics.mode_offset_nm * 1e-3, 0.03)
        return Capabilities(
            vendor="lodestem",
            model=f"simulated column ({spec.name})",
            api="in process",
            adapter_version="1",
            simulated=True,
            axes=self._stage.axes(),
            blank=BlankInfo(
                latency_s=spec.beam.blank_latency_s,
                readable=True,
                independent=True,
                kind="electrostatic",
            ),
            current_from="gun",
            current_relative_sigma=float(np.hypot(spec.beam.read_noise, spec.beam.current_noise)),
            max_current_pA=1.4 * spec.beam.max_current_pA,
            detectors=self._detectors.describe(),
            scan=ScanInfo(max_shape=(1024, 1024), min_dwell_s=1e-5),
            modes=frozenset(Mode),
            beam_diameter_nm=BEAM_DIAMETER_NM,
            beam_tail_factor=1 + 4 * spec.beam.edge_share,
            position_sigma_nm=1e3 * float(np.linalg.norm(wander)),
            eucentric_sigma_um=float(
                np.hypot(
                    spec.specimen.film.height_sigma_um, abs(spec.specimen.film.height_offset_um)
                )
            ),
            long_operations=frozenset(LongOperation),
            dead_man="none",
        )

    @property
    def calibration(self) -> Calibration:
        """Stored calibration; the truth differs."""
        return self._optics.calibration

    @property
    def clock(self) -> Clock:
        """The clock this instrument lives by."""
        return self._clock

    @property
    def truth(self) -> Truth:
        """For tests and reports only."""
        with self._lock:
            self._account()
            return self._truth

    @property
    def faults(self) -> FaultBoard:
        """For tests: inject and clear faults by name."""
        return self._faults

    def is_beam_on_specimen(self) -> bool:
        """Truth, not the blanker's word."""
        with self._lock:
            now = self._now()
            lit = any(on <= now < off for on, off in self._column.openings(now - 1e-9, now + 1e-9))
            return lit and self._column.passes(now)

    def true_pose(self) -> TruePose:
        """Where the specimen really is now."""
        with self._lock:
            return self._stage.true_pose(self._now())

    # --- stage -----------------------------------------------------------------------------

    def read_pose(self) -> StagePose:
        """Present read-back."""
        with self._lock:
            return self._stage.read(self._now())

    def start_move(self, axis: Axis, target: float) -> None:
        """Start moving one axis.

        Raises
        ------
        LimitError
            Outside the holder's range; nothing moves.
        """
        low, high = self._stage.limits().ranges[axis]
        if not low <= target <= high:
            raise LimitError(
                f"{axis.value} = {target:g} is outside the holder's {low:g} .. {high:g}; "
                f"nothing has moved. Choose a target inside"
            )
        with self._lock:
            self._account()
            self._stage.start_move(axis, target, self._now())

    def axis_state(self, axis: Axis) -> AxisState:
        """Status as reported."""
        with self._lock:
            return self._stage.axis_state(axis, self._now())

    def halt(self) -> None:
        """Stop all axes."""
        with self._lock:
            self._account()
            self._stage.halt(self._now())

    def holder_limits(self) -> StageLimits:
        """What the holder allows."""
        return self._stage.limits()

    # --- optics and column ------------------------------------------------------------------

    def read_optics(self) -> OpticsState:
        """Read back."""
        with self._lock:
            return self._optics.state(self._measured_pA())

    def write_optics(self, change: OpticsChange) -> None:
        """Send settings; see `SimulatedOptics.write`."""
        with self._lock:
            self._account()
            now = self._now()
            self._optics.write(change, now, self._column.current_factor(now))

    def read_health(self) -> ColumnHealth:
        """Interlocks now."""
        with self._lock:
            return self._column.health(self._optics.now.probe_current_pA, self._now())

    def run_operation(self, operation: LongOperation) -> LongOperationResult:
        """Carry out a long operation and wait for its end."""
        if operation not in OPERATION_S:
            raise UnsupportedError(f"{operation.value} is not offered; nothing was done")
        began = self._now()
        self._clock.sleep(OPERATION_S[operation])
        with self._lock:
            self._account()
            return self._column.finish(operation, began, self._now())

    # --- beam --------------------------------------------------------------------------------

    def open_beam(self) -> None:
        """Beam on; the armed exposure begins."""
        with self._lock:
            self._account()
            now = self._now()
            self._column.open(now)
            self._begin(now)

    def blank_beam(self) -> None:
        """Beam off. Idempotent."""
        with self._lock:
            self._account()
            gone_s = self._column.blank(self._now())
            if self._column.is_blanked():
                self._account(gone_s)

    def read_blanked(self) -> bool | None:
        """What the blanker says."""
        with self._lock:
            return self._column.is_blanked()

    # --- detectors -----------------------------------------------------------------------------

    def arm(self, job: DetectorJob) -> None:
        """Prepare detector and scan engine.

        Raises
        ------
        UnsupportedError, ModeError, LimitError
            No such detector, not in this mode, or a time or shape outside its range.
        ArmFailedError
            The detector did not answer.
        """
        with self._lock:
            now = self._now()
            self._check(job)
            self._faults.count("step", now)
            if self._faults.take("arm-fails", now) is not None:
                raise ArmFailedError(
                    f"detector {job.detector} did not arm; the beam is blanked. Arm it again"
                )
            self._account()
            self._number += 1
            self._armed = _Armed(job, self._number)
            self._running = None

    def collect(self, timeout_s: float) -> RawFrame:
        """Wait for the armed frame; a dark frame if the beam was never opened."""
        armed = self._require_armed(scan=False)
        job = armed.job
        with self._lock:
            now = self._now()
            self._begin(now)
            lost = self._faults.take("camera-timeout", now) is not None
            late = self._faults.take("late-frame", now) is not None
            began = armed.from_s if armed.from_s is not None else now
        end = began + job.frame_s * job.frames
        ready = end + READOUT_S[job.detector]
        if lost or late or ready - now > timeout_s:
            self._clock.sleep(timeout_s)
            with self._lock:
                self._account()
            if late:
                self._late = RawFrame(job.exposure_id, armed.number, self._frame(armed, began, end))
            raise ExposureTimeoutError(
                f"no frame from {job.detector} within {timeout_s:g} s (exposure of "
                f"{job.frame_s:g} s); blank the beam, abort and arm again"
            )
        self._clock.sleep(ready - now)
        with self._lock:
            self._account()
            if armed.aborted:
                raise ExposureTimeoutError(
                    f"the exposure on {job.detector} was aborted; there is no frame"
                )
            stale = self._faults.take("stale-frame", self._now()) is not None
            if self._late is not None:
                frame, self._late = self._late, None
                return frame
        data = self._frame(armed, began, end)
        job_id = self._last_job.exposure_id if stale and self._last_job else job.exposure_id
        self._last_job = job
        self._armed = None
        number = armed.number - 1 if stale else armed.number
        return RawFrame(job_id=job_id, sequence=number, data=data)

    def stream(self, timeout_s: float) -> Iterator[FrameBatch]:
        """Yield the frames of the armed scan; dark where the beam was off."""
        armed = self._require_armed(scan=True)
        with self._lock:
            now = self._now()
            self._begin(now)
            drops = self._faults.take("dropped-frames", now) is not None
            short = self._faults.take("short-scan", now) is not None
            twice = self._faults.take("repeated-frames", now) is not None
            lost = self._faults.take("camera-timeout", now) is not None
        if lost:
            self._clock.sleep(timeout_s)
            raise ExposureTimeoutError(
                f"no frame from {armed.job.detector} within {timeout_s:g} s; "
                f"blank the beam, abort and arm again"
            )
        for batch in self._scan_frames(armed):
            if armed.aborted:
                return
            first, count = batch.first_sequence, len(batch.data)
            if short and first > 0.6 * armed.job.frames:
                break
            if drops and (first // BATCH) % 5 == 3 and count > 4:
                yield FrameBatch(batch.job_id, first, batch.data[: count // 2])
                yield FrameBatch(batch.job_id, first + count // 2 + 2, batch.data[count // 2 + 2 :])
                continue
            yield batch
            if twice and (first // BATCH) % 7 == 2:
                yield batch
        self._armed = None

    def abort(self) -> None:
        """Disarm and drain."""
        with self._lock:
            if self._armed is not None:
                self._armed.aborted = True
            self._armed = None
            self._late = None

    def close(self) -> None:
        """Blank; write the truth if there is a run folder."""
        self.blank_beam()
        self.abort()
        if not self._closed and self._run_dir is not None:
            self.write_truth(self._run_dir / "truth.h5")
        self._closed = True

    def write_truth(self, path: Path) -> None:
        """Write the truth so far; never for the eyes of the controller."""
        self.truth.write(path)

    # --- inside --------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._clock.now_s() - self._origin_s

    def _measured_pA(self) -> float:
        return self._column.measured_pA(self._optics.now.probe_current_pA, self._now())

    def _begin(self, now_s: float) -> None:
        armed = self._armed
        if armed is not None and armed.from_s is None:
            armed.from_s = now_s
            armed.pose = self._stage.true_pose(now_s)
            scan = armed.job.scan
            self._running = None if scan is None else Running(scan, now_s)

    def _check(self, job: DetectorJob) -> None:
        known = {info.name: info for info in self._detectors.describe()}
        if job.detector not in known:
            raise UnsupportedError(
                f"no detector {job.detector!r}; there are {', '.join(known)}. Nothing was armed"
            )
        info = known[job.detector]
        if self._optics.mode not in info.modes:
            raise ModeError(
                f"{job.detector} works in mode {', '.join(m.value for m in info.modes)}, the "
                f"optics are in {self._optics.mode.value}; nothing was armed. Change the mode first"
            )
        if (job.scan is not None) and not info.can_scan:
            raise UnsupportedError(f"{job.detector} cannot scan; nothing was armed")
        if not info.min_exposure_s <= job.frame_s <= info.max_exposure_s:
            raise LimitError(
                f"a frame of {job.frame_s:g} s is outside {info.min_exposure_s:g} .. "
                f"{info.max_exposure_s:g} s of {job.detector}; nothing was armed"
            )

    def _require_armed(self, *, scan: bool) -> _Armed:
        armed = self._armed
        if armed is None or (armed.job.scan is not None) != scan:
            wanted = "scan" if scan else "frame"
            raise ArmFailedError(f"no {wanted} is armed; the beam is left as it was. Arm first")
        return armed

    def _account(self, until_s: float | None = None) -> None:
        """Book the true dose up to `until_s` (default: now)."""
        until = self._now() if until_s is None else until_s
        since, self._accounted_s = self._accounted_s, max(until, self._accounted_s)
        if until <= since:
            return
        nominal = self._optics.now.probe_current_pA * ELECTRONS_PER_PA_S
        for start, end, factor in beam_pieces(self._column, self._faults, since, until):
            moving = not (self._stage.is_quiet(start) and self._stage.is_quiet(end))
            for a, b in cut(start, end, moving=moving):
                pose = self._stage.true_pose(0.5 * (a + b))
                electrons = nominal * factor * (b - a)
                for deposit in footprint(
                    self._specimen,
                    self._optics,
                    pose,
                    electrons,
                    (a, b),
                    self._running,
                    self._number,
                ):
                    self._truth.dose.add(deposit)

    def _frame(self, armed: _Armed, began_s: float, end_s: float) -> NDArray[np.generic]:
        """Raw data of one frame."""
        job = armed.job
        shape = self._detectors.shapes[job.detector]
        nominal = self._optics.now.probe_current_pA
        electrons = electrons_between(self._column, self._faults, nominal, began_s, end_s)
        pose = self._stage.true_pose(self._now())
        expected = np.zeros(shape)
        disc = None
        if job.detector == DIFFRACTION:
            disc = disc_contents(self._specimen, self._optics, pose)
        if electrons > 0:
            if job.detector == CAMERA:
                expected = self._picture(shape, armed.pose or pose, pose, electrons, job.frame_s)
            elif disc is not None:
                expected = electrons * pattern_per_electron(
                    disc, self._optics, pose, shape, self._wear
                )
            else:
                expected = self._still(armed, pose, electrons)
        self._remember(armed, began_s, electrons, pose, disc=disc)
        rng = stream(self._seed, "frame", armed.number)
        return self._detectors.read(job.detector, expected, job.frame_s, rng)

    def _picture(
        self,
        shape: tuple[int, int],
        first: TruePose,
        last: TruePose,
        electrons: float,
        duration_s: float,
    ) -> Array:
        """Expected camera image, blurred by the drift during the exposure."""
        shift = np.zeros(2)
        if self._faults.active("charging", self._now()):
            radius_A = self._optics.beam_diameter_nm() * 5.0
            flux = electrons / (np.pi * radius_A**2) / duration_s
            shift = np.array([_CHARGING_UM_PER_FLUX * flux, 0.0])
        moved = np.hypot(last.x_um - first.x_um, last.y_um - first.y_um)
        pixel_um = (self._optics.now.pixel_size_nm or 1.0) * 1e-3
        poses = [last]
        if 0.7 * pixel_um < moved < 5.0:
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
            self._images.expected(shape, self._optics, pose, electrons, shift) for pose in poses
        ]
        return np.asarray(np.mean(pictures, axis=0))

    def _still(self, armed: _Armed, pose: TruePose, electrons: float) -> Array:
        """The pattern of a probe that stands still."""
        from controller.hardware.values import Scan

        scan = Scan(shape=(1, 1), step_A=1.0, dwell_s=armed.job.frame_s)
        raster = prepare_raster(
            self._specimen,
            self._optics,
            pose,
            scan,
            self._detectors.shapes[SCAN],
            self._wear,
            seed=self._seed,
            drift_um_per_s=np.zeros(2),
        )
        return electrons * next(raster.patterns())[0].astype(np.float64)

    def _scan_frames(self, armed: _Armed) -> Iterator[FrameBatch]:
        job = armed.job
        scan = job.scan
        if scan is None or armed.from_s is None:
            return
        shape = self._detectors.shapes[job.detector]
        pose = armed.pose or self._stage.true_pose(self._now())
        raster = prepare_raster(
            self._specimen,
            self._optics,
            pose,
            scan,
            shape,
            self._wear,
            seed=self._seed + armed.number,
            drift_um_per_s=self._stage.drift_um_per_s(self._now()),
        )
        nominal = self._optics.now.probe_current_pA
        rng = stream(self._seed, "frame", armed.number)
        begins: Array = armed.from_s + np.arange(scan.positions) * scan.dwell_s
        begins += (np.arange(scan.positions) // scan.shape[1]) * scan.flyback_s
        first, total = 0, 0.0
        try:
            for patterns in raster.patterns():
                times = begins[first : first + len(patterns)]
                self._clock.sleep(float(times[-1]) + scan.dwell_s - self._now())
                if armed.aborted:
                    return
                with self._lock:
                    electrons = electrons_per_frame(
                        self._column, self._faults, nominal, times, scan.dwell_s
                    )
                total += float(electrons.sum())
                expected = patterns * electrons[:, None, None]
                data = self._detectors.read(job.detector, expected, scan.dwell_s, rng)
                yield FrameBatch(job.exposure_id, first, data)
                first += len(patterns)
        finally:  # whoever listens may stop at the last frame
            self._remember(armed, armed.from_s, total, pose, raster=raster)

    def _remember(
        self,
        armed: _Armed,
        began_s: float,
        electrons: float,
        pose: TruePose,
        **parts: object,
    ) -> None:
        column_x, column_y = self._optics.beam_centre_um()
        x, y = self._specimen.to_holder(np.array(column_x), np.array(column_y), pose)
        self._truth.exposures.append(
            ExposureTruth(
                number=armed.number,
                exposure_id=str(armed.job.exposure_id),
                detector=armed.job.detector,
                from_s=began_s,
                electrons=electrons,
                pose=pose,
                read=self._stage.read(self._now()),
                optics=self._optics.state(self._measured_pA()),
                beam_um=(float(x), float(y)),
                **parts,  # type: ignore[arg-type]
            )
        )
