"""Compare a reconstruction with the truth of a simulated set, as the specification says."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from benchmarks.ptychography_data import SimulatedSet
from recon.geometry import scanned_rectangle
from recon.metrics import ring_correlation, without_plane
from recon.ptychography.experiment import Experiment
from recon.result import Reconstruction

Float = NDArray[np.float64]
BORDER_A = 5.0


@dataclass(frozen=True)
class Score:
    """How far a reconstruction is from the truth; errors are found minus true."""

    correlation: float
    frc_half_A: float
    """Where the ring correlation with the truth falls to one half."""
    rotation_error_deg: float
    defocus_error_A: float
    tilt_error_mrad: float
    matrix_error: float
    """Largest singular value of (found - true) matrix over the scan step."""
    thickness_error_A: float


class Judge:
    """Compares images on one grid with one truth."""

    def __init__(self, made: SimulatedSet, pixel_A: float, centre_px: tuple[float, float]) -> None:
        self.made, self.pixel_A = made, pixel_A
        self.centre_px = np.array(centre_px)
        self.region = scanned_rectangle(
            made.case.scan_shape, made.case.scan_matrix(), pixel_A, centre_px, border_A=BORDER_A
        )

    def compare(self, phase: NDArray[np.float32]) -> tuple[float, float]:
        """Correlation at the best sub-pixel shift, and the FRC-0.5 there."""
        image = without_plane(phase[self.region].astype(np.float64))
        best = max(
            (self._climbed(image, start) for start in self._starts(image)), key=lambda b: b[0]
        )
        truth = self._truth(best[1])
        return best[0], ring_correlation(image, truth, self.pixel_A).resolution_A(0.5)

    def _truth(self, shift: Float) -> Float:
        corner = np.array([r.start for r in self.region])
        shape = tuple(r.stop - r.start for r in self.region)
        return self.made.phase_on(shape, self.pixel_A, self.centre_px - corner + shift)

    def _starts(self, image: Float) -> list[Float]:
        truth = without_plane(self._truth(np.zeros(2)))
        cross = np.fft.ifft2(np.fft.fft2(image) * np.fft.fft2(truth).conj()).real
        window = 6  # a whole cell off is no registration error
        near = [np.r_[0 : window + 1, -window:0]] * 2
        part = cross[np.ix_(*near)]
        i, j = np.unravel_index(np.argmax(part), part.shape)
        return [np.array([float(near[0][i]), float(near[1][j])]), np.zeros(2)]

    def _climbed(self, image: Float, start: Float) -> tuple[float, Float]:
        def loss(shift: Float) -> float:
            truth = without_plane(self._truth(shift))
            norm = float(np.linalg.norm(image) * np.linalg.norm(truth))
            return -float((image * truth).sum()) / norm if norm > 0 else 0.0

        simplex = start + np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]])
        options = {"xatol": 0.02, "fatol": 1e-5, "maxiter": 60, "initial_simplex": simplex}
        best = minimize(loss, start, method="Nelder-Mead", options=options)
        return -float(best.fun), best.x


def score(made: SimulatedSet, result: Reconstruction) -> Score:
    """All numbers of the specification for one result."""
    judge = Judge(made, result.pixel_size_A, result.scan_centre_px)
    correlation, frc = judge.compare(result.phase_rad)
    found = result.calibration
    errors = calibration_errors(
        made, found.defocus_A.value, result.scan_matrix_A,
        (found.tilt_row_mrad.value, found.tilt_col_mrad.value), found.thickness_A.value,
    )  # fmt: skip
    return Score(correlation, frc, *errors)


def calibration_errors(
    made: SimulatedSet, defocus_A: float, matrix_A: Float, tilt_mrad: tuple[float, float],
    thickness_A: float,
) -> tuple[float, float, float, float, float]:  # fmt: skip
    """Rotation (degrees), defocus (A), tilt (mrad), matrix (part), thickness (A)."""
    case = made.case
    true = case.scan_matrix()
    return (
        _angle_deg(matrix_A) - _angle_deg(true),
        defocus_A - case.defocus_A,
        float(np.hypot(*(np.array(tilt_mrad) - np.array(case.tilt_mrad)))),
        float(np.linalg.norm(matrix_A - true, 2) / case.step_A),
        thickness_A - case.thickness_A,
    )


def _angle_deg(matrix: Float) -> float:
    """Turn of the rotation nearest to a matrix."""
    return float(np.rad2deg(np.arctan2(matrix[1, 0] - matrix[0, 1], matrix[0, 0] + matrix[1, 1])))


def errors_of(made: SimulatedSet, experiment: Experiment) -> tuple[float, ...]:
    """The same for the engine's own record."""
    return calibration_errors(
        made, experiment.defocus_A, experiment.scan_matrix(), experiment.tilt_mrad,
        experiment.thickness_A,
    )  # fmt: skip
