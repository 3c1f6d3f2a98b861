"""Calibrated confidence: temperature by dose, the score of a pick, and the unfamiliar image.

* Class probabilities: softmax of ``logits / T(dose)``, ``log T`` a parabola in log dose.
* Score: logistic regression of "the pick is right" on the features of ``picking``.
* Out of distribution: Mahalanobis distance of the deepest features and of simple statistics of
  the counts (noise against Poisson, saturation, negative values) from those of drawn scenes.
  Softmax confidence cannot do this (it is high far from the data); the feature space can.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.inference import Fields
from models.picking import FEATURES
from models.weights import Arrays, WeightsError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Confidence:
    """The fitted parameters, as stored with the weights."""

    temperature: Doubles
    """Coefficients of ``log T`` in log10 dose, (3,), lowest order first."""
    score_centre: Doubles
    score_scale: Doubles
    score_weights: Doubles
    """(1 + features,), intercept first."""
    familiar_mean: Doubles
    familiar_whitening: Doubles
    """(k, features): whitens the difference from the mean."""
    familiar_limit: float
    """Distance beyond which an image is out of distribution."""

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Confidence:
        """Read from a weights file.

        Raises
        ------
        WeightsError
            Something is missing or of another size.
        """
        names = [n for n in cls.__dataclass_fields__ if n not in arrays]
        if names or arrays["score_weights"].shape != (1 + len(FEATURES),):
            raise WeightsError(
                f"the weights file has no calibration for this version (missing: {names}); "
                f"nothing was loaded. Reinstall lodestem, or train again"
            )
        doubles = {n: np.asarray(arrays[n], np.float64) for n in cls.__dataclass_fields__}
        limit = float(doubles.pop("familiar_limit"))
        return cls(**doubles, familiar_limit=limit)

    def to_arrays(self) -> Arrays:
        """Arrays for a weights file."""
        arrays: Arrays = {
            n: np.asarray(getattr(self, n), np.float32) for n in self.__dataclass_fields__
        }
        return arrays

    def probability(self, logits: Floats, electrons_per_px: float) -> Floats:
        """Class probabilities at a dose of the working grid, (6, ny, nx)."""
        return class_probability(logits, self.temperature, electrons_per_px)

    def score(self, features: Doubles) -> float:
        """Probability that a pick with these features is right."""
        standard = np.clip((features - self.score_centre) / self.score_scale, -5, 5)
        return float(1 / (1 + np.exp(-(self.score_weights[0] + self.score_weights[1:] @ standard))))

    def unfamiliarity(self, signature: Doubles) -> float:
        """Distance from the drawn scenes over the limit; above 1 is out of distribution."""
        whitened = self.familiar_whitening @ (signature - self.familiar_mean)
        return float(np.sqrt((whitened**2).mean())) / self.familiar_limit


def class_probability(logits: Floats, temperature: Doubles, electrons_per_px: float) -> Floats:
    """Softmax over the first axis at the temperature of a dose.

    Parameters
    ----------
    logits
        (6, ny, nx).
    temperature
        Coefficients of ``log T`` in log10 dose, lowest order first, (3,).
    electrons_per_px
        Mean dose of the working grid.

    Returns
    -------
    float32, (6, ny, nx).
    """
    scaled = logits / np.float32(temperature_at(temperature, np.log10(max(electrons_per_px, 1e-3))))
    scaled -= scaled.max(axis=0, keepdims=True)
    np.exp(scaled, out=scaled)
    return np.asarray(scaled / scaled.sum(axis=0, keepdims=True), np.float32)


def temperature_at(temperature: Doubles, log_dose: Doubles | float) -> Doubles:
    """Temperature of the softmax at log10 doses; kept within the range of the fit."""
    parabola = np.polyval(temperature[::-1], np.clip(log_dose, -2, 3.5))
    return np.asarray(np.exp(np.clip(parabola, -1, 1.5)))


def signature(fields: Fields, electrons: Floats) -> Doubles:
    """What the out-of-distribution flag looks at: deep features and statistics of the counts.

    Parameters
    ----------
    fields
        The network's answer.
    electrons
        Electrons per working pixel, (ny, nx).
    """
    return np.concatenate([fields.bottleneck.astype(np.float64), count_statistics(electrons)])


def count_statistics(electrons: Floats) -> Doubles:
    """Noise against Poisson, brightest against mean, share at the top, share below zero; (5,)."""
    mean = max(float(electrons.mean()), 1e-4)
    n = electrons[: electrons.shape[0] // 2 * 2, : electrons.shape[1] // 2 * 2]
    if n.size >= 16:
        # second difference over 2x2 pixels: blind to gradients, one unit of variance
        cross = 0.5 * (n[::2, ::2] + n[1::2, 1::2] - n[1::2, ::2] - n[::2, 1::2])
        local = n.reshape(n.shape[0] // 2, 2, n.shape[1] // 2, 2).mean(axis=(1, 3))
        quiet = local <= np.quantile(local, 0.7)
        fano = float((cross[quiet] ** 2).mean()) / max(float(local[quiet].mean()), 1e-2 * mean)
        fano_all = float((cross**2).mean()) / mean
    else:
        fano = fano_all = 1.0
    top = float(electrons.max())
    return np.array([
        2 * np.log(np.clip(fano, 1e-6, 1e6)),
        2 * np.log(np.clip(fano_all, 1e-6, 1e6)),
        np.log(max(top, 1e-4) / mean),
        20 * np.sqrt(max(float((electrons >= top - 1e-6 * abs(top)).mean()) - 1e-3, 0))
        if mean > 3 else 0.0,
        2 * float((electrons < -0.05 * mean).mean()),
    ])  # fmt: skip
