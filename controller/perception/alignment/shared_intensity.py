"""The likelihood of counts on lattice nodes whose structure factors nobody knows.

Nodes of one orbit share |F|^2; what differs is how well each is excited, w(s).  With N counts in
an orbit of total excitation W:

- N is negative binomial with mean S f W and shape a: |F|^2 about its mean S f is spread like a
  gamma distribution (Wilson's exponential has a = 1), and that is integrated out;
- how N falls on the nodes is Dirichlet-multinomial with shares w/W and concentration k: nodes
  that share |F|^2 differ by dynamical scattering too, by about 1/sqrt(k).

The concentration is found from the pattern, so that a strongly dynamical one widens its own error.
A quick version, multinomial with the counts of an orbit capped, serves the wide search.
"""

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

SHAPE = 2.0
"""a of the gamma distribution: intensities of real zones spread less than Wilson's."""
EMPTY_SHARE = 0.005
"""Share of the full intensity that any node shows anyway: diffuse, multiple scattering."""
_CAP_COUNTS = 7.5
"""Counts per node beyond which the quick version learns no more."""
_SPREAD = 0.3
_STEPS_PER_UNIT = 100.0
_LARGEST_ST = 40.0


def relrod_profile(st: Array, spread: float) -> Array:
    """Mean of sinc^2(s t) over a normal spread of thicknesses t, 1 at s = 0.

    Closed form of the average of sin^2(pi s t)/(pi s t0)^2:
    [1 - exp(-2 (pi s spread t)^2) cos(2 pi s t)] / (2 (pi s t)^2), normalised by its value at 0.
    """
    a2 = np.maximum((np.pi * st) ** 2, 1e-8)
    full = (1.0 - np.exp(-2.0 * spread**2 * a2) * np.cos(2.0 * np.sqrt(a2))) / (2.0 * a2)
    return np.asarray(full / (1.0 + spread**2), dtype=float)


_PROFILE = relrod_profile(np.arange(0.0, _LARGEST_ST, 1.0 / _STEPS_PER_UNIT), _SPREAD)


def quick_gains(
    p: Array, nodes: tuple[Array, Array, Array, Array, Integers], thickness_A: Array
) -> Array:
    """Log-likelihood with capped counts, (thicknesses, m); arguments as `gains`."""
    return np.asarray(_quick(p, *nodes, thickness_A, _PROFILE), dtype=float)


def gains(
    p: Array,
    nodes: tuple[Array, Array, Array, Array, Integers],
    thickness_A: Array,
    concentration: float,
) -> Array:
    """Log-likelihood of tilts and thicknesses, up to a constant of the pattern.

    Parameters
    ----------
    p
        tan|t| t/|t| for tilt vectors t, (m, 2).
    nodes
        g in 1/A (n, 2), h = K - sqrt(K^2 - g^2) (n,), fall of the mean intensity with g (n,),
        counts (n,), nodes sorted by orbit, and the first node of each orbit with n appended.
    thickness_A
        (thicknesses,)
    concentration
        k of the Dirichlet-multinomial.

    Returns
    -------
    (thicknesses, m)
    """
    return np.asarray(_gains(p, *nodes, thickness_A, _PROFILE, concentration), dtype=float)


