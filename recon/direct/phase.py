"""One call from counts to a phase image, its place in the detector frame and two halves."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recon.calibrate import Calibrated, calibrate
from recon.dataset import Dataset4D, ScanHeader
from recon.direct.deflection import centre_of_mass, quadrant_difference
from recon.direct.integrate import curl_free_part, integrate_deflection, scan_frequencies
from recon.direct.single_side_band import finer_raster, probe_of, side_band_phase
from recon.geometry import scan_matrix
from recon.parallax import BrightFieldSpectra, Shear, phase_image, resample
from recon.params import ReconstructionParams
from recon.patterns import Patterns

Float = NDArray[np.float64]
Image = NDArray[np.float32]
DirectEngine = Literal["parallax", "icom", "dpc", "ssb"]
DIRECT_ENGINES: tuple[DirectEngine, ...] = ("parallax", "icom", "dpc", "ssb")

ADEQUATE = 0.7
"""Part of the contrast that a method's model must explain; below, its image is doubtful."""


@dataclass(frozen=True)
class DirectImage:
    """Phase in the detector frame, float32 (rows, cols), radians; ``centre_px`` is the scan's."""

    phase_rad: Image
    pixel_size_A: float
    centre_px: tuple[float, float]
    finest_A: float
    """Twice the step of the raster it was computed on."""
    halves: tuple[Image, Image] | None = None
    notes: tuple[str, ...] = ()


def direct_phase(
    dataset: Dataset4D,
    engine: DirectEngine,
    params: ReconstructionParams | None = None,
    *,
    halves: np.random.Generator | None = None,
) -> DirectImage:
    """Calibrate and image a scan; with ``halves`` also two images of half the electrons each.

    Raises
    ------
    DataError, CalibrationError
        As ``recon.calibrate.calibrate``.
    """
    params = params or ReconstructionParams()
    return image_calibrated(dataset.header, calibrate(dataset, params), engine, params, halves)


def image_calibrated(
    header: ScanHeader,
    calibrated: Calibrated,
    engine: DirectEngine,
    params: ReconstructionParams,
    halves: np.random.Generator | None,
) -> DirectImage:
    """Image with a calibration that is there already."""
    finer = 1
    if engine == "ssb":
        finer = finer_raster(calibrated.spectra)
    matrix = scan_matrix(header, calibrated.shear.rotation_deg)
    pixel_A = header.scan_step_A / (2 if finer == 1 else finer)

    def image(
        patterns: Patterns, spectra: BrightFieldSpectra
    ) -> tuple[Image, tuple[float, float], float]:
        raw, explained = _on_the_raster(engine, header, patterns, spectra, calibrated.shear, params)
        ends = tuple(slice(n - finer + 1) for n in raw.shape)
        return *resample(raw[ends], matrix / finer, pixel_A), explained

    phase, centre_px, explained = image(calibrated.patterns, calibrated.spectra)
    both: tuple[Image, Image] | None = None
    if halves is not None:
        first, second = (
            image(half, BrightFieldSpectra(half, header))[0]
            for half in calibrated.patterns.split(0.5, halves)
        )
        both = first, second
    finest_A = 2 * header.scan_step_A / finer
    return DirectImage(phase, pixel_A, centre_px, finest_A, both, _doubts(engine, explained))


def _doubts(engine: DirectEngine, explained: float) -> tuple[str, ...]:
    """What has to be said where the method's model does not explain the counts."""
    if not explained < ADEQUATE:
        return ()
    model = "a weak phase" if engine == "ssb" else "a thin phase object"
    return (
        f"{engine}: {model} explains {100 * max(explained, 0.0):.0f} % of the contrast beyond shot "
        f"noise; the specimen is too strong or too thick for it. The FRC then says how "
        f"reproducible the image is, not how right; use the multislice engine",
    )


def _on_the_raster(
    engine: DirectEngine,
    header: ScanHeader,
    patterns: Patterns,
    spectra: BrightFieldSpectra,
    shear: Shear,
    params: ReconstructionParams,
) -> tuple[Float, float]:
    """Phase on the scan's raster or a finer one; what part the model explains (NaN: unknown)."""
    high_pass_A = params.high_pass_A
    if engine == "parallax":
        return phase_image(spectra, shear), float("nan")
    if engine == "ssb":
        band = side_band_phase(spectra, shear, overlap=params.ssb_overlap, high_pass_A=high_pass_A)
        return band.phase_rad, band.explained
    measure = centre_of_mass if engine == "icom" else quadrant_difference
    matrix = scan_matrix(header, shear.rotation_deg)
    transfer = None
    if params.probe_deconvolution:
        q = scan_frequencies(header.scan_shape, matrix)
        transfer = probe_of(spectra, shear).intensity_transfer(q)
    deflection = measure(patterns, header)
    phase = integrate_deflection(
        deflection, matrix, probe_transfer=transfer, high_pass_A=high_pass_A
    )
    return phase, curl_free_part(deflection, matrix)
