"""The training configuration: everything that decides which network comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.classes import CLASS_NAMES
from models.imaging import ImagingConfig
from models.losses import CLASS_WEIGHTS
from models.scenes import SceneConfig


class TrainConfig(BaseModel):
    """One training run; the same config and seed give the same network on the same machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Field(ge=0)] = 1
    steps: Annotated[int, Field(gt=0)] = 3600
    batch_size: Annotated[int, Field(gt=0, le=256)] = 4
    learning_rate: Annotated[float, Field(gt=0, le=0.1)] = 6e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-3
    warm_up_steps: Annotated[int, Field(ge=0)] = 100
    """Steps over which the learning rate rises."""
    cool_down_share: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Share of the steps, at the end, over which it falls; constant in between."""
    bright_start_steps: Annotated[int, Field(ge=0)] = 300
    """Steps at the start with doses of at least 2 electrons per pixel."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """Decay of the running average of the weights that is shipped (0: the last weights)."""
    class_weights: tuple[Annotated[float, Field(gt=0, le=100)], ...] = CLASS_WEIGHTS
    """Of the cross entropy, in the order of the labels."""
    start_from: Path | None = None
    """Weights of an earlier run to go on from (a second stage); None: a cold start."""
    features: tuple[Annotated[int, Field(gt=0, le=512)], ...] = (24, 40, 56, 80, 80)
    scene: SceneConfig = SceneConfig()
    imaging: ImagingConfig = ImagingConfig()
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(gt=0, le=64)] = 1
    checkpoint_every: Annotated[int, Field(gt=0)] = 100
    calibration_scenes: Annotated[int, Field(ge=0)] = 1500
    """Scenes on which score, temperature and out-of-distribution flag are fitted."""
    calibration_scene: SceneConfig | None = None
    """Ranges of those scenes; wider than those of training, lest the score trust the network where
    it meets what it has not learned.  None: those of training."""
    evaluation_scenes: Annotated[int, Field(ge=0)] = 60
    """Scenes of the second generator per dose."""

    @model_validator(mode="after")
    def _the_network_can_take_the_scenes(self) -> Self:
        stride = 2 ** len(self.features)
        if len(self.features) < 2 or any(n % stride or n < stride for n in self.scene.shape):
            raise ValueError(
                f"scenes of {self.scene.shape} px do not fit a network of {len(self.features)} "
                f"levels; take multiples of {stride} px and at least two levels"
            )
        if len(self.class_weights) != len(CLASS_NAMES):
            raise ValueError(
                f"class_weights has {len(self.class_weights)} numbers; one for each of "
                f"{', '.join(CLASS_NAMES)}"
            )
        return self

    @classmethod
    def from_yaml(cls, path: Path) -> TrainConfig:
        """Read a configuration file.

        Raises
        ------
        pydantic.ValidationError
            A key is unknown or a value out of range.
        """
        return cls.model_validate(yaml.safe_load(path.read_text()) or {})
