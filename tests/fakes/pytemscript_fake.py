"""A fake of ``pytemscript.microscope.Microscope``, from its public documentation and docstrings.

Never compared with a microscope.  Its calls block as the documentation says: a move until the
stage is ready, an image until it is read out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.conformance.virtual_lane import Blocking

SPEED = {"x": 100.0, "y": 100.0, "z": 20.0, "a": 5.0, "b": 2.0}
READOUT_S = 0.4
LEVEL = 300


@dataclass
class Pair:
    x: float = 0.0
    y: float = 0.0


class PytemscriptFake:
    """The parts of the API that the driver uses, one nested object each."""

    def __init__(self, blocking: Blocking) -> None:
        self.blocking = blocking
        self.stage = _Stage(blocking)
        self.vacuum = _Vacuum()
        self.gun = _Gun()
        self.temperature = _Temperature()
        self.optics = _Optics()
        self.acquisition = _Acquisition(self)
        self.connected = True

    def disconnect(self) -> None:
        self.connected = False


class _Stage:
    holder = "DOUBLE_TILT"
    status = "READY"

    def __init__(self, blocking: Blocking) -> None:
        self._blocking = blocking
        self.position: dict[str, Any] = dict.fromkeys("xyzab", 0.0)
        self.limits = {
            name: {"min": -end, "max": end, "unit": unit}
            for name, end, unit in (
                ("x", 1e-3, "METERS"),
                ("y", 1e-3, "METERS"),
                ("z", 375e-6, "METERS"),
                ("a", math.radians(80), "RADIANS"),
                ("b", math.radians(29.7), "RADIANS"),
            )
        }

    def go_to(self, relative: bool = False, speed: float | None = None, **axes: float) -> None:
        for name, value in axes.items():
            limits = self.limits[name]
            raw = value * 1e-6 if limits["unit"] == "METERS" else math.radians(value)
            if not limits["min"] <= raw <= limits["max"]:
                raise ValueError(f"Stage position {raw}={name} is out of range")
            self._blocking.spend(abs(value - self.position[name]) / SPEED[name])
            self.position = self.position | {name: value}


class _Vacuum:
    status = "READY"
    is_buffer_running = False
    is_column_open = True
    cycles = 0

    def column_open(self) -> None:
        if self.status != "READY":
            raise RuntimeError("Vacuum status is not READY")
        self.is_column_open = True

    def column_close(self) -> None:
        self.is_column_open = False

    def run_buffer_cycle(self) -> None:
        self.cycles += 1


class _Gun:
    feg_state = "EMITTING"
    ht_state = "ON"
    voltage = 300.0
    advised = False

    def is_flashing_advised(self, kind: int) -> bool:
        return self.advised

    def do_flashing(self, kind: int) -> None:
        if not self.advised:
            raise Warning(f"Flashing type {kind} is not advised")


class _Temperature:
    is_dewar_filling = False
    dewars_time = 3600

    def force_refill(self) -> None:
        """Takes considerable time."""


@dataclass
class _Illumination:
    spotsize: int = 1
    intensity: float = 0.0
    beam_shift: Any = field(default_factory=Pair)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, Pair(*value) if isinstance(value, tuple) else value)


class _Projection:
    def __init__(self) -> None:
        self.kind = 1
        self.defocus = 0.0
        self.image_shift: Any = Pair()
        self.magnification_index = 12
        self.camera_length_index = 7

    @property
    def mode(self) -> str:
        return {1: "IMAGING", 2: "DIFFRACTION"}[self.kind]

    @mode.setter
    def mode(self, value: int) -> None:
        self.kind = value

    @property
    def magnification(self) -> int:
        if self.kind != 1:
            raise RuntimeError("Microscope is not in Imaging mode")
        return 50000

    @property
    def camera_length(self) -> float:
        if self.kind != 2:
            raise RuntimeError("Microscope is not in Diffraction mode")
        return 0.8


class _Optics:
    instrument_mode = "TEM"
    is_shutter_override_on = False

    def __init__(self) -> None:
        self.illumination = _Illumination()
        self.projection = _Projection()
        self.is_beam_blanked: Any = False
        self.normalised = 0

    def beam_blank(self) -> None:
        self.is_beam_blanked = True

    def beam_unblank(self) -> None:
        self.is_beam_blanked = False

    def normalize_all(self) -> None:
        self.normalised += 1


@dataclass
class _Image:
    data: np.ndarray[Any, np.dtype[np.uint16]]


class _Acquisition:
    screen_position = "UP"

    def __init__(self, tem: PytemscriptFake) -> None:
        self._tem = tem
        self.cameras = {"BM-Ceta": {"height": 512, "width": 512, "binnings": [1, 2, 4, 8]}}

    def acquire_tem_image(
        self, name: str, size: int = 0, exp_time: float = 1.0, binning: int = 1, **more: Any
    ) -> _Image:
        tem = self._tem
        lit = not tem.optics.is_beam_blanked and tem.vacuum.is_column_open
        camera = self.cameras[name]
        shape = (camera["height"] // binning, camera["width"] // binning)  # type: ignore[operator]
        tem.blocking.spend(exp_time + READOUT_S)
        return _Image(np.full(shape, 100 + (LEVEL if lit else 0), np.uint16))
