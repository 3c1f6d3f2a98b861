"""How well predicted spot intensities explain counted ones, empty nodes included.

Counts at a node are negative-binomial with mean mu = b + f c I and variance
mu + (e f c I)^2: Poisson noise plus a relative model error e per spot, so that no bright spot
decides alone.  With a small probability a node holds something the model knows nothing of (a
second crystal, an artefact): then the counts are log-uniform.  The score is the log-likelihood
gained over "background, or something unknown", summed over nodes: spots that no node explains
gain nothing, nodes predicted bright but dark lose.  Scores of different orientations compare,
whatever the number of their nodes.
"""

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

UNKNOWN = 0.02
"""Prior probability that a node's counts have nothing to do with the model."""


@numba.njit(cache=True, fastmath=True, inline="always")  # type: ignore[untyped-decorator, unused-ignore]
def _log_negative_binomial(n: float, mu: float, r: float) -> float:
    """Saddle-point form, exact at n = 0 and within 3 % elsewhere; r -> infinity is Poisson."""
    norm = 0.5 * np.log(6.283185 * (n + 1.0 / 6.0) * (1.0 + n / r))
    if n <= 0.0:
        return float(-r * np.log1p(mu / r))
    return float(-(n * np.log(n / mu) - (n + r) * np.log((n + r) / (mu + r))) - norm)


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def null_likelihood(n: Array, b: Array, brightest: float) -> tuple[Array, Array]:
    """Per node: the density of "something unknown", and log of "background or unknown"."""
    width = np.log((brightest + 3.0) / 3.0) + 1.0
    unknown, null = np.zeros(n.shape[0]), np.zeros(n.shape[0])
    for i in range(n.shape[0]):
        if b[i] <= 0.0:
            continue
        unknown[i] = UNKNOWN / ((n[i] + 3.0) * width)
        nothing = _log_negative_binomial(n[i], b[i], 1e9)
        null[i] = np.log((1 - UNKNOWN) * np.exp(nothing) + unknown[i])
    return unknown, null


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def gain(n: Array, b: Array, mean: Array, unknown: Array, null: Array, model_error: float) -> float:
    """Log-likelihood gained over "background or unknown", summed over nodes.

    n, b: counts and background of each node; mean: predicted electrons in its aperture (f c I);
    nodes with b = 0 are unseen and gain nothing.
    """
    total = 0.0
    for i in range(n.shape[0]):
        if b[i] <= 0.0 or mean[i] < 0.004 * (b[i] + 1.0):
            continue
        mu = b[i] + mean[i]
        spread = model_error * mean[i]
        r = mu * mu / (spread * spread + 1e-9 * mu * mu)
        hit = _log_negative_binomial(n[i], mu, r)
        total += np.log((1 - UNKNOWN) * np.exp(hit) + unknown[i]) - null[i]
    return total


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def certainty(n: Array, b: Array, mean: Array, unknown: Array, model_error: float) -> Array:
    """Probability that each node's counts are the model's and not "something unknown"."""
    out = np.zeros(n.shape[0])
    for i in range(n.shape[0]):
        if b[i] <= 0.0:
            continue
        mu = b[i] + mean[i]
        spread = model_error * mean[i]
        r = mu * mu / (spread * spread + 1e-9 * mu * mu)
        hit = (1 - UNKNOWN) * np.exp(_log_negative_binomial(n[i], mu, r))
        out[i] = hit / (hit + unknown[i])
    return out


@numba.njit(cache=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def rough_scale(
    n: Array, b: Array, shape: Array, unknown: Array, null: Array, model_error: float
) -> tuple[float, float]:
    """Log of the best of four scales about that which predicts all counts, and its gain."""
    total, expected = 0.0, 0.0
    for i in range(n.shape[0]):
        if b[i] > 0.0:
            total += max(n[i] - b[i], 0.0)
            expected += shape[i]
    if expected <= 0.0 or total <= 0.0:
        return 0.0, -1e9
    middle = np.log(total / expected)
    best, where = -1e18, middle
    for step in (-1.4, -0.7, 0.0, 0.7):
        value = gain(n, b, np.exp(middle + step) * shape, unknown, null, model_error)
        if value > best:
            best, where = value, middle + step
    return where, best


@numba.njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
def best_scale(
    n: Array, b: Array, shape: Array, unknown: Array, null: Array, model_error: float
) -> tuple[float, float]:
    """Scale c that maximises the gain of mean = c * shape, and that gain: search in log c."""
    where, best = rough_scale(n, b, shape, unknown, null, model_error)
    if best == -1e9:
        return 0.0, best
    for width in (0.35, 0.17, 0.09):
        for side in (-1.0, 1.0):
            here = where + side * width
            value = gain(n, b, np.exp(here) * shape, unknown, null, model_error)
            if value > best:
                best, where = value, here
                break
    return np.exp(where), best