@numba.njit(cache=True, fastmath=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _excitation(st: float, profile: Array) -> float:
    x = abs(st) * _STEPS_PER_UNIT
    j = int(x)
    if j >= profile.shape[0] - 1:
        return float(EMPTY_SHARE)
    return float(profile[j] + (profile[j + 1] - profile[j]) * (x - j) + EMPTY_SHARE)


@numba.njit(cache=True, fastmath=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _log_gamma(x: float) -> float:
    """Stirling's series after a shift by three: good to 1e-6, two logarithms."""
    y = x + 3.0
    series = 1.0 / (12.0 * y) - 1.0 / (360.0 * y * y * y)
    return float(
        (y - 0.5) * np.log(y) - y + 0.9189385332 + series - np.log(x * (x + 1.0) * (x + 2.0))
    )


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _quick(
    p: Array, g: Array, h: Array, fall: Array, counts: Array, first: Integers,
    thickness_A: Array, profile: Array,
) -> Array:  # fmt: skip
    n_orbits, n = first.shape[0] - 1, g.shape[0]
    out = np.zeros((thickness_A.shape[0], p.shape[0]))
    w, cap = np.empty(n), np.empty(n_orbits)
    for o in range(n_orbits):
        size, held = first[o + 1] - first[o], 0.0
        for i in range(first[o], first[o + 1]):
            held += counts[i]
        cap[o] = 1.0 / (1.0 + held / (_CAP_COUNTS * size))
    total = counts.sum()
    for q in range(thickness_A.shape[0]):
        for k in range(p.shape[0]):
            expected = 0.0
            for i in range(n):
                s = p[k, 0] * g[i, 0] + p[k, 1] * g[i, 1] - h[i]
                w[i] = _excitation(s * thickness_A[q], profile)
                expected += w[i] * fall[i]
            scale, value = total / max(expected, 1e-9) / SHAPE, 0.0
            for o in range(n_orbits):
                lit, held = 0.0, 0.0
                mean = scale * fall[first[o]] * cap[o]
                for i in range(first[o], first[o + 1]):
                    lit += w[i]
                    c = counts[i] * cap[o]
                    if c > 0.0:
                        held += c
                        value += c * np.log(w[i] * mean)
                value -= (held + SHAPE) * np.log1p(mean * lit)
            out[q, k] = value
    return out


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def _gains(  # noqa: C901, PLR0913  nested loops over plain arrays; cutting them costs speed
    p: Array, g: Array, h: Array, fall: Array, counts: Array, first: Integers,
    thickness_A: Array, profile: Array, concentration: float,
) -> Array:  # fmt: skip
    n_orbits, n = first.shape[0] - 1, g.shape[0]
    out = np.zeros((thickness_A.shape[0], p.shape[0]))
    w, held, lit = np.empty(n), np.zeros(n_orbits), np.empty(n_orbits)
    constant = 0.0
    for o in range(n_orbits):
        for i in range(first[o], first[o + 1]):
            held[o] += counts[i]
        constant += _log_gamma(held[o] + SHAPE) - _log_gamma(SHAPE)
        constant += _log_gamma(concentration) - _log_gamma(held[o] + concentration)
    total = counts.sum()
    for q in range(thickness_A.shape[0]):
        for k in range(p.shape[0]):
            expected, value = 0.0, constant
            for i in range(n):
                s = p[k, 0] * g[i, 0] + p[k, 1] * g[i, 1] - h[i]
                w[i] = _excitation(s * thickness_A[q], profile)
                expected += w[i] * fall[i]
            for o in range(n_orbits):
                all_of_it = 0.0
                for i in range(first[o], first[o + 1]):
                    all_of_it += w[i]
                lit[o] = fall[first[o]] * all_of_it / SHAPE
                if held[o] > 0.0:
                    each = concentration / all_of_it
                    for i in range(first[o], first[o + 1]):
                        if counts[i] > 0.0:
                            share = each * w[i]
                            value += _log_gamma(counts[i] + share) - _log_gamma(share)
            # the scale by fixed points of its likelihood: bright orbits must not decide alone
            scale = total / max(expected, 1e-9)
            for _ in range(3):
                above, below = 0.0, 0.0
                for o in range(n_orbits):
                    d = 1.0 / (1.0 + scale * lit[o])
                    above += held[o] * d
                    below += lit[o] * SHAPE * d
                scale = above / max(below, 1e-12)
            for o in range(n_orbits):
                mean = scale * lit[o]
                if held[o] > 0.0:
                    value += held[o] * np.log(mean)
                value -= (held[o] + SHAPE) * np.log1p(mean)
            out[q, k] = value
    return out
