"""From counts to an image that knows how good it is: behind ``lodestem reconstruct``."""

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recon.calibrate import Calibrated, calibrate, refuse_apart
from recon.calibration import Calibration, Measured
from recon.dataset import Dataset4D
from recon.geometry import judged_field, rotation_matrix, scan_positions_A
from recon.judge import (
    SHARED,
    as_confirmed,
    distortion_limit_A,
    error_map,
    judge_verdict,
    measure_resolution,
    model_warnings,
    with_model_errors,
)
from recon.metrics import RingCorrelation, Spot
from recon.parallax import phase_image, resample
from recon.params import ReconstructionParams
from recon.patterns import Patterns
from recon.progress import part_done
from recon.result import Curves, ProgressEvent, Reconstruction, Resolution, Stage

if TYPE_CHECKING:
    from recon.direct.phase import DirectEngine
    from recon.engine import EngineResult, Watcher
    from recon.execution import Execution

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
    finest_A: float = 0.0
    """What the raster of a direct image carries; agreement beyond it is that of interpolation."""
    shared: float = 0.0
    """Correlation of the halves that is no agreement with the truth."""
    full_size: bool = False
    """Phases are not damped: the noise of the electrons bounds theirs from below."""
    explained_share: float = float("nan")
    priors: tuple[str, ...] = ()
    residual: Image | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Watch:
    """Who hears of a fit, and how it is carried out."""

    tell: Progress
    on_pass: "Watcher | None"
    execution: "Execution | None"


