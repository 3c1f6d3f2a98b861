"""The region network in onnxruntime, on the CPU."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.onnx_graph import onnx_model
from models.weights import Weights

Floats = NDArray[np.float32]


class OnnxNetwork:
    """A :class:`models.network.Network`.

    Parameters
    ----------
    weights
        The weights file; its graph is made in memory.
    threads
        CPU threads.
    """

    def __init__(self, weights: Weights, *, threads: int = 1) -> None:
        self._stride = 2 ** len(weights.about["config"]["features"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            onnx_model(weights).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    @property
    def stride(self) -> int:
        """Heights and widths must be multiples of this."""
        return self._stride

    def __call__(self, channels: Floats) -> tuple[Floats, Floats]:
        """Maps and deep features of one image; see :class:`models.network.Network`."""
        maps, deep = self._session.run(["maps", "deep"], {"x": pixel_unshuffle(channels)[None]})
        flat = deep[0].reshape(deep.shape[1], -1)
        return pixel_shuffle(maps[0]), np.concatenate([flat.mean(axis=1), flat.std(axis=1)])


def pixel_unshuffle(x: Floats) -> Floats:
    """(k, ny, nx) to (4 k, ny/2, nx/2): each 2 x 2 block becomes four channels."""
    k, ny, nx = x.shape
    blocks = x.reshape(k, ny // 2, 2, nx // 2, 2).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(blocks.reshape(4 * k, ny // 2, nx // 2))


def pixel_shuffle(x: Floats) -> Floats:
    """(4 k, ny, nx) to (k, 2 ny, 2 nx), the inverse of :func:`pixel_unshuffle`."""
    k, ny, nx = x.shape
    blocks = x.reshape(k // 4, 2, 2, ny, nx).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(blocks.reshape(k // 4, 2 * ny, 2 * nx))
