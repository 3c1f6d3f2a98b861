"""Direct ptychography of a weak phase: single side bands with the aberrations taken out.

A Fourier coefficient V(q) of a weak phase couples the beam at k with those at k -+ q,

    G(q, k) = N gamma(q, k) V(q),   gamma = i [P*(k) P(k - q) - P(k) P*(k + q)],

P(k) = A exp(-i chi), one electron. Where only one of the two discs overlaps (the trotters) a single
term is left. Summed over the bright-field pixels with the weights of least squares this is the
efficient estimate for shot noise; pixels where gamma is zero do not enter.

A scan in steps of a folds V(q + m / a) onto the same G(q, k), but with another gamma for every m: a
small system of equations per q takes them apart, and the image reaches 2 alpha, not 1 / 2a.
Source: Rodenburg, McCallum & Nellist, Ultramicroscopy 48 (1993) 304; Pennycook et al.,
Ultramicroscopy 151 (2015) 160.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recon.direct.integrate import scan_frequencies
from recon.geometry import scan_matrix
from recon.parallax import BrightFieldSpectra, Shear

Float = NDArray[np.float64]
Complex = NDArray[np.complex128]
Overlap = Literal["double", "all"]
CHUNK = 64
MAX_FINER = 3


@dataclass(frozen=True)
class Probe:
    """The probe-forming aperture and its aberrations."""

    wavelength_A: float
    k_edge_A: float
    pixel_A: float
    """Width of the aperture's edge, 1/Å."""
    shear: Shear

    def at(self, ky: Float, kx: Float) -> Complex:
        """P(k) = A exp(-i chi); A is one inside."""
        s = self.shear
        quadratic = s.C10_A * (ky**2 + kx**2) + s.C12a_A * (kx**2 - ky**2) + 2 * s.C12b_A * ky * kx
        edge = np.clip((self.k_edge_A - np.hypot(ky, kx)) / self.pixel_A + 0.5, 0.0, 1.0)
        chi = np.pi * self.wavelength_A * quadratic
        return np.asarray(np.sqrt(edge) * np.exp(-1j * chi))

    def intensity_transfer(self, q: Float, pixels: int = 24) -> Complex:
        """Transform of |psi(r)|^2 at q (2, rows, cols): autocorrelation of P, one at q = 0."""
        k = (np.arange(pixels) + 0.5) / pixels * 2 - 1
        ky, kx = (axis.ravel() for axis in np.meshgrid(k, k, indexing="ij"))
        ky, kx = ky * self.k_edge_A, kx * self.k_edge_A
        centre = self.at(ky, kx)
        total = float((np.abs(centre) ** 2).sum())
        flat = q.reshape(2, -1)
        transfer = np.empty(flat.shape[1], complex)
        for some in range(0, flat.shape[1], 256):
            qy, qx = flat[:, some : some + 256, None]
            transfer[some : some + 256] = (centre.conj() * self.at(ky + qy, kx + qx)).sum(axis=1)
        transfer /= total
        return transfer.reshape(q.shape[1:])


def probe_of(spectra: BrightFieldSpectra, shear: Shear) -> Probe:
    """The probe that a parallax fit describes."""
    return Probe(spectra.wavelength_A, spectra.k_edge_A, spectra.k_pixel_A, shear)


def finer_raster(spectra: BrightFieldSpectra) -> int:
    """By how much the raster is divided so that it carries 2 alpha."""
    return int(np.clip(np.ceil(4 * spectra.k_edge_A * spectra.header.scan_step_A), 1, MAX_FINER))


@dataclass(frozen=True)
class SideBandImage:
    """Phase in radians, (rows, cols), and how far the weak-phase model explains the counts."""

    phase_rad: Float
    explained: float
    """Part of the contrast beyond shot noise; NaN where there is none."""