def reconstruct(
    dataset: Dataset4D,
    params: ReconstructionParams | None = None,
    *,
    rng_seed: int = 0,
    progress: Progress | None = None,
    on_pass: "Watcher | None" = None,
    execution: "Execution | None" = None,
) -> Reconstruction:
    """Calibrate, reconstruct, stop, and say how good the result is.

    Deterministic for a seed on one machine. ``progress`` and ``on_pass`` (which gets the
    state of the fit after every pass) are called from the calling thread.
    ``execution`` says with which other processes and checkpoints; default: alone and without.

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
    dataset = with_nominal_defocus(dataset, params)
    calibrated = calibrate(dataset, params)
    clock.lap("calibrate")
    warnings = [*dataset.warnings, *calibrated.warnings]
    if params.engine != "multislice":
        fit = _fit_direct(dataset, calibrated, params, params.engine, rng)
    else:
        found = calibrated.calibration.defocus_A.value
        refuse_apart(dataset.header, (dataset.header.defocus_A, found))
        watch = _Watch(tell, on_pass, execution)
        fit = _fit_multislice(dataset, calibrated, params, rng, watch)
    clock.lap("reconstruct")
    tell(ProgressEvent("judge", 0.97, "resolution and verdict"))
    header = dataset.header
    matrix = (
        rotation_matrix(fit.calibration.rotation_deg.value)
        @ np.array(fit.calibration.affine)
        * header.scan_step_A
    )
    region = judged_field(header.scan_shape, matrix, fit.pixel_size_A, fit.scan_centre_px)
    resolution, frc, spots = _judge(fit, region, matrix, calibrated.patterns)
    warnings += [*fit.notes, *_quality_warnings(fit, resolution)]
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
        verdict=judge_verdict(header, fit.calibration, resolution, fit.explained_share),
        warnings=tuple(warnings),
        source=dataset.source,
        source_sha256=dataset.sha256,
        rng_seed=rng_seed,
        timings_s=clock.stages,
        priors=fit.priors,
        lattice_residual_rad=fit.residual,
        explained_share=fit.explained_share,
    )


def with_nominal_defocus(dataset: Dataset4D, params: ReconstructionParams) -> Dataset4D:
    """The same counts under the defocus that the parameters call nominal, if they do."""
    if params.nominal_defocus_A is None:
        return dataset
    header = dataset.header.model_copy(update={"defocus_A": params.nominal_defocus_A})
    return replace(dataset, header=header)


def _judge(
    fit: _Fit, region: tuple[slice, slice], matrix: NDArray[np.float64], patterns: Patterns
) -> tuple[Resolution, RingCorrelation | None, list[Spot]]:
    halves = None if fit.halves is None else tuple(half[region] for half in fit.halves)
    resolution, frc, spots = measure_resolution(
        fit.phase[region],
        (halves[0], halves[1]) if halves else None,
        fit.pixel_size_A,
        raster=matrix,
        electrons=float(patterns.n_electrons),
        shared=fit.shared,
        fluence_e_per_A2=_fluence_e_per_A2(patterns, matrix) if fit.full_size else math.inf,
    )
    rows, cols = (part.stop - part.start for part in region)
    field_A = rows * fit.pixel_size_A, cols * fit.pixel_size_A
    resolution = resolution.as_distorted(distortion_limit_A(fit.calibration, field_A))
    resolution = as_confirmed(resolution, fit.explained_share)
    return resolution.no_finer_than(fit.finest_A), frc, spots


def _fluence_e_per_A2(patterns: Patterns, matrix: NDArray[np.float64]) -> float:
    area_A2 = patterns.n_patterns * abs(float(np.linalg.det(matrix)))
    return max(patterns.n_electrons, 1) / area_A2


def _quality_warnings(fit: _Fit, resolution: Resolution) -> list[str]:
    warnings = model_warnings(fit.explained_share)
    if not np.isfinite(fit.phase).all():
        warnings.append("the phase is not finite everywhere: the fit diverged, do not use it")
    if fit.halves is not None and not np.isfinite(resolution.frc_0143_A):
        warnings.append("the two half sets do not agree at any resolution: this image is noise")
    return warnings


def _fit_direct(
    dataset: Dataset4D,
    calibrated: Calibrated,
    params: ReconstructionParams,
    engine: "DirectEngine",
    rng: np.random.Generator,
) -> _Fit:
    """One direct image: seconds, no iteration; what it reaches depends on the method."""
    from recon.direct.phase import image_calibrated

    image = image_calibrated(
        dataset.header, calibrated, engine, params, rng if params.half_set_frc else None
    )
    return _Fit(
        calibration=calibrated.calibration,
        phase=image.phase_rad,
        slices=image.phase_rad[None],
        probe=np.zeros((0, calibrated.patterns.n, calibrated.patterns.n), np.complex64),
        pixel_size_A=image.pixel_size_A,
        scan_centre_px=image.centre_px,
        halves=image.halves,
        curves=Curves(),
        best_pass=0,
        stopped_because="direct method",
        finest_A=image.finest_A,
        notes=image.notes,
    )


def _fit_multislice(
    dataset: Dataset4D,
    calibrated: Calibrated,
    params: ReconstructionParams,
    rng: np.random.Generator,
    watch: "_Watch",
) -> _Fit:
    from recon.engine import close_fit, fit_fixed, fit_until_turn
    from recon.joint_calibration import Stated, is_looked_at, slices_for
    from recon.ptychography.experiment import Experiment
    from recon.ptychography.raster import make_canvas
    from recon.solvers.fit import BesideResult, Repeat, fit_beside

    tell, execution = watch.tell, watch.execution
    patterns, calibration = calibrated.patterns, calibrated.calibration
    n_slices = slices_for(calibration.thickness_A.value, params)
    start = Experiment.of(dataset.header, patterns, calibration, n_slices)
    share = 0.55 if params.half_set_frc else 0.95

    both = bool(params.refine) and params.beside_default

    def during(number: int, part: float, fitted: float, held: float, begun: float = 0.0) -> None:
        early = 0 if begun else params.calibration_passes
        passes = 0.96 * part_done(number - 1 + part + early, params.max_passes + early)
        done = 0.02 + share * (begun + passes * (0.5 if both else 1.0))
        message = f"pass {number}" if number > 0 else f"calibration pass {number + early}"
        tell(ProgressEvent("reconstruct", done, message, max(number, 0), fitted, held))

    beside: BesideResult | None = None
    refined, confirmed = calibration, float("nan")
    if params.refine or not params.beside_default:
        main = fit_until_turn(
            start, patterns, params, rng, during,
            stated=Stated(dataset.header.nominal_thickness_A, dataset.header.defocus_A),
            execution=execution,
            on_pass=watch.on_pass,
        )  # fmt: skip
        start, confirmed = main.experiment, main.explained_share
        params = params.updated(slice_coupling=main.coupling)
        refined = _refined(calibration, main, looked=is_looked_at(params))
        refined = with_model_errors(refined, confirmed)
    if params.beside_default:
        main = beside = fit_beside(
            start, make_canvas(start.positions_A(), start.grid.sampling_A, patterns.n),
            patterns, params, rng,
            on_progress=partial(during, begun=0.5 if both else 0.0), execution=execution,
        )  # fmt: skip
    elif params.closing_passes:

        def on_closing(number: int, part: float, *_: float) -> None:
            done = 0.96 + 0.04 * (number - 1 + part) / params.closing_passes
            message = f"closing pass {number}, all electrons"
            tell(ProgressEvent("reconstruct", 0.02 + share * done, message, main.best_pass))

        main = close_fit(main, patterns, params, rng, on_progress=on_closing, execution=execution)
    halves: list[EngineResult] = []
    half_passes = min(main.best_pass, MAX_HALF_PASSES if main.haste == 1 else main.best_pass)
    if params.half_set_frc:
        for index, half in enumerate(patterns.split(0.5, rng)):

            def on_half(number: int, part: float, *_: float, index: int = index) -> None:
                done = (index + (number - 1 + part) / half_passes) / 2
                fraction = 0.02 + share + (0.95 - share) * done
                tell(ProgressEvent("halves", fraction, f"half set {index + 1}", number))

            repeat = Repeat(half_passes, beside.shift_A) if beside is not None else None
            halves.append(
                fit_beside(
                    main.experiment, main.canvas, half, params, rng,
                    repeat=repeat, on_progress=on_half, execution=execution,
                )
                if repeat is not None
                else fit_fixed(
                    main.experiment, main.canvas, half, params, rng,
                    passes=half_passes, on_progress=on_half, execution=execution, haste=main.haste,
                )
            )  # fmt: skip
    probe = main.experiment.entrance_probe()[None].to("cpu").numpy().astype(np.complex64)
    if beside is not None and beside.probe is not None:
        probe = beside.probe
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
        shared=SHARED,
        full_size=True,
        explained_share=confirmed,
        stopped_because=main.stopped_because,
        priors=params.prior_labels(len(main.slices)),
        residual=None if beside is None else beside.residual,
        notes=(*(() if beside is None else beside.notes), *_prior_notes(params)),
    )


def _prior_notes(params: ReconstructionParams) -> tuple[str, ...]:
    """What has to be said about a resolution that rests on priors."""
    if not params.regularisers or not params.half_set_frc:
        return ()
    return (
        "both half sets were given the same priors beyond positivity, and agree on them: their FRC "
        "flatters; compare the held-out likelihood with that of a reconstruction without",
    )


def _refined(calibration: Calibration, main: "EngineResult", *, looked: bool) -> Calibration:
    """The calibration with the values that moved together with the object.

    ``looked``: the thickness was judged by electrons that no fit had seen.
    """
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
        name: Measured(
            float(value), sigma[name], "held-out" if looked and name == "thickness_A" else "joint"
        )
        for name, value in values.items()
        if name in sigma
    }
    strain = [sigma[name] for name in ("scale", "stretch", "shear") if name in sigma]
    spread = float(np.hypot.reduce(strain)) if strain else float("nan")
    return calibration.changed(changes, affine=experiment.affine, affine_sigma=spread)
