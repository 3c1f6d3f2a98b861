"""From counts to an image that knows how good it is: behind ``lodestem reconstruct``."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recon.calibrate import Calibrated, calibrate
from recon.calibration import Calibration, Measured
from recon.dataset import Dataset4D
from recon.geometry import rotation_matrix, scan_positions_A, scanned_rectangle
from recon.judge import error_map, judge_verdict, measure_resolution
from recon.metrics import RingCorrelation, Spot
from recon.parallax import phase_image, resample
from recon.params import ReconstructionParams
from recon.result import Curves, ProgressEvent, Reconstruction, Resolution, Stage

if TYPE_CHECKING:
    from recon.engine import EngineResult, Watcher

MAX_HALF_PASSES = 8
"""Half the electrons are fitted sooner; what comes later is noise that would flatter nobody."""

Progress = Callable[[ProgressEvent], None]
Image = NDArray[np.float32]


@dataclass
class _Clock:
    """Seconds spent in each stage."""

    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: Stage) -> None:
        now = time.perf_counter()
        self.stages[stage] = round(now - self._last, 3)
        self._last = now


@dataclass(frozen=True)
class _Fit:
    """What either engine hands to the judge."""

    calibration: Calibration
    phase: Image
    slices: Image
    probe: NDArray[np.complex64]
    pixel_size_A: float
    scan_centre_px: tuple[float, float]
    halves: tuple[Image, Image] | None
    curves: Curves
    best_pass: int
    stopped_because: str


def reconstruct(
    dataset: Dataset4D,
    params: ReconstructionParams | None = None,
    *,
    rng_seed: int = 0,
    progress: Progress | None = None,
    on_pass: "Watcher | None" = None,
) -> Reconstruction:
    """Calibrate, reconstruct, stop, and say how good the result is.

    Deterministic for a seed on one machine. ``progress`` and ``on_pass`` (which gets the
    state of the fit after every pass) are called from the calling thread.

    Raises
    ------
    DataError
        The data cannot be reconstructed; the message names the reason and the remedy.
    CalibrationError
        Too few electrons to find even the bright-field disc.
    """
    params = params or ReconstructionParams()
    tell = progress or (lambda event: None)
    clock = _Clock()
    rng = np.random.default_rng(rng_seed)
    tell(ProgressEvent("calibrate", 0.0, "bright-field disc, rotation and defocus"))
    calibrated = calibrate(dataset, params)
    clock.lap("calibrate")
    warnings = list(calibrated.warnings)
    if params.engine == "parallax":
        fit = _fit_parallax(dataset, calibrated, rng)
    else:
        fit = _fit_multislice(dataset, calibrated, params, rng, tell, on_pass)
    clock.lap("reconstruct")
    tell(ProgressEvent("judge", 0.97, "resolution and verdict"))
    header = dataset.header
    matrix = (
        rotation_matrix(fit.calibration.rotation_deg.value)
        @ np.array(fit.calibration.affine)
        * header.scan_step_A
    )
    region = scanned_rectangle(header.scan_shape, matrix, fit.pixel_size_A, fit.scan_centre_px)
    resolution, frc, spots = _judge(fit, region, matrix, calibrated.patterns.n_electrons)
    warnings += _quality_warnings(fit, resolution)
    parallax, _ = resample(
        phase_image(calibrated.spectra, calibrated.shear), matrix, header.scan_step_A / 2
    )
    clock.lap("judge")
    tell(ProgressEvent("judge", 1.0, "done"))
    return Reconstruction(
        header=header,
        params=params,
        calibration=fit.calibration,
        phase_rad=fit.phase,
        phase_sigma_rad=None if fit.halves is None else error_map(*fit.halves, fit.pixel_size_A),
        slices_phase_rad=fit.slices,
        pixel_size_A=fit.pixel_size_A,
        scan_centre_px=fit.scan_centre_px,
        probe=fit.probe,
        positions_A=scan_positions_A(header.scan_shape, matrix),
        scan_matrix_A=matrix,
        parallax_phase_rad=parallax,
        curves=fit.curves,
        frc=frc,
        spots=tuple(spots),
        resolution=resolution,
        passes=len(fit.curves.fitted),
        best_pass=fit.best_pass,
        stopped_because=fit.stopped_because,
        elapsed_s=round(time.perf_counter() - clock.started, 3),
        peak_memory_MB=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        verdict=judge_verdict(header, fit.calibration, resolution),
        warnings=tuple(warnings),
        source=dataset.source,
        source_sha256=dataset.sha256,
        rng_seed=rng_seed,
        timings_s=clock.stages,
    )


def _judge(
    fit: _Fit, region: tuple[slice, slice], matrix: NDArray[np.float64], electrons: int
) -> tuple[Resolution, RingCorrelation | None, list[Spot]]:
    halves = None if fit.halves is None else tuple(half[region] for half in fit.halves)
    return measure_resolution(
        fit.phase[region],
        (halves[0], halves[1]) if halves else None,
        fit.pixel_size_A,
        raster=matrix,
        electrons=float(electrons),
    )


def _quality_warnings(fit: _Fit, resolution: Resolution) -> list[str]:
    warnings = []
    if not np.isfinite(fit.phase).all():
        warnings.append("the phase is not finite everywhere: the fit diverged, do not use it")
    if fit.halves is not None and not np.isfinite(resolution.frc_half_A):
        warnings.append("the two half sets do not agree at any resolution: this image is noise")
    return warnings


def _fit_parallax(dataset: Dataset4D, calibrated: Calibrated, rng: np.random.Generator) -> _Fit:
    """Tilt-corrected bright field only: seconds, no model, two to three ångström."""
    from recon.parallax import BrightFieldSpectra

    header = dataset.header
    matrix = rotation_matrix(calibrated.calibration.rotation_deg.value) * header.scan_step_A
    pixel = header.scan_step_A / 2
    image, centre = resample(phase_image(calibrated.spectra, calibrated.shear), matrix, pixel)
    halves = [
        resample(phase_image(BrightFieldSpectra(half, header), calibrated.shear), matrix, pixel)[0]
        for half in calibrated.patterns.split(0.5, rng)
    ]
    return _Fit(
        calibration=calibrated.calibration,
        phase=image,
        slices=image[None],
        probe=np.zeros((0, calibrated.patterns.n, calibrated.patterns.n), np.complex64),
        pixel_size_A=pixel,
        scan_centre_px=centre,
        halves=(halves[0], halves[1]),
        curves=Curves(),
        best_pass=0,
        stopped_because="direct method",
    )


def _fit_multislice(
    dataset: Dataset4D,
    calibrated: Calibrated,
    params: ReconstructionParams,
    rng: np.random.Generator,
    tell: Progress,
    on_pass: "Watcher | None",
) -> _Fit:
    from recon.engine import fit_fixed, fit_until_turn
    from recon.joint_calibration import slices_for
    from recon.ptychography.experiment import Experiment

    patterns, calibration = calibrated.patterns, calibrated.calibration
    n_slices = slices_for(calibration.thickness_A.value, params)
    start = Experiment.of(dataset.header, patterns, calibration, n_slices)
    share = 0.55 if params.half_set_frc else 0.95

    def during(number: int, part: float, fitted: float, held: float) -> None:
        early = params.calibration_passes
        done = 0.02 + share * max(number - 1 + part + early, 0) / (params.max_passes + early)
        message = f"pass {number}" if number > 0 else f"calibration pass {number + early}"
        tell(ProgressEvent("reconstruct", done, message, max(number, 0), fitted, held))

    main = fit_until_turn(
        start, patterns, params, rng, during,
        nominal_thickness_A=dataset.header.nominal_thickness_A, on_pass=on_pass,
    )  # fmt: skip
    refined = _refined(calibration, main)
    halves: list[EngineResult] = []
    half_passes = min(main.best_pass, MAX_HALF_PASSES)
    if params.half_set_frc:
        for index, half in enumerate(patterns.split(0.5, rng)):

            def on_half(number: int, part: float, *_: float, index: int = index) -> None:
                done = (index + (number - 1 + part) / half_passes) / 2
                fraction = 0.02 + share + (0.95 - share) * done
                tell(ProgressEvent("halves", fraction, f"half set {index + 1}", number))

            halves.append(
                fit_fixed(
                    main.experiment, main.canvas, half, params, rng,
                    passes=half_passes, on_progress=on_half,
                )
            )  # fmt: skip
    probe = main.experiment.entrance_probe()[None].to("cpu").numpy().astype(np.complex64)
    return _Fit(
        calibration=refined,
        phase=main.phase(),
        slices=main.slices.cpu().numpy(),
        probe=probe,
        pixel_size_A=main.experiment.grid.sampling_A,
        scan_centre_px=main.canvas.scan_centre_px,
        halves=(halves[0].phase(), halves[1].phase()) if halves else None,
        curves=Curves(main.fitted, main.held_out, main.defocus_A),
        best_pass=main.best_pass,
        stopped_because=main.stopped_because,
    )


def _refined(calibration: Calibration, main: "EngineResult") -> Calibration:
    """The calibration with the values that moved together with the object."""
    experiment, sigma = main.experiment, main.refined_sigma
    values = {
        "defocus_A": experiment.defocus_A,
        "C12a_A": experiment.C12a_A,
        "C12b_A": experiment.C12b_A,
        "rotation_deg": experiment.rotation_deg,
        "tilt_row_mrad": experiment.tilt_mrad[0],
        "tilt_col_mrad": experiment.tilt_mrad[1],
        "thickness_A": experiment.thickness_A,
    }
    changes = {
        name: Measured(float(value), sigma[name], "joint")
        for name, value in values.items()
        if name in sigma
    }
    strain = [sigma[name] for name in ("scale", "stretch", "shear") if name in sigma]
    spread = float(np.hypot.reduce(strain)) if strain else float("nan")
    return calibration.changed(changes, affine=experiment.affine, affine_sigma=spread)
