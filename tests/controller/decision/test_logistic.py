"""Bayesian logistic regression: prior, evidence, and what lies between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.decision.logistic import learnt

PRIOR = ((0.3, 1.0), (1.0, 0.5))


def test_without_evidence_the_prior_stands() -> None:
    known = learnt(*PRIOR, [], [])
    np.testing.assert_allclose(known.mean, PRIOR[0])
    np.testing.assert_allclose(known.covariance, np.diag([1.0, 0.25]))


@given(st.lists(st.tuples(st.floats(-3, 3), st.booleans()), max_size=12))
def test_the_mode_is_where_the_posterior_is_largest(cases: list[tuple[float, bool]]) -> None:
    x = np.array([[1.0, value] for value, _ in cases]).reshape(-1, 2)
    y = np.array([outcome for _, outcome in cases], dtype=float)
    known = learnt(*PRIOR, x.tolist(), [bool(outcome) for outcome in y])

    def log_posterior(w: np.ndarray) -> float:
        a = x @ w
        prior = -0.5 * np.sum(((w - PRIOR[0]) / np.array(PRIOR[1])) ** 2)
        return float(prior + np.sum(y * a - np.logaddexp(0, a)))

    best = log_posterior(known.mean)
    for nudge in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert log_posterior(known.mean + np.array(nudge)) <= best


def test_many_outcomes_outweigh_the_prior() -> None:
    known = learnt((0.0, 0.0), (1.0, 1.0), [[1.0, 0.0]] * 400, [True] * 300 + [False] * 100)
    assert known.probability((1.0, 0.0)) == pytest.approx(0.75, abs=0.02)


def test_what_is_little_known_stays_near_one_half() -> None:
    sure, unsure = learnt((2.0,), (0.01,), [], []), learnt((2.0,), (5.0,), [], [])
    assert 0.5 < unsure.probability((1.0,)) < sure.probability((1.0,))
