"""4D-STEM data made by abTEM: another program, other physics code, other scattering factors."""

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from recon.dataset import Dataset4D, ScanHeader

CELL_A = 20.0
COLUMNS = (  # symbol, x (row), y (col): no symmetry, so that a flip or a turn cannot hide
    ("Zr", 3.0, 3.0), ("Zr", 3.0, 12.0), ("Zr", 12.5, 4.0), ("O", 5.5, 3.4), ("O", 8.0, 3.8),
    ("O", 10.3, 4.0), ("C", 3.0, 5.5), ("C", 3.2, 7.5), ("O", 3.1, 9.6), ("C", 16.0, 15.0),
    ("O", 14.5, 16.5), ("Zr", 9.0, 13.0), ("O", 10.5, 14.0), ("C", 17.5, 8.0), ("O", 7.0, 17.5),
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """Noise-free patterns of a known specimen, and how they were made."""

    patterns: np.ndarray
    """Fractions of the beam, (scan_y, scan_x, det_y, det_x)."""
    phase_rad: np.ndarray
    """Projected phase of the cell, periodic, row = 0 at x = 0."""
    scan_centre_A: tuple[float, float]
    header: ScanHeader
    thickness_A: float

    def counted(self, fluence_e_per_A2: float, seed: int = 0, **header: object) -> Dataset4D:
        """Poisson counts; ``header`` fields may lie about the experiment."""
        electrons = fluence_e_per_A2 * self.header.scan_step_A**2
        counts = np.random.default_rng(seed).poisson(self.patterns * electrons)
        fields = self.header.model_dump() | {"fluence_e_per_A2": fluence_e_per_A2} | header
        return Dataset4D.from_dense(counts.astype(np.uint16), ScanHeader.model_validate(fields))

    def write_described(self, path: Path, fluence_e_per_A2: float = 300.0, seed: int = 0) -> Path:
        """A described array that every process can open."""
        header = self.header
        with h5py.File(path, "w") as file:
            file["counts"] = self.counted(fluence_e_per_A2, seed=seed).dense4d()
            file.attrs.update(
                energy_eV=1e3 * header.energy_keV,
                semiangle_mrad=header.convergence_semiangle_mrad,
                defocus_A=header.defocus_A,
                scan_step_A=header.scan_step_A,
                k_pixel_mrad=header.detector_sampling_mrad,
                dose_e_per_A2=fluence_e_per_A2,
                scan_rotation_deg=header.scan_rotation_deg,
                nominal_thickness_A=self.thickness_A,
            )
        return path

    def phase_on(self, shape: tuple[int, int], pixel_A: float, centre_px: Any) -> np.ndarray:
        """True phase on a grid whose pixel ``centre_px`` is the centre of the scan."""
        n = len(self.phase_rad)
        q = np.fft.fftfreq(n, CELL_A / n)
        spectrum = np.fft.fft2(self.phase_rad) / n**2
        spectrum[np.hypot(q[:, None], q[None]) > 0.5 / pixel_A] = 0
        rows, cols = (
            (np.arange(size) - middle) * pixel_A + origin
            for size, middle, origin in zip(shape, centre_px, self.scan_centre_A, strict=True)
        )
        along = [np.exp(2j * np.pi * np.outer(x, q)) for x in (rows, cols)]
        return (along[0] @ spectrum @ along[1].T).real


def _vibrating(potential: np.ndarray, U_iso_A2: float = 0.04) -> np.ndarray:
    """Debye-Waller factor exp(-2 pi^2 U q^2) on every slice."""
    q = np.fft.fftfreq(potential.shape[-1], CELL_A / potential.shape[-1])
    factor = np.exp(-2 * np.pi**2 * U_iso_A2 * (q[:, None] ** 2 + q[None] ** 2))
    return np.fft.ifft2(np.fft.fft2(potential) * factor).real.astype(np.float32)


@cache
def _specimen(cells: int) -> Any:
    """Potential of some cells of 4 Å along the beam, an abTEM array."""
    import abtem
    from ase import Atoms

    abtem.config.set({"local_diagnostics.progress_bar": False})
    symbols = [column[0] for column in COLUMNS]
    positions = [(column[1], column[2], 2.0) for column in COLUMNS]
    atoms = Atoms(symbols, positions, cell=[CELL_A, CELL_A, 4.0], pbc=True) * (1, 1, cells)
    sharp = abtem.Potential(
        atoms, gpts=96, slice_thickness=4.0, parametrization="kirkland", projection="infinite"
    ).build(lazy=False)
    return abtem.PotentialArray(
        _vibrating(sharp.array), slice_thickness=4.0, extent=(CELL_A, CELL_A)
    )


def simulate(
    *,
    scan_shape: tuple[int, int] = (22, 26),
    rotation_deg: float,
    defocus_A: float,
    semiangle_mrad: float = 12.0,
    step_A: float = 0.9,
    pixels: int = 48,
    cells: int = 16,
) -> Truth:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import abtem

        potential = _specimen(cells)
        angle = np.deg2rad(rotation_deg)
        sy, sx = np.indices(scan_shape).reshape(2, -1)
        sy, sx = (s - (n - 1) / 2 for s, n in zip((sy, sx), scan_shape, strict=True))
        row = step_A * (np.cos(angle) * sy - np.sin(angle) * sx) + CELL_A / 2
        col = step_A * (np.sin(angle) * sy + np.cos(angle) * sx) + CELL_A / 2
        probe = abtem.Probe(energy=300e3, semiangle_cutoff=semiangle_mrad, defocus=defocus_A)
        probe.grid.match(potential)
        scan = abtem.CustomScan(np.stack([row, col], axis=1))
        waves = probe.multislice(potential, scan=scan, lazy=False, max_batch=64)
        patterns = waves.diffraction_patterns(max_angle=None).array
        sigma = abtem.core.energy.energy2sigma(300e3)
        wavelength = abtem.core.energy.energy2wavelength(300e3)
        phase = potential.array.sum(axis=0) * sigma
    middle = patterns.shape[-1] // 2
    cut = slice(middle - pixels // 2, middle + pixels // 2)
    patterns = np.asarray(patterns)[:, cut, cut] / patterns.sum(axis=(1, 2)).mean()
    return Truth(
        patterns=patterns.reshape(*scan_shape, pixels, pixels),
        phase_rad=phase,
        scan_centre_A=(CELL_A / 2, CELL_A / 2),
        header=ScanHeader(
            energy_keV=300.0,
            convergence_semiangle_mrad=semiangle_mrad,
            defocus_A=defocus_A,
            scan_step_A=step_A,
            scan_rotation_deg=rotation_deg,
            detector_sampling_mrad=wavelength / CELL_A * 1e3,
            scan_shape=scan_shape,
            frame_shape=(pixels, pixels),
            start_time="2026-03-01T22:15:00+00:00",
            run_uuid="9b7c0c1e-0000-4000-8000-000000000002",
            sample="columns",
        ),
        thickness_A=4.0 * cells,
    )


@pytest.fixture(scope="session")
def turned() -> Truth:
    """Underfocused by 12 nm, scan turned by 11 degrees against the detector."""
    return simulate(rotation_deg=11.0, defocus_A=120.0)


@pytest.fixture(scope="session")
def thick() -> Truth:
    """26 nm of the same columns, the crossover 5 nm below the middle."""
    return simulate(rotation_deg=11.0, defocus_A=178.0, scan_shape=(24, 24), cells=64)
