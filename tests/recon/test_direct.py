"""Direct methods against the theory of a weak phase, on exact intensities of a periodic object."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.dataset import Dataset4D, ScanHeader
from recon.direct.deflection import Deflection, centre_of_mass, quadrant_difference
from recon.direct.integrate import curl_free_part, integrate_deflection, scan_frequencies
from recon.direct.single_side_band import Probe, finer_raster, side_band_phase
from recon.geometry import rotation_matrix, scan_matrix, wavelength_A
from recon.parallax import BrightFieldSpectra, Shear
from recon.patterns import Patterns, prepare_patterns

FIELD_A, N, SCAN = 16.0, 32, (16, 16)
WAVELENGTH_A = wavelength_A(300.0)
K_EDGE_A = 0.5
FREQUENCIES = ((2, 1), (-3, 4), (5, -5), (1, 11))  # per field; the last beyond the scan's Nyquist 8


def header(step_A: float = 1.0) -> ScanHeader:
    return ScanHeader(
        energy_keV=300.0,
        convergence_semiangle_mrad=K_EDGE_A * WAVELENGTH_A * 1e3,
        scan_step_A=step_A,
        detector_sampling_mrad=WAVELENGTH_A / FIELD_A * 1e3,
        scan_shape=SCAN,
        frame_shape=(N, N),
        start_time="2026-03-01T22:15:00+00:00",
        run_uuid="9b7c0c1e-0000-4000-8000-000000000003",
    )


def weak_phase(amplitude: float = 0.02) -> np.ndarray:
    """A few waves on the probe's grid, (N, N), radians."""
    r = np.arange(N) / N
    y, x = np.meshgrid(r, r, indexing="ij")
    return amplitude * sum(np.cos(2 * np.pi * (u * y + v * x) + u - v) for u, v in FREQUENCIES)


