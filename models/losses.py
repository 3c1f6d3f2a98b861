"""What training minimises: classes, thickness, distance and the chance of a right pick."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from torch import Tensor

from models.classes import N_CLASSES
from models.samples import Batch
from models.unet import Answer

CLASS_WEIGHTS = (0.6, 0.5, 2.0, 1.5, 3.0, 2.0)
"""Rare and costly classes count more: a dead class must not pay."""


def region_loss(
    answer: Answer, batch: Batch, class_weights: tuple[float, ...] = CLASS_WEIGHTS
) -> Tensor:
    """Weighted cross entropy + soft Dice + thickness, distance and pick terms; a scalar."""
    weights = torch.tensor(class_weights, device=answer.logits.device)
    classes = F.cross_entropy(answer.logits, batch.labels, weight=weights)
    thickness = F.smooth_l1_loss(answer.log_thickness, batch.log_thickness, beta=0.3)
    distance = F.smooth_l1_loss(answer.distance, batch.distance, beta=0.3)
    pick = F.binary_cross_entropy_with_logits(answer.pick_logit, batch.pickable)
    dice = _soft_dice(answer.logits, batch.labels)
    return classes + 0.4 * dice + 0.5 * thickness + distance + 2.0 * pick


def _soft_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the Dice overlap of the classes present in the batch."""
    probability = logits.softmax(dim=1)
    truth = F.one_hot(labels, N_CLASSES).permute(0, 3, 1, 2).to(probability.dtype)
    overlap = (probability * truth).sum(dim=(0, 2, 3))
    size = (probability + truth).sum(dim=(0, 2, 3))
    present = truth.sum(dim=(0, 2, 3)) > 0
    return 1 - (2 * overlap[present] / size[present].clamp_min(1.0)).mean()
