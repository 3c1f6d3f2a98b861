"""The experiment as numbers: every global parameter that the forward model depends on."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.calibration import Calibration
from recon.dataset import ScanHeader
from recon.execution import Team
from recon.geometry import k_per_mrad, rotation_matrix, scan_positions_A, wavelength_A
from recon.patterns import Patterns
from recon.ptychography.optics import Grid, ProbeOptics, probe_spectrum, propagator

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Experiment:
    """Optics, raster and specimen geometry; ``defocus_A`` refers to the entrance surface.

    The specimen of ``thickness_A`` is ``n_slices`` thin sheets in the middle of slabs of equal
    thickness: the probe meets the first one half a slab below the entrance surface.
    """

    grid: Grid
    k_edge_A: float
    beam_offset_A: tuple[float, float]
    scan_shape: tuple[int, int]
    scan_step_A: float
    defocus_A: float
    C12a_A: float
    C12b_A: float
    rotation_deg: float
    affine: tuple[tuple[float, float], tuple[float, float]]
    tilt_mrad: tuple[float, float]
    thickness_A: float
    n_slices: int
    aperture: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    """Amplitude as measured in vacuum, FFT order, on this grid's frequencies or on more of them."""

    @classmethod
    def of(
        cls, header: ScanHeader, patterns: Patterns, calibration: Calibration, n_slices: int
    ) -> "Experiment":
        """Combine what the header says with what was measured."""
        k_pixel = header.detector_sampling_mrad * k_per_mrad(header.energy_keV)
        return cls(
            grid=Grid(patterns.n, 1 / (patterns.n * k_pixel), wavelength_A(header.energy_keV)),
            k_edge_A=header.convergence_semiangle_mrad * k_per_mrad(header.energy_keV),
            beam_offset_A=(patterns.offset_px[0] * k_pixel, patterns.offset_px[1] * k_pixel),
            scan_shape=header.scan_shape,
            scan_step_A=header.scan_step_A,
            defocus_A=calibration.defocus_A.value,
            C12a_A=calibration.C12a_A.value,
            C12b_A=calibration.C12b_A.value,
            rotation_deg=calibration.rotation_deg.value,
            affine=calibration.affine,
            tilt_mrad=(calibration.tilt_row_mrad.value, calibration.tilt_col_mrad.value),
            thickness_A=calibration.thickness_A.value,
            n_slices=n_slices,
            aperture=patterns.aperture,
        )

    def numbers(self) -> dict[str, Any]:
        """All parameters that are numbers, JSON-ready: neither the grid nor the aperture."""
        names = (f.name for f in fields(self) if f.name not in ("grid", "aperture"))
        return {name: getattr(self, name) for name in names}

    def with_numbers(self, numbers: dict[str, Any]) -> "Experiment":
        """Return this experiment with the parameters of ``numbers``, as read from JSON."""
        values: dict[str, Any] = {name: _tuples(value) for name, value in numbers.items()}
        return replace(self, **values)

    @property
    def slab_A(self) -> float:
        """Thickness that each slice stands for."""
        return self.thickness_A / self.n_slices

    def scan_matrix(self) -> Float:
        """Å per scan step, (2, 2)."""
        return rotation_matrix(self.rotation_deg) @ np.array(self.affine) * self.scan_step_A

    def positions_A(self) -> Float:
        """Scan positions about the centre of the scan, (n, 2), Å."""
        return scan_positions_A(self.scan_shape, self.scan_matrix())

    def optics(self) -> ProbeOptics:
        """Aperture and aberrations at the first slice."""
        return ProbeOptics(
            k_edge_A=self.k_edge_A,
            C10_A=self.slab_A / 2 - self.defocus_A,
            C12a_A=self.C12a_A,
            C12b_A=self.C12b_A,
            centre_row_A=self.beam_offset_A[0],
            centre_col_A=self.beam_offset_A[1],
        )

    def probe_spectrum(self) -> Tensor:
        """Probe at the first slice, complex128, (n, n), reciprocal space, one electron."""
        amplitude = None if self.aperture is None else torch.from_numpy(self.aperture)
        return probe_spectrum(self.grid, self.optics(), amplitude)

    def entrance_probe(self) -> Tensor:
        """Probe at the entrance surface in real space, centred on [n//2, n//2], one electron."""
        at_entrance = replace(self, thickness_A=1e-9 * self.n_slices)
        psi = torch.fft.ifft2(at_entrance.probe_spectrum(), norm="ortho")
        return torch.fft.fftshift(psi)

    def propagator(self) -> Tensor:
        """H between slices, complex64, (n, n)."""
        return propagator(self.grid, self.slab_A, self.tilt_mrad)


def _tuples(value: object) -> object:
    """JSON lists as the tuples they were."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def agreed(experiment: Experiment, team: Team) -> Experiment:
    """Return the experiment with the refined numbers of the team's first process."""
    (a, b), (c, d) = experiment.affine
    own = [
        experiment.defocus_A, experiment.C12a_A, experiment.C12b_A, experiment.rotation_deg,
        experiment.thickness_A, *experiment.tilt_mrad, a, b, c, d,
    ]  # fmt: skip
    defocus, c12a, c12b, rotation, thickness, row, col, a, b, c, d = team.agree(own)
    return replace(
        experiment,
        defocus_A=defocus,
        C12a_A=c12a,
        C12b_A=c12b,
        rotation_deg=rotation,
        thickness_A=thickness,
        tilt_mrad=(row, col),
        affine=((a, b), (c, d)),
    )
