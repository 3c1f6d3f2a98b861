"""The calibration chain: disc, then parallax, falling back on nominal values with a warning."""

from dataclasses import dataclass, replace

import numpy as np

from recon.calibration import (
    Calibration,
    Measured,
    Source,
    choose_centre,
    measure_disc,
    radius_warning,
)
from recon.dataset import Dataset4D, ScanHeader
from recon.drift import Explained, explain
from recon.errors import CalibrationError, DataError
from recon.geometry import k_per_mrad
from recon.parallax import (
    BrightFieldSpectra,
    ParallaxFit,
    SearchRange,
    Shear,
    coarse_score,
    fit_shear,
)
from recon.params import ReconstructionParams
from recon.patterns import Patterns, prepare_patterns
from recon.vacuum import disc_of

DEFAULT_THICKNESS_A = 200.0
IDENTITY = ((1.0, 0.0), (0.0, 1.0))
MIRROR_ADVANTAGE = 1.3
"""How much better the score of exchanged axes must be before the header is contradicted."""
MIN_OVERLAP = 0.35
MAX_WINDOW_FILLING = 0.6
MIN_SCAN_POINTS = 6
DYNAMICAL_DEFOCUS_SIGMA_A = 25.0
"""What channelling in thick crystals adds to the parallax defocus, seen in simulations."""


@dataclass(frozen=True)
class Calibrated:
    """Patterns in the computational frame, what was measured, and the spectra of the parallax."""

    patterns: Patterns
    calibration: Calibration
    spectra: BrightFieldSpectra
    shear: Shear
    warnings: tuple[str, ...]


def check_overlap(dataset: Dataset4D, defocus_A: float) -> list[str]:
    """Warn about probes that hardly overlap; refuse a raster that cannot be an image.

    Raises
    ------
    DataError
        Fewer than six scan points along an axis.
    """
    header = dataset.header
    if min(header.scan_shape) < MIN_SCAN_POINTS:
        raise DataError(
            f"a scan of {header.scan_shape[0]} x {header.scan_shape[1]} positions is no image "
            f"(at least {MIN_SCAN_POINTS} along each axis); nothing was reconstructed. Scan more "
            f"positions, or check scan_shape"
        )
    radius = _probe_radius_A(header, defocus_A)
    overlap = 1 - header.scan_step_A / (2 * radius)
    if overlap >= MIN_OVERLAP:
        return []
    return [
        f"neighbouring probes overlap by only {100 * max(overlap, 0):.0f} % (step "
        f"{header.scan_step_A:.2f} Å, probe radius {radius:.2f} Å); the reconstruction needs about "
        f"{100 * MIN_OVERLAP:.0f} %: scan in finer steps or defocus by more"
    ]


def refuse_apart(header: ScanHeader, defoci_A: tuple[float, ...]) -> None:
    """Refuse probes that do not touch their neighbours at any of these defoci.

    Raises
    ------
    DataError
        Where no probe meets another, nothing ties the parts of the object together.
    """
    defocus_A = max(defoci_A, key=abs)
    width = 2 * _probe_radius_A(header, defocus_A)
    if header.scan_step_A < width:
        return
    raise DataError(
        f"neighbouring probes do not touch: the scan step is {header.scan_step_A:.2f} Å, the probe "
        f"at {defocus_A / 10:.1f} nm defocus {width:.2f} Å wide; nothing was reconstructed. Check "
        f"scan_step_A and defocus_A, scan in steps below {width * (1 - MIN_OVERLAP):.2f} Å or "
        f"defocus by more; --virtual and --engine icom need no overlap"
    )


def _probe_radius_A(header: ScanHeader, defocus_A: float) -> float:
    k_edge = header.convergence_semiangle_mrad * k_per_mrad(header.energy_keV)
    blur = abs(defocus_A) * header.convergence_semiangle_mrad * 1e-3
    return float(np.hypot(blur, 0.61 / k_edge))


def check_window(dataset: Dataset4D, defocus_A: float) -> list[str]:
    """Warn about a probe that fills the window which the angular sampling allows."""
    header = dataset.header
    window = 1 / (header.detector_sampling_mrad * k_per_mrad(header.energy_keV))
    diameter = 2 * abs(defocus_A) * header.convergence_semiangle_mrad * 1e-3
    if diameter <= MAX_WINDOW_FILLING * window:
        return []
    most_nm = MAX_WINDOW_FILLING * window / diameter * abs(defocus_A) / 10
    return [
        f"at {defocus_A / 10:.0f} nm defocus the probe is {diameter:.0f} Å wide, the angular "
        f"sampling of {header.detector_sampling_mrad:.2f} mrad allows {window:.0f} Å: the image "
        f"will suffer; defocus by less than {most_nm:.0f} nm or lengthen the camera"
    ]


