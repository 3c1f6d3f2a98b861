"""A driver to start from: copy this folder, replace `AcmeColumn` by your vendor's library.

``pip install -e .`` in the copy, then ``lodestem serve`` with ``adapter: mylab`` finds it.  What it
has to keep is in ``docs/drivers.md``; the conformance suite checks it (`tests/conformance`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from controller.backends.answers import as_bool, as_float
from controller.backends.camera_column import ILLUMINATION, CameraColumn, Coils
from controller.backends.lane import Lane, ThreadLane
from controller.backends.laned import LanedAdapter, open_laned
from controller.backends.options import DriverOptions, read_options
from controller.backends.readings import Abilities, capabilities, column_health
from controller.backends.registry import OptionValue
from controller.backends.site import Site, load_site
from controller.hardware.clock import Clock, WallClock
from controller.hardware.errors import ArmFailedError, ModeError, UnsupportedError
from controller.hardware.values import (
    Axis,
    AxisState,
    BlankInfo,
    ColumnHealth,
    DetectorJob,
    LongOperation,
    Mode,
    StagePose,
    Vector,
)

# --- 1. the vendor: replace this class by an import ---------------------------------------------


class AcmeColumn:
    """An imaginary vendor: millimetres and radians, overfocus in um, moves that return at once."""

    SPEED: ClassVar = {"x": 0.1, "y": 0.1, "z": 0.02, "tilt": math.radians(5)}

    def __init__(self, now: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._now, self._sleep = now, sleep
        self._legs = dict.fromkeys(self.SPEED, (0.0, 0.0, 0.0))
        self.shutter_closed, self.overfocus_um = True, 0.0
        self.spot, self.c2, self.diffraction, self.valve = 1, 0.5, False, True
        self.exposure = 1.0

    def position(self, name: str) -> float:
        start, target, begun = self._legs[name]
        gone = min(self.SPEED[name] * (self._now() - begun), abs(target - start))
        return start + math.copysign(gone, target - start)

    def go(self, name: str, target: float) -> None:
        self._legs[name] = (self.position(name), target, self._now())

    def moving(self, name: str) -> bool:
        return abs(self.position(name) - self._legs[name][1]) > 1e-12

    def stop(self) -> None:
        for name in self.SPEED:
            self.go(name, self.position(name))

    def image(self) -> NDArray[np.uint16]:
        lit = not self.shutter_closed and self.valve
        self._sleep(self.exposure + 0.2)
        return np.full((48, 64), 400 if lit else 10, np.uint16)


# --- 2. units and signs: one place, one property test --------------------------------------------

NAMES = {Axis.X: "x", Axis.Y: "y", Axis.Z: "z", Axis.ALPHA: "tilt"}


def acme_from_ours(axis: Axis, value: float, sign: int) -> float:
    """To mm or rad, from um or deg."""
    return sign * (value / 1000 if axis.value.endswith("_um") else math.radians(value))


def ours_from_acme(axis: Axis, value: float, sign: int) -> float:
    """To um or deg, from mm or rad."""
    return sign * (value * 1000 if axis.value.endswith("_um") else math.degrees(value))


# --- 3. the instrument: translate, and say what is missing ---------------------------------------


class AcmeInstrument(CameraColumn):
    """Implements `controller.backends.instrument.Instrument`."""

    def __init__(self, site: Site, acme: AcmeColumn) -> None:
        self._acme = acme
        super().__init__(site)
        abilities = Abilities(
            vendor="Acme",
            api="acme 1",
            settings=ILLUMINATION | {"mode", "defocus_nm"},
            modes=frozenset({Mode.IMAGE, Mode.DIFFRACTION}),
            blank=BlankInfo(
                latency_s=site.blank_latency_s, readable=True, independent=False, kind="shutter"
            ),
            operations=frozenset({LongOperation.CLOSE_VALVE, LongOperation.OPEN_VALVE}),
            quirks=frozenset({"never-run-on-hardware", "blank-waits-for-the-camera"}),
            readable=frozenset({"valve_open"}),
            simulated=True,
        )
        ranges = {axis: (info.low, info.high) for axis, info in site.axes.items()}
        self._capabilities = capabilities(site, abilities, ranges)

    def read_pose(self) -> StagePose:
        signs = self._site.stage_signs
        read = {a: as_float(self._acme.position(n), n) for a, n in NAMES.items()}
        values = {a.value: ours_from_acme(a, raw, signs[a]) for a, raw in read.items()}
        return StagePose(x_um=0, y_um=0, z_um=0, alpha_deg=0).replace(**values)

    def move(self, axis: Axis, target: float) -> None:
        self._acme.go(NAMES[axis], acme_from_ours(axis, target, self._site.stage_signs[axis]))

    def axis_state(self, axis: Axis) -> AxisState:
        return AxisState(moving=as_bool(self._acme.moving(NAMES[axis]), "moving"))

    def halt(self) -> None:
        self._acme.stop()

    def read_health(self) -> ColumnHealth:
        known = {"valve_open": as_bool(self._acme.valve, "valve")}
        return column_health(self._site, known, holder_id=self._site.holder.id)

    def operate(self, operation: LongOperation) -> str:
        self._acme.valve = operation is LongOperation.OPEN_VALVE
        return ""

    def set_blanked(self, blanked: bool) -> None:
        self._acme.shutter_closed = blanked

    def is_blanked(self) -> bool | None:
        return as_bool(self._acme.shutter_closed, "shutter")

    def prepare(self, job: DetectorJob) -> None:
        self._acme.exposure = job.frame_s
        if self._acme.exposure != job.frame_s:
            raise ArmFailedError("the exposure time did not take; nothing is armed. Try another")

    def acquire(self, job: DetectorJob) -> NDArray[np.generic]:
        return self._acme.image()

    def close(self) -> None:
        pass

    def _coils(self, name: str) -> Coils:
        def read() -> Vector:
            return 0.0, 0.0

        def write(raw: Vector) -> None:
            raise UnsupportedError(f"{name} cannot be set on this column; nothing was changed")

        return read, write

    def _mode(self) -> Mode:
        return Mode.DIFFRACTION if self._acme.diffraction else Mode.IMAGE

    def _set_mode(self, mode: Mode) -> None:
        self._acme.diffraction = mode is Mode.DIFFRACTION

    def _set_projection(self, mode: Mode, index: int) -> None:
        raise UnsupportedError("the projector cannot be set; nothing was changed")

    def _spot(self) -> int:
        return self._acme.spot

    def _lens(self) -> float:
        return as_float(self._acme.c2, "C2")

    def _set_illumination(self, spot: int, lens: float) -> None:
        self._acme.spot, self._acme.c2 = spot, lens

    def _energy_keV(self) -> float | None:
        return None

    def _defocus_nm(self) -> float:
        return -1000 * as_float(self._acme.overfocus_um, "focus")

    def _set_defocus_nm(self, defocus_nm: float) -> None:
        if not abs(defocus_nm) < 1e5:
            raise ModeError("beyond what the objective lens reaches; nothing was changed")
        self._acme.overfocus_um = -defocus_nm / 1000

    def _magnification(self) -> float | None:
        return None if self._acme.diffraction else 40_000.0

    def _camera_length_mm(self) -> float | None:
        return 500.0 if self._acme.diffraction else None


# --- 4. how it is opened -------------------------------------------------------------------------


class AcmeOptions(DriverOptions):
    """Options of the driver ``mylab``; add your own."""


def open_adapter(
    options: Mapping[str, OptionValue],
    *,
    clock: Clock | None = None,
    run_dir: Path | None = None,
) -> LanedAdapter:
    """Open the column, beam blanked; see `registry.AdapterFactory`."""
    wanted = read_options(AcmeOptions, "mylab", options)
    clock = clock or WallClock()
    acme = AcmeColumn(clock.now_s, clock.sleep)
    return adapter_on(load_site(wanted.site), acme, ThreadLane("mylab"), clock)


def adapter_on(site: Site, acme: AcmeColumn, lane: Lane, clock: Clock) -> LanedAdapter:
    """An adapter on a lane; tests give a lane in virtual time."""
    return open_laned(lambda: AcmeInstrument(site, acme), lane, clock)
