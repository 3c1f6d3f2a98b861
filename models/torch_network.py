"""The region network in torch: what is trained, and one way to run it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from models.unet import RegionUNet, UNetConfig
from models.weights import Weights, WeightsError

Floats = NDArray[np.float32]


def module_of(weights: Weights) -> RegionUNet:
    """Build the module of a weights file, in evaluation mode on the CPU.

    Raises
    ------
    WeightsError
        The arrays do not fit a network of this version.
    """
    try:
        features = tuple(int(n) for n in weights.about["config"]["features"])
        network = RegionUNet(UNetConfig(features=features))
        state = {k: torch.from_numpy(v.astype(np.float32)) for k, v in weights.network.items()}
        missing = network.load_state_dict(state, strict=False)
    except (KeyError, TypeError, RuntimeError) as problem:
        raise WeightsError(
            f"the weights do not fit this version's network ({problem}); nothing was loaded. "
            f"Reinstall lodestem, or train again with `lodestem train`"
        ) from problem
    lacking = [k for k in missing.missing_keys if not k.endswith("num_batches_tracked")]
    if lacking or missing.unexpected_keys:
        raise WeightsError(
            f"the weights lack {len(lacking)} arrays and have {len(missing.unexpected_keys)} "
            f"unknown ones; nothing was loaded. Reinstall lodestem, or train again"
        )
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class TorchNetwork:
    """A :class:`models.network.Network`."""

    def __init__(self, module: RegionUNet) -> None:
        self._module = module

    @property
    def stride(self) -> int:
        """Heights and widths must be multiples of this."""
        return 2 ** len(self._module.config.features)

    @torch.inference_mode()
    def __call__(self, channels: Floats) -> tuple[Floats, Floats]:
        """Maps and deep features of one image; see :class:`models.network.Network`."""
        x = torch.from_numpy(channels)[None]
        answer = self._module(x.contiguous(memory_format=torch.channels_last))
        heads = (answer.log_thickness, answer.distance, answer.pick_logit)
        return torch.cat([answer.logits[0], *heads]).numpy(), answer.bottleneck[0].numpy()