def calibrate(dataset: Dataset4D, params: ReconstructionParams) -> Calibrated:
    """Measure beam centre, axes, rotation, defocus and astigmatism from the counts alone.

    Raises
    ------
    CalibrationError, DataError
        The counts cannot carry a reconstruction; the message says why.
    """
    header = dataset.header
    vacuum = disc_of(dataset)
    disc = vacuum or measure_disc(dataset)
    row, col, warnings = choose_centre(dataset, disc) if not vacuum else (disc.row, disc.col, [])
    warnings += radius_warning(dataset, disc)
    warnings += check_overlap(dataset, header.defocus_A)
    _check_detector_reach(dataset)
    nominal = Shear(-_given(params.defocus_A, header.defocus_A), 0.0, 0.0,
                    _given(params.rotation_deg, header.scan_rotation_deg))  # fmt: skip
    patterns = prepare_patterns(dataset, (row.value, col.value))
    spectra = BrightFieldSpectra(patterns, header)
    fit: ParallaxFit | None = None
    mirrored = False
    try:
        fit, mirrored, patterns, spectra, notes = _fit_with_mirror(
            dataset, (row.value, col.value), nominal, params, (patterns, spectra)
        )
        warnings += notes
    except CalibrationError as problem:
        warnings.append(f"{problem}; the nominal values are used")
    shear = nominal if fit is None else fit.shear
    causes = Explained(nominal, IDENTITY)
    if fit is not None:
        causes = explain(fit.shear, nominal.rotation_deg)
    sigma = np.full(4, np.nan) if fit is None else fit.sigma
    source: Source = "nominal" if fit is None else "parallax"
    warnings += check_window(dataset, -shear.C10_A)
    calibration = Calibration(
        beam_centre_row_px=row,
        beam_centre_col_px=col,
        disc_radius_px=disc.radius,
        defocus_A=Measured(
            -causes.shear.C10_A, float(np.hypot(sigma[0], DYNAMICAL_DEFOCUS_SIGMA_A)), source
        ),
        C12a_A=Measured(causes.shear.C12a_A, float(sigma[1]), source),
        C12b_A=Measured(causes.shear.C12b_A, float(sigma[2]), source),
        rotation_deg=Measured(causes.shear.rotation_deg, float(sigma[3]), source),
        tilt_row_mrad=Measured(0.0, float("nan"), "nominal"),
        tilt_col_mrad=Measured(0.0, float("nan"), "nominal"),
        thickness_A=Measured(
            header.nominal_thickness_A or DEFAULT_THICKNESS_A, float("nan"), "nominal"
        ),
        affine=causes.affine,
        mirrored=mirrored,
    )
    return Calibrated(patterns, _with_fixed(calibration, params), spectra, shear, tuple(warnings))


def _given(fixed: float | None, otherwise: float) -> float:
    return otherwise if fixed is None else fixed


def _with_fixed(calibration: Calibration, params: ReconstructionParams) -> Calibration:
    """Put what the user fixed over what was measured."""
    if params.defocus_A is not None:
        fixed = Measured(params.defocus_A, 0.0, "fixed")
        calibration = replace(calibration, defocus_A=fixed)
    if params.rotation_deg is not None:
        fixed = Measured(params.rotation_deg, 0.0, "fixed")
        calibration = replace(calibration, rotation_deg=fixed, affine=IDENTITY)
    if params.thickness_A is not None:
        fixed = Measured(params.thickness_A, 0.0, "fixed")
        calibration = replace(calibration, thickness_A=fixed)
    if params.tilt_mrad is not None:
        row, col = (Measured(value, 0.0, "fixed") for value in params.tilt_mrad)
        calibration = replace(calibration, tilt_row_mrad=row, tilt_col_mrad=col)
    return calibration


def _check_detector_reach(dataset: Dataset4D) -> None:
    header = dataset.header
    reach = min(header.frame_shape) / 2 * header.detector_sampling_mrad
    if reach <= header.convergence_semiangle_mrad:
        raise DataError(
            f"the detector ends at {reach:.1f} mrad, inside the bright-field disc "
            f"({header.convergence_semiangle_mrad:g} mrad); nothing was reconstructed. "
            f"Shorten the camera length or take a smaller probe aperture"
        )


def _fit_with_mirror(
    dataset: Dataset4D,
    centre_px: tuple[float, float],
    nominal: Shear,
    params: ReconstructionParams,
    straight: tuple[Patterns, BrightFieldSpectra],
) -> tuple[ParallaxFit, bool, Patterns, BrightFieldSpectra, list[str]]:
    """Fit as declared and with rows and columns exchanged; the declared one wins a draw."""
    search = SearchRange(defocus_A=params.search_defocus_A, rotation_deg=params.search_rotation_deg)
    declared = _attempt(straight[1], nominal, search)
    exchanged_spectra = straight[1].mirrored()
    everywhere = replace(search, rotation_deg=90.0)
    exchanged: ParallaxFit | None = None
    doubtful = declared is None or not _is_plausible(declared.shear)
    if (
        declared is None
        or doubtful
        or (
            coarse_score(exchanged_spectra, nominal, everywhere)
            > (
                declared.coarse_score
                if search == everywhere
                else coarse_score(straight[1], nominal, everywhere)
            )
        )
    ):
        exchanged = _attempt(exchanged_spectra, nominal, everywhere)
    if exchanged is not None and exchanged.shear.C10_A * nominal.C10_A < 0:
        # parallax cannot tell half a turn from the other side of focus: believe the stated side
        exchanged = replace(exchanged, shear=exchanged.shear.turned_over())
    needed = 0.0 if declared is None else declared.score * (0.9 if doubtful else MIRROR_ADVANTAGE)
    better = exchanged is not None and _is_plausible(exchanged.shear) and exchanged.score > needed
    if exchanged is not None and better:
        note = (
            "the detector is mirrored against what the header declares (rows and columns "
            f"exchanged, scan rotation {exchanged.shear.rotation_deg:.1f} deg); corrected"
        )
        patterns = prepare_patterns(dataset, centre_px, mirrored=True)
        return exchanged, True, patterns, exchanged_spectra, [note]
    if declared is None:
        raise CalibrationError("rotation and defocus could not be measured by parallax")
    return declared, False, *straight, []


def _is_plausible(shear: Shear) -> bool:
    """Astigmatism well below defocus: what a false handedness looks like is the reverse."""
    return float(np.hypot(shear.C12a_A, shear.C12b_A)) < 0.3 * abs(shear.C10_A)


def _attempt(
    spectra: BrightFieldSpectra, nominal: Shear, search: SearchRange
) -> ParallaxFit | None:
    try:
        return fit_shear(spectra, nominal, search)
    except CalibrationError:
        return None
