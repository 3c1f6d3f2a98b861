"""Bayesian logistic regression on a handful of features: probabilities that a night can teach.

    P(y = 1 | x) = sigmoid(w . x),   w ~ Normal(mean, diag(sigma²)) before the night.

The posterior is taken as normal about its mode (Laplace); a prediction averages over it with
MacKay's approximation, so that what is little known stays near one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NEWTON_STEPS = 30
ENOUGH = 1e-9


@dataclass(frozen=True, eq=False)
class Weights:
    """What is known of the weights.

    mean, (n,), and covariance, (n, n).
    """

    mean: Array
    covariance: Array

    def probability(self, features: Sequence[float]) -> float:
        """That the outcome is 1, averaged over what is known of the weights."""
        return float(self.probabilities([features])[0])

    def probabilities(self, features: Sequence[Sequence[float]]) -> Array:
        """As `probability`, of (cases, n) features at once: (cases,)."""
        x = np.asarray(features, dtype=float).reshape(-1, len(self.mean))
        variance = np.einsum("ci,ij,cj->c", x, self.covariance, x)
        return _sigmoid((x @ self.mean) / np.sqrt(1.0 + np.pi / 8.0 * variance))


def learnt(
    prior_mean: Sequence[float],
    prior_sigma: Sequence[float],
    features: Sequence[Sequence[float]],
    outcomes: Sequence[bool],
) -> Weights:
    """The weights after the outcomes.

    Parameters
    ----------
    features, outcomes
        (cases, n) and (cases,); none leaves the prior.
    """
    mean = np.asarray(prior_mean, dtype=float)
    precision = np.diag(np.asarray(prior_sigma, dtype=float) ** -2.0)
    x = np.asarray(features, dtype=float).reshape(-1, len(mean))
    y = np.asarray(outcomes, dtype=float)
    w = mean.copy()
    curvature = precision
    for _ in range(NEWTON_STEPS):
        p = _sigmoid(x @ w)
        slope = precision @ (w - mean) - x.T @ (y - p)
        curvature = precision + (x.T * (p * (1 - p))) @ x
        step = np.linalg.solve(curvature, slope)
        w = w - step
        if float(np.abs(step).max()) < ENOUGH:
            break
    return Weights(w, np.asarray(np.linalg.inv(curvature), dtype=float))


def _sigmoid(a: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(a, -60.0, 60.0))))
