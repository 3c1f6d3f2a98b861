"""Dynamical diffraction: Bloch waves for the strong beams, first order for the weak ones.

With psi(r) = sum_g psi_g(z) exp 2 pi i (k0 + g).r and high energies (Humphreys, Rep. Prog. Phys.
42 (1979) 1825; Zuo and Spence, Advanced TEM, 2017, ch. 5)

    d psi_g / dz = 2 pi i s_g psi_g + (i pi / K) sum_h U_{g-h} psi_h,
    U_g = gamma F_g / (pi volume),

so that psi(t) = C exp(2 pi i gamma_j t) C^+ psi(0), where C and gamma diagonalise the Hermitian
matrix diag(s_g) + U_{g-h} / 2K.  A weak beam w is fed by the strong ones once:

    psi_w(t) = (i pi / K) sum_j (U C)_wj alpha_j (e^{2 pi i gamma_j t} - e^{2 pi i s_w t})
               / (2 pi i (gamma_j - s_w)).

The entrance surface is normal to the beam.  Disorder enters as a factor on U_{g-h} that falls
with the length of g - h (the square root of the fading of the Bragg intensity).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sim_microscope.scattering.electron import lorentz_factor, wavelength_A
from sim_microscope.scattering.ewald import Beams
from sim_microscope.scattering.structure_factors import StructureFactors

Array = NDArray[np.float64]
Fade = Callable[[Array], Array]


def importance(
    factors: StructureFactors, beams: Beams, thickness_A: float, *, energy_keV: float
) -> Array:
    """How much each beam matters, (n,); the direct beam most.

    The envelope of its kinematical intensity, except that half the weight goes by the mean
    square structure factor of a random arrangement of the same atoms (Wilson): a beam with a weak
    F of its own is still fed by the others near a zone.
    """
    structure = factors.structure
    strength = lorentz_factor(energy_keV) * wavelength_A(energy_keV) / structure.volume_cubic_A
    f2 = np.square(np.abs(beams.F_A)) + factors.mean_square(np.hypot(*beams.g_per_A.T))
    width2 = np.square(np.pi * beams.s_per_A) + 1.0 / thickness_A**2
    weight = np.square(strength) * f2 / width2
    weight[0] = np.inf
    return np.asarray(weight, dtype=float)


def beam_intensities(
    factors: StructureFactors,
    beams: Beams,
    thicknesses_A: Array,
    *,
    energy_keV: float,
    strong: int,
    fade: Fade | None = None,
) -> Array:
    """Intensity of each beam per incident electron, (n_thickness, n_beam); each row sums to one.

    ``beams`` are ordered by importance: the first ``strong`` interact fully (the direct beam is
    the very first), the rest is excited by them to first order.
    """
    n = min(strong, len(beams.hkl))
    scale = lorentz_factor(energy_keV) / (2 * np.pi * factors.structure.volume_cubic_A)
    strength = scale * wavelength_A(energy_keV)
    coupling = strength * _coupling(factors, beams.hkl, beams.hkl[:n], fade)  # (n_beam, n)
    structure_matrix = coupling[:n].copy()
    # the mean inner potential is a common phase
    structure_matrix[np.diag_indices(n)] = beams.s_per_A[:n]
    gamma, waves = np.linalg.eigh(structure_matrix)
    alpha = waves[0].conj()
    t = np.atleast_1d(thicknesses_A)
    phase = np.exp(2j * np.pi * np.outer(t, gamma))  # (n_t, n)
    psi = (phase * alpha) @ waves.T
    intensity = np.square(np.abs(psi))
    if n < len(beams.hkl):
        feed = (coupling[n:] @ waves) * alpha  # (n_weak, n)
        s = beams.s_per_A[n:]
        gap = gamma[None, :] - s[:, None]
        gap = np.where(np.abs(gap) < 1e-9, 1e-9, gap)
        feed = feed / gap
        own = np.exp(2j * np.pi * np.outer(t, s))  # (n_t, n_weak)
        weak = phase @ feed.T - own * feed.sum(axis=1)
        intensity = np.concatenate([intensity, np.square(np.abs(weak))], axis=1)
    return np.asarray(intensity / intensity.sum(axis=1, keepdims=True))


def _coupling(
    factors: StructureFactors,
    to: NDArray[np.int64],
    source: NDArray[np.int64],
    fade: Fade | None,
) -> NDArray[np.complex64] | NDArray[np.float32]:
    """F_{g-h}, faded, as a matrix (to, source); real if the crystal's origin is a centre."""
    amplitude, length = factors.differences(to, source)
    real = amplitude.real.copy() if factors.is_real else amplitude
    return (
        real if fade is None else real * np.sqrt(fade(length.astype(np.float64))).astype(np.float32)
    )
