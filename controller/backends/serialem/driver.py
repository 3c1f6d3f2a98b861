"""SerialEM's Python module: scripted commands that block, and a program with a will of its own.

Never run on hardware: written from SerialEM's public help.  The module comes with SerialEM; it is
imported when an instrument is opened.  The blanker cannot be read, and SerialEM opens the beam
for its own images: run nothing else in it meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.backends.answers import as_bool, as_float
from controller.backends.camera_column import ILLUMINATION, CameraColumn, Coils
from controller.backends.lane import Lane, ThreadLane
from controller.backends.laned import LanedAdapter, open_laned
from controller.backends.loopback import check_host
from controller.backends.options import DriverOptions, import_vendor, read_options
from controller.backends.readings import Abilities, capabilities, column_health
from controller.backends.registry import OptionValue
from controller.backends.serialem.units import defocus_nm, defocus_um
from controller.backends.site import Site, load_site
from controller.hardware.clock import Clock, WallClock
from controller.hardware.errors import ArmFailedError, ModeError, ProtocolError
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

RECORD = "R"
ALL_LENSES = 7
IN_STEM = 2
VACUUM_GREEN = 0
QUIRKS = frozenset(
    {
        "never-run-on-hardware",
        "blanker-cannot-be-read",
        "opens-the-beam-for-its-own-images",
        "stage-cannot-be-stopped",
        "blank-waits-for-the-camera",
        "defocus-sign-opposite",
        "image-shift-units-of-its-own",
    }
)


class SerialEMOptions(DriverOptions):
    """Options of the driver ``serialem``."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 48888
    magnification_index: Annotated[int, Field(ge=1)]
    """Of the image mode; going to it leaves diffraction."""
    camera_length_index: Annotated[int, Field(ge=1)]
    """Of the diffraction mode."""
    allow_remote: bool = False


