"""onnxruntime gives what torch gives, from the same file, and needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional

from models.evaluate import pick_scene
from models.evaluation_scenes import draw_evaluation_scene
from models.inputs import CHANNELS
from models.network import RuntimeMissingError, open_network
from models.onnx_graph import write_onnx
from models.onnx_network import pixel_shuffle, pixel_unshuffle
from models.picker import RegionPicker
from models.torch_network import TorchNetwork
from models.unet import RegionUNet, UNetConfig
from models.weights import Weights, load_weights


def _random_weights(features: tuple[int, ...]) -> Weights:
    """A network that nobody trained, with every scale and shift away from its start."""
    torch.manual_seed(4)
    network = RegionUNet(UNetConfig(features=features))
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.2 * torch.randn_like(value))
    arrays = {k: v.numpy().copy() for k, v in network.state_dict().items()}
    return Weights(network=arrays, about={"config": {"features": list(features)}})


@pytest.mark.parametrize("features", [(24, 40, 56, 80, 80), (6, 8, 10)])
@pytest.mark.parametrize("shape", [(64, 96), (32, 32)])
def test_onnxruntime_answers_as_torch(features: tuple[int, ...], shape: tuple[int, int]) -> None:
    weights = _random_weights(features)
    channels = np.random.default_rng(0).normal(size=(len(CHANNELS), *shape)).astype(np.float32)
    ours, theirs = open_network(weights, "onnx"), open_network(weights, "torch")
    assert isinstance(theirs, TorchNetwork)
    assert ours.stride == theirs.stride
    for a, b in zip(ours(channels), theirs(channels), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max())


def test_pixel_shuffles_are_those_of_torch() -> None:
    x = np.random.default_rng(1).normal(size=(3, 8, 6)).astype(np.float32)
    theirs = functional.pixel_unshuffle(torch.from_numpy(x), 2).numpy()
    np.testing.assert_array_equal(pixel_unshuffle(x), theirs)
    np.testing.assert_array_equal(pixel_shuffle(pixel_unshuffle(x)), x)


def test_both_runtimes_pick_the_same_crystals() -> None:
    scene = draw_evaluation_scene(
        np.random.default_rng([99, 3]), electrons_per_px=5.0, shape=(256, 256)
    )
    one, other = (pick_scene(RegionPicker.load(runtime=r), scene) for r in ("onnx", "torch"))
    assert (one.labels == other.labels).mean() > 0.9999
    assert [round(p.score, 3) for p in one.picks] == [round(p.score, 3) for p in other.picks]


def test_a_picker_in_onnxruntime_never_loads_torch() -> None:
    script = (
        "import sys, numpy as np; from models.picker import RegionPicker;"
        "image = np.random.default_rng(0).poisson(5.0, (64, 64));"
        "RegionPicker.load(runtime='onnx').pick(image, mode='BF', pixel_size_nm=8.0);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=120).returncode == 0


def test_a_written_graph_is_one_file_that_names_its_weights(tmp_path: Path) -> None:
    weights = load_weights()
    write_onnx(weights, tmp_path / "regions.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["regions.onnx"]
    assert (tmp_path / "regions.onnx").stat().st_size < 5e6
    session = onnxruntime.InferenceSession(
        tmp_path / "regions.onnx", providers=["CPUExecutionProvider"]
    )
    named = session.get_modelmeta().custom_metadata_map["weights_sha256"]
    assert named == weights.sha256


def test_a_missing_runtime_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.network.find_spec", lambda name: None)
    with pytest.raises(RuntimeMissingError, match=r"lodestem\[onnx\]"):
        open_network(load_weights(), "onnx")
    with pytest.raises(RuntimeMissingError, match=r"lodestem\[models\]"):
        open_network(load_weights(), "auto")
