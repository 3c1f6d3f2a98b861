"""4D-STEM sets with a known answer, from a multislice program that shares no code with ``recon``.

A crystal is cut from its structure file at any in-plane angle, so that no atom sits on a pixel. Its
potential comes from abTEM (independent atoms, Lobato & van Dyck, Acta Cryst. A70 (2014) 636),
smeared by the mean displacements of the structure file; every slab of about 2.5 A is one step of
a multislice on 128 x 128 pixels, four times those of the detector. Nuisances are what an
instrument has: a turned and distorted scan, a tilted specimen, a defocus and a thickness that
the header states wrongly. Noise-free patterns are cached in a folder, one file per case.

Signs as in the specification: positive defocus is underfocus, a ray that enters at r is at
r + tilt z in depth z, the true phase is sigma times the potential along that ray.
"""

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

Float = NDArray[np.float64]
STRUCTURES = Path(__file__).parents[1] / "tests" / "controller" / "alignment" / "data"
ENERGY_eV = 300e3
PIXEL_A = 0.175
WINDOW_PX = 128
SLAB_A = 2.6
BAND = 2 / 3
"""Part of the Nyquist frequency that waves may have: no aliasing in products of two."""


@dataclass(frozen=True)
class Case:
    """One specimen, one scan: everything that is true."""

    structure: str
    thickness_A: float
    semiangle_mrad: float = 10.0
    defocus_A: float = 150.0
    scan_shape: tuple[int, int] = (64, 64)
    step_A: float = 1.05
    rotation_deg: float = 0.0
    affine: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    tilt_mrad: tuple[float, float] = (0.0, 0.0)
    in_plane_deg: float = 0.0
    origin_A: tuple[float, float] = (3.7, 1.9)
    pixels: int = 64
    u_iso_A2: float | None = None
    """Mean square displacement; that of the structure file if not given."""
    zone: tuple[int, int, int] | None = None
    """Lattice direction along the beam; c if not given."""

    @property
    def key(self) -> str:
        """A short name for the cache that changes with every field."""
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        text = json.dumps(fields, sort_keys=True)
        return f"{self.structure}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def scan_matrix(self) -> Float:
        """A per scan step (2, 2), on (row, col)."""
        c, s = np.cos(np.deg2rad(self.rotation_deg)), np.sin(np.deg2rad(self.rotation_deg))
        return np.array([[c, -s], [s, c]]) @ np.array(self.affine) * self.step_A

    def positions_A(self) -> Float:
        """Scan points about the centre of the scan, (n, 2)."""
        sy, sx = np.indices(self.scan_shape).reshape(2, -1)
        centre = (np.array(self.scan_shape) - 1) / 2
        return (np.stack([sy, sx], axis=1) - centre) @ self.scan_matrix().T


@dataclass(frozen=True)
class Nominal:
    """What the header says beside the truth; zero errors and no thickness by default."""

    rotation_error_deg: float = 0.0
    defocus_error_A: float = 0.0
    thickness_A: float | None = None


@dataclass(frozen=True)
class SimulatedSet:
    """Noise-free patterns and the true phase.

    ``patterns`` are fractions of the beam, float32 (scan_y, scan_x, n, n), zero angle at n // 2;
    ``phase_rad`` lies on pixels of ``PIXEL_A``, the centre of the scan at ``centre_px``.
    """

    case: Case
    patterns: NDArray[np.float32]
    phase_rad: NDArray[np.float32]
    centre_px: tuple[float, float]
    k_pixel_mrad: float

    def counts(self, dose_e_per_A2: float, seed: int) -> NDArray[np.uint16]:
        """Poisson counts of one experiment."""
        electrons = dose_e_per_A2 * self.case.step_A**2
        return np.random.default_rng(seed).poisson(self.patterns * electrons).astype(np.uint16)

    @cached_property
    def _spectrum(self) -> NDArray[np.complex128]:
        return np.fft.fft2(self.phase_rad.astype(np.float64)) / self.phase_rad.size

    def phase_on(self, shape: tuple[int, int], pixel_A: float, centre_px: Float) -> Float:
        """True phase on another grid, band-limited by it; scan centre at ``centre_px``."""
        q = [np.fft.fftfreq(n, PIXEL_A) for n in self.phase_rad.shape]
        inside = np.maximum(np.abs(q[0])[:, None], np.abs(q[1])[None]) < 0.5 / pixel_A
        along = [
            np.exp(2j * np.pi * np.outer((np.arange(n) - c) * pixel_A + o * PIXEL_A, f))
            for n, c, o, f in zip(shape, centre_px, self.centre_px, q, strict=True)
        ]
        return (along[0] @ (self._spectrum * inside) @ along[1].T).real


