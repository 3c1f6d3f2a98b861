"""4D-STEM of a crystal: expected diffraction patterns of a windowed, partially coherent probe.

Axes: positions (row, col) in Å from the centre of the field; patterns (position, det_y, det_x) with
the zero angle at pixel N // 2, +row = +det_y, +col = +det_x.  Each pattern is normalised to one
incident electron; what scatters beyond the detector is missing from its sum.

The multislice runs on a grid half as wide again as the detector (more for metals), so that
products of waves do not alias into it, and on windows of a whole number times the length
1 / (detector pixel), so that the probe fits; finer pixels are summed into the detector's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from sim_microscope.scattering.atom_lottery import normal_vector
from sim_microscope.scattering.atoms import Atoms
from sim_microscope.scattering.electron import wavelength_A
from sim_microscope.scattering.probe import ProbeOptics, incoherent_points, probe_spectrum
from sim_microscope.scattering.slice_phases import BAND_LIMIT, slice_edges_A, slice_phases
from sim_microscope.scattering.specimen import ScanSpecimen

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]


_PHASE_PER_SLICE = 0.09
"""Mean phase in radian that one slice may add; its maxima are some twenty times higher."""

_DENSE = 0.017
_WIDE_GRID = 2.5
"""Grid over detector for metals (mean phase over _DENSE rad/Å), which scatter far; else 1.5."""

_MARGIN_A = 1.5
"""Field beyond the windows: the radius of an atom."""


@dataclass(frozen=True)
class ScanDetector:
    """The pixel detector behind a scan: (rows, cols), and the angle of one pixel."""

    shape: tuple[int, int]
    sampling_mrad: float


@dataclass(frozen=True)
class ScanAccuracy:
    """How finely to compute.

    ``slice_thickness_A`` None takes slices of 10 Å for frameworks and thinner ones for denser
    crystals.  ``configurations`` counts independent sets of thermal displacements, each with
    its own source points and focus; one is enough for low-dose counts, four for a smooth source.
    PyTorch is held to ``threads`` while a batch is computed: the windows are too small to share,
    and two threads that wait for each other on a busy machine cost more than they bring.  A
    scan whose phase gratings would exceed ``memory_MB`` is done in pieces.
    """

    slice_thickness_A: float | None = None
    configurations: int = 1
    batch: int = 32
    device: str = "cpu"
    threads: int = 1
    memory_MB: float = 400.0


@dataclass(frozen=True, eq=False)
class PhaseMap:
    """Projected phase in radian, float32 [y, x]; ``centre_px`` = (row, col) of position (0, 0)."""

    phase_rad: NDArray[np.float32]
    sampling_A: tuple[float, float]
    centre_px: tuple[int, int]


def raster_positions_A(
    shape: tuple[int, int],
    step_A: float,
    *,
    rotation_deg: float = 0.0,
    affine: Array | None = None,
) -> Array:
    """Positions (rows * cols, 2) as (row, col) in Å from the centre of the scan, row by row.

    position = Rot(theta) affine step (sy - c, sx - c), c = (N - 1) / 2, with
    Rot = [[cos, -sin], [sin, cos]] on (row, col).
    """
    sy, sx = np.indices(shape).reshape(2, -1)
    grid = step_A * np.stack([sy - (shape[0] - 1) / 2, sx - (shape[1] - 1) / 2])
    c, s = np.cos(np.deg2rad(rotation_deg)), np.sin(np.deg2rad(rotation_deg))
    turn = np.array([[c, -s], [s, c]])
    return np.ascontiguousarray((turn @ (np.eye(2) if affine is None else affine) @ grid).T)


@dataclass(frozen=True)
class _Field:
    """Pixels of the specimen that a set of windows covers, and where its middle lies."""

    shape: tuple[int, int]
    centre_px: tuple[int, int]


class Scan4DSimulator:
    """Expected patterns of one specimen under one probe.

    Construction is cheap; each call of ``patterns`` builds the atoms and phase gratings of the
    field that its positions need (about half a second).  Atoms keep their thermal
    displacements, damage and defects from call to call and from simulator to simulator with
    the same seed, so a scan may be done in pieces, the specimen of each more damaged than the last.
    """

    def __init__(
        self,
        specimen: ScanSpecimen,
        optics: ProbeOptics,
        detector: ScanDetector,
        *,
        seed: int,
        accuracy: ScanAccuracy | None = None,
    ) -> None:
        self._specimen = specimen
        self._optics = optics
        self._detector = detector
        self._accuracy = accuracy or ScanAccuracy()
        self._seed = seed
        lam = wavelength_A(optics.energy_keV)
        k_pixel = detector.sampling_mrad * 1e-3 / lam
        self._margin = _WIDE_GRID if specimen.phase_rate_per_A(optics.energy_keV) > _DENSE else 1.5
        needed = 1.15 * optics.diameter_A(10 * specimen.thickness_nm) + 2.0
        self._oversampling = max(1, int(np.ceil(needed * k_pixel)))
        self._window = tuple(
            int(fft.next_fast_len(int(np.ceil(self._margin * n)) * self._oversampling))
            for n in detector.shape
        )
        self._k_step = k_pixel / self._oversampling
        self._sampling = tuple(1 / (n * self._k_step) for n in self._window)

    @property
    def window_px(self) -> tuple[int, int]:
        """Grid on which each probe is propagated."""
        return self._window[0], self._window[1]

    @property
    def sampling_A(self) -> tuple[float, float]:
        """Pixel of that grid in real space (row, col), Å."""
        return self._sampling[0], self._sampling[1]

    def patterns(self, positions_A: Array) -> Iterator[NDArray[np.float32]]:
        """Yield batches (n, det_y, det_x) float32 of expected intensity, in the order given.

        ``positions_A`` (n, 2) as (row, col) from the centre of the field, where the specimen's
        origin lies.
        """
        positions = np.asarray(positions_A, dtype=float)
        if positions.ndim != 2 or positions.shape[1] != 2 or not np.isfinite(positions).all():
            raise ValueError(
                f"positions must be finite and of shape (n, 2) as (row, col) in Å, got "
                f"{positions.shape}; nothing was simulated. raster_positions_A makes them"
            )
        for piece in self._pieces(positions):
            yield from self._piece(piece)

    def _pieces(self, positions: Array) -> Iterator[Array]:
        """Halve the positions, at a multiple of the batch, until the gratings fit in memory."""
        field = self._field(positions, np.zeros((1, 1, 2)))
        slices = np.ceil(self._specimen.depth_A / self._slice_thickness_A())
        batches = -(-len(positions) // self._accuracy.batch)
        megabytes = 8e-6 * np.prod(field.shape) * slices * self._accuracy.configurations
        if megabytes <= self._accuracy.memory_MB or batches < 2:
            yield positions
            return
        middle = batches // 2 * self._accuracy.batch
        yield from self._pieces(positions[:middle])
        yield from self._pieces(positions[middle:])

    def _piece(self, positions: Array) -> Iterator[NDArray[np.float32]]:
        """Patterns of positions that share one field."""
        count = self._accuracy.configurations
        offsets, focus_nm = incoherent_points(self._optics, count, positions, seed=self._seed)
        field = self._field(positions, offsets)
        runs = [
            self._one_configuration(c, positions + offsets[c], float(focus_nm[c]), field)
            for c in range(count)
        ]
        for parts in zip(*runs, strict=True):
            yield np.mean(parts, axis=0, dtype=np.float32)

    def projected_phase(self, positions_A: Array) -> PhaseMap:
        """True projected phase over the field of these positions, thermally smeared."""
        field = self._field(np.asarray(positions_A, dtype=float), np.zeros((1, 1, 2)))
        atoms, depth = self._atoms(field), self._specimen.depth_A
        phase = np.zeros(field.shape, dtype=np.float32)
        for part in slice_phases(
            atoms,
            slice_edges_A(depth, depth),
            shape=field.shape,
            sampling_A=self.sampling_A,
            energy_keV=self._optics.energy_keV,
            smear_thermally=True,
        ):
            phase += part
        centre = (
            field.shape[0] // 2 - field.centre_px[0],
            field.shape[1] // 2 - field.centre_px[1],
        )
        return PhaseMap(phase, self.sampling_A, centre)

    def _slice_thickness_A(self) -> float:
        if self._accuracy.slice_thickness_A is not None:
            return self._accuracy.slice_thickness_A
        rate = self._specimen.phase_rate_per_A(self._optics.energy_keV)
        return float(np.clip(_PHASE_PER_SLICE / rate, 2.0, 10.0))

    def _field(self, positions: Array, offsets: Array) -> _Field:
        """A field that holds every window."""
        pixel = np.array(self._sampling)
        low = (positions.min(axis=0) + offsets.min(axis=(0, 1))) / pixel
        high = (positions.max(axis=0) + offsets.max(axis=(0, 1))) / pixel
        centre = np.rint((low + high) / 2)
        reach = np.maximum(high - centre, centre - low)
        rows, cols = (
            int(fft.next_fast_len(int(2 * np.ceil(r + _MARGIN_A / d) + n), real=True))
            for r, n, d in zip(reach, self._window, self._sampling, strict=True)
        )
        return _Field((rows, cols), (int(centre[0]), int(centre[1])))

    def _atoms(self, field: _Field) -> Atoms:
        """The atoms over a field, moved so that its centre is at x = y = 0."""
        pixel = np.array(self._sampling)
        centre = np.array(field.centre_px) * pixel
        half = np.array(field.shape) * pixel / 2
        corners = ((centre - half)[::-1], (centre + half)[::-1])
        atoms = self._specimen.atoms(*corners, seed=self._seed)
        return atoms.displaced(np.array([[-centre[1], -centre[0], 0.0]]))

    def _gratings(self, field: _Field, configuration: int) -> tuple[torch.Tensor, float]:
        """exp(i phi) of every slice over the field, and the distance between slices."""
        import torch

        atoms = self._atoms(field)
        if self._specimen.frozen:
            shake = normal_vector(atoms.identity, seed=self._seed, stream=10 + configuration)
            atoms = atoms.displaced(shake * np.sqrt(atoms.U_iso_A2)[:, None])
        edges = slice_edges_A(self._specimen.depth_A, self._slice_thickness_A())
        gratings = torch.empty(
            (len(edges) - 1, *field.shape), dtype=torch.complex64, device=self._accuracy.device
        )
        phases = slice_phases(
            atoms,
            edges,
            shape=field.shape,
            sampling_A=self.sampling_A,
            energy_keV=self._optics.energy_keV,
            smear_thermally=not self._specimen.frozen,
        )
        for n, phase in enumerate(phases):
            phi = torch.from_numpy(phase).to(self._accuracy.device)
            gratings[n] = torch.polar(torch.ones_like(phi), phi)
        return gratings, float(edges[1] - edges[0])

    def _one_configuration(
        self, configuration: int, positions: Array, focus_nm: float, field: _Field
    ) -> Iterator[NDArray[np.float32]]:
        import torch

        from sim_microscope.scattering.multislice import (
            fresnel_propagator,
            place_probes,
            propagate,
        )

        device = self._accuracy.device
        gratings, distance = self._gratings(field, configuration)
        optics = replace(self._optics, defocus_nm=self._optics.defocus_nm + focus_nm)
        step = (self._k_step, self._k_step)
        spectrum = torch.from_numpy(
            probe_spectrum(optics, self.window_px, step).astype(np.complex64)
        ).to(device)
        propagator = fresnel_propagator(
            self.window_px,
            k_step_per_A=step,
            wavelength_A=wavelength_A(optics.energy_keV),
            distance_A=distance,
            band_limit=BAND_LIMIT,
        ).to(device)
        pixel = positions / np.array(self._sampling) - field.centre_px + np.array(field.shape) // 2
        nearest = np.rint(pixel).astype(np.int64)
        corners = torch.from_numpy(nearest - np.array(self._window) // 2).to(device)
        shifts = torch.from_numpy((pixel - nearest).astype(np.float32)).to(device)
        for first in range(0, len(positions), self._accuracy.batch):
            part = slice(first, first + self._accuracy.batch)
            with _torch_threads(self._accuracy.threads):
                psi = place_probes(spectrum, shifts[part])
                psi = propagate(psi, gratings, corners[part], propagator)
                batch = self._on_detector(psi).cpu().numpy()
            yield batch

    def _on_detector(self, psi: torch.Tensor) -> torch.Tensor:
        """|F psi|² summed into the detector's pixels, zero angle at N // 2."""
        import torch

        q = self._oversampling
        if q % 2 == 0:  # samples lie at half-integers of the fine pixel, so that q of them centre
            for axis, n in enumerate(self._window):
                ramp = torch.exp(-1j * torch.pi * torch.arange(n, device=psi.device) / n)
                psi = psi * (ramp[:, None] if axis == 0 else ramp[None, :])
        intensity = torch.fft.fft2(psi, norm="ortho").abs().square()
        for axis, (n, wanted) in enumerate(zip(self._window, self._detector.shape, strict=True)):
            first = -(wanted // 2) * q - (q - 1) // 2 if q % 2 else -(wanted // 2) * q - q // 2
            keep = torch.arange(first, first + wanted * q, device=psi.device) % n
            intensity = intensity.index_select(axis + 1, keep)
        if q == 1:
            return intensity
        ny, nx = self._detector.shape
        return intensity.reshape(-1, ny, q, nx, q).sum(dim=(2, 4))


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def simulate_scan(
    specimen: ScanSpecimen,
    optics: ProbeOptics,
    detector: ScanDetector,
    positions_A: Array,
    *,
    seed: int,
    accuracy: ScanAccuracy | None = None,
) -> NDArray[np.float32]:
    """All patterns of a scan at once, float32 (n, det_y, det_x); see ``Scan4DSimulator``."""
    simulator = Scan4DSimulator(specimen, optics, detector, seed=seed, accuracy=accuracy)
    return np.concatenate(list(simulator.patterns(positions_A)))
