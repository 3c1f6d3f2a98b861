"""Without a structure: lattice, Laue circle, honest silence."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.alignment_patterns import (
    Crystal,
    Detector,
    diffraction,
    electron_wavelength_A,
    orientation,
    record,
)
from controller.perception.alignment import estimate_tilt
from controller.perception.alignment.geometry import correction_rotation
from controller.perception.alignment.laue_circle import weighted_laue_circle
from controller.perception.alignment.optics import wavelength_A

DATA = Path(__file__).parent / "data"


def simulated(
    name: str, zone: tuple[int, int, int], tilt_mrad: tuple[float, float], electrons: float
) -> tuple[np.ndarray, Detector]:
    crystal = Crystal.from_cif(DATA / f"{name}.cif")
    rotation = orientation(crystal, zone, np.array(tilt_mrad), 0.7)
    g, intensity = diffraction(crystal, rotation, 200, 40, g_max=1.3, thickness_spread=0.1)
    detector = Detector(shape=(231, 256), centre_px=(126.4, 118.7))
    return record(g, intensity, detector, electrons, np.random.default_rng(3)), detector


def test_the_wavelength_is_that_of_the_textbooks() -> None:
    assert wavelength_A(200) == pytest.approx(0.025079, rel=1e-4)
    assert wavelength_A(300) == pytest.approx(0.019687, rel=1e-4)
    assert wavelength_A(200) == pytest.approx(electron_wavelength_A(200), rel=1e-5)


@pytest.mark.parametrize("tilt", [(0.0, 9.0), (-120.0, 40.0), (200.0, 170.0)])
def test_the_closed_form_is_exact_on_a_perfect_circle_at_any_tilt(
    tilt: tuple[float, float],
) -> None:
    """Points of the zone plane on the Ewald sphere, built in three dimensions."""
    K = 40.0
    tilted = correction_rotation(tilt).T  # columns: the zone's own axes in the detector frame
    phi = np.linspace(0, 2 * np.pi, 50)[1:-1]
    k0 = np.array([0, 0, K])
    centre = -(k0 - (k0 @ tilted[:, 2]) * tilted[:, 2])
    radius = np.sqrt(K**2 - (k0 @ tilted[:, 2]) ** 2)
    g = centre + radius * (
        np.outer(np.cos(phi), tilted[:, 0]) + np.outer(np.sin(phi), tilted[:, 1])
    )
    weights = np.random.default_rng(0).uniform(1, 9, len(g))
    np.testing.assert_allclose(
        weighted_laue_circle(g[:, 0], g[:, 1], weights, K), tilt, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "zone", "tilt"),
    [
        ("UiO-66", (0, 0, 1), (3.0, -12.0)),
        ("MFI", (0, 1, 0), (-14.0, 6.0)),
        ("ZIF-8", (1, 1, 1), (1.0, 2.0)),
    ],
)
def test_a_dynamical_pattern_gives_its_tilt_back(
    name: str, zone: tuple[int, int, int], tilt: tuple[float, float]
) -> None:
    pattern, detector = simulated(name, zone, tilt, 2e4)
    found = estimate_tilt(pattern, energy_keV=200, inv_A_per_px=detector.inv_A_per_px)
    assert found.answered, found.reason
    error = np.hypot(found.tilt_x_mrad - tilt[0], found.tilt_y_mrad - tilt[1])
    assert error < 5.0
    assert error < 3 * found.sigma_mrad
    assert found.mode == "structure-free"


def test_after_the_correction_the_pattern_shows_no_tilt() -> None:
    """Measure, rotate the crystal by the rotation vector of the measured tilt, measure again."""
    crystal = Crystal.from_cif(DATA / "UiO-66.cif")
    tilted = orientation(crystal, (0, 0, 1), np.array([20.0, 11.0]), 0.2)
    detector = Detector()
    rng = np.random.default_rng(5)

    def measure(rotation: np.ndarray) -> tuple[float, float]:
        g, intensity = diffraction(crystal, rotation, 300, 40, g_max=1.3, thickness_spread=0.1)
        pattern = record(g, intensity, detector, 5e4, rng)
        found = estimate_tilt(pattern, energy_keV=300, inv_A_per_px=detector.inv_A_per_px)
        assert found.answered, found.reason
        return found.tilt_x_mrad, found.tilt_y_mrad

    first = measure(tilted)
    assert np.hypot(*first) == pytest.approx(np.hypot(20, 11), abs=2.5)
    second = measure(correction_rotation(first) @ tilted)
    assert np.hypot(*second) < 2.5
