"""Learn from corrections without forgetting: the decoder is trained on them among drawn scenes.

Each step sees drawn scenes (replay) and pieces of corrected images; the encoder stays as it is.
Afterwards the network must still know what it knew: on drawn scenes set apart no class may lose
more than the tolerance in IoU, or nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name for it)
from numpy.typing import NDArray
from torch import Tensor

from models.calibration import calibrate
from models.classes import CLASS_NAMES, N_CLASSES
from models.corrections import UNKNOWN, Correction
from models.evaluate import confusion, intersection_over_union
from models.losses import region_loss
from models.model_card import write_model_card
from models.samples import draw_sample, make_batch
from models.torch_network import module_of
from models.train import draw_batch, state_arrays
from models.train_config import TrainConfig
from models.unet import RegionUNet
from models.weights import Weights, save_weights

Progress = Callable[[str, int, int, float], None]
Doubles = NDArray[np.float64]
_FROZEN_STREAM = 2_000_000_011
"""Seeds of the drawn scenes on which nothing may be lost: no training or calibration uses them."""
_FROZEN_DOSE_E_PER_PX = 5.0


class FineTuneRefusedError(ValueError):
    """The update lost a class; nothing was written."""


@dataclass(frozen=True)
class FineTuning:
    """How to learn from corrections."""

    steps: int = 200
    learning_rate: float = 3e-4
    corrections_per_step: int = 2
    share: float = 1.0
    """Weight of the corrections' loss beside that of the replay."""
    tolerance: float = 0.01
    """Greatest loss of IoU of any class on drawn scenes set apart."""
    frozen_scenes: int = 48
    seed: int = 1

    def __post_init__(self) -> None:
        whole = (self.steps, self.corrections_per_step, self.frozen_scenes)
        if min(whole) < 1 or not (self.learning_rate > 0 and self.share > 0):
            raise ValueError(
                f"steps, corrections_per_step and frozen_scenes are {whole}, learning_rate "
                f"{self.learning_rate:g}, share {self.share:g}; all must be positive"
            )
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance is {self.tolerance:g}; it must not be negative")


@dataclass(frozen=True)
class FineTuned:
    """What came of it."""

    weights: Path
    right_before: float
    right_after: float
    """Share of the judged pixels of the corrections with the right class."""
    iou_before: tuple[float, ...]
    iou_after: tuple[float, ...]
    """Of each class on the drawn scenes set apart."""


def fine_tune(
    weights: Weights,
    corrections: Sequence[Correction],
    out_dir: Path,
    settings: FineTuning | None = None,
    progress: Progress | None = None,
) -> FineTuned:
    """Train the decoder on corrections, check, calibrate anew, write.

    Parameters
    ----------
    weights
        To start from; they carry the configuration of the replay.
    corrections
        From :func:`models.corrections.read_corrections`.
    out_dir
        Receives ``regions.npz`` and its card ``regions.json``.
    settings
        How much and how fast.
    progress
        Called with stage, steps done, steps in all, loss.

    Raises
    ------
    FineTuneRefusedError
        A class lost more than the tolerance on drawn scenes; nothing was written.
    """
    settings = settings or FineTuning()
    tell = progress or (lambda stage, done, total, value: None)
    config = TrainConfig.model_validate(weights.about["config"])
    network = module_of(weights)
    iou_before, right_before = _frozen(network, config, settings), _right(network, corrections)
    _learn(network, config, corrections, settings, tell)
    iou_after, right_after = _frozen(network, config, settings), _right(network, corrections)
    lost = {
        name: (float(before), float(after))
        for name, before, after in zip(CLASS_NAMES, iou_before, iou_after, strict=True)
        if before - after > settings.tolerance
    }
    if lost:
        table = ", ".join(f"{name} {a:.3f} to {b:.3f}" for name, (a, b) in lost.items())
        raise FineTuneRefusedError(
            f"the update loses on {settings.frozen_scenes} drawn scenes at "
            f"{_FROZEN_DOSE_E_PER_PX:g} e/px: IoU of {table} (tolerance {settings.tolerance:g}); "
            f"nothing was written. More corrections of that class, fewer steps or a lower "
            f"learning rate may help"
        )
    about = {**weights.about, "fine_tuned_from_sha256": weights.sha256}
    about["corrections"] = [c.id for c in corrections]
    tuned = calibrate(Weights(state_arrays(network), about=about), config, tell)
    if not tuned.calibration:
        tuned = replace(tuned, calibration=weights.calibration)
    path = out_dir / "regions.npz"
    save_weights(path, tuned)
    write_model_card(out_dir / "regions.json", path, ())
    return FineTuned(
        path, right_before, right_after, tuple(iou_before.tolist()), tuple(iou_after.tolist())
    )


