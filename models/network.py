"""The trained network behind one call, whatever runs it: onnxruntime, or torch.

A microscope PC needs no torch: the graph for onnxruntime is written in memory from the same
weights file (`models.onnx_graph`), so there is one file, one hash, one calibration.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.weights import Weights

Floats = NDArray[np.float32]
Runtime: TypeAlias = Literal["auto", "torch", "onnx"]
"""``auto`` takes onnxruntime where it is installed."""


class RuntimeMissingError(RuntimeError):
    """Neither runtime, or not the one asked for, is installed."""


class Network(Protocol):
    """A network that answers for one image."""

    @property
    def stride(self) -> int:
        """Heights and widths must be multiples of this."""
        ...

    def __call__(self, channels: Floats) -> tuple[Floats, Floats]:
        """Answer for the channels of one image, float32 (k, ny, nx).

        Returns
        -------
        The maps float32 (9, ny, nx): six class logits, ``log(t/mfp + 0.1)``, distance in 100 nm,
        pick logit; and the mean and spread of the deepest features (2 * width,).
        """
        ...


def open_network(weights: Weights, runtime: Runtime = "auto", *, threads: int = 1) -> Network:
    """The network of a weights file.

    Parameters
    ----------
    weights
        Loaded weights.
    runtime
        What runs it.
    threads
        CPU threads of onnxruntime; torch keeps its own setting.

    Raises
    ------
    RuntimeMissingError
        The runtime is not installed.
    WeightsError
        The arrays do not fit a network of this version.
    """
    has_onnx = find_spec("onnxruntime") is not None and find_spec("onnx") is not None
    if runtime == "onnx" or (runtime == "auto" and has_onnx):
        if not has_onnx:
            raise RuntimeMissingError(
                "the region network was to run in onnxruntime, which is not installed; nothing "
                "was picked. pip install 'lodestem[onnx]', or choose the runtime torch"
            )
        from models.onnx_network import OnnxNetwork

        return OnnxNetwork(weights, threads=threads)
    if find_spec("torch") is None:
        raise RuntimeMissingError(
            "neither onnxruntime nor torch is installed to run the region network; nothing was "
            "picked. pip install 'lodestem[onnx]' (small) or 'lodestem[models]'"
        )
    from models.torch_network import TorchNetwork, module_of

    return TorchNetwork(module_of(weights))