def side_band_phase(
    spectra: BrightFieldSpectra,
    shear: Shear,
    *,
    overlap: Overlap = "all",
    finer: int | None = None,
    high_pass_A: float | None = None,
) -> SideBandImage:
    """Phase on a raster ``finer`` times as fine as the scan's, radians, mean zero.

    Parameters
    ----------
    overlap
        "double": only where one of the two discs overlaps the undiffracted one; "all": also where
        both do, which with a defocused probe is half of the information.

    Returns
    -------
    Its image is (finer * scan_y, finer * scan_x); the first pixel is the first scan point.
    """
    finer = finer or finer_raster(spectra)
    ny, nx = spectra.header.scan_shape
    matrix = scan_matrix(spectra.header, shear.rotation_deg, spectra.affine)
    q = scan_frequencies((ny, nx), matrix, finer=finer)
    # every coefficient of the scan's transform with all the frequencies that fold onto it
    folded = q.reshape(2, finer, ny, finer, nx).transpose(2, 4, 1, 3, 0).reshape(ny * nx, -1, 2)
    rows, cols = np.nonzero(spectra.inside)
    ky, kx = spectra.k_row[rows], spectra.k_col[cols]
    probe = probe_of(spectra, shear)
    here = probe.at(ky, kx)
    lit = float((np.abs(here) ** 2).sum())
    matched = np.empty(folded.shape[:2], complex)
    gram = np.empty((*folded.shape[:2], folded.shape[1]), complex)
    power = np.empty(len(folded))
    for some in range(0, ny * nx, CHUNK):
        part = slice(some, some + CHUNK)
        gamma = _coupling(probe, here, (ky, kx), folded[part], overlap) / lit
        spectrum = spectra.grid[part][:, rows, cols]
        matched[part] = np.einsum("gmk,gk->gm", gamma.conj(), spectrum)
        power[part] = (np.abs(spectrum) ** 2).sum(axis=1)
        gram[part] = gamma.conj() @ gamma.transpose(0, 2, 1)
    electrons = spectra.electrons / (ny * nx)
    noise = ny * nx * electrons / lit
    folded_phase, explained, expected = _unfold(matched, gram, electrons=electrons, noise=noise)
    beyond = float((power - spectra.electrons)[1:].sum())
    part_explained = (explained - expected) / beyond if beyond > 0 else float("nan")
    unfolded = folded_phase.reshape(ny, nx, finer, finer).transpose(2, 0, 3, 1)
    phase = unfolded.reshape(finer * ny, finer * nx)
    phase[0, 0] = 0.0
    if high_pass_A is not None:
        phase *= 1 - np.exp(-np.log(2) * (q**2).sum(axis=0) * high_pass_A**2)
    return SideBandImage(np.fft.ifft2(phase).real * finer**2, part_explained)


def _coupling(
    probe: Probe, here: Complex, k: tuple[Float, Float], q: Float, overlap: Overlap
) -> Complex:
    """Return gamma(q, k) of a chunk of folded frequencies (chunk, m, 2), complex, (chunk, m, k)."""
    qy, qx = q[..., 0, None], q[..., 1, None]
    minus = probe.at(k[0] - qy, k[1] - qx)
    plus = probe.at(k[0] + qy, k[1] + qx)
    if overlap == "double":
        one = (np.abs(minus) > 0) ^ (np.abs(plus) > 0)
        minus, plus = minus * one, plus * one
    return 1j * (here.conj() * minus - here * plus.conj())


def _unfold(
    matched: Complex, gram: Complex, *, electrons: float, noise: float
) -> tuple[Complex, float, float]:
    """Least squares with the power of the phase as prior; both found from the data.

    G has the variance ``noise`` per pixel, and V the mean power S:
    V = (Gram + noise / S N^2)^-1 gamma^H G / N.

    Returns
    -------
    V, the power of G that it explains, and how much of it pure noise would make it explain.
    """
    trace = np.einsum("gmm->g", gram).real
    power = (np.abs(matched) ** 2).sum(axis=1)
    seen = electrons**2 * float((np.abs(gram) ** 2).sum())
    signal = float((power - noise * trace)[1:].sum()) / max(seen, 1e-30)
    damping = noise / electrons**2 / max(signal, 1e-12)
    regular = gram + max(damping, 1e-12) * np.eye(gram.shape[1])
    amplitude = np.linalg.solve(regular, matched[..., None])[..., 0]
    bent = np.einsum("gmn,gn->gm", gram, amplitude)
    explained = 2 * (amplitude.conj() * matched).real - (amplitude.conj() * bent).real
    influence = np.linalg.solve(regular, gram)[1:]
    freedom = 2 * np.einsum("gmm->g", influence) - np.einsum("gmn,gnm->g", influence, influence)
    phase = np.asarray(amplitude / electrons, dtype=np.complex128)
    return phase, float(explained[1:].sum()), noise * float(freedom.real.sum())
