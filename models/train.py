"""Training: scenes are drawn on the fly, the network learns, the averaged weights come out.

Each step draws its scenes from a generator seeded by (seed, step), so that a run that stops and
resumes from its checkpoint ends with the same weights as one that does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.calibration import calibrate
from models.evaluate import Metrics, evaluate
from models.losses import region_loss
from models.model_card import write_model_card
from models.samples import Batch, draw_sample, make_batch
from models.torch_network import module_of
from models.train_config import TrainConfig
from models.unet import RegionUNet, UNetConfig
from models.weights import Weights, load_weights, save_weights

Progress = Callable[[str, int, int, float], None]
"""Called with stage, steps done, steps in all, and the running loss or metric."""
BRIGHT_FROM_E_PER_PX = 2.0


def _silent(stage: str, done: int, total: int, value: float) -> None:
    """No progress wanted."""


@dataclass(frozen=True)
class TrainResult:
    """What training left behind."""

    weights: Path
    model_card: Path
    metrics: tuple[Metrics, ...]
    steps: int
    final_loss: float


def train(config: TrainConfig, out_dir: Path, progress: Progress = _silent) -> TrainResult:
    """Train, calibrate, evaluate and export a region network.

    Parameters
    ----------
    config
        Decides the result together with its seed.
    out_dir
        Receives ``checkpoint.pt`` (resumed from if there), ``regions.npz`` and ``regions.json``.
    progress
        Called during the work.

    Raises
    ------
    ValueError
        ``out_dir`` holds a checkpoint of another configuration; nothing was changed.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.threads)
    network, loss = fit(config, out_dir / "checkpoint.pt", progress)
    weights = Weights(network=state_arrays(network), about=_about(config))
    weights = calibrate(weights, config, progress)
    metrics = tuple(
        evaluate(weights, config.evaluation_scenes, seed=config.seed, progress=progress)
    )
    path = out_dir / "regions.npz"
    save_weights(path, weights)
    card = write_model_card(out_dir / "regions.json", path, metrics)
    return TrainResult(path, card, metrics, config.steps, loss)


def _about(config: TrainConfig) -> dict[str, Any]:
    """Configuration for the weights file; the earlier run by its hash, not by its place."""
    about: dict[str, Any] = {"config": config.model_dump(mode="json", exclude={"start_from"})}
    if config.start_from is not None:
        about["started_from_sha256"] = load_weights(config.start_from).sha256
    return about


def fit(
    config: TrainConfig, checkpoint: Path, progress: Progress = _silent
) -> tuple[RegionUNet, float]:
    """Minimise the loss for ``config.steps`` steps, from the checkpoint if there is one.

    Returns
    -------
    The averaged network on the CPU in evaluation mode, and the running loss.
    """
    device = _device(config)
    torch.manual_seed(config.seed)
    network = RegionUNet(UNetConfig(features=config.features)).to(device)
    if config.start_from is not None:
        network.load_state_dict(module_of(load_weights(config.start_from)).state_dict())
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = {k: v.detach().clone() for k, v in network.state_dict().items()}
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    first, running = _resume(checkpoint, config, network, average, optimiser)
    for step in range(first, config.steps):
        batch = _to(device, draw_batch(config, step))
        for group in optimiser.param_groups:
            group["lr"] = _learning_rate(config, step)
        running_now = _step(network, optimiser, batch, config)
        running = running_now if step == 0 else 0.98 * running + 0.02 * running_now
        _average(average, network, min(config.average, (1 + step) / (10 + step)))
        progress("train", step + 1, config.steps, running)
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            _keep(checkpoint, config, network, average, optimiser, step + 1, running)
    result = RegionUNet(UNetConfig(features=config.features))
    result.load_state_dict({k: v.cpu() for k, v in average.items()})
    return result.eval(), running


def draw_batch(config: TrainConfig, step: int) -> Batch:
    """The scenes of one step; bright ones only at the start."""
    rng = np.random.default_rng([config.seed, step])
    imaging = config.imaging
    if step < config.bright_start_steps:
        low, high = imaging.electrons_per_px
        imaging = replace(
            imaging, electrons_per_px=(min(max(low, BRIGHT_FROM_E_PER_PX), high), high)
        )
    return make_batch([draw_sample(rng, config.scene, imaging) for _ in range(config.batch_size)])


def state_arrays(network: RegionUNet) -> dict[str, NDArray[np.float32]]:
    """Parameters and statistics of a network as numpy arrays."""
    return {
        k: v.detach().cpu().numpy()
        for k, v in network.state_dict().items()
        if v.is_floating_point()
    }


def _step(
    network: RegionUNet, optimiser: torch.optim.Optimizer, batch: Batch, config: TrainConfig
) -> float:
    network.train()
    kind = batch.channels.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=config.precision == "bfloat16"):
        answer = network(batch.channels.contiguous(memory_format=torch.channels_last))
    loss = region_loss(answer, batch, config.class_weights)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimiser.step()
    return float(loss.detach())


def _learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, constant, then a linear fall to 1 %.

    Until the fall begins nothing depends on the number of steps, so a run can be cut short.
    """
    rise = (step + 1) / max(1, config.warm_up_steps)
    fall = (config.steps - step) / max(1.0, config.cool_down_share * config.steps)
    return config.learning_rate * max(0.01, min(1.0, rise, fall))


@torch.no_grad()
def _average(average: dict[str, Tensor], network: RegionUNet, decay: float) -> None:
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)


def _device(config: TrainConfig) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def _to(device: torch.device, batch: Batch) -> Batch:
    if device.type == "cpu":
        return batch
    return Batch(*(getattr(batch, f).to(device) for f in Batch.__dataclass_fields__))


def _fingerprint(config: TrainConfig) -> str:
    """What decides the weights; the number of steps decides only from the cool-down on."""
    aside = {
        "steps",
        "calibration_scenes",
        "calibration_scene",
        "evaluation_scenes",
        "checkpoint_every",
        "threads",
    }
    return config.model_dump_json(exclude=aside)


def _keep(
    checkpoint: Path,
    config: TrainConfig,
    network: RegionUNet,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    step: int,
    running: float,
) -> None:
    """Write the checkpoint so that a stop in the middle leaves the previous one."""
    state = {
        "fingerprint": _fingerprint(config),
        "network": network.state_dict(),
        "average": average,
        "optimiser": optimiser.state_dict(),
        "step": step,
        "steps": config.steps,
        "running": running,
    }
    part = checkpoint.with_suffix(".part")
    torch.save(state, part)
    part.replace(checkpoint)


def _resume(
    checkpoint: Path,
    config: TrainConfig,
    network: RegionUNet,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> tuple[int, float]:
    if not checkpoint.exists():
        return 0, 0.0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    shortest = min(config.steps, state["steps"])
    cooling = state["step"] > (1 - config.cool_down_share) * shortest
    if state["fingerprint"] != _fingerprint(config) or (cooling and config.steps != state["steps"]):
        raise ValueError(
            f"{checkpoint} was written by a run with another configuration; nothing was changed. "
            f"Train into an empty folder, or restore the configuration"
        )
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    for name, value in state["average"].items():
        average[name].copy_(value)
    return int(state["step"]), float(state["running"])
