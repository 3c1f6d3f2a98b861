"""A fake of ``PyJEM.TEM3`` and ``PyJEM.detector``, from the public manual of PyJEM 1.3.

Never compared with a microscope.  Moves return at once (some models block: `blocks`), positions
are nanometres and degrees, deflectors whole counts, images raw bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.backends.jeol.pyjem import JeolParts
from tests.conformance.virtual_lane import Blocking

SPEEDS = (100e3, 100e3, 20e3, 5.0, 2.0)
"""nm and deg per second."""
SHAPE = (48, 64)
READOUT_S = 0.3


@dataclass
class Leg:
    start: float
    target: float
    begun_s: float
    speed: float

    def at(self, now_s: float) -> float:
        away = self.target - self.start
        gone = min(self.speed * (now_s - self.begun_s), abs(away))
        return self.start + math.copysign(gone, away)


class JeolFake:
    """Everything in one object; `parts` hands out the classes of TEM3."""

    def __init__(self, blocking: Blocking, *, blocks: bool = False) -> None:
        self.blocking = blocking
        self.blocks = blocks
        self.legs = [Leg(0.0, 0.0, 0.0, speed) for speed in SPEEDS]
        self.limiter: int | None = None
        self.blank = 0
        self.valve = 1
        self.function = 0
        self.spot = 1
        self.cl3 = 30000
        self.counts = {"CLA1": [32768, 32768], "IS1": [32768, 32768]}
        self.exposure_us = 0.0
        self.holder = 1
        self.screen = 2
        self.refilling = [0, 0]
        self.flashing = 0
        self.emission = [0, 1]
        self.stem = 0
        self.sent: list[str] = []

    def parts(self) -> JeolParts:
        return JeolParts(
            stage=self,
            deflectors=self,
            optics=self,
            lenses=self,
            gun=self,
            tension=self,
            nitrogen=self,
            vacuum=self,
            screen=self,
            detector=lambda name: _Detector(self),
        )

    # --- Stage3 ------------------------------------------------------------------------------

    def GetPos(self) -> list[float]:  # noqa: N802
        now_s = self.blocking.now_s()
        return [leg.at(now_s) for leg in self.legs]

    def GetStatus(self) -> list[int]:  # noqa: N802
        now_s = self.blocking.now_s()
        states = [int(abs(leg.at(now_s) - leg.target) > 1e-9) for leg in self.legs]
        if self.limiter is not None:
            states[self.limiter] = 2
        return states

    def _go(self, index: int, target: float) -> None:
        now_s = self.blocking.now_s()
        leg = self.legs[index]
        self.legs[index] = Leg(leg.at(now_s), target, now_s, leg.speed)
        if self.blocks:
            self.blocking.spend(abs(leg.at(now_s) - target) / leg.speed)

    def SetX(self, value: float) -> None:  # noqa: N802
        self._go(0, value)

    def SetY(self, value: float) -> None:  # noqa: N802
        self._go(1, value)

    def SetZ(self, value: float) -> None:  # noqa: N802
        self._go(2, value)

    def SetTiltXAngle(self, value: float) -> None:  # noqa: N802
        self._go(3, value)

    def SetTiltYAngle(self, value: float) -> None:  # noqa: N802
        self._go(4, value)

    def Stop(self) -> None:  # noqa: N802
        now_s = self.blocking.now_s()
        self.legs = [Leg(leg.at(now_s), leg.at(now_s), now_s, leg.speed) for leg in self.legs]

    def GetHolderStts(self) -> int:  # noqa: N802
        return self.holder

    # --- Def3, EOS3, Lens3 ---------------------------------------------------------------------

    def SetBeamBlank(self, value: int) -> None:  # noqa: N802
        self.blank = value

    def GetBeamBlank(self) -> int:  # noqa: N802
        return self.blank

    def GetCLA1(self) -> list[int]:  # noqa: N802
        return self.counts["CLA1"]

    def SetCLA1(self, x: int, y: int) -> None:  # noqa: N802
        self.counts["CLA1"] = [x, y]

    def GetIS1(self) -> list[int]:  # noqa: N802
        return self.counts["IS1"]

    def GetFunctionMode(self) -> list[Any]:  # noqa: N802
        return [self.function, ["MAG", "MAG2", "LowMAG", "SAMAG", "DIFF"][self.function]]

    def SelectFunctionMode(self, value: int) -> None:  # noqa: N802
        self.function = value

    def GetTemStemMode(self) -> int:  # noqa: N802
        return self.stem

    def GetSpotSize(self) -> int:  # noqa: N802
        return self.spot

    def SelectSpotSize(self, value: int) -> None:  # noqa: N802
        self.spot = value

    def GetCL3(self) -> int:  # noqa: N802
        return self.cl3

    def SetCL3(self, value: int) -> None:  # noqa: N802
        self.cl3 = value

    def SetSelector(self, index: int) -> None:  # noqa: N802
        self.sent.append(f"selector {index}")

    def GetMagValue(self) -> list[Any]:  # noqa: N802
        return [40, "cm", "40cm"] if self.function == 4 else [50000, "X", "x50k"]

    # --- FEG3, HT3, Nitrogen3, VACUUM3, Detector3 ------------------------------------------------

    def GetBeamValve(self) -> int:  # noqa: N802
        return self.valve

    def SetBeamValve(self, value: int) -> None:  # noqa: N802
        self.valve = value

    def GetEmissionOnStatus(self) -> list[int]:  # noqa: N802
        return self.emission

    def GetAutoFlashingStatus(self) -> int:  # noqa: N802
        return self.flashing

    def ExecAutoFlashing(self, value: int) -> int:  # noqa: N802
        self.flashing = value
        return value

    def GetHtValue(self) -> float:  # noqa: N802
        return 200000.0

    def GetRefillStatus(self, tank: int) -> int:  # noqa: N802
        return self.refilling[tank - 1]

    def ExecRefill(self, tank: int, state: int) -> None:  # noqa: N802
        self.refilling[tank - 1] = state

    def GetColumnReady(self) -> int:  # noqa: N802
        return 1

    def GetSpecimenReady(self) -> int:  # noqa: N802
        return 1

    def GetScreen(self) -> int:  # noqa: N802
        return self.screen


class _Detector:
    def __init__(self, column: JeolFake) -> None:
        self._column = column

    def set_detectorsetting(self, body: dict[str, float]) -> dict[str, float]:
        self._column.exposure_us = body["ExposureTimeValue"]
        return body

    def get_detectorsetting(self) -> dict[str, float]:
        return {"ExposureTimeValue": self._column.exposure_us, "GainIndex": 100}

    def snapshot_rawdata(self) -> bytes:
        column = self._column
        lit = not column.blank and column.valve
        column.blocking.spend(column.exposure_us * 1e-6 + READOUT_S)
        return np.full(SHAPE, 20 + 200 * bool(lit), np.uint16).tobytes()
