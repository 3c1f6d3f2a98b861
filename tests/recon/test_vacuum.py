"""A pattern without a specimen gives the disc, the dose and the semi-angle."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from recon.aperture import aperture_intensity
from recon.calibrate import calibrate
from recon.dataset import Dataset4D, ScanHeader, VacuumProbe
from recon.errors import CalibrationError, DataError
from recon.joint_calibration import resized
from recon.params import ReconstructionParams
from recon.patterns import prepare_patterns
from recon.ptychography.experiment import Experiment
from recon.vacuum import disc_of, measure_vacuum, open_vacuum, with_vacuum


def ellipse(
    shape: tuple[int, int], centre: tuple[float, float], radius: float,
    stretch: float = 1.0, angle_deg: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Area of every pixel inside an ellipse, by 9 x 9 sub-pixels; its sum is that of the circle."""
    sub = (np.arange(9) - 4) / 9
    row = np.arange(shape[0])[:, None, None, None] + sub[None, None, :, None] - centre[0]
    col = np.arange(shape[1])[None, :, None, None] + sub[None, None, None, :] - centre[1]
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    along, across = c * col + s * row, -s * col + c * row
    inside = (along / stretch) ** 2 + (across * stretch) ** 2 < radius**2
    return inside.mean(axis=(2, 3))


@pytest.mark.parametrize("radius", [7.4, 12.0])
def test_centre_radius_and_dose_come_out(tmp_path: Path, turned: Any, radius: float) -> None:
    header = turned.header
    disc = ellipse(header.frame_shape, (22.3, 25.1), radius)
    stack = np.random.default_rng(0).poisson(3.0 * disc, (40, *disc.shape))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["counts"] = stack.astype(np.uint16)
    vacuum = open_vacuum(tmp_path / "v.h5", header)
    assert vacuum.row_px == pytest.approx(22.3, abs=4 * vacuum.sigma_px)
    assert vacuum.col_px == pytest.approx(25.1, abs=4 * vacuum.sigma_px)
    assert vacuum.radius_px == pytest.approx(radius, abs=4 * vacuum.sigma_px)
    assert vacuum.electrons_per_pattern == pytest.approx(3.0 * disc.sum(), rel=0.02)
    assert vacuum.sigma_px < 0.1
    assert vacuum.n_patterns == 40
    assert vacuum.ellipticity < 0.02
    assert vacuum.unevenness < 0.03


def test_a_single_pattern_and_an_ellipse(tmp_path: Path, turned: Any) -> None:
    disc = ellipse(turned.header.frame_shape, (24.2, 23.4), 9.0, stretch=1.05, angle_deg=30.0)
    pattern = np.random.default_rng(0).poisson(200 * disc)
    np.save(tmp_path / "v.npy", pattern)
    vacuum = open_vacuum(tmp_path / "v.npy", turned.header)
    assert vacuum.n_patterns == 1
    assert vacuum.ellipticity == pytest.approx(1.05**2 - 1, abs=0.02)
    assert vacuum.ellipse_angle_deg == pytest.approx(30.0, abs=4)
    warned = with_vacuum(turned.counted(100), vacuum).warnings
    assert any("the vacuum disc is an ellipse" in text for text in warned)


def test_unusable_vacuum_patterns_are_refused(tmp_path: Path, turned: Any) -> None:
    np.save(tmp_path / "a.npy", np.ones((40, 40), int))
    with pytest.raises(DataError, match=r"vacuum patterns of \[40, 40\].*same detector, binning"):
        open_vacuum(tmp_path / "a.npy", turned.header)
    disc = ellipse(turned.header.frame_shape, (5.0, 23.4), 9.0)
    np.save(tmp_path / "b.npy", np.rint(200 * disc).astype(int))
    with pytest.raises(DataError, match=r"multiple of|cuts the bright-field disc"):
        open_vacuum(tmp_path / "b.npy", turned.header)
    np.save(tmp_path / "c.npy", np.random.default_rng(0).poisson(ellipse((48, 48), (24, 24), 9)))
    with pytest.raises(CalibrationError, match="too few"):
        open_vacuum(tmp_path / "c.npy", turned.header)


def vacuum_of(data: Dataset4D, radius_px: float) -> Dataset4D:
    header = data.header.model_copy(update={"scan_shape": (1, 50)})
    disc = ellipse(header.frame_shape, (24.0, 24.0), radius_px)
    counts = np.random.default_rng(1).poisson(90 / disc.sum() * disc, (1, 50, *disc.shape))
    return Dataset4D.from_dense(counts, header)