@dataclass(frozen=True)
class Exact:
    """Patterns of a scan over the periodic field."""

    intensity: np.ndarray
    """(scan_y, scan_x, N, N), zero angle at [0, 0], sum one."""
    shear: Shear

    def counted(self, electrons: float, seed: int = 1) -> Patterns:
        counts = np.random.default_rng(seed).poisson(self.intensity * electrons)
        centred = np.fft.fftshift(counts, axes=(2, 3))
        data = Dataset4D.from_dense(centred.astype(np.uint16), header())
        return prepare_patterns(data, (N // 2, N // 2))

    def spectra(self) -> BrightFieldSpectra:
        """As of a trillion electrons per pattern, which no list could hold."""
        spectra = BrightFieldSpectra(self.counted(5.0), header(), radius_fraction=1.0)
        rows, cols = np.nonzero(spectra.inside)
        half = len(spectra.k_row) // 2
        transform = np.fft.fft2(self.intensity * 1e12, axes=(0, 1)).reshape(-1, N, N)
        spectra.grid = np.zeros(spectra.grid.shape, complex)
        spectra.grid[:, rows, cols] = transform[:, (rows - half) % N, (cols - half) % N]
        spectra.electrons = 1e12 * SCAN[0] * SCAN[1]
        return spectra

    def deflection(self) -> Deflection:
        """First moments of the exact intensities."""
        k = np.fft.fftfreq(N, FIELD_A / N)
        mean = np.stack([self.intensity.sum(axis=3) @ k, self.intensity.sum(axis=2) @ k])
        return Deflection(mean, 1e-15)


def scanned(shear: Shear, phase: np.ndarray) -> Exact:
    k = np.fft.fftfreq(N, FIELD_A / N)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    lens = Probe(WAVELENGTH_A, K_EDGE_A, 1 / FIELD_A, shear).at(ky, kx)
    lens = lens / np.sqrt((np.abs(lens) ** 2).sum())
    patterns = np.empty((*SCAN, N, N))
    turn = rotation_matrix(shear.rotation_deg)
    assert np.allclose(turn, np.round(turn)), "only quarter turns keep the field periodic"
    for sy, sx in np.ndindex(SCAN):
        ry, rx = turn @ np.array([sy, sx]) * 1.0
        psi = np.fft.ifft2(lens * np.exp(-2j * np.pi * (ky * ry + kx * rx)))
        patterns[sy, sx] = np.abs(np.fft.fft2(psi * np.exp(1j * phase))) ** 2
    return Exact(patterns, shear)


def coefficient(image: np.ndarray, u: int, v: int) -> complex:
    """Fourier coefficient (u, v) per field of an image that covers it once."""
    return np.fft.fft2(image)[u % image.shape[0], v % image.shape[1]] / image.size


DEFOCUSED = Shear(-150.0, 20.0, -10.0, 0.0)


@pytest.mark.parametrize("overlap", ["double", "all"])
@pytest.mark.parametrize("shear", [Shear(0.0, 0.0, 0.0, 0.0), DEFOCUSED])
def test_side_bands_are_the_weak_phase_also_beyond_the_scans_nyquist(
    shear: Shear, overlap: str
) -> None:
    """In-focus triple overlaps cancel; with aberrations they carry phase. Neither may bias."""
    phase = weak_phase()
    spectra = scanned(shear, phase).spectra()
    assert finer_raster(spectra) == 2
    band = side_band_phase(spectra, shear, overlap=overlap)  # type: ignore[arg-type]
    image = band.phase_rad
    assert image.shape == (32, 32)
    for u, v in FREQUENCIES:
        if shear.C10_A == 0 and np.hypot(u, v) / FIELD_A < 0.2:
            continue  # in focus the trotters of low frequencies are slivers
        expected = coefficient(phase, u, v)
        found = coefficient(image, u, v)
        assert found == pytest.approx(expected, abs=0.15 * abs(expected)), (u, v)


@pytest.mark.parametrize("turn_deg", [0.0, 90.0])
def test_centre_of_mass_is_the_phase_blurred_by_the_probe(turn_deg: float) -> None:
    """And a scan turned by 90 degrees against the detector shows the same, in its own axes."""
    shear = replace(DEFOCUSED, rotation_deg=turn_deg)
    phase = weak_phase(0.1)
    matrix = scan_matrix(header(), turn_deg)
    deflection = scanned(shear, phase).deflection()
    q = scan_frequencies(SCAN, matrix)
    transfer = Probe(WAVELENGTH_A, K_EDGE_A, 1 / FIELD_A, shear).intensity_transfer(q, 64)
    blurred = integrate_deflection(deflection, matrix)
    sharp = integrate_deflection(deflection, matrix, probe_transfer=transfer)
    for u, v in FREQUENCIES[:3]:
        at = tuple(np.round(np.array([u, v]) @ rotation_matrix(turn_deg)).astype(int))
        expected = coefficient(phase, u, v)
        known = expected * transfer[at[0] % 16, at[1] % 16].conj()
        assert coefficient(blurred, *at) == pytest.approx(known, abs=0.05 * abs(expected)), (u, v)
        if abs(known) > 0.5 * abs(expected):
            assert coefficient(sharp, *at) == pytest.approx(expected, rel=0.15), (u, v)


def test_a_strong_phase_is_not_explained_by_a_weak_one() -> None:
    weak, strong = (
        side_band_phase(scanned(DEFOCUSED, weak_phase(amplitude)).spectra(), DEFOCUSED).explained
        for amplitude in (0.02, 0.8)
    )
    assert weak > 0.95
    assert strong < 0.7
    noisy = scanned(DEFOCUSED, weak_phase(0.1)).counted(2000.0)
    spectra = BrightFieldSpectra(noisy, header(), radius_fraction=1.0)
    assert side_band_phase(spectra, DEFOCUSED).explained == pytest.approx(0.95, abs=0.2)


def test_only_slopes_of_a_phase_have_no_curl() -> None:
    exact = scanned(DEFOCUSED, weak_phase(0.1)).deflection()
    assert curl_free_part(exact, scan_matrix(header(), 0.0)) > 0.98
    turned = curl_free_part(exact, scan_matrix(header(), 45.0))
    assert turned == pytest.approx(0.5, abs=0.1), "a wrong scan rotation shows, too"


def test_quadrants_see_a_shift_of_the_disc_like_the_centre_of_mass() -> None:
    """Beyond what a disc of 8 pixels' radius allows to say."""
    phase = weak_phase(0.1)
    patterns = scanned(DEFOCUSED, phase).counted(20000.0)
    mass, halves = centre_of_mass(patterns, header()), quadrant_difference(patterns, header())
    assert np.corrcoef(mass.k_A.ravel(), halves.k_A.ravel())[0, 1] > 0.9
    assert halves.variance / mass.variance == pytest.approx(np.pi**2 / 4, rel=0.25)


def test_counted_moments_are_the_moments_of_the_intensity() -> None:
    exact = scanned(DEFOCUSED, weak_phase(0.1))
    mass = centre_of_mass(exact.counted(20000.0), header(), max_angle_mrad=99.0)
    error = mass.k_A - exact.deflection().k_A
    assert error.std() == pytest.approx(mass.variance**0.5, rel=0.15)


def test_the_noise_of_a_deflection_is_what_it_claims() -> None:
    patterns = scanned(DEFOCUSED, np.zeros((N, N))).counted(300.0)
    deflection = centre_of_mass(patterns, header())
    assert deflection.k_A.var() == pytest.approx(deflection.variance, rel=0.15)


@settings(max_examples=20)
@given(st.integers(-3, 3), st.integers(-3, 3), st.floats(-180, 180))
def test_integration_undoes_differentiation(u: int, v: int, turn_deg: float) -> None:
    """Whatever the turn of the scan; the high-pass takes half at its period."""
    if (u, v) == (0, 0):
        return
    matrix = rotation_matrix(turn_deg) * 0.7
    shape = (17, 22)
    q = scan_frequencies(shape, matrix)
    s = np.indices(shape)
    phase = np.cos(2 * np.pi * (u * s[0] / shape[0] + v * s[1] / shape[1]))
    slope = np.fft.ifft2(1j * q * np.fft.fft2(phase)).real
    back = integrate_deflection(Deflection(slope, 1e-18), matrix)
    np.testing.assert_allclose(back, phase, atol=1e-6)
    period = float(1 / np.hypot(*q[:, u % 17, v % 22]))
    faded = integrate_deflection(Deflection(slope, 1e-18), matrix, high_pass_A=period)
    np.testing.assert_allclose(faded, phase / 2, atol=1e-6)
