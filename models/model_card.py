"""The model card beside the weights: what it was trained on, what it achieves, what it is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from models.evaluate import Metrics
from models.weights import load_weights

LIMITS = (
    "Trained on drawn scenes only; no experimental image was used.",
    "Works on survey images with 3-15 nm pixels; finer images are summed to 10-20 nm.",
    "Dark-field thickness is relative unless the incident dose is known.",
    "Scores are calibrated for drawn scenes; check them on your own specimen before a night.",
)


def write_model_card(path: Path, weights: Path, metrics: Sequence[Metrics]) -> Path:
    """Write the card of a weights file as JSON.

    Parameters
    ----------
    path
        Where to write.
    weights
        The weights it describes; read back, so the hash is that of the file.
    metrics
        From :func:`models.evaluate.evaluate`.
    """
    about = load_weights(weights)
    card = {
        "name": "lodestem region network",
        "format": about.about["format"],
        "sha256": about.sha256,
        "parameters": int(sum(a.size for k, a in about.network.items() if "running" not in k)),
        "training_data": "models.scenes + models.imaging (drawn, domain-randomised)",
        "evaluation_data": "models.evaluation_scenes (a second generator, unseen in training)",
        "licence": "BSD-3-Clause",
        "limits": list(LIMITS),
        "config": about.about["config"],
        "metrics": [m.as_dict() for m in metrics],
    }
    path.write_text(json.dumps(card, indent=1) + "\n")
    return path