def test_the_calibration_takes_disc_semi_angle_and_dose_of_the_vacuum(turned: Any) -> None:
    right = turned.header.convergence_semiangle_mrad
    radius = right / turned.header.detector_sampling_mrad
    data = turned.counted(100, convergence_semiangle_mrad=1.06 * right)
    data = replace(data, header=data.header.model_copy(update={"fluence_e_per_A2": None}))
    vacuum = measure_vacuum(vacuum_of(data, radius))
    joined = with_vacuum(data, vacuum)
    assert joined.header.convergence_semiangle_mrad == pytest.approx(right, rel=0.02)
    assert joined.header.fluence_e_per_A2 == pytest.approx(90 / 0.9**2, rel=0.02)
    assert any("used instead of the stated semi-angle" in text for text in joined.warnings)
    calibrated = calibrate(joined, ReconstructionParams())
    assert calibrated.calibration.disc_radius_px.source == "vacuum"
    assert calibrated.calibration.beam_centre_row_px.source == "vacuum"
    assert not any("check the camera length" in text for text in calibrated.warnings)
    assert disc_of(data) is None


def test_a_disc_that_moved_and_a_current_that_changed_are_said(turned: Any) -> None:
    data = turned.counted(1000)
    radius = turned.header.convergence_semiangle_mrad / turned.header.detector_sampling_mrad
    moved = vacuum_of(data, radius)
    shifted = np.roll(moved.dense4d(), 3, axis=2)
    vacuum = measure_vacuum(Dataset4D.from_dense(shifted, moved.header))
    joined = with_vacuum(data, vacuum)
    assert any(
        "px from that of the vacuum" in t and "taken from the scan" in t for t in joined.warnings
    )
    assert any("current or dwell time differ" in text for text in joined.warnings)
    used = disc_of(joined)
    assert used is not None
    assert used.row.source == "disc"
    assert used.radius.source == "vacuum"


def lit_like(disc: np.ndarray, electrons: float, seed: int = 2) -> VacuumProbe:
    counts = np.random.default_rng(seed).poisson(electrons / disc.sum() * disc)
    header = ScanHeader(
        energy_keV=300.0, convergence_semiangle_mrad=9.0, defocus_A=100.0, scan_step_A=1.0,
        detector_sampling_mrad=1.0, scan_shape=(1, 1), frame_shape=disc.shape,
        start_time="2026-03-01T22:15:00+00:00",
        run_uuid="9b7c0c1e-0000-4000-8000-000000000003", sample="vacuum",
    )  # fmt: skip
    return measure_vacuum(Dataset4D.from_dense(counts.astype(np.uint32)[None, None], header))


def off(intensity: np.ndarray, disc: np.ndarray) -> float:
    """Root of the squared differences of the shares of the beam, relative to the disc."""
    a, b = intensity / intensity.sum(), disc / disc.sum()
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("electrons", [3e3, 1e5, 1e7])
def test_the_aperture_is_believed_as_far_as_its_counts_carry(electrons: float) -> None:
    """Nearer to the true shape than a round disc and than the counts themselves."""
    round_disc = ellipse((48, 48), (24.0, 24.0), 10.0)
    shape = ellipse((48, 48), (24.0, 24.0), 10.0, stretch=1.06, angle_deg=25.0)
    shape[:, 31:] *= 0.85  # unevenly lit
    for truth in (round_disc, shape):
        vacuum = lit_like(truth, electrons)
        found = aperture_intensity(vacuum, (vacuum.row_px, vacuum.col_px))
        assert off(found, truth) < 0.95 * off(vacuum.pattern, truth)
        if truth is shape:
            assert off(found, shape) < 0.8 * off(round_disc, shape)


def test_the_probe_without_a_specimen_makes_the_vacuum_pattern(turned: Any) -> None:
    """Through flips, an off-centre beam and a smaller grid: the model sees the same aperture."""
    data = turned.counted(100, flip_ud=True, transpose=True)
    shape = ellipse((48, 48), (23.2, 24.6), 12.2, stretch=1.05, angle_deg=70.0)
    shape[:, 28:] *= 0.8
    vacuum = lit_like(shape, 1e7)
    data, centre = replace(data, vacuum=vacuum), (vacuum.row_px, vacuum.col_px)
    patterns = prepare_patterns(data, centre)
    calibration = calibrate(data, ReconstructionParams(rotation_deg=11.0)).calibration
    what = Experiment.of(data.header, patterns, calibration, 1)

    stored = Dataset4D.from_dense(
        np.rint(1e4 * shape).astype(np.uint32)[None, None],
        data.header.model_copy(update={"scan_shape": (1, 1)}),
    )
    seen = prepare_patterns(stored, centre)
    expected = np.bincount(seen.pixel, minlength=48**2).reshape(48, 48)
    found = what.probe_spectrum().abs().square().numpy()
    expected = expected / expected.sum()
    assert np.abs(found - expected).sum() < 0.03
    small = resized(what, 32).probe_spectrum().abs().square().numpy()
    middle = slice(8, 40)
    np.testing.assert_allclose(
        np.fft.fftshift(small), np.fft.fftshift(found)[middle, middle], rtol=1e-6, atol=1e-9
    )
    assert "aperture" not in what.numbers()
    assert what.with_numbers(what.numbers()).aperture is what.aperture
