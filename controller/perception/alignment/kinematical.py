"""Spot intensities of any orientation without a many-beam calculation.

The excitation error s = sqrt(K^2 - g_x^2 - g_y^2) - K - g_z along the beam is that of the exact
Ewald sphere; higher-order zones need nothing special: every reflection near the sphere counts.
Each reflection couples with the direct beam alone (two beams, De Graef eq. 6.4 ff.), which
is the kinematical relrod |F|^2 sin^2(pi s t)/(pi s)^2 where the coupling is weak.  All is
averaged over a normal spread of thicknesses, as real crystals have.
"""

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

THICKNESS_SPREAD = 0.12
"""Relative spread of thickness over the illuminated area of a real crystal."""


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def excitation(g: Array, orientation: Array, wavenumber: float) -> tuple[Array, Array, Array]:
    """g_x, g_y (1/A, detector frame) and excitation error s (1/A) of reflections, (n,) each."""
    m = g.shape[0]
    gx, gy, s = np.empty(m), np.empty(m), np.empty(m)
    for i in range(m):
        x = orientation[0, 0] * g[i, 0] + orientation[0, 1] * g[i, 1] + orientation[0, 2] * g[i, 2]
        y = orientation[1, 0] * g[i, 0] + orientation[1, 1] * g[i, 1] + orientation[1, 2] * g[i, 2]
        z = orientation[2, 0] * g[i, 0] + orientation[2, 1] * g[i, 1] + orientation[2, 2] * g[i, 2]
        gx[i], gy[i] = x, y
        s[i] = np.sqrt(wavenumber * wavenumber - x * x - y * y) - wavenumber - z
    return gx, gy, s


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def two_beam(s: Array, coupling: Array, thickness_A: float, spread: float) -> Array:
    """Intensity q <sin^2(pi t w)> / w^2 with w^2 = s^2 + q, averaged over thickness, (n,).

    ``coupling`` is q = 1/xi^2 in 1/A^2.  For thin crystals or large s this is the kinematical
    relrod q (pi t)^2 sinc^2(s t); strong reflections saturate instead of growing without end.
    """
    out = np.empty(s.shape[0])
    for i in range(s.shape[0]):
        w2 = s[i] * s[i] + coupling[i]
        a2 = (np.pi * thickness_A) ** 2 * w2
        if a2 < 1e-4:
            out[i] = coupling[i] * (np.pi * thickness_A) ** 2 * (1.0 + spread * spread)
        else:
            damp = np.exp(-2.0 * spread * spread * a2)
            out[i] = coupling[i] / w2 * 0.5 * (1.0 - damp * np.cos(2.0 * np.sqrt(a2)))
    return out


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def widened_two_beam(
    s: Array, coupling: Array, length: Array, thickness_A: float, blur_rad: float
) -> Array:
    """The same with a Gaussian profile widened by an orientation uncertainty, (n,)."""
    out = np.empty(s.shape[0])
    for i in range(s.shape[0]):
        own2 = (0.37 / thickness_A) ** 2 + 0.3 * coupling[i]
        width2 = own2 + (blur_rad * length[i]) ** 2
        x = coupling[i] * (np.pi * thickness_A) ** 2
        peak = x / (1.0 + x)
        out[i] = peak * np.sqrt(own2 / width2) * np.exp(-0.5 * s[i] * s[i] / width2)
    return out
