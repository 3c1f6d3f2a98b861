"""Diffraction patterns for testing the aligner, made by a route of their own.

Nothing here is shared with ``controller.perception.alignment``: scattering factors are those of
Lobato and Van Dyck as tabulated in abTEM (the aligner takes gemmi's c4322), atoms are summed one
by one, intensities come from a many-beam Bloch-wave solution (De Graef, *Introduction to
Conventional TEM*, ch. 5) or from the kinematical relrod, and the detector is drawn with its own
spot shape.  abTEM's own Bloch waves check it in ``tests/controller/alignment``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import gemmi
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def electron_wavelength_A(energy_keV: float) -> float:
    """Relativistic wavelength."""
    e = energy_keV * 1e3
    return float(12.2642596 / np.sqrt(e * (1 + 0.978475598e-6 * e)))


@dataclass
class Crystal:
    """All atoms of a cell, and Fourier coefficients of its potential."""

    cell: Array  # (3, 3), rows a, b, c in A
    symbols: list[str]
    positions: Array  # fractional, (n, 3)
    occupancy: Array
    u_iso: Array
    _keys: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _values: NDArray[np.complex128] = field(default_factory=lambda: np.empty(0, complex))

    @classmethod
    def from_cif(cls, path: Path | str) -> "Crystal":
        """Expand the asymmetric unit of a CIF file."""
        small = gemmi.make_small_structure_from_block(gemmi.cif.read(str(path)).sole_block())
        sites = small.get_all_unit_cell_sites()
        orth = np.array(small.cell.orth.mat.tolist())
        return cls(
            orth.T.copy(),
            [s.element.name for s in sites],
            np.array([s.fract.tolist() for s in sites]),
            np.array([s.occ for s in sites]),
            np.array([s.u_iso for s in sites]),
        )

    @property
    def volume(self) -> float:
        """Cell volume in A^3."""
        return float(abs(np.linalg.det(self.cell)))

    @property
    def reciprocal(self) -> Array:
        """Rows a*, b*, c* in 1/A."""
        return np.linalg.inv(self.cell).T

    def structure_factors(self, hkl: NDArray[np.int64]) -> NDArray[np.complex128]:
        """Fourier coefficients sum f exp(-2 pi i g.r) in A, for each row of hkl."""
        keys = (hkl + 512) @ np.array([1 << 22, 1 << 11, 1])
        unique, first = np.unique(keys, return_index=True)
        new = ~np.isin(unique, self._keys, assume_unique=True)
        if new.any():
            fresh = self._sum_over_atoms(hkl[first[new]])
            known = np.concatenate([self._keys, unique[new]])
            order = np.argsort(known)
            self._values = np.concatenate([self._values, fresh])[order]
            self._keys = known[order]
        return self._values[np.searchsorted(self._keys, keys)]

    def _sum_over_atoms(self, hkl: NDArray[np.int64]) -> NDArray[np.complex128]:
        from abtem.parametrizations import LobatoParametrization

        table = LobatoParametrization()
        out = np.empty(len(hkl), complex)
        for start in range(0, len(hkl), 4000):
            part = hkl[start : start + 4000]
            g2 = ((part @ self.reciprocal) ** 2).sum(1)
            total = np.zeros(len(part), complex)
            for symbol in sorted(set(self.symbols)):
                f = np.asarray(table.scattering_factor(symbol)(g2))
                chosen = np.array([s == symbol for s in self.symbols])
                phase = np.exp(-2j * np.pi * (part @ self.positions[chosen].T))
                dw = np.exp(-2 * np.pi**2 * np.outer(g2, self.u_iso[chosen]))
                total += f * (phase * dw * self.occupancy[chosen]).sum(1)
            out[start : start + 4000] = total
        return out


def orientation(crystal: Crystal, uvw: tuple[int, int, int], tilt_mrad: Array, phi: float) -> Array:
    """Rotation crystal -> detector: zone onto z, in-plane phi (rad), then the tilt vector."""
    z = np.asarray(uvw, float) @ crystal.cell
    z /= np.linalg.norm(z)
    x = np.cross([0.31, 0.27, 0.9], z)
    x /= np.linalg.norm(x)
    base = np.array([x, np.cross(z, x), z])
    c, s = np.cos(phi), np.sin(phi)
    spin = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    t = np.asarray(tilt_mrad) * 1e-3
    angle = np.hypot(*t)
    if angle == 0:
        return spin @ base
    n = np.array([-t[1], t[0], 0]) / angle  # rotates z towards t
    K = np.array([[0, -n[2], n[1]], [n[2], 0, -n[0]], [-n[1], n[0], 0]])
    return (np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K) @ spin @ base


def diffraction(  # noqa: PLR0913  every one is a physical condition
    crystal: Crystal,
    rotation: Array,
    energy_keV: float,
    thickness_nm: float,
    *,
    g_max: float | None = None,
    window_inv_A: float | None = None,
    beams: int = 700,
    dynamical: bool = True,
    thickness_spread: float = 0.0,
    absorption: float = 0.0,
) -> tuple[Array, Array]:
    """Transverse g (n, 2) in 1/A and intensities (n,) as fractions of what leaves the crystal.

    ``absorption`` is the imaginary part of the potential as a fraction of the real one, with a
    mean absorption of the same fraction; to first order in it, on the eigenvalues.

    Strong potentials of small cells reach far beams: without those between 0.05 and 0.3/A off the
    sphere the intensities of gold and zirconia are wrong by half to their whole size.
    """
    small, middling = crystal.volume < 500, crystal.volume < 1500
    g_max = g_max or (3.0 if small else 2.2 if middling else 1.7)
    window_inv_A = window_inv_A or (0.3 if small else 0.12 if middling else 0.03)
    K = 1 / electron_wavelength_A(energy_keV)
    gamma = 1 + energy_keV / 510.998950
    basis = crystal.reciprocal @ rotation.T
    lim = np.ceil(g_max * np.linalg.norm(crystal.cell, axis=1)).astype(int)
    axes = [np.arange(-m, m + 1) for m in lim]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    g = hkl @ basis
    keep = (g**2).sum(1) < g_max**2
    hkl, g = hkl[keep], g[keep]
    s = -(g[:, 2] + (g**2).sum(1) / (2 * K))
    t = thickness_nm * 10
    keep = np.abs(s) < window_inv_A
    hkl, g, s = hkl[keep], g[keep], s[keep]
    u_g = gamma * crystal.structure_factors(hkl) / (np.pi * crystal.volume)
    keep = (np.abs(u_g) > 1e-6) | (hkl == 0).all(1)
    hkl, g, s, u_g = hkl[keep], g[keep], s[keep], u_g[keep]
    zero = int(np.flatnonzero((hkl == 0).all(1))[0])
    weights, ts = np.array([1.0]), np.array([t])
    if thickness_spread > 0:
        nodes = np.linspace(-2.5, 2.5, 31)
        weights = np.exp(-0.5 * nodes**2)
        weights, ts = weights / weights.sum(), t * (1 + thickness_spread * nodes)
    kin = np.zeros(len(g))
    for w, tt in zip(weights, ts, strict=True):
        kin += w * np.abs(np.pi * u_g / K * tt * np.sinc(s * tt)) ** 2
    kin[zero] = 0
    if not dynamical:
        kin[zero] = max(0.3, 1 - kin.sum())
        return g[:, :2], kin / kin.sum()
    rank = np.abs(u_g) / (np.abs(s) + 0.3 * np.abs(u_g) / K + 1e-4)
    rank[zero] = np.inf
    strong = np.argsort(-rank)[:beams]
    zero_in = int(np.flatnonzero(strong == zero)[0])
    h = hkl[strong]
    diff = (h[:, None] - h[None]).reshape(-1, 3)
    potential = gamma * crystal.structure_factors(diff) / (np.pi * crystal.volume)
    potential = potential.reshape(len(h), len(h))
    matrix = potential.copy()
    np.fill_diagonal(matrix, 2 * K * s[strong])
    values, vectors = np.linalg.eigh(matrix)
    values = values.astype(complex)
    if absorption > 0:
        values += 1j * absorption * (vectors.conj() * (potential @ vectors)).sum(0).real
    out = kin.copy()
    out[strong] = 0
    for w, tt in zip(weights, ts, strict=True):
        psi = vectors @ (np.exp(1j * np.pi * values * tt / K) * vectors[zero_in].conj())
        out[strong] += w * np.abs(psi) ** 2
    return g[:, :2], out / out.sum()


@dataclass(frozen=True)
class Detector:
    """How the pattern is recorded."""

    shape: tuple[int, int] = (256, 256)
    inv_A_per_px: float = 0.012
    centre_px: tuple[float, float] | None = None  # (x, y)
    spot_sigma_px: float = 0.9
    halo_fraction: float = 0.25
    halo_width_inv_A: float = 0.25
    beam_stop_px: float = 0.0
    halo_shape: Literal["lorentzian", "gaussian", "exponential", "ring"] = "lorentzian"
    spot_shape: Literal["gaussian", "disc"] = "gaussian"
    """A disc has the radius of two of its sigmas, softened by 0.4 px."""
    stop_azimuth_rad: float = 0.0
    """Where the arm of the beam stop points."""
    hot_pixels: int = 0
    dead_pixels: int = 0


def record(
    g: Array, intensity: Array, detector: Detector, electrons: float, rng: np.random.Generator
) -> Array:
    """Poisson counts, (rows, columns), float64: spots, diffuse halo, beam stop, bad pixels.

    Hot pixels read 20 to 2000 counts whatever arrives, dead ones read none.
    """
    counts = rng.poisson(electrons * expected_share(g, intensity, detector)).astype(float)
    bad = rng.choice(counts.size, detector.hot_pixels + detector.dead_pixels, replace=False)
    hot = bad[: detector.hot_pixels]
    counts.flat[hot] = np.round(np.exp(rng.uniform(np.log(20), np.log(2000), len(hot))))
    counts.flat[bad[detector.hot_pixels :]] = 0.0
    return counts


def expected_share(g: Array, intensity: Array, detector: Detector) -> Array:
    """What each pixel expects of one incident electron, (rows, columns)."""
    rows, cols = detector.shape
    cx, cy = detector.centre_px or (cols // 2, rows // 2)
    x, y = np.arange(cols), np.arange(rows)
    spots = np.zeros(detector.shape)
    reach = int(np.ceil(5 * detector.spot_sigma_px)) + 2
    for (gx, gy), value in zip(g / detector.inv_A_per_px, intensity, strict=True):
        px, py = gx + cx, gy + cy
        if not (-3 < px < cols + 3 and -3 < py < rows + 3) or value < 1e-8:
            continue
        columns = slice(max(round(px) - reach, 0), round(px) + reach + 1)
        lines = slice(max(round(py) - reach, 0), round(py) + reach + 1)
        spots[lines, columns] += value * _spot(x[columns] - px, y[lines] - py, detector)
    r = np.hypot(x[None] - cx, y[:, None] - cy) * detector.inv_A_per_px
    halo = _halo(r, detector)
    total = (1 - detector.halo_fraction) * spots + detector.halo_fraction * halo / halo.sum()
    if detector.beam_stop_px > 0:
        total = np.where(beam_stop(detector), 0.0, total)
    return total


def beam_stop(detector: Detector) -> NDArray[np.bool_]:
    """The shadow: a blank disc on the direct beam and an arm to the rim, (rows, columns)."""
    rows, cols = detector.shape
    cx, cy = detector.centre_px or (cols // 2, rows // 2)
    y, x = np.mgrid[:rows, :cols]
    c, s = np.cos(detector.stop_azimuth_rad), np.sin(detector.stop_azimuth_rad)
    along, across = (x - cx) * c + (y - cy) * s, -(x - cx) * s + (y - cy) * c
    radius = detector.beam_stop_px
    arm = (np.abs(across) < 0.4 * radius) & (along > 0)
    return np.asarray((np.hypot(along, across) < radius) | arm)


def _spot(dx: Array, dy: Array, detector: Detector) -> Array:
    """Share of a spot that falls on each pixel, (len(dy), len(dx))."""
    from scipy.special import erf

    if detector.spot_shape == "disc":
        r = np.hypot(dx[None], dy[:, None])
        disc = 0.5 * (1 - erf((r - 2 * detector.spot_sigma_px) / 0.57))
        # normalised on a full grid, so that the frame's edge cuts instead of brightening
        return np.asarray(disc / (4 * np.pi * detector.spot_sigma_px**2 + np.pi * 0.57**2 / 2))
    width = detector.spot_sigma_px * np.sqrt(2)
    kx = 0.5 * (erf((dx + 0.5) / width) - erf((dx - 0.5) / width))
    ky = 0.5 * (erf((dy + 0.5) / width) - erf((dy - 0.5) / width))
    return np.asarray(ky[:, None] * kx[None])


def _halo(r_inv_A: Array, detector: Detector) -> Array:
    """Diffuse scattering against distance from the direct beam, any scale."""
    q = r_inv_A / detector.halo_width_inv_A
    match detector.halo_shape:
        case "lorentzian":
            return np.asarray((1 + q**2) ** -1.5)
        case "gaussian":
            return np.asarray(np.exp(-0.5 * q**2))
        case "exponential":
            return np.asarray(np.exp(-q))
        case "ring":  # a carbon film: a first ring near 0.5 / A on a falling flank
            ring = np.exp(-0.5 * ((r_inv_A - 0.5) / 0.07) ** 2)
            return np.asarray((1 + q**2) ** -1.5 + 0.08 * ring)