def _learn(
    network: RegionUNet,
    config: TrainConfig,
    corrections: Sequence[Correction],
    settings: FineTuning,
    tell: Progress,
) -> None:
    """Train up blocks and head in place."""
    for parameter in network.down.parameters():
        parameter.requires_grad_(False)
    trained = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=1e-3)
    replay = config.model_copy(update={"seed": settings.seed + _FROZEN_STREAM // 2})
    rng = np.random.default_rng(settings.seed)
    network.train()
    for step in range(settings.steps):
        batch = draw_batch(replay, max(step, config.bright_start_steps))
        channels, labels = _pieces(rng, corrections, config, settings.corrections_per_step)
        loss = region_loss(network(batch.channels), batch, config.class_weights)
        told = network(channels).logits
        loss = loss + settings.share * F.cross_entropy(told, labels, ignore_index=UNKNOWN)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimiser.step()
        tell("fine-tune", step + 1, settings.steps, float(loss.detach()))
    network.eval()


def _pieces(
    rng: np.random.Generator, corrections: Sequence[Correction], config: TrainConfig, count: int
) -> tuple[Tensor, Tensor]:
    """Pieces of corrected images, turned and mirrored, each with judged pixels in it."""
    side = min(config.scene.shape)
    judged = [c for c in corrections if (c.labels != UNKNOWN).any()]
    channels, labels = [], []
    for _ in range(count):
        chosen = judged[int(rng.integers(len(judged)))]
        x, y = chosen.channels, chosen.labels
        short = [(0, max(0, side - n)) for n in y.shape]
        x = np.pad(x, ((0, 0), *short), mode="symmetric")
        y = np.pad(y, short, constant_values=UNKNOWN)
        known = np.argwhere(y != UNKNOWN)
        middle = known[int(rng.integers(len(known)))]
        r, c = (
            int(np.clip(m - rng.integers(side), 0, n - side))
            for m, n in zip(middle.tolist(), y.shape, strict=True)
        )
        x, y = x[:, r : r + side, c : c + side], y[r : r + side, c : c + side]
        quarter = int(rng.integers(4))
        x, y = np.rot90(x, quarter, axes=(1, 2)), np.rot90(y, quarter)
        if rng.random() < 0.5:
            x, y = x[:, :, ::-1], y[:, ::-1]
        channels.append(np.ascontiguousarray(x))
        labels.append(np.ascontiguousarray(y).astype(np.int64))
    return torch.from_numpy(np.stack(channels)), torch.from_numpy(np.stack(labels))


@torch.inference_mode()
def _frozen(network: RegionUNet, config: TrainConfig, settings: FineTuning) -> Doubles:
    """IoU of each class on drawn scenes set apart, (6,); 0 for a class that is nowhere."""
    counts = np.zeros((N_CLASSES, N_CLASSES), np.int64)
    for k in range(settings.frozen_scenes):
        rng = np.random.default_rng([_FROZEN_STREAM, k])
        sample = draw_sample(
            rng, config.scene, config.imaging, electrons_per_px=_FROZEN_DOSE_E_PER_PX
        )
        labels = network(make_batch([sample]).channels).logits[0].argmax(dim=0)
        counts += confusion(labels.numpy().astype(np.uint8), sample.truth.labels)
    return np.nan_to_num(intersection_over_union(counts))


@torch.inference_mode()
def _right(network: RegionUNet, corrections: Sequence[Correction]) -> float:
    """Share of the judged pixels whose class the network gives."""
    right, judged = 0, 0
    stride = 2 ** len(network.config.features)
    for c in corrections:
        ny, nx = c.labels.shape
        padding = ((0, 0), (0, -ny % stride), (0, -nx % stride))
        x = torch.from_numpy(np.pad(c.channels, padding, mode="symmetric"))[None]
        labels = network(x).logits[0].argmax(dim=0).numpy()[:ny, :nx]
        known = c.labels != UNKNOWN
        right += int((labels[known] == c.labels[known]).sum())
        judged += int(known.sum())
    return right / max(judged, 1)
