"""The shipped picker: survey frames to ranked regions, through ``models.picker``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from controller.hardware.values import DetectorInfo
from controller.perception.protocols import RegionPick, RegionsSeen

if TYPE_CHECKING:
    from models.picker import RegionPicker


class NetworkPicker:
    """U-Net picker; torch is loaded at the first picture, not before.

    Parameters
    ----------
    weights
        None takes the shipped ones.
    mode
        Contrast of the survey.
    """

    def __init__(self, weights: Path | None = None, *, mode: Literal["BF", "HAADF"] = "BF") -> None:
        self._weights = weights
        self._mode = mode

    @cached_property
    def _picker(self) -> RegionPicker:
        from models.picker import RegionPicker

        return RegionPicker.load(self._weights)

    @property
    def model_hash(self) -> str:
        """SHA-256 of the weights."""
        from models.weights import load_weights

        return str(load_weights(self._weights).sha256)

    def pick(
        self,
        frames: Sequence[NDArray[np.generic]],
        *,
        detector: DetectorInfo,
        pixel_size_nm: float,
        incident_electrons_per_px: float,
    ) -> RegionsSeen:
        """Raw frames of one field to ranked regions; a picture it cannot read is an abstention."""
        from models.classes import RegionClass
        from models.frames import ImageError

        try:
            result = self._picker.pick(
                list(frames),
                mode=self._mode,
                pixel_size_nm=pixel_size_nm,
                gain=detector.gain,
                offset=detector.offset,
                incident_electrons_per_px=incident_electrons_per_px,
            )
        except ImageError as error:
            shape = frames[0].shape
            return RegionsSeen((), np.zeros(shape, np.uint8), {}, abstained=True, reason=str(error))
        picks = tuple(
            RegionPick(
                x_px=p.x_px,
                y_px=p.y_px,
                radius_nm=p.radius_nm,
                score=p.score,
                diameter_nm=p.equivalent_diameter_nm,
                reason=p.reason,
            )
            for p in result.picks
        )
        fractions = {
            kind.name.lower(): round(float(np.mean(result.labels == kind.value)), 4)
            for kind in RegionClass
        }
        return RegionsSeen(
            picks,
            result.labels,
            fractions,
            abstained=result.abstained,
            reason=result.reason,
            out_of_distribution=result.out_of_distribution,
            electrons_per_px=result.electrons_per_px,
            electrons_per_px_wanted=result.electrons_per_px_wanted,
        )
