"""Corrections are learned, nothing else is forgotten, and a loss is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from models.classes import RegionClass
from models.corrections import UNKNOWN, labels_on_grid, read_corrections
from models.evaluation_scenes import draw_evaluation_scene
from models.fine_tune import FineTuneRefusedError, FineTuning, fine_tune
from models.frames import ImageError
from models.scenes import SceneConfig
from models.train import state_arrays
from models.train_config import TrainConfig
from models.unet import RegionUNet, UNetConfig
from models.weights import Weights, load_weights

FEATURES = (8, 12, 12)


@pytest.fixture
def base() -> Weights:
    """A small network with the configuration of its replay."""
    torch.manual_seed(1)
    config = TrainConfig(
        batch_size=2,
        features=FEATURES,
        scene=SceneConfig(shape=(64, 64)),
        precision="float32",
        device="cpu",
        calibration_scenes=0,
        evaluation_scenes=0,
    )
    network = RegionUNet(UNetConfig(features=FEATURES))
    return Weights(state_arrays(network), about={"config": config.model_dump(mode="json")})


def write(path: Path, *, labels: np.ndarray | None = None, **changes: object) -> Path:
    """A scene whose crystals an operator calls contamination."""
    scene = draw_evaluation_scene(
        np.random.default_rng([5, 1]), electrons_per_px=20.0, shape=(96, 128), pixel_size_nm=9.0
    )
    image = scene.image
    if labels is None:
        labels = np.full(image.values.shape, UNKNOWN, np.uint8)
        labels[20:70, 30:100] = RegionClass.CONTAMINATION
    with h5py.File(path, "w") as file:
        data = file.create_dataset("images/a", data=image.values)
        known = {"mode": image.mode, "pixel_size_nm": 9.0, "gain": image.gain}
        data.attrs.update(known | {"offset": image.offset} | changes)
        file["labels/a"] = labels
    return path


def test_corrections_are_learned_and_their_origin_kept(base: Weights, tmp_path: Path) -> None:
    corrections = read_corrections([write(tmp_path / "night.h5")])
    settings = FineTuning(steps=25, learning_rate=5e-3, tolerance=1.0, frozen_scenes=2, share=5.0)
    done = fine_tune(base, corrections, tmp_path / "out", settings)
    assert done.right_after > max(0.8, done.right_before)
    tuned = load_weights(done.weights)
    assert tuned.about["fine_tuned_from_sha256"] == base.sha256
    assert tuned.about["corrections"] == ["night/a"]
    for name in base.network:
        if name.startswith("down."):  # the encoder stays (but for half precision on disk)
            np.testing.assert_allclose(tuned.network[name], base.network[name], atol=1e-3)


def test_an_update_that_loses_a_class_is_refused(base: Weights, tmp_path: Path) -> None:
    corrections = read_corrections([write(tmp_path / "night.h5")])
    settings = FineTuning(steps=40, learning_rate=2e-2, tolerance=0.0, frozen_scenes=4, share=50.0)
    with pytest.raises(FineTuneRefusedError, match=r"IoU of .*nothing was written"):
        fine_tune(base, corrections, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_labels_come_to_the_grid_by_majority() -> None:
    labels = np.full((5, 6), UNKNOWN, np.uint8)
    labels[:2, :2] = RegionClass.CRYSTAL
    labels[0, 2:4] = [RegionClass.BAR, RegionClass.BAR]
    labels[2, 0] = RegionClass.CRYSTAL
    grid = labels_on_grid(labels, 2)
    assert grid.shape == (3, 3)
    assert grid[0].tolist() == [RegionClass.CRYSTAL, RegionClass.BAR, UNKNOWN]
    assert grid[1, 0] == UNKNOWN


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (np.full((96, 128), 7, np.uint8), "hold \\[7\\]"),
        (np.zeros((4, 4), np.uint8), "shape"),
        (np.full((96, 128), UNKNOWN, np.uint8), "no pixel"),
    ],
)
def test_labels_that_cannot_be_are_named(tmp_path: Path, labels: np.ndarray, word: str) -> None:
    with pytest.raises(ImageError, match=word):
        read_corrections([write(tmp_path / "x.h5", labels=labels)])


def test_a_stack_without_labels_says_what_is_wanted(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        del file["labels"]
    with pytest.raises(ImageError, match="/labels/<id>"):
        read_corrections([path])
