"""Fit what turns the network's answers into probabilities, on drawn scenes it has not seen.

The scenes come from the training generator with seeds beyond those of training; the second
generator stays out, so that it can judge the calibration as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from models.confidence import Confidence, class_probability, signature, temperature_at
from models.inference import Fields, run_network
from models.network import open_network
from models.picking import FEATURES, find_candidates
from models.samples import Sample, acquisition_of, draw_sample
from models.train_config import TrainConfig
from models.truth import judge_picks
from models.weights import Weights

Doubles = NDArray[np.float64]
_CALIBRATION_STREAM = 1_000_000_007
"""Sets the seeds of calibration apart from those of the training steps."""
_LOGITS_PER_SCENE = 200
_RIDGE = 1.0
_FAMILIAR_SHARE = 0.99
_FAMILIAR_MARGIN = 1.6
_DIRECTIONS = 48


@dataclass(frozen=True)
class _Look:
    """What is kept of one calibration scene."""

    features: Doubles
    right: NDArray[np.bool_]
    signature: Doubles


def calibrate(
    weights: Weights, config: TrainConfig, progress: Callable[[str, int, int, float], None]
) -> Weights:
    """The weights with fitted calibration; unchanged if ``calibration_scenes`` is 0.

    A fifth of the scenes fits the temperature, the others the score and the flag.

    Parameters
    ----------
    weights
        With a trained network.
    config
        Of the training; gives scenes, doses, seed and number of scenes.
    progress
        Called per scene.
    """
    total = config.calibration_scenes
    if total == 0:
        return weights
    network = open_network(weights)

    def answers(numbers: range) -> Iterator[tuple[Sample, Fields]]:
        for k in numbers:
            rng = np.random.default_rng([config.seed, _CALIBRATION_STREAM, k])
            # every second field is larger than those of training, as survey images are
            side = 1 + k % 2
            ranges = config.calibration_scene or config.scene
            shape = (side * ranges.shape[0], side * ranges.shape[1])
            sample = draw_sample(rng, replace(ranges, shape=shape), config.imaging)
            image = sample.image
            yield sample, run_network(network, image.electrons, acquisition_of(image))
            progress("calibrate", k + 1, total, 0.0)

    first = max(1, total // 5)
    temperature = _temperature_of(answers(range(first)), np.random.default_rng(config.seed))
    looks = [_look(sample, fields, temperature) for sample, fields in answers(range(first, total))]
    return replace(weights, calibration=_confidence_of(looks, temperature).to_arrays())


def _temperature_of(answers: Iterator[tuple[Sample, Fields]], rng: np.random.Generator) -> Doubles:
    logits, labels, doses = [], [], []
    for sample, fields in answers:
        at = rng.integers(0, sample.truth.labels.size, _LOGITS_PER_SCENE)
        logits.append(fields.logits.reshape(len(fields.logits), -1)[:, at].T)
        labels.append(sample.truth.labels.ravel()[at])
        doses.append(np.full(len(at), np.log10(max(float(sample.image.electrons.mean()), 1e-3))))
    return fit_temperature(np.concatenate(logits), np.concatenate(labels), np.concatenate(doses))


def _look(sample: Sample, fields: Fields, temperature: Doubles) -> _Look:
    electrons = sample.image.electrons
    probability = class_probability(fields.logits, temperature, float(electrons.mean()))
    candidates = find_candidates(fields, probability, electrons, acquisition_of(sample.image))
    # a crystal counts once: find_candidates puts the likeliest first
    right = judge_picks(sample.truth, [(c.y, c.x, c.radius_nm) for c in candidates])
    return _Look(
        features=np.array([c.features for c in candidates]).reshape(-1, len(FEATURES)),
        right=np.array(right, bool),
        signature=signature(fields, electrons),
    )


def _confidence_of(looks: list[_Look], temperature: Doubles) -> Confidence:
    features = np.concatenate([s.features for s in looks])
    right = np.concatenate([s.right for s in looks])
    centre = features.mean(axis=0) if len(features) else np.zeros(len(FEATURES))
    scale = features.std(axis=0) + 1e-6 if len(features) else np.ones(len(FEATURES))
    standard = np.clip((features - centre) / scale, -5, 5)
    signatures = np.stack([s.signature for s in looks])
    # the limit comes from scenes that the whitening has not seen, lest it be too tight
    kept = max(2, 2 * len(signatures) // 3)
    mean, whitening = fit_familiarity(signatures[:kept])
    unseen = signatures[kept:] if len(signatures) > kept else signatures
    distance = np.sqrt((((unseen - mean) @ whitening.T) ** 2).mean(axis=1))
    return Confidence(
        temperature=temperature,
        score_centre=centre,
        score_scale=scale,
        score_weights=fit_logistic(standard, right),
        familiar_mean=mean,
        familiar_whitening=whitening,
        familiar_limit=float(np.quantile(distance, _FAMILIAR_SHARE)) * _FAMILIAR_MARGIN,
    )


def fit_logistic(features: Doubles, right: NDArray[np.bool_]) -> Doubles:
    """Weights of a ridge-regularised logistic regression, intercept first.

    Parameters
    ----------
    features
        Standardised, (n, k).
    right
        Outcome, (n,).

    Returns
    -------
    float64, (1 + k,); the base rate alone if there is nothing to learn from.
    """
    x = np.concatenate([np.ones((len(features), 1)), features], axis=1)
    y = right.astype(np.float64)
    if len(y) == 0:
        return np.concatenate([[-2.0], np.zeros(features.shape[1])])
    sign = 1 - 2 * y

    def loss(w: Doubles) -> tuple[float, Doubles]:
        z = x @ w
        value = np.logaddexp(0, sign * z).sum() + 0.5 * _RIDGE * (w[1:] ** 2).sum()
        slope = x.T @ (1 / (1 + np.exp(-np.clip(z, -50, 50))) - y)
        slope[1:] += _RIDGE * w[1:]
        return float(value), slope

    found = optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B")
    return np.asarray(found.x, np.float64)


def fit_temperature(
    logits: NDArray[np.float32], labels: NDArray[np.uint8], log_dose: Doubles
) -> Doubles:
    """Coefficients of ``log T`` in log10 dose that maximise the likelihood, (3,).

    Parameters
    ----------
    logits
        (n, 6).
    labels, log_dose
        (n,).
    """

    def loss(c: Doubles) -> float:
        z = logits / temperature_at(c, log_dose)[:, None]
        z = z - z.max(axis=1, keepdims=True)
        own = z[np.arange(len(labels)), labels]
        return float((np.log(np.exp(z).sum(axis=1)) - own).mean())

    found = optimize.minimize(
        loss, np.array([0.1, 0.05, 0.02]), method="Nelder-Mead", options={"maxiter": 250}
    )
    return np.asarray(found.x, np.float64)


def fit_familiarity(signatures: Doubles) -> tuple[Doubles, Doubles]:
    """Mean of the signatures (k,) and the whitening of their leading directions (m, k).

    The last five entries (statistics of the counts) are whitened each for itself, so that a wrong
    gain or a saturated image is not lost among the deep features.
    """
    mean = signatures.mean(axis=0)
    centred = signatures - mean
    spread = centred.std(axis=0) + 1e-3
    deep = slice(0, signatures.shape[1] - 5)
    scaled = centred[:, deep] / spread[deep]
    _, singular, directions = np.linalg.svd(scaled, full_matrices=False)
    kept = min(_DIRECTIONS, len(singular))
    sigma = singular[:kept] / np.sqrt(len(signatures)) + 0.05
    whitening = np.zeros((kept + 5, signatures.shape[1]))
    whitening[:kept, deep] = directions[:kept] / sigma[:, None] / spread[deep]
    counts = np.arange(signatures.shape[1] - 5, signatures.shape[1])
    whitening[kept + np.arange(5), counts] = 2.0 / spread[counts]
    return mean, whitening
