"""Camera constant, ellipse and centre come out within their errors; what is no ring is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.calibration.rings import RingError, RingFit, correct_ellipse, fit_rings, made_round
from controller.calibration.standards import gold, standard_from
from sim_microscope.gold import GoldInBeam, gold_pattern
from sim_microscope.scattering.diffraction import DiffractionCamera
from sim_microscope.scattering.electron import wavelength_A
from sim_microscope.scenario import GoldSpec

LAM = wavelength_A(300.0)
NOMINAL = 0.25e-3 / LAM


def rings(
    seed: int, *, ellipticity: float, azimuth_deg: float, scale: float, electrons: float = 5e5
) -> np.ndarray:
    """A pattern of a gold film from the simulator, off-centre and not square."""
    turn, root = np.deg2rad(azimuth_deg), np.sqrt(1 + ellipticity)
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    camera = DiffractionCamera(
        (250, 260),
        0.25 * scale,
        (126.3, 128.9),
        0.55,
        distortion=axes @ np.diag([root, 1 / root]) @ axes.T,
    )
    film = GoldInBeam(GoldSpec(), seed, 1.0, (float(seed), 0.0), 600.0, 14.0)
    expected = gold_pattern(film, camera, 300.0)
    return np.random.default_rng(seed).poisson(expected * electrons).astype(float)


def off(fit: RingFit, ellipticity: float, azimuth_deg: float) -> float:
    """Distance of the ellipse from the truth, as a vector at twice the azimuth."""
    found = fit.ellipticity * np.exp(2j * np.deg2rad(fit.azimuth_deg))
    return float(abs(found - ellipticity * np.exp(2j * np.deg2rad(azimuth_deg))))


@pytest.mark.parametrize("seed", range(4))
def test_the_camera_comes_out_within_its_errors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ellipticity, azimuth = rng.uniform(0, 0.03), rng.uniform(-90, 90)
    scale = float(rng.uniform(0.95, 1.05))
    fit = fit_rings(
        rings(seed, ellipticity=ellipticity, azimuth_deg=azimuth, scale=scale),
        gold(),
        inv_A_per_px=NOMINAL,
    )
    assert abs(fit.inv_A_per_px / NOMINAL - scale) < 3.5 * fit.inv_A_per_px_sigma / NOMINAL
    assert fit.inv_A_per_px_sigma / NOMINAL < 5e-4
    assert off(fit, ellipticity, azimuth) < 4 * fit.ellipticity_sigma < 0.004
    assert np.hypot(fit.centre_px[0] - 128.9, fit.centre_px[1] - 126.3) < 0.05


def test_a_beam_stop_hot_pixels_and_a_lost_quarter_do_not_matter() -> None:
    image = rings(7, ellipticity=0.015, azimuth_deg=20, scale=1.01)
    rows, cols = np.indices(image.shape)
    image[np.hypot(cols - 128.9, rows - 126.3) < 14] = 0
    image[(rows > 126) & (np.abs(cols - 128.9) < 6)] = 0
    image[11, 17] = image[60, 190] = 5e4
    image[20:40, 200:230] = np.nan
    fit = fit_rings(image, gold(), inv_A_per_px=NOMINAL, centre_px=(128.0, 127.0))
    assert abs(fit.inv_A_per_px / NOMINAL - 1.01) < 1e-3
    assert off(fit, 0.015, 20) < 0.002


def test_the_ellipse_is_undone_by_its_correction() -> None:
    fit = fit_rings(
        rings(3, ellipticity=0.025, azimuth_deg=-40, scale=1.0), gold(), inv_A_per_px=NOMINAL
    )
    turn = np.deg2rad(-40)
    long = np.array([np.cos(turn), np.sin(turn)])
    short = np.array([-long[1], long[0]])
    undo = correct_ellipse(fit.ellipticity, fit.azimuth_deg)
    root = np.sqrt(1.025)
    assert np.linalg.norm(undo @ long * root) == pytest.approx(1.0, abs=1e-3)
    assert np.linalg.norm(undo @ short / root) == pytest.approx(1.0, abs=1e-3)


def test_a_pattern_made_round_has_round_rings_of_the_same_size() -> None:
    image = rings(5, ellipticity=0.03, azimuth_deg=60, scale=1.0)
    fit = fit_rings(image, gold(), inv_A_per_px=NOMINAL)
    resampled = made_round(image, fit.centre_px, fit.ellipticity, fit.azimuth_deg)
    again = fit_rings(resampled, gold(), inv_A_per_px=NOMINAL)
    assert again.ellipticity < 0.002
    assert again.inv_A_per_px == pytest.approx(fit.inv_A_per_px, rel=1e-3)
    assert resampled.sum() == pytest.approx(image.sum(), rel=0.02)


@pytest.mark.parametrize("case", ["noise", "blank", "few", "small"])
def test_what_shows_no_rings_is_refused_with_the_reason(case: str) -> None:
    images = {
        "noise": np.random.default_rng(1).poisson(3.0, (250, 260)).astype(float),
        "blank": np.zeros((250, 260)),
        "few": rings(2, ellipticity=0, azimuth_deg=0, scale=1, electrons=3e3),
        "small": np.ones((20, 300)),
    }
    with pytest.raises(RingError, match=r"nothing was measured|at least 64"):
        fit_rings(images[case], gold(), inv_A_per_px=NOMINAL)


def test_gold_is_the_default_and_any_cif_is_a_standard() -> None:
    assert standard_from(None).g_inv_A[0] == pytest.approx(np.sqrt(3) / 4.0782, rel=1e-4)
    other = Path(__file__).parents[1] / "alignment" / "data" / "SrTiO3.cif"
    assert standard_from(other).g_inv_A[0] == pytest.approx(np.sqrt(2) / 3.905, rel=1e-2)
