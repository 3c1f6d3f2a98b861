"""Diffraction patterns for testing the aligner, made by a route of their own.

Nothing here is shared with ``controller.perception.alignment``: scattering factors are those of
Lobato and Van Dyck as tabulated in abTEM (the aligner takes gemmi's c4322), atoms are summed one
by one, intensities come from a many-beam Bloch-wave solution (De Graef, *Introduction to
Conventional TEM*, ch. 5) or from the kinematical relrod, and the detector is drawn with its own
spot shape.  abTEM's own Bloch waves check it in ``tests/controller/alignment``.
"""

from dataclasses import dataclass, field
from pathlib import Path

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
    _cache: dict[tuple[int, int, int], complex] = field(default_factory=dict)

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
        from abtem.parametrizations import LobatoParametrization

        table = LobatoParametrization()
        out = np.empty(len(hkl), complex)
        missing = [i for i, h in enumerate(map(tuple, hkl.tolist())) if h not in self._cache]
        todo = hkl[missing]
        for start in range(0, len(todo), 4000):
            part = todo[start : start + 4000]
            g2 = ((part @ self.reciprocal) ** 2).sum(1)
            total = np.zeros(len(part), complex)
            for symbol in sorted(set(self.symbols)):
                f = np.asarray(table.scattering_factor(symbol)(g2))
                chosen = np.array([s == symbol for s in self.symbols])
                phase = np.exp(-2j * np.pi * (part @ self.positions[chosen].T))
                dw = np.exp(-2 * np.pi**2 * np.outer(g2, self.u_iso[chosen]))
                total += f * (phase * dw * self.occupancy[chosen]).sum(1)
            for h, v in zip(map(tuple, part.tolist()), total, strict=True):
                self._cache[h] = complex(v)
        for i, h in enumerate(map(tuple, hkl.tolist())):
            out[i] = self._cache[h]
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


def diffraction(
    crystal: Crystal,
    rotation: Array,
    energy_keV: float,
    thickness_nm: float,
    *,
    g_max: float = 1.6,
    beams: int = 450,
    dynamical: bool = True,
    thickness_spread: float = 0.0,
) -> tuple[Array, Array]:
    """Transverse g (n, 2) in 1/A and intensities (n,) as fractions of the incident beam."""
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
    # strong potentials of small cells reach far beams
    keep = np.abs(s) < (0.05 if crystal.volume < 400 else 0.018)
    hkl, g, s = hkl[keep], g[keep], s[keep]
    u_g = gamma * crystal.structure_factors(hkl) / (np.pi * crystal.volume)
    keep = (np.abs(u_g) > 1e-6) | (hkl == 0).all(1)
    hkl, g, s, u_g = hkl[keep], g[keep], s[keep], u_g[keep]
    zero = int(np.flatnonzero((hkl == 0).all(1))[0])
    weights, ts = np.array([1.0]), np.array([t])
    if thickness_spread > 0:
        nodes, weights = np.polynomial.hermite_e.hermegauss(5)
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
    unique, inverse = np.unique(diff, axis=0, return_inverse=True)
    matrix = (gamma * crystal.structure_factors(unique) / (np.pi * crystal.volume))[inverse]
    matrix = matrix.reshape(len(h), len(h))
    np.fill_diagonal(matrix, 2 * K * s[strong])
    values, vectors = np.linalg.eigh(matrix)
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


def record(
    g: Array, intensity: Array, detector: Detector, electrons: float, rng: np.random.Generator
) -> Array:
    """Poisson counts, (rows, columns), float64: spots, diffuse halo, optional beam stop."""
    from scipy.special import erf

    rows, cols = detector.shape
    cx, cy = detector.centre_px or (cols // 2, rows // 2)
    x, y = np.arange(cols), np.arange(rows)
    expected = np.zeros(detector.shape)
    sigma = detector.spot_sigma_px * np.sqrt(2)
    for (gx, gy), value in zip(g / detector.inv_A_per_px, intensity, strict=True):
        px, py = gx + cx, gy + cy
        if not (-3 < px < cols + 3 and -3 < py < rows + 3) or value < 1e-8:
            continue
        kx = 0.5 * (erf((x - px + 0.5) / sigma) - erf((x - px - 0.5) / sigma))
        ky = 0.5 * (erf((y - py + 0.5) / sigma) - erf((y - py - 0.5) / sigma))
        expected += value * ky[:, None] * kx[None]
    r2 = ((x[None] - cx) ** 2 + (y[:, None] - cy) ** 2) * detector.inv_A_per_px**2
    halo = (1 + r2 / detector.halo_width_inv_A**2) ** -1.5
    halo *= detector.halo_fraction / halo.sum()
    total = (1 - detector.halo_fraction) * expected + halo
    if detector.beam_stop_px > 0:
        stop = r2 < (detector.beam_stop_px * detector.inv_A_per_px) ** 2
        stop |= (np.abs(y[:, None] - cy) < 0.4 * detector.beam_stop_px) & (x[None] > cx)
        total = np.where(stop, 0.0, total)
    return rng.poisson(electrons * total).astype(float)
