"""The weighted Laue circle on the nodes of a two-dimensional lattice, without a structure.

Write p = tan|t| t/|t|.  A reflection of the zero-order zone has g_z = -p.g, and its excitation
error is s = p.g - h with h = K - sqrt(K^2 - g^2): exact at any tilt.  Minimising sum I s^2 gives

    p = (sum I g g^T)^-1 sum I h g,

the circle through the direct beam (with K p = c it is c = 1/2 (sum I g g^T)^-1 sum I g^2 g for
small g).  Structure factors bias it.  The refinement removes them: the unknown |F|^2 is shared by
each Friedel pair and integrated out under Wilson's exponential distribution, which leaves

    log P(n+, n- | p, t) = n+ log w+ + n- log w- - (n+ + n- + 1) log(1 + S (w+ + w-)) + ...

with w = the relrod profile at s(+-g), S the mean counts of a fully excited reflection, and
counts capped, because model errors and not counts limit a bright pair.  The result is a
posterior on a grid of p, marginal over thickness.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.geometry import TiltVector

Array = NDArray[np.float64]

_CAP_COUNTS = 25.0
_THICKNESSES_NM = (15.0, 25.0, 40.0, 65.0, 100.0)
_THICKNESS_SPREAD = 0.3
_DISPLACEMENT_B_A2 = 3.0
_EMPTY_SHARE = 0.01
"""Share of the full intensity that any reflection shows anyway: diffuse, multiple scattering."""


@dataclass(frozen=True)
class TiltPosterior:
    """Where the Laue circle can be."""

    tilt_mrad: TiltVector
    """Mean over the leading mode."""
    sigma_mrad: float
    """Radius that holds 68.3 % of the leading mode."""
    leading_probability: float
    """Share of the leading mode in the whole."""
    thickness_nm: float
    other_modes: tuple[tuple[TiltVector, float], ...]
    """Other modes with their log-likelihood gaps."""


def weighted_laue_circle(gx: Array, gy: Array, intensity: Array, wavenumber: float) -> TiltVector:
    """Tilt vector in mrad by the closed form; gx, gy in 1/A, intensity >= 0, (n,) each."""
    h = wavenumber - np.sqrt(wavenumber**2 - gx**2 - gy**2)
    matrix = np.array(
        [
            [(intensity * gx * gx).sum(), (intensity * gx * gy).sum()],
            [(intensity * gx * gy).sum(), (intensity * gy * gy).sum()],
        ]
    )
    right = np.array([(intensity * h * gx).sum(), (intensity * h * gy).sum()])
    p = np.linalg.solve(matrix, right)
    return _tilt_of(p)


def relrod_profile(s: Array, thickness_A: float | Array, spread: float) -> Array:
    """Mean of sinc^2(s t) over a normal spread of thicknesses, 1 at s = 0.

    Closed form of the average of sin^2(pi s t)/(pi s t0)^2:
    [1 - exp(-2 (pi s spread t)^2) cos(2 pi s t)] / (2 (pi s t)^2), normalised by its value at 0.
    """
    a = np.pi * s * thickness_A
    a2 = np.maximum(a * a, 1e-8)
    full = (1.0 - np.exp(-2.0 * spread**2 * a2) * np.cos(2.0 * np.sqrt(a2))) / (2.0 * a2)
    return np.asarray(full / (1.0 + spread**2), dtype=float)


def laue_posterior(
    pairs_g: Array, counts: Array, seen: NDArray[np.bool_], wavenumber: float, *, reach_deg: float
) -> TiltPosterior:
    """Posterior of the tilt from counts at Friedel pairs.

    Parameters
    ----------
    pairs_g
        g of one member of each pair, in 1/A, (n, 2).
    counts
        Electrons above background at +g and -g, (n, 2).
    seen
        Whether that node lies on good pixels, (n, 2).
    wavenumber
        K in 1/A.
    reach_deg
        Largest tilt considered.
    """
    limit = np.tan(np.deg2rad(reach_deg))
    axis = np.linspace(-limit, limit, 45)
    px, py = (v.ravel() for v in np.meshgrid(axis, axis, indexing="xy"))
    inside = np.hypot(px, py) <= limit
    coarse = np.stack([px[inside], py[inside]], 1)
    log_p, _ = _log_posterior(coarse, pairs_g, counts, seen, wavenumber)
    modes = _modes(coarse, log_p, 4.0 * (axis[1] - axis[0]))
    step = axis[1] - axis[0]
    best = modes[0]
    centre = coarse[best]
    for _ in range(4):
        fine_axis = np.linspace(-3 * step, 3 * step, 13)
        fx, fy = (v.ravel() for v in np.meshgrid(fine_axis, fine_axis))
        fine = centre + np.stack([fx, fy], 1)
        fine_log, fine_thick = _log_posterior(fine, pairs_g, counts, seen, wavenumber)
        weight = np.exp(fine_log - fine_log.max())
        weight /= weight.sum()
        centre = np.asarray(weight @ fine, dtype=float)
        radius = float(np.sqrt(weight @ ((fine - centre) ** 2).sum(1)))
        if radius > step:
            break
        step = max(radius / 1.2, 0.05 * step)
    spread = np.linalg.norm(fine - centre, axis=1)
    order = np.argsort(spread)
    cumulative = np.cumsum(weight[order])
    sigma = float(spread[order][min(int(np.searchsorted(cumulative, 0.683)), len(order) - 1)])
    total = np.exp(log_p - log_p.max())
    near = np.linalg.norm(coarse - coarse[best], axis=1) < 6 * (axis[1] - axis[0])
    others = tuple((_tilt_of(coarse[m]), float(log_p[best] - log_p[m])) for m in modes[1:4])
    return TiltPosterior(
        _tilt_of(centre),
        1e3 * max(sigma, 0.3 * step),
        float(total[near].sum() / total.sum()),
        float(fine_thick[int(np.argmax(fine_log))]),
        others,
    )


def _log_posterior(
    p: Array, g: Array, counts: Array, seen: NDArray[np.bool_], wavenumber: float
) -> tuple[Array, Array]:
    """Log of the likelihood, marginal over thickness, and the best thickness in nm, (m,)."""
    g2 = (g**2).sum(1)
    h = wavenumber - np.sqrt(wavenumber**2 - g2)
    along = p @ g.T
    fall = np.exp(-_DISPLACEMENT_B_A2 * g2 / 2)
    n = np.maximum(counts, 0.0) * seen
    both = n.sum(1)
    cap = np.minimum(1.0, _CAP_COUNTS / np.maximum(both, 1e-9))
    n_plus, n_minus = n[:, 0] * cap, n[:, 1] * cap
    thicknesses = 10.0 * np.array(_THICKNESSES_NM)
    stacked = _gains(along, h, fall, n, np.stack([n_plus, n_minus, cap], 1), seen, thicknesses)
    top = stacked.max(0)
    marginal = top + np.log(np.exp(stacked - top).sum(0))
    return marginal, np.array(_THICKNESSES_NM)[np.argmax(stacked, axis=0)]


@numba.njit(cache=True, fastmath=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _profile(s: float, thickness_A: float) -> float:
    """`relrod_profile` of one number."""
    a2 = max((np.pi * s * thickness_A) ** 2, 1e-8)
    damp = np.exp(-2.0 * _THICKNESS_SPREAD**2 * a2)
    full = (1.0 - damp * np.cos(2.0 * np.sqrt(a2))) / (2.0 * a2)
    return float(full / (1.0 + _THICKNESS_SPREAD**2))


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _gains(
    along: Array,
    h: Array,
    fall: Array,
    n: Array,
    capped: Array,
    seen: NDArray[np.bool_],
    thicknesses: Array,
) -> Array:
    """Log-likelihood for each thickness and p, (thicknesses, m); along = p.g, (m, pairs)."""
    m, pairs = along.shape
    out = np.zeros((thicknesses.shape[0], m))
    total = n.sum()
    plus, minus = np.empty(pairs), np.empty(pairs)
    for q in range(thicknesses.shape[0]):
        for k in range(m):
            expected = 0.0
            for i in range(pairs):
                plus[i] = minus[i] = 0.0
                if seen[i, 0]:
                    plus[i] = _profile(along[k, i] - h[i], thicknesses[q]) + _EMPTY_SHARE
                if seen[i, 1]:
                    minus[i] = _profile(-along[k, i] - h[i], thicknesses[q]) + _EMPTY_SHARE
                expected += (plus[i] + minus[i]) * fall[i]
            # mean counts of a fully excited reflection, the same for all: from the total
            scale = total / max(expected, 1e-9)
            value = 0.0
            for i in range(pairs):
                mean = scale * fall[i] * capped[i, 2]
                a, b = capped[i, 0], capped[i, 1]
                if a > 0.0:
                    value += a * np.log(max(plus[i], 1e-9))
                if b > 0.0:
                    value += b * np.log(max(minus[i], 1e-9))
                if a + b > 0.0:
                    value += (a + b) * np.log(max(mean, 1e-12))
                value -= (a + b + 1.0) * np.log1p(mean * (plus[i] + minus[i]))
            out[q, k] = value
    return out


def _modes(p: Array, log_p: Array, distance: float) -> list[int]:
    """Indices of the best points that are at least ``distance`` apart, best first."""
    found: list[int] = []
    for i in np.argsort(-log_p):
        if log_p[i] < log_p.max() - 30 or len(found) == 4:
            break
        if all(np.hypot(*(p[i] - p[j])) > distance for j in found):
            found.append(int(i))
    return found


def _tilt_of(p: Array) -> TiltVector:
    slope = float(np.hypot(p[0], p[1]))
    factor = 1e3 * (np.arctan(slope) / slope if slope > 0 else 1.0)
    return float(factor * p[0]), float(factor * p[1])