class SerialEMInstrument(CameraColumn):
    """Implements `backends.instrument.Instrument`.

    Parameters
    ----------
    sem
        The module ``serialem``, connected.
    """

    def __init__(self, site: Site, sem: Any, options: SerialEMOptions) -> None:  # noqa: ANN401
        self._sem = sem
        self._options = options
        self._signs = {axis: sign for axis, sign in site.stage_signs.items() if axis in site.axes}
        super().__init__(site)
        abilities = Abilities(
            vendor="SerialEM",
            api="serialem Python module",
            settings=ILLUMINATION | {"mode", "defocus_nm"},
            modes=frozenset({Mode.IMAGE, Mode.DIFFRACTION}),
            blank=BlankInfo(
                latency_s=site.blank_latency_s,
                readable=False,
                independent=False,
                kind="electrostatic",
            ),
            operations=frozenset({LongOperation.OPEN_VALVE, LongOperation.CLOSE_VALVE}),
            quirks=QUIRKS,
            readable=frozenset({"valve_open", "screen_up"}),
        )
        ranges = {axis: (info.low, info.high) for axis, info in site.axes.items()}
        self._capabilities = capabilities(site, abilities, ranges)

    def read_pose(self) -> StagePose:
        """Read back: um and degrees."""
        x, y, z = self._numbers("ReportStageXYZ", 3)
        raw = {Axis.X: x, Axis.Y: y, Axis.Z: z, Axis.ALPHA: self._numbers("ReportTiltAngle", 1)[0]}
        if Axis.BETA in self._signs:
            raw[Axis.BETA] = self._numbers("ReportStageBAxis", 1)[0]
        values = {axis.value: sign * raw[axis] for axis, sign in self._signs.items()}
        return StagePose(x_um=0.0, y_um=0.0, z_um=0.0, alpha_deg=0.0).replace(**values)

    def move(self, axis: Axis, target: float) -> None:
        """One axis; blocks. x, y and z go by one command, so the others are sent as they read."""
        raw = self._signs[axis] * target
        match axis:
            case Axis.ALPHA:
                self._sem.TiltTo(raw)
            case Axis.BETA:
                self._sem.SetStageBAxis(raw)
            case _:
                x, y, _ = self._numbers("ReportStageXYZ", 3)
                if axis is Axis.Z:
                    self._sem.MoveStageTo(x, y, raw)
                elif axis is Axis.X:
                    self._sem.MoveStageTo(raw, y)
                else:
                    self._sem.MoveStageTo(x, raw)

    def axis_state(self, axis: Axis) -> AxisState:
        """One status for all axes."""
        return AxisState(moving=self._numbers("ReportStageBusy", 1)[0] != 0)

    def halt(self) -> None:
        """SerialEM stops only tilts that it started in the background."""

    def read_health(self) -> ColumnHealth:
        """Valve and screen everywhere; vacuum, dewars and flashing where the column tells."""
        valve = self._numbers("ReportColumnOrGunValve", 1)[0]
        known = {
            "valve_open": None if valve < 0 else valve == 1,
            "screen_up": self._numbers("ReportScreen", 1)[0] == 0,
            "high_tension_on": None if self._numbers("ReportHighVoltage", 1)[0] > 0 else False,
            "vacuum_ready": self._if_known("ReportVacuumStatus", lambda v: v == VACUUM_GREEN),
            "not_refilling": self._if_known("AreDewarsFilling", lambda v: v == 0),
            "no_flash_due": self._if_known("IsFEGFlashingAdvised", lambda v: v == 0, 0),
        }
        health = column_health(self._site, known, holder_id=self._site.holder.id)
        remaining = self._if_known("DewarsRemainingTime", lambda v: v)
        known_time = remaining is not None and remaining >= 0
        return health.replace(dewar_remaining_s=remaining if known_time else None)

    def operate(self, operation: LongOperation) -> str:
        """Column or gun valve; confirmed by read-back."""
        wanted = operation is LongOperation.OPEN_VALVE
        self._sem.SetColumnOrGunValve(int(wanted))
        if self._numbers("ReportColumnOrGunValve", 1)[0] != int(wanted):
            raise ModeError(
                f"the valve did not {'open' if wanted else 'close'}; the beam is blanked. "
                f"Look at the vacuum."
            )
        return ""

    def set_blanked(self, blanked: bool) -> None:
        """Blank or unblank."""
        self._sem.SetBeamBlank(int(blanked))

    def is_blanked(self) -> bool | None:
        """SerialEM has no command that reads the blanker."""
        return None

    def prepare(self, job: DetectorJob) -> None:
        """Set exposure and binning of the Record parameters, then compare."""
        binning = self._site.detector(job.detector).binning
        self._sem.SetBinning(RECORD, binning)
        self._sem.SetExposure(RECORD, job.frame_s)
        exposure = self._numbers("ReportExposure", 2, RECORD)[0]
        got = self._numbers("ReportBinning", 1, RECORD)[0]
        if got != binning or not abs(exposure - job.frame_s) <= 0.01 * job.frame_s:
            raise ArmFailedError(
                f"{job.detector}: exposure {exposure:g} s and binning {got:g} read back after "
                f"{job.frame_s:g} s and {binning} were set; nothing is armed and the beam is "
                f"blanked. Choose values that the camera offers."
            )

    def acquire(self, job: DetectorJob) -> NDArray[np.generic]:
        """A Record image; blocks for exposure and readout."""
        self._sem.Record()
        return np.array(np.asarray(self._sem.bufferImage("A")))

    def close(self) -> None:
        """SerialEM goes on without us."""

    # --- inside --------------------------------------------------------------------------------

    def _numbers(self, command: str, count: int, *args: object) -> tuple[float, ...]:
        """At least `count` reported values; SerialEM gives a lone one as a plain number."""
        reported = getattr(self._sem, command)(*args)
        values = reported if isinstance(reported, tuple | list) else (reported,)
        if len(values) < count:
            raise ProtocolError(f"{command} reports {reported!r:.80}, fewer than {count} values")
        return tuple(as_float(value, command) for value in values[:count])

    def _if_known(self, command: str, meaning: Callable[[float], Any], *args: object) -> Any:  # noqa: ANN401  (passes on)
        try:
            return meaning(self._numbers(command, 1, *args)[0])
        except self._sem.SEMerror:
            return None

    def _coils(self, name: str) -> Coils:
        thing = "BeamShift" if name == "beam_shift_nm" else "ImageShift"

        def read() -> Vector:
            x, y = self._numbers(f"Report{thing}", 2)
            return x, y

        def write(raw: Vector) -> None:
            getattr(self._sem, f"Set{thing}")(raw[0], raw[1])

        return read, write

    def _mode(self) -> Mode:
        _, low, kind = self._numbers("ReportMag", 3)
        if kind == IN_STEM or as_bool(int(low), "low magnification"):
            raise ModeError(
                "SerialEM is in STEM or low magnification, which is not calibrated; the beam stays "
                "blanked. Change to the mode of the site file by hand."
            )
        length_m = self._numbers("ReportCameraLength", 1)[0]
        return Mode.DIFFRACTION if length_m > 0 else Mode.IMAGE

    def _set_mode(self, mode: Mode) -> None:
        if mode is Mode.IMAGE:
            self._sem.SetMagIndex(self._options.magnification_index)
        else:
            self._sem.SetCamLenIndex(self._options.camera_length_index)

    def _set_projection(self, mode: Mode, index: int) -> None:
        if mode is Mode.IMAGE:
            self._sem.SetMagIndex(index)
        else:
            self._sem.SetCamLenIndex(index)

    def _spot(self) -> int:
        return int(self._numbers("ReportSpotSize", 1)[0])

    def _lens(self) -> float:
        return self._numbers("ReportPercentC2", 1)[0]

    def _set_illumination(self, spot: int, lens: float) -> None:
        self._sem.SetSpotSize(spot)
        self._sem.SetPercentC2(lens)

    def _energy_keV(self) -> float | None:
        return self._numbers("ReportHighVoltage", 1)[0] or None

    def _defocus_nm(self) -> float:
        return defocus_nm(self._numbers("ReportDefocus", 1)[0], self._site.defocus_scale)

    def _set_defocus_nm(self, defocus_nm: float) -> None:
        self._sem.SetDefocus(defocus_um(defocus_nm, self._site.defocus_scale))

    def _magnification(self) -> float | None:
        if self._mode() is not Mode.IMAGE:
            return None
        return self._numbers("ReportMag", 1)[0] or None

    def _camera_length_mm(self) -> float | None:
        return 1000 * self._numbers("ReportCameraLength", 1)[0] or None

    def _settle_lenses(self) -> None:
        self._sem.NormalizeLenses(ALL_LENSES)


def open_adapter(
    options: Mapping[str, OptionValue],
    *,
    clock: Clock | None = None,
    run_dir: Path | None = None,
) -> LanedAdapter:
    """Open the column, beam blanked; see `registry.AdapterFactory`."""
    wanted = read_options(SerialEMOptions, "serialem", options)
    site = load_site(wanted.site)
    check_host(wanted.host, allow_remote=wanted.allow_remote, what="SerialEM's Python port")
    sem = import_vendor("serialem", "it comes with SerialEM; put its Python folder on the path")

    def connect() -> Any:  # noqa: ANN401  (untyped module)
        sem.ConnectToSEM(wanted.port, wanted.host)
        sem.NoMessageBoxOnError(1)
        sem.SuppressReports(1)
        return sem

    return adapter_on(site, connect, wanted, ThreadLane("serialem"), clock or WallClock())


def adapter_on(
    site: Site, connect: Callable[[], Any], options: SerialEMOptions, lane: Lane, clock: Clock
) -> LanedAdapter:
    """An adapter on a lane; tests bring their own."""
    return open_laned(lambda: SerialEMInstrument(site, connect(), options), lane, clock)
