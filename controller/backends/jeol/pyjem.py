"""JEOL by ``PyJEM.TEM3``: sequential axes, raw deflector counts, calls that may block for long.

Never run on hardware, and PyJEM cannot be had without a JEOL: written from its public manual.
``SetPosition`` is *relative* and not used; defocus is not driven, for its unit is not stated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.backends.answers import as_bool, as_float
from controller.backends.camera_column import ILLUMINATION, CameraColumn, Coils
from controller.backends.jeol.units import (
    ORDER,
    StageScale,
    camera_length_mm,
    pose_from_raw,
    raw_from_ours,
)
from controller.backends.lane import Lane, ThreadLane
from controller.backends.laned import LanedAdapter, open_laned
from controller.backends.options import DriverOptions, import_vendor, read_options
from controller.backends.readings import Abilities, capabilities, column_health
from controller.backends.registry import OptionValue
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
    Positive,
    StagePose,
    Vector,
)

MOVING, LIMITER = 1, 2
FUNCTIONS = {0: Mode.IMAGE, 4: Mode.DIFFRACTION}
"""0 is MAG, 4 is DIFF; MAG2, LowMAG and SAMAG are not calibrated."""
SCREEN_LIFTED = 2
TANKS = (1, 2)
SETTERS = {
    Axis.X: "SetX",
    Axis.Y: "SetY",
    Axis.Z: "SetZ",
    Axis.ALPHA: "SetTiltXAngle",
    Axis.BETA: "SetTiltYAngle",
}
ABSENT = (NotImplementedError, AttributeError, RuntimeError)
"""What a model raises that has not the hardware a question is about."""
QUIRKS = frozenset(
    {
        "never-run-on-hardware",
        "units-confirmed-by-the-site",
        "axes-move-one-after-the-other",
        "calls-may-block-30-s",
        "blank-waits-for-the-camera",
        "deflectors-in-counts",
        "defocus-not-driven",
        "set-position-is-relative-and-not-used",
    }
)


class JeolOptions(DriverOptions):
    """Options of the driver ``jeol``; the scale has no default, see `jeol.units`."""

    nm_per_unit_xy: Positive
    nm_per_unit_z: Positive
    deg_per_unit: Positive
    units_confirmed_by: str = Field(min_length=1)
    exposure_units_per_s: Positive
    """Of ``ExposureTimeValue``; the manual says microseconds, of scanned images."""
    raw_dtype: Literal["uint8", "uint16", "uint32"] = "uint16"

    def scale(self) -> StageScale:
        """Of the stage."""
        return StageScale(
            nm_per_unit_xy=self.nm_per_unit_xy,
            nm_per_unit_z=self.nm_per_unit_z,
            deg_per_unit=self.deg_per_unit,
            confirmed_by=self.units_confirmed_by,
        )


@dataclass(frozen=True)
class JeolParts:
    """One object for each part of ``PyJEM.TEM3``, and what makes detectors."""

    stage: Any
    deflectors: Any
    optics: Any
    lenses: Any
    gun: Any
    tension: Any
    nitrogen: Any
    vacuum: Any
    screen: Any
    detector: Callable[[str], Any]


class JeolInstrument(CameraColumn):
    """Implements `backends.instrument.Instrument`."""

    def __init__(self, site: Site, parts: JeolParts, options: JeolOptions) -> None:
        self._jeol = parts
        self._options = options
        self._scale = options.scale()
        self._signs = {axis: sign for axis, sign in site.stage_signs.items() if axis in site.axes}
        super().__init__(site)
        operations = {LongOperation.OPEN_VALVE, LongOperation.CLOSE_VALVE}
        if _known(lambda: parts.gun.GetAutoFlashingStatus()) is not None:
            operations.add(LongOperation.FLASH_LOW)
        if _known(lambda: parts.nitrogen.GetRefillStatus(TANKS[0])) is not None:
            operations.add(LongOperation.REFILL)
        abilities = Abilities(
            vendor="JEOL",
            api="PyJEM.TEM3",
            settings=ILLUMINATION | {"mode"},
            modes=frozenset(FUNCTIONS.values()),
            blank=BlankInfo(
                latency_s=site.blank_latency_s,
                readable=True,
                independent=False,
                kind="electrostatic",
            ),
            operations=frozenset(operations),
            quirks=QUIRKS,
            readable=frozenset({"valve_open", "holder_inserted", "screen_up"}),
        )
        ranges = {axis: (info.low, info.high) for axis, info in site.axes.items()}
        self._capabilities = capabilities(site, abilities, ranges)

    def read_pose(self) -> StagePose:
        """Read back."""
        raw = self._five("GetPos")
        return pose_from_raw(raw, self._scale, self._signs)

    def move(self, axis: Axis, target: float) -> None:
        """One axis, absolute; blocks or not, as the model likes."""
        raw = raw_from_ours(axis, target, self._scale, self._signs[axis])
        getattr(self._jeol.stage, SETTERS[axis])(raw)

    def axis_state(self, axis: Axis) -> AxisState:
        """0 rests, 1 moves, 2 is an error of the hardware limiter."""
        state = self._five("GetStatus")[ORDER.index(axis)]
        return AxisState(moving=state == MOVING, limiter=state == LIMITER)

    def halt(self) -> None:
        """Stop all axes."""
        self._jeol.stage.Stop()

    def read_health(self) -> ColumnHealth:
        """Valve, holder and screen everywhere; the rest where this model tells."""
        jeol = self._jeol
        known = {
            "valve_open": as_bool(jeol.gun.GetBeamValve(), "beam valve"),
            "holder_inserted": as_bool(jeol.stage.GetHolderStts(), "holder"),
            "screen_up": int(as_float(jeol.screen.GetScreen(), "screen")) == SCREEN_LIFTED,
            "high_tension_on": None if as_float(jeol.tension.GetHtValue(), "HT") > 0 else False,
            "vacuum_ready": _known(
                lambda: (
                    as_bool(jeol.vacuum.GetColumnReady(), "column")
                    and as_bool(jeol.vacuum.GetSpecimenReady(), "specimen")
                )
            ),
            "gun_on": _known(lambda: as_bool(jeol.gun.GetEmissionOnStatus()[1], "emission")),
            "not_refilling": _known(
                lambda: (
                    not any(
                        as_bool(jeol.nitrogen.GetRefillStatus(tank), "refill") for tank in TANKS
                    )
                )
            ),
        }
        if _known(lambda: as_float(jeol.gun.GetAutoFlashingStatus(), "flashing") != 0):
            known["no_flash_due"] = False
        return column_health(self._site, known, holder_id=self._site.holder.id)

    def operate(self, operation: LongOperation) -> str:
        """Valve (confirmed by read-back); start a flash or a refill."""
        match operation:
            case LongOperation.OPEN_VALVE | LongOperation.CLOSE_VALVE:
                wanted = operation is LongOperation.OPEN_VALVE
                self._jeol.gun.SetBeamValve(int(wanted))
                if as_bool(self._jeol.gun.GetBeamValve(), "beam valve") is not wanted:
                    raise ModeError(
                        f"the beam valve did not {'open' if wanted else 'close'}; the beam is "
                        f"blanked. Look at gun and vacuum."
                    )
            case LongOperation.FLASH_LOW:
                if as_float(self._jeol.gun.ExecAutoFlashing(1), "flashing") < 0:
                    raise ModeError("the gun is not ready to flash; nothing was done.")
                return "started; no_flash_due reads bad until it has ended"
            case LongOperation.REFILL:
                for tank in TANKS:
                    self._jeol.nitrogen.ExecRefill(tank, 1)
                return "started; not_refilling reads bad until it has ended"
            case _:
                raise ModeError(f"PyJEM has nothing for {operation.value}; nothing was done")
        return ""

    def set_blanked(self, blanked: bool) -> None:
        """Blanking by the method that the machine is set to."""
        self._jeol.deflectors.SetBeamBlank(int(blanked))

    def is_blanked(self) -> bool | None:
        """Read back."""
        return as_bool(self._jeol.deflectors.GetBeamBlank(), "the blanker")

    def prepare(self, job: DetectorJob) -> None:
        """Set the exposure, then compare."""
        wanted = job.frame_s * self._options.exposure_units_per_s
        detector = self._jeol.detector(job.detector)
        detector.set_detectorsetting({"ExposureTimeValue": wanted})
        got = as_float(detector.get_detectorsetting().get("ExposureTimeValue"), "exposure")
        if not abs(got - wanted) <= 0.01 * wanted:
            raise ArmFailedError(
                f"{job.detector}: the exposure reads {got:g} after {wanted:g} was set; nothing is "
                f"armed and the beam is blanked. Choose a time that the detector offers."
            )

    def acquire(self, job: DetectorJob) -> NDArray[np.generic]:
        """One image as raw bytes; blocks for exposure and readout."""
        data = self._jeol.detector(job.detector).snapshot_rawdata()
        shape = self._site.detector(job.detector).shape
        image: NDArray[np.generic] = np.frombuffer(data, np.dtype(self._options.raw_dtype))
        if image.size != shape[0] * shape[1]:
            raise ProtocolError(
                f"{job.detector} delivered {image.size} pixels of {self._options.raw_dtype}, the "
                f"site file says {shape[0]} x {shape[1]}; the beam is left as it was. Correct it."
            )
        return image.reshape(shape)

    def close(self) -> None:
        """PyJEM has no connection to close."""

    # --- inside --------------------------------------------------------------------------------

    def _five(self, name: str) -> list[float]:
        raw = getattr(self._jeol.stage, name)()
        if not isinstance(raw, list | tuple) or len(raw) != len(ORDER):
            raise ProtocolError(f"{name} reads {raw!r:.80}, not five values")
        return [as_float(value, name) for value in raw]

    def _coils(self, name: str) -> Coils:
        thing = "CLA1" if name == "beam_shift_nm" else "IS1"

        def read() -> Vector:
            x, y = getattr(self._jeol.deflectors, f"Get{thing}")()
            return as_float(x, thing), as_float(y, thing)

        def write(raw: Vector) -> None:
            getattr(self._jeol.deflectors, f"Set{thing}")(int(raw[0]), int(raw[1]))

        return read, write

    def _mode(self) -> Mode:
        function = self._jeol.optics.GetFunctionMode()
        stem = as_bool(self._jeol.optics.GetTemStemMode(), "TEM or STEM")
        if stem or function[0] not in FUNCTIONS:
            raise ModeError(
                f"the column is in {'STEM' if stem else 'TEM'} mode {function!r}, which is not "
                f"calibrated; the beam stays blanked. Change to MAG or DIFF by hand."
            )
        return FUNCTIONS[function[0]]

    def _set_mode(self, mode: Mode) -> None:
        wanted = next(index for index, ours in FUNCTIONS.items() if ours is mode)
        self._jeol.optics.SelectFunctionMode(wanted)

    def _set_projection(self, mode: Mode, index: int) -> None:
        self._jeol.optics.SetSelector(index)

    def _spot(self) -> int:
        return int(as_float(self._jeol.optics.GetSpotSize(), "spot size"))

    def _lens(self) -> float:
        return as_float(self._jeol.lenses.GetCL3(), "CL3")

    def _set_illumination(self, spot: int, lens: float) -> None:
        self._jeol.optics.SelectSpotSize(spot)
        self._jeol.lenses.SetCL3(round(lens))

    def _energy_keV(self) -> float | None:
        return as_float(self._jeol.tension.GetHtValue(), "HT") / 1000 or None

    def _defocus_nm(self) -> float:
        return 0.0

    def _set_defocus_nm(self, defocus_nm: float) -> None:
        raise ModeError("defocus is not driven on this column; nothing was changed")

    def _magnification(self) -> float | None:
        value, unit, _ = self._jeol.optics.GetMagValue()
        return as_float(value, "magnification") if str(unit).strip().upper() == "X" else None

    def _camera_length_mm(self) -> float | None:
        value, unit, _ = self._jeol.optics.GetMagValue()
        return camera_length_mm(as_float(value, "camera length"), str(unit))


def _known(read: Callable[[], Any]) -> Any:  # noqa: ANN401  (passes on)
    """What `read` returns; None where this model has no such hardware."""
    try:
        return read()
    except ABSENT:
        return None


def open_adapter(
    options: Mapping[str, OptionValue],
    *,
    clock: Clock | None = None,
    run_dir: Path | None = None,
) -> LanedAdapter:
    """Open the column, beam blanked; see `registry.AdapterFactory`."""
    wanted = read_options(JeolOptions, "jeol", options)
    site = load_site(wanted.site)
    how = "JEOL delivers it with the microscope; run this on its PC"
    tem3 = import_vendor("PyJEM.TEM3", how)
    detector = import_vendor("PyJEM.detector", how)

    def connect() -> JeolParts:
        if hasattr(tem3, "connect"):
            tem3.connect()
        return JeolParts(
            stage=tem3.Stage3(),
            deflectors=tem3.Def3(),
            optics=tem3.EOS3(),
            lenses=tem3.Lens3(),
            gun=tem3.FEG3(),
            tension=tem3.HT3(),
            nitrogen=tem3.Nitrogen3(),
            vacuum=tem3.VACUUM3(),
            screen=tem3.Detector3(),
            detector=detector.Detector,
        )

    return adapter_on(site, connect, wanted, ThreadLane("pyjem"), clock or WallClock())


def adapter_on(
    site: Site, connect: Callable[[], JeolParts], options: JeolOptions, lane: Lane, clock: Clock
) -> LanedAdapter:
    """An adapter on a lane; tests bring their own."""
    return open_laned(lambda: JeolInstrument(site, connect(), options), lane, clock)
