"""Where the centre of the Laue circle can be, from counts on the nodes of one zone's lattice.

The wide search runs over tilts within reach for nodes that share |F|^2 with their Friedel mate,
and again for the highest symmetry that the lattice allows.  Its best places climb the full
likelihood of `shared_intensity`, which also says which symmetry the intensities have and how far
dynamical scattering spoils it; thickness is integrated out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.perception.alignment.geometry import TiltVector
from controller.perception.alignment.laue_circle import tilt_of_slope
from controller.perception.alignment.node_symmetry import orbits, symmetry_groups
from controller.perception.alignment.shared_intensity import gains, quick_gains

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
NodeArrays = tuple[Array, Array, Array, Array, Integers]

THICKNESSES_A = np.array([60.0, 100.0, 160.0, 250.0, 400.0, 650.0, 1000.0])
"""The thin ones stand for strong scattering, which widens the range of excitation."""
_CONCENTRATIONS = (1.5, 4.0, 12.0, 36.0)
_FALLS_A2 = (2.0, 4.0, 7.0)
"""B of the mean intensity's fall exp(-B g^2/2)."""
_FALL_OF_SEARCH = 2.0
_MOST_NODES = 440
_GRID = 45
_MOST_MODES = 5
_MODE_REACH = 25.0


@dataclass(frozen=True)
class LatticeNodes:
    """Nodes that the detector sees, without the direct beam."""

    g_inv_A: Array
    """(n, 2)."""
    index: Integers
    """(n, 2)."""
    counts: Array
    """Electrons above background, at least zero, (n,)."""
    basis_px: Array
    """Reduced, (2, 2)."""


@dataclass(frozen=True)
class TiltPosterior:
    """Where the Laue circle can be."""

    tilt_mrad: TiltVector
    """Mean over the leading mode."""
    sigma_mrad: float
    """Radius that holds 68.3 % of the leading mode: formal, to be calibrated."""
    along_mrad: float
    """One-axis standard deviation along the tilt: how well the distance is known."""
    across_mrad: float
    """One-axis standard deviation across it: how well the direction is known."""
    gap: float
    """Log-likelihood of the best other mode below the leading one."""
    log_evidence: float
    """Log-likelihood at the summit, comparable between centres of the same pattern."""
    thickness_nm: float
    concentration: float
    """What dynamical scattering leaves of the shared intensities."""
    symmetry_order: int
    effective_orbits: float
    """How many orbits carry the counts: (sum N)^2 / sum N^2."""
    other_modes: tuple[tuple[TiltVector, float], ...]
    """Other modes with their log-likelihood gaps."""


def laue_posterior(nodes: LatticeNodes, wavenumber: float, *, reach_deg: float) -> TiltPosterior:
    """Posterior of the tilt from the counts on lattice nodes.

    Parameters
    ----------
    nodes
        At least a few, not all dark.
    wavenumber
        K in 1/A.
    reach_deg
        Largest tilt considered.
    """
    inner = np.argsort(np.hypot(*nodes.g_inv_A.T), kind="stable")[:_MOST_NODES]
    groups = symmetry_groups(nodes.basis_px)
    arrays = [_by_orbit(nodes, inner, group, wavenumber) for group in groups]
    widest = max(range(len(groups)), key=lambda i: len(groups[i]))
    starts, step = _wide_search([arrays[i] for i in sorted({0, widest})], reach_deg)
    fall = max(_FALLS_A2, key=lambda b: float(_marginal(starts, _falling(arrays[0], b), 4.0).max()))
    arrays = [_falling(one, fall) for one in arrays]
    which, k = _best_model(starts, arrays, step)
    climbed = sorted(
        (_climb(p, arrays[which], k, step) for p in starts), key=lambda found: -found[1]
    )
    summit = climbed[0][0]
    k = max(_CONCENTRATIONS, key=lambda c: float(_marginal(summit[None], arrays[which], c)[0]))
    mean, covariance, top, thickness_A = _around(summit, arrays[which], k, 0.4 * step)
    radius = float(np.sqrt(np.trace(covariance)))
    others = []
    for place, _ in climbed[1:]:
        if np.hypot(*(place - mean)) > 4.0 * radius + 2e-3:
            value = float(_marginal(place[None], arrays[which], k)[0])
            others.append((tilt_of_slope(place), top - value))
    others.sort(key=lambda other: other[1])
    along, across = _principal(mean, covariance)
    held = np.add.reduceat(arrays[which][3], arrays[which][4][:-1])
    return TiltPosterior(
        tilt_mrad=tilt_of_slope(mean),
        sigma_mrad=1e3 * radius * _roundness(covariance),
        along_mrad=1e3 * along,
        across_mrad=1e3 * across,
        gap=others[0][1] if others else 99.0,
        log_evidence=top,
        thickness_nm=0.1 * thickness_A,
        concentration=k,
        symmetry_order=len(groups[which]),
        effective_orbits=float(held.sum() ** 2 / max(float((held**2).sum()), 1e-9)),
        other_modes=tuple(others[:3]),
    )


