"""A fake of SerialEM's Python module, from the public help of SerialEM.

Never compared with SerialEM.  Commands block; a single reported value comes as a plain number;
the blanker cannot be read; negative defocus is underfocus.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conformance.virtual_lane import Blocking

SHAPE = (48, 64)
READOUT_S = 0.5


class SEMerror(Exception):  # noqa: N818  (as the module names it)
    pass


class SerialEMFake:
    SEMerror = SEMerror

    def __init__(self, blocking: Blocking) -> None:
        self.blocking = blocking
        self.xyz = [0.0, 0.0, 0.0]
        self.alpha = 0.0
        self.beta = 0.0
        self.blank = 0
        self.valve = 1
        self.defocus = 0.0
        self.spot = 3
        self.c2 = 45.0
        self.beam_shift = (0.0, 0.0)
        self.image_shift = (0.0, 0.0)
        self.camera_length = 0.0
        self.screen = 0
        self.filling = 0
        self.kind = 0
        self.low = 0
        self.exposure = 1.0
        self.binning = 1
        self.normalised: list[int] = []
        self.thermo = True

    def ReportStageXYZ(self) -> tuple[float, ...]:  # noqa: N802
        return tuple(self.xyz)

    def ReportTiltAngle(self) -> float:  # noqa: N802
        return self.alpha

    def ReportStageBAxis(self) -> float:  # noqa: N802
        return self.beta

    def ReportStageBusy(self) -> float:  # noqa: N802
        return 0.0

    def MoveStageTo(self, x: float, y: float, z: float | None = None) -> None:  # noqa: N802
        target = [x, y, self.xyz[2] if z is None else z]
        away = max(abs(a - b) for a, b in zip(target, self.xyz, strict=True))
        self.blocking.spend(away / 100.0)
        self.xyz = target

    def TiltTo(self, angle: float) -> None:  # noqa: N802
        self.blocking.spend(abs(angle - self.alpha) / 5.0)
        self.alpha = angle

    def SetStageBAxis(self, angle: float) -> None:  # noqa: N802
        self.blocking.spend(abs(angle - self.beta) / 2.0)
        self.beta = angle

    def SetBeamBlank(self, value: int) -> None:  # noqa: N802
        self.blank = value

    def ReportColumnOrGunValve(self) -> float:  # noqa: N802
        return float(self.valve)

    def SetColumnOrGunValve(self, value: int) -> None:  # noqa: N802
        self.valve = value

    def ReportScreen(self) -> float:  # noqa: N802
        return float(self.screen)

    def ReportHighVoltage(self) -> float:  # noqa: N802
        return 300.0

    def ReportVacuumStatus(self) -> float:  # noqa: N802
        return self._thermo(0.0)

    def AreDewarsFilling(self) -> float:  # noqa: N802
        return self._thermo(float(self.filling))

    def DewarsRemainingTime(self) -> float:  # noqa: N802
        return self._thermo(5400.0)

    def IsFEGFlashingAdvised(self, kind: int) -> float:  # noqa: N802
        return self._thermo(0.0)

    def _thermo(self, value: float) -> float:
        if not self.thermo:
            raise SEMerror("this command is for a Thermo/FEI scope")
        return value

    def ReportDefocus(self) -> float:  # noqa: N802
        return self.defocus

    def SetDefocus(self, value: float) -> None:  # noqa: N802
        self.defocus = value

    def ReportSpotSize(self) -> float:  # noqa: N802
        return float(self.spot)

    def SetSpotSize(self, value: int) -> None:  # noqa: N802
        self.spot = value

    def ReportPercentC2(self) -> tuple[float, float]:  # noqa: N802
        return self.c2, self.c2 / 100

    def SetPercentC2(self, value: float) -> None:  # noqa: N802
        self.c2 = value

    def ReportMag(self) -> tuple[float, float, float]:  # noqa: N802
        return 50000.0, float(self.low), float(self.kind)

    def ReportCameraLength(self) -> float:  # noqa: N802
        return self.camera_length

    def SetMagIndex(self, index: int) -> None:  # noqa: N802
        self.camera_length = 0.0

    def SetCamLenIndex(self, index: int) -> None:  # noqa: N802
        self.camera_length = 0.6

    def ReportBeamShift(self) -> tuple[float, float]:  # noqa: N802
        return self.beam_shift

    def SetBeamShift(self, x: float, y: float) -> None:  # noqa: N802
        self.beam_shift = (x, y)

    def ReportImageShift(self) -> tuple[float, ...]:  # noqa: N802
        return (*self.image_shift, 0.0, 0.0, 0.0, 0.0)

    def NormalizeLenses(self, which: int) -> None:  # noqa: N802
        self.normalised.append(which)

    def SetExposure(self, which: str, seconds: float) -> None:  # noqa: N802
        self.exposure = seconds

    def ReportExposure(self, which: str) -> tuple[float, float]:  # noqa: N802
        return self.exposure, 0.0

    def SetBinning(self, which: str, binning: int) -> None:  # noqa: N802
        self.binning = binning

    def ReportBinning(self, which: str) -> float:  # noqa: N802
        return float(self.binning)

    def Record(self) -> None:  # noqa: N802
        self.lit = not self.blank and self.valve == 1
        self.blocking.spend(self.exposure + READOUT_S)

    def bufferImage(self, buffer: str) -> Any:  # noqa: N802
        return memoryview(np.full(SHAPE, 10 + 100 * self.lit, np.int16))
