"""Training learns, repeats and resumes; its file is safe to read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.calibration import fit_logistic, fit_temperature
from models.classes import RegionClass
from models.evaluate import confusion, intersection_over_union
from models.imaging import ImagingConfig
from models.losses import region_loss
from models.samples import draw_sample, make_batch
from models.scenes import SceneConfig
from models.train import fit, train
from models.train_config import TrainConfig
from models.unet import RegionUNet
from models.weights import Weights, WeightsError, load_weights, save_weights


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _tiny(**changes: Any) -> TrainConfig:
    return TrainConfig(
        **{
            "steps": 4,
            "batch_size": 2,
            "features": (8, 12, 12),
            "scene": SceneConfig(shape=(64, 96)),
            "device": "cpu",
            "checkpoint_every": 2,
            "precision": "float32",
            "calibration_scenes": 0,
            "evaluation_scenes": 0,
        }
        | changes
    )


def test_the_network_can_overfit_a_handful_of_bright_scenes() -> None:
    """What cannot be learned by heart cannot be learned: no class of solid matter stays dead."""
    rng = np.random.default_rng(11)
    config = SceneConfig(shape=(96, 96), bar_share=0.6, lumps_per_field=5.0)
    imaging = ImagingConfig(electrons_per_px=(50, 50))
    batch = make_batch([draw_sample(rng, config, imaging) for _ in range(4)])
    torch.manual_seed(0)
    network = RegionUNet()
    optimiser = torch.optim.AdamW(network.parameters(), lr=6e-3)
    for _ in range(100):
        answer = network(batch.channels)
        loss = region_loss(answer, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    counts = confusion(
        answer.logits.argmax(dim=1).numpy().astype(np.uint8), batch.labels.numpy().astype(np.uint8)
    )
    assert (counts.sum(axis=1) > 300).all()
    assert (intersection_over_union(counts)[RegionClass.CRYSTAL :] > 0.4).all()


def test_a_run_that_stops_and_resumes_ends_like_one_that_does_not(tmp_path: Path) -> None:
    config = _tiny()
    whole, _ = fit(config, tmp_path / "whole.pt")

    class StoppedError(Exception):
        pass

    def stop(stage: str, done: int, total: int, value: float) -> None:
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(config, tmp_path / "cut.pt", stop)
    resumed, _ = fit(config, tmp_path / "cut.pt")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(value, resumed.state_dict()[name], msg=name)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    fit(_tiny(steps=1), tmp_path / "c.pt")
    with pytest.raises(ValueError, match="another configuration; nothing was changed"):
        fit(_tiny(steps=1, seed=2), tmp_path / "c.pt")


def test_training_exports_a_calibrated_file_with_its_card(tmp_path: Path) -> None:
    stages = set()
    result = train(
        _tiny(steps=2, calibration_scenes=12, evaluation_scenes=1),
        tmp_path,
        lambda stage, done, total, value: stages.add(stage),
    )
    assert stages == {"train", "calibrate", "evaluate"}
    card = json.loads(result.model_card.read_text())
    assert card["sha256"] == load_weights(result.weights).sha256
    assert [m["electrons_per_px"] for m in card["metrics"]] == [0.05, 0.2, 1.0, 5.0, 50.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, "stepz"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"scene": {"shape": (100, 96)}}, "multiples of 8 px"),
        ({"scene": {"shapes": (64, 96)}}, "shapes"),
    ],
)
def test_a_configuration_refuses_nonsense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _tiny(**change)


def test_weights_come_back_as_saved_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    network = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float32)}
    save_weights(path, Weights(network, {"c": np.zeros(2)}, {"config": {}}))
    back = load_weights(path)
    np.testing.assert_array_equal(back.network["a"], network["a"])
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["network/b"] = arrays["network/b"] + 1
    np.savez(path, **arrays)
    with pytest.raises(WeightsError, match="does not match"):
        load_weights(path)


def test_pickled_weights_are_never_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    np.savez(tmp_path / "bomb.npz", about=np.array([Bomb()], dtype=object))
    with pytest.raises(WeightsError, match="no lodestem weights file"):
        load_weights(tmp_path / "bomb.npz")
    assert not (tmp_path / "exploded").exists()
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(WeightsError, match="no lodestem weights file"):
        load_weights(tmp_path / "text.npz")
    with pytest.raises(WeightsError, match="lodestem train"):
        load_weights(tmp_path / "absent.npz")


def test_logistic_regression_finds_the_probabilities_it_was_fed() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6000, 2))
    right = rng.random(6000) < 1 / (1 + np.exp(-(0.5 + 2 * x[:, 0] - x[:, 1])))
    np.testing.assert_allclose(fit_logistic(x, right), [0.5, 2, -1], atol=0.15)


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4000, 6)).astype(np.float32) * 1.5
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (p.cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1).astype(np.uint8)
    dose = rng.uniform(-1, 2, 4000)
    fitted = fit_temperature(3 * logits, labels, dose)
    np.testing.assert_allclose(np.exp(np.polyval(fitted[::-1], dose)), 3, rtol=0.2)


def test_a_run_may_be_cut_short_before_it_cools_down(tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(stage: str, done: int, total: int, value: float) -> None:
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(_tiny(steps=50), tmp_path / "c.pt", stop)
    cut, _ = fit(_tiny(steps=4), tmp_path / "c.pt")
    cold, _ = fit(_tiny(steps=4), tmp_path / "d.pt")
    for name, value in cold.state_dict().items():
        torch.testing.assert_close(value, cut.state_dict()[name], msg=name)
    with pytest.raises(ValueError, match="another configuration"):
        fit(_tiny(steps=50), tmp_path / "c.pt")