def _by_orbit(
    nodes: LatticeNodes, inner: NDArray[np.intp], group: Integers, wavenumber: float
) -> NodeArrays:
    """Nodes sorted by orbit, as the likelihood takes them."""
    orbit = orbits(nodes.index[inner], group)
    order = np.argsort(orbit, kind="stable")
    g = np.ascontiguousarray(nodes.g_inv_A[inner][order])
    counts = np.ascontiguousarray(nodes.counts[inner][order])
    first = np.flatnonzero(np.diff(orbit[order], prepend=-1, append=orbit.max() + 1))
    g2 = (g**2).sum(1)
    h = wavenumber - np.sqrt(wavenumber**2 - g2)
    return _falling((g, h, g2, counts, first.astype(np.int64)), _FALL_OF_SEARCH)


def _falling(arrays: NodeArrays, fall_A2: float) -> NodeArrays:
    """The same nodes with another fall of the mean intensity."""
    g, h, _, counts, first = arrays
    return g, h, np.exp(-0.5 * fall_A2 * (g**2).sum(1)), counts, first


def _wide_search(models: list[NodeArrays], reach_deg: float) -> tuple[Array, float]:
    """Best places over the disc of tilts under each model, (m, 2), and the step of the grid."""
    limit = float(np.tan(np.deg2rad(reach_deg)))
    axis = np.linspace(-limit, limit, _GRID)
    step = float(axis[1] - axis[0])
    grid = _mesh(axis)
    grid = grid[np.hypot(grid[:, 0], grid[:, 1]) <= limit]
    found: list[Array] = []
    for arrays in models:
        value = _log_mean_exp(quick_gains(grid, arrays, THICKNESSES_A))
        taken = 0
        for i in np.argsort(-value):
            if value[i] < value.max() - _MODE_REACH or taken == _MOST_MODES:
                break
            if all(np.hypot(*(grid[i] - other)) > 3.0 * step for other in found):
                found.append(grid[i])
                taken += 1
    return np.array(found), step


def _best_model(starts: Array, arrays: list[NodeArrays], step: float) -> tuple[int, float]:
    """Which symmetry and which concentration suit the counts, near any of the starts."""
    cross = 0.6 * step * np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], dtype=float)
    places = (starts[:, None] + cross[None]).reshape(-1, 2)
    choices = [(i, k) for i in range(len(arrays)) for k in _CONCENTRATIONS]
    return max(choices, key=lambda c: float(_marginal(places, arrays[c[0]], c[1]).max()))


def _climb(start: Array, arrays: NodeArrays, k: float, step: float) -> tuple[Array, float]:
    """Uphill on a shrinking 5 x 5 grid."""
    here, value, width = start, -np.inf, 1.2 * step
    pattern = _mesh(np.linspace(-1, 1, 5))
    for _ in range(3):
        around = here + width * pattern
        values = _marginal(around, arrays, k)
        best = int(np.argmax(values))
        here, value = around[best], float(values[best])
        if np.abs(pattern[best]).max() < 1:
            width *= 0.6
    return here, value


def _around(
    start: Array, arrays: NodeArrays, k: float, step: float
) -> tuple[Array, Array, float, float]:
    """Mean, covariance, top log-likelihood and best thickness of one mode, on its own scale."""
    centre, pattern = start, _mesh(np.linspace(-3, 3, 13))
    for _ in range(5):
        around = centre + step * pattern
        by_thickness = gains(around, arrays, THICKNESSES_A, k)
        value = _log_mean_exp(by_thickness)
        weight = np.exp(value - value.max())
        weight /= weight.sum()
        centre = np.asarray(weight @ around, dtype=float)
        off = around - centre
        covariance = np.asarray((weight[:, None] * off).T @ off, dtype=float)
        radius = float(np.sqrt(np.trace(covariance)))
        if radius > 1.6 * step:
            step *= 1.8
        elif radius < 0.6 * step:
            step = max(radius / 1.2, 0.1 * step)
        else:
            break
    best = int(np.argmax(by_thickness[:, int(np.argmax(value))]))
    return centre, covariance, float(value.max()), float(THICKNESSES_A[best])


def _marginal(p: Array, arrays: NodeArrays, k: float) -> Array:
    return _log_mean_exp(gains(np.ascontiguousarray(p), arrays, THICKNESSES_A, k))


def _log_mean_exp(by_thickness: Array) -> Array:
    top = by_thickness.max(axis=0)
    return np.asarray(top + np.log(np.exp(by_thickness - top).mean(axis=0)), dtype=float)


def _mesh(axis: Array) -> Array:
    x, y = (v.ravel() for v in np.meshgrid(axis, axis))
    return np.stack([x, y], 1)


def _principal(mean: Array, covariance: Array) -> tuple[float, float]:
    """Standard deviations along and across the tilt."""
    length = float(np.hypot(*mean))
    u = mean / length if length > 0 else np.array([1.0, 0.0])
    v = np.array([-u[1], u[0]])
    return float(np.sqrt(u @ covariance @ u)), float(np.sqrt(v @ covariance @ v))


def _roundness(covariance: Array) -> float:
    """From the root of the trace to the radius of 68.3 %: 1.0 for flat, 1.07 for round ones."""
    small, large = np.linalg.eigvalsh(covariance)
    return 1.0 + 0.0713 * float(np.sqrt(max(small, 0.0) / max(large, 1e-30)))
