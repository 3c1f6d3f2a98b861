"""The network as an ONNX graph, written straight from the arrays of a weights file.

No exporter and no torch: the U-Net of `models.unet` is convolutions, group normalisation (an
instance normalisation of each group), ReLU, max pooling, nearest enlargement and concatenation.
Pixel unshuffle and shuffle stay outside, in numpy.  ``test_onnx_network`` holds it to the original.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

from models.weights import Weights, WeightsError

OPSET = 17
IR_VERSION = 9
_EPSILON = 1e-5


@dataclass
class _Graph:
    """Nodes and constants as they are added; every method returns the name of a value."""

    arrays: dict[str, NDArray[Any]]
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:  # noqa: ANN401
        """One operation."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A constant; the same name is the same constant."""
        self.constants[name] = value
        return name

    def weight(self, name: str) -> str:
        """An array of the weights file as float32."""
        return self.constant(name, np.ascontiguousarray(self.arrays[name], np.float32))

    def convolution(self, x: str, name: str, *, bias: bool, side: int) -> str:
        """``side`` x ``side``, padded to keep the size."""
        inputs = [x, self.weight(f"{name}.weight")]
        if bias:
            inputs.append(self.weight(f"{name}.bias"))
        return self.node("Conv", inputs, kernel_shape=[side, side], pads=[side // 2] * 4)

    def group_norm(self, x: str, name: str) -> str:
        """Normalised by groups, then scaled and shifted channel by channel."""
        width = len(self.arrays[f"{name}.weight"])
        groups = gcd(8, width)
        shape = self.node("Shape", [x])
        by_groups = self.constant(f"groups{groups}", np.array([0, groups, -1], np.int64))
        ones = self.constant(f"ones{groups}", np.ones(groups, np.float32))
        zeros = self.constant(f"zeros{groups}", np.zeros(groups, np.float32))
        flat = self.node("Reshape", [x, by_groups])
        even = self.node("InstanceNormalization", [flat, ones, zeros], epsilon=_EPSILON)
        back = self.node("Reshape", [even, shape])
        for part in ("weight", "bias"):
            column = np.asarray(self.arrays[f"{name}.{part}"], np.float32).reshape(1, width, 1, 1)
            operation = "Mul" if part == "weight" else "Add"
            back = self.node(operation, [back, self.constant(f"{name}.{part}", column)])
        return back

    def block(self, x: str, name: str) -> str:
        """Two convolutions, each normalised and rectified."""
        for convolution, norm in ((0, 1), (3, 4)):
            x = self.convolution(x, f"{name}.{convolution}", bias=False, side=3)
            x = self.node("Relu", [self.group_norm(x, f"{name}.{norm}")])
        return x


def onnx_model(weights: Weights) -> ModelProto:
    """The graph of a weights file.

    Input ``x``: float32 (1, 4 k, ny/2, nx/2), the channels of :mod:`models.inputs` after a pixel
    unshuffle by 2.  Outputs: ``maps`` (1, 36, ny/2, nx/2), the nine maps before the pixel shuffle,
    and ``deep`` (1, width, ny/32, nx/32), the deepest features.

    Raises
    ------
    WeightsError
        The arrays do not fit a network of this version.
    """
    try:
        levels = len(weights.about["config"]["features"])
        graph = _Graph(dict(weights.network))
        x, skips = "x", []
        for level in range(levels):
            if level:
                x = graph.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
            x = graph.block(x, f"down.{level}")
            skips.append(x)
        deep = skips.pop()
        twice = graph.constant("twice", np.array([1, 1, 2, 2], np.float32))
        for level in reversed(range(levels - 1)):
            wide = graph.node(
                "Resize",
                [x, "", twice],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
            joined = graph.node("Concat", [wide, skips.pop()], axis=1)
            x = graph.block(joined, f"up.{level}")
        maps = graph.convolution(x, "head", bias=True, side=1)
        wide_in = int(weights.network["down.0.0.weight"].shape[1])
        wide_out = int(weights.network["head.weight"].shape[0])
        width = int(weights.about["config"]["features"][-1])
    except (KeyError, TypeError, IndexError) as problem:
        raise WeightsError(
            f"the weights do not fit this version's network ({problem}); nothing was made. "
            f"Reinstall lodestem, or train again with `lodestem train`"
        ) from problem
    graph.nodes.append(helper.make_node("Identity", [maps], ["maps"]))
    graph.nodes.append(helper.make_node("Identity", [deep], ["deep"]))

    def value(name: str, shape: list[int | str]) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "lodestem-regions",
            [value("x", [1, wide_in, "rows", "cols"])],
            [value("maps", [1, wide_out, "rows", "cols"]), value("deep", [1, width, "r", "c"])],
            [numpy_helper.from_array(a, name) for name, a in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="lodestem",
    )
    helper.set_model_props(model, {"weights_sha256": weights.sha256})
    checker.check_model(model)
    return model


def write_onnx(weights: Weights, path: Path) -> None:
    """Write the graph of a weights file for use by other programs; one file, no side file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(onnx_model(weights).SerializeToString())