@dataclass
class _Block:
    """One cell along the beam: phase of every slab over the whole field, float32 (slab, y, x)."""

    slabs: NDArray[np.float32]
    slab_A: float
    centre_px: tuple[float, float]
    wavelength_A: float = field(default=0.0)


def build_block(case: Case, margin_A: float = 4.0) -> _Block:
    """Potential of one period of the crystal, over the scan and a window around it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import abtem
        import ase.io

        abtem.config.set({"local_diagnostics.progress_bar": False})
        path = STRUCTURES / f"{case.structure}.cif"
        crystal = ase.io.read(path)
        if case.zone is not None:
            crystal = _seen_along(crystal, case.zone)
        reach = np.abs(case.positions_A()).max(axis=0) + WINDOW_PX * PIXEL_A / 2 + margin_A
        gpts = (4 * np.ceil(reach / PIXEL_A / 2)).astype(int)
        extent = gpts * PIXEL_A
        atoms = _laterally_cut(crystal, extent, case)
        period = float(crystal.cell.lengths()[2])
        count = max(1, round(period / SLAB_A))
        potential = abtem.Potential(
            atoms, gpts=tuple(gpts.tolist()), slice_thickness=period / count,
            parametrization="lobato", projection="infinite",
        ).build(lazy=False)  # fmt: skip
        sigma = abtem.core.energy.energy2sigma(ENERGY_eV)
        wavelength = abtem.core.energy.energy2wavelength(ENERGY_eV)
    q2 = sum(
        np.fft.fftfreq(n, PIXEL_A).reshape(-1, 1) ** 2
        if axis == 0
        else np.fft.fftfreq(n, PIXEL_A).reshape(1, -1) ** 2
        for axis, n in enumerate(gpts.tolist())
    )
    u_iso = _displacement_A2(path) if case.u_iso_A2 is None else case.u_iso_A2
    smear = np.exp(-2 * np.pi**2 * u_iso * q2)
    smear *= np.sqrt(q2) < BAND * 0.5 / PIXEL_A
    slabs = np.stack([np.fft.ifft2(np.fft.fft2(s) * smear).real for s in potential.array])
    slabs = slabs.astype(np.float32) * np.float32(sigma)
    centre = (gpts[0] / 2, gpts[1] / 2)
    return _Block(slabs, period / count, centre, wavelength)


def _seen_along(crystal: object, zone: tuple[int, int, int]) -> object:
    """Return the crystal in a cell whose c is the zone and whose a and b are square to it."""
    from ase.build import make_supercell

    cell = np.array(crystal.cell)  # type: ignore[attr-defined]
    along = np.array(zone) @ cell
    steps = np.indices((5, 5, 5)).reshape(3, -1).T - 2
    square = [v for v in steps.tolist() if any(v) and abs(np.array(v) @ cell @ along) < 1e-3]
    square.sort(key=lambda v: float(np.linalg.norm(np.array(v) @ cell)))
    a, *others = square
    b = next(v for v in others if np.linalg.norm(np.cross(np.array(v) @ cell, a @ cell)) > 1)
    if np.linalg.det(np.array([a, b, zone]) @ cell) < 0:
        b = [-n for n in b]
    turned = make_supercell(crystal, np.array([a, b, zone]))
    z = along / np.linalg.norm(along)
    x = np.array(a) @ cell / np.linalg.norm(np.array(a) @ cell)
    frame = np.array([x, np.cross(z, x), z])
    turned.set_cell(np.array(turned.cell) @ frame.T, scale_atoms=False)
    turned.set_positions(turned.get_positions() @ frame.T)
    return turned


def _displacement_A2(path: Path) -> float:
    import gemmi

    sites = gemmi.read_small_structure(str(path)).sites
    return float(np.mean([site.u_iso for site in sites])) or 0.02


def _laterally_cut(crystal: object, extent: Float, case: Case) -> object:
    """Atoms of one period inside the field, turned and shifted; the box is not a crystal cell."""
    from ase import Atoms

    cell = np.array(crystal.cell)  # type: ignore[attr-defined]
    flat = cell[:2, :2]
    reach = float(np.hypot(*extent))
    steps = [int(np.ceil(reach / np.abs(np.linalg.det(flat)) * np.linalg.norm(v))) + 1
             for v in flat[::-1]]  # fmt: skip
    i, j = np.meshgrid(np.arange(-steps[0], steps[0] + 1), np.arange(-steps[1], steps[1] + 1))
    lattice = np.stack([i.ravel(), j.ravel()], axis=1) @ flat
    where = crystal.get_positions()  # type: ignore[attr-defined]
    numbers = crystal.get_atomic_numbers()  # type: ignore[attr-defined]
    lateral = (where[:, None, :2] + lattice[None]).reshape(-1, 2) + np.array(case.origin_A)
    z = np.repeat(where[:, 2] % cell[2, 2], len(lattice))
    c, s = np.cos(np.deg2rad(case.in_plane_deg)), np.sin(np.deg2rad(case.in_plane_deg))
    lateral = lateral @ np.array([[c, -s], [s, c]]).T + extent / 2
    inside = ((lateral >= 0) & (lateral < extent)).all(axis=1)
    positions = np.column_stack([lateral[inside], z[inside]])
    box = [float(extent[0]), float(extent[1]), float(cell[2, 2])]
    return Atoms(np.repeat(numbers, len(lattice))[inside], positions, cell=box, pbc=True)


def true_phase(block: _Block, case: Case, count: int) -> NDArray[np.float32]:
    """Sum over all slabs along the tilted ray, referred to the entrance surface."""
    spectra = np.fft.fft2(block.slabs)
    ky = np.fft.fftfreq(spectra.shape[1], PIXEL_A)[:, None]
    kx = np.fft.fftfreq(spectra.shape[2], PIXEL_A)[None]
    total = np.zeros(spectra.shape[1:], complex)
    for s in range(count):
        depth = (s + 0.5) * block.slab_A * 1e-3
        walk = depth * (ky * case.tilt_mrad[0] + kx * case.tilt_mrad[1])
        total += spectra[s % len(spectra)] * np.exp(2j * np.pi * walk)
    return np.fft.ifft2(total).real.astype(np.float32)


def entrance_probe(case: Case, wavelength_A: float) -> NDArray[np.complex128]:
    """Probe spectrum on the window, one electron, hard aperture with an edge one pixel wide."""
    k = np.fft.fftfreq(WINDOW_PX, PIXEL_A)
    k2 = k[:, None] ** 2 + k[None] ** 2
    edge = case.semiangle_mrad * 1e-3 / wavelength_A
    amplitude = np.sqrt(np.clip((edge - np.sqrt(k2)) * WINDOW_PX * PIXEL_A + 0.5, 0, 1))
    psi = amplitude * np.exp(1j * np.pi * wavelength_A * case.defocus_A * k2)
    return psi / np.sqrt((np.abs(psi) ** 2).sum())


def patterns_of(
    block: _Block,
    case: Case,
    count: int,
    which: NDArray[np.int64] | None = None,
    *,
    batch: int = 32,
    on_batch: Callable[[float], None] | None = None,
) -> NDArray[np.float32]:
    """Diffraction patterns (position, pixels, pixels) of the chosen positions, by multislice."""
    n, lam, dz = WINDOW_PX, block.wavelength_A, block.slab_A
    k = torch.fft.fftfreq(n, PIXEL_A, dtype=torch.float64)
    ky, kx = torch.meshgrid(k, k, indexing="ij")
    k2 = ky**2 + kx**2
    walk = 1e-3 * (ky * case.tilt_mrad[0] + kx * case.tilt_mrad[1])
    band = k2.sqrt() < BAND * 0.5 / PIXEL_A

    def space(distance: float) -> torch.Tensor:
        phase = torch.pi * lam * distance * k2 + 2 * torch.pi * distance * walk
        return (torch.exp(-1j * phase) * band).to(torch.complex64)

    half, full = space(dz / 2), space(dz)
    probe = torch.from_numpy(entrance_probe(case, lam))
    phase = torch.from_numpy(block.slabs)
    transmission = torch.polar(torch.ones_like(phase), phase)
    corner = case.positions_A() / PIXEL_A + np.array(block.centre_px) - n // 2
    corner = corner if which is None else corner[which]
    whole = np.floor(corner).astype(int)
    part = torch.from_numpy((corner - whole + n // 2) * PIXEL_A)
    cut = slice(n // 2 - case.pixels // 2, n // 2 + case.pixels // 2)
    out = np.empty((len(corner), case.pixels, case.pixels), np.float32)
    for start in range(0, len(corner), batch):
        here = slice(start, min(start + batch, len(corner)))
        ramp = part[here, 0, None, None] * ky + part[here, 1, None, None] * kx
        psi = torch.fft.ifft2(probe * torch.exp(-2j * torch.pi * ramp), norm="ortho")
        psi = torch.fft.ifft2(torch.fft.fft2(psi.to(torch.complex64)) * half)
        t = torch.stack([transmission[:, y : y + n, x : x + n] for y, x in whole[here]], dim=1)
        for s in range(count):
            psi = torch.fft.ifft2(torch.fft.fft2(psi * t[s % len(t)]).mul_(full))
        detector = torch.fft.fft2(psi, norm="ortho").abs().square()
        out[here] = torch.fft.fftshift(detector, dim=(1, 2))[:, cut, cut].numpy()
        if on_batch is not None:
            on_batch(here.stop / len(corner))
    return out


def simulate(case: Case, cache: Path, *, tell: Callable[[str], None] = print) -> SimulatedSet:
    """Return the set from the cache, or compute and keep it (minutes)."""
    path = cache / f"{case.key}.npz"
    if path.exists():
        with np.load(path) as kept:
            return SimulatedSet(
                case, kept["patterns"], kept["phase_rad"], tuple(kept["centre_px"].tolist()),
                float(kept["k_pixel_mrad"]),
            )  # fmt: skip
    tell(f"simulating {case.key}: {case}")
    block = build_block(case)
    count = round(case.thickness_A / block.slab_A)
    patterns = patterns_of(block, case, count).reshape(*case.scan_shape, case.pixels, case.pixels)
    made = SimulatedSet(
        case, patterns, true_phase(block, case, count), block.centre_px,
        block.wavelength_A / (WINDOW_PX * PIXEL_A) * 1e3,
    )  # fmt: skip
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part.npz")
    np.savez(
        partial, patterns=patterns, phase_rad=made.phase_rad,
        centre_px=np.array(made.centre_px), k_pixel_mrad=made.k_pixel_mrad,
    )  # fmt: skip
    partial.replace(path)
    return made


def write_described(
    made: SimulatedSet, path: Path, *, dose_e_per_A2: float, seed: int, nominal: Nominal
) -> None:
    """Write counts and header as the specification describes them; the truth stays outside."""
    case = made.case
    with h5py.File(path, "w") as file:
        file.create_dataset("counts", data=made.counts(dose_e_per_A2, seed), compression="lzf")
        file.attrs.update(
            energy_eV=ENERGY_eV,
            semiangle_mrad=case.semiangle_mrad,
            defocus_A=case.defocus_A + nominal.defocus_error_A,
            scan_step_A=case.step_A,
            k_pixel_mrad=made.k_pixel_mrad,
            dose_e_per_A2=dose_e_per_A2,
            scan_rotation_deg=case.rotation_deg + nominal.rotation_error_deg,
            flip_ud=False,
            flip_lr=False,
            transpose=False,
        )
        if nominal.thickness_A is not None:
            file.attrs["nominal_thickness_A"] = nominal.thickness_A
