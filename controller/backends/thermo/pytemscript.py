"""Thermo Fisher by pytemscript 3: on the microscope PC, or its socket server.

Never run on hardware.  pytemscript names GPL-3.0-or-later in its metadata, so it is no dependency:
it is imported when an instrument is opened, if the laboratory has installed it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.backends.answers import as_bool, as_float, as_text
from controller.backends.camera_column import ILLUMINATION, CameraColumn, Coils
from controller.backends.lane import Lane, ThreadLane
from controller.backends.laned import LanedAdapter, open_laned
from controller.backends.loopback import check_host
from controller.backends.options import DriverOptions, import_vendor, read_options
from controller.backends.readings import Abilities, capabilities, column_health
from controller.backends.registry import OptionValue
from controller.backends.site import Site, load_site
from controller.backends.thermo.units import (
    NAMES,
    defocus_nm,
    overfocus,
    range_from_si,
)
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

MICROMETRE = 1e-6
MODES = {"IMAGING": Mode.IMAGE, "DIFFRACTION": Mode.DIFFRACTION}
STAGE = frozenset({"READY", "DISABLED", "NOT_READY", "GOING", "MOVING", "WOBBLING"})
VACUUM = frozenset({"UNKNOWN", "OFF", "CAMERA_AIR", "BUSY", "READY", "ELSE"})
SCREEN = frozenset({"UNKNOWN", "UP", "DOWN"})
HOLDERS = frozenset({"NONE", "SINGLE_TILT", "DOUBLE_TILT", "INVALID", "POLARA", "DUAL_AXIS"})
ABSENT = (NotImplementedError, AttributeError, KeyError)
"""What pytemscript raises where a microscope has not the hardware."""
QUIRKS = frozenset(
    {
        "never-run-on-hardware",
        "stage-cannot-be-stopped",
        "vendor-waits-for-the-stage-without-end",
        "falcon-protector-may-delay-the-blanker",
        "blank-waits-for-the-camera",
        "errors-may-come-as-the-word-ERROR",
        "an-image-waits-for-pumps-and-dewars-with-the-beam-open",
        "image-beam-shift-moves-the-beam-too",
    }
)


class PytemscriptOptions(DriverOptions):
    """Options of the driver ``thermo-pytemscript``."""

    connection: Literal["direct", "socket"] = "direct"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 39000
    allow_remote: bool = False
    """Its socket speaks pickle: whoever answers can run code here."""


class PytemscriptInstrument(CameraColumn):
    """Implements `backends.instrument.Instrument`.

    Parameters
    ----------
    microscope
        A ``pytemscript.microscope.Microscope``.
    """

    def __init__(self, site: Site, microscope: Any) -> None:  # noqa: ANN401  (untyped package)
        self._tem = microscope
        self._limits: dict[str, dict[str, Any]] = microscope.stage.limits
        self._signs = {
            axis: sign
            for axis, sign in site.stage_signs.items()
            if self._limits.get(NAMES[axis], {}).get("unit") in ("METERS", "RADIANS")
        }
        super().__init__(site)
        self._check_cameras()
        ranges = {
            axis: range_from_si(
                axis, self._limits[NAMES[axis]]["min"], self._limits[NAMES[axis]]["max"], sign
            )
            for axis, sign in self._signs.items()
        }
        self._capabilities = capabilities(site, self._abilities(), ranges)

    def read_pose(self) -> StagePose:
        """Read back; pytemscript gives um and degrees already."""
        position = self._tem.stage.position
        values = {
            axis.value: self._signs[axis] * as_float(position[NAMES[axis]], axis.value)
            for axis in self._signs
        }
        return StagePose(x_um=0.0, y_um=0.0, z_um=0.0, alpha_deg=0.0).replace(**values)

    def move(self, axis: Axis, target: float) -> None:
        """go_to with one axis; blocks until the stage is ready, for ever if it never is."""
        self._tem.stage.go_to(**{NAMES[axis]: self._signs[axis] * target})

    def axis_state(self, axis: Axis) -> AxisState:
        """Scripting has one status for all axes."""
        return AxisState(moving=as_text(self._tem.stage.status, "stage", STAGE) != "READY")

    def halt(self) -> None:
        """Pytemscript offers no stop of the stage."""

    def read_health(self) -> ColumnHealth:
        """Everything that this microscope can tell; the rest is the site's word."""
        tem = self._tem
        holder = as_text(tem.stage.holder, "holder", HOLDERS)
        pumping = as_bool(tem.vacuum.is_buffer_running, "buffer pump")
        known = {
            "vacuum_ready": as_text(tem.vacuum.status, "vacuum", VACUUM) == "READY" and not pumping,
            "valve_open": as_bool(tem.vacuum.is_column_open, "column valves"),
            "screen_up": as_text(tem.acquisition.screen_position, "screen", SCREEN) == "UP",
            "holder_inserted": holder not in ("NONE", "INVALID"),
            "high_tension_on": _known(lambda: tem.gun.ht_state == "ON"),
            "gun_on": _known(lambda: tem.gun.feg_state == "EMITTING"),
            "not_refilling": _known(
                lambda: not as_bool(tem.temperature.is_dewar_filling, "dewar filling")
            ),
            "no_flash_due": _known(lambda: not self._flash_due()),
        }
        remaining = _known(lambda: as_float(tem.temperature.dewars_time, "dewars_time"))
        health = column_health(self._site, known, holder_id=f"{self._site.holder.id} ({holder})")
        return health.replace(dewar_remaining_s=remaining)

    def operate(self, operation: LongOperation) -> str:
        """Valves (confirmed by read-back), flashing, refill, pumping of the buffer."""
        tem = self._tem
        match operation:
            case LongOperation.OPEN_VALVE | LongOperation.CLOSE_VALVE:
                wanted = operation is LongOperation.OPEN_VALVE
                (tem.vacuum.column_open if wanted else tem.vacuum.column_close)()
                if as_bool(tem.vacuum.is_column_open, "column valves") is not wanted:
                    raise ModeError(
                        f"the column valves did not {'open' if wanted else 'close'}; the beam is "
                        f"blanked. Look at the vacuum."
                    )
            case LongOperation.FLASH_LOW:
                tem.gun.do_flashing(0)
            case LongOperation.FLASH_HIGH:
                tem.gun.do_flashing(1)
            case LongOperation.REFILL:
                tem.temperature.force_refill()
            case LongOperation.PUMP_CYCLE:
                tem.vacuum.run_buffer_cycle()
        return ""

    def set_blanked(self, blanked: bool) -> None:
        """Beam blanker of the illumination system.

        Raises
        ------
        ModeError
            A pump runs or a dewar fills: the image would wait for it with the beam open.
        """
        if not blanked:
            self._check_nothing_to_wait_for()
        (self._tem.optics.beam_blank if blanked else self._tem.optics.beam_unblank)()

    def is_blanked(self) -> bool | None:
        """Read back; a failed question is an error, not a blanked beam."""
        return as_bool(self._tem.optics.is_beam_blanked, "the blanker")

    def prepare(self, job: DetectorJob) -> None:
        """Nothing is sent before the image; refuse what the camera would not do."""
        camera = self._site.detector(job.detector)
        info = self._tem.acquisition.cameras[job.detector]
        if camera.binning not in info["binnings"]:
            raise ArmFailedError(
                f"{job.detector} offers the binnings {info['binnings']}, the site file says "
                f"{camera.binning}; nothing is armed and the beam is blanked. "
                f"Correct the site file."
            )
        if _known(lambda: as_bool(self._tem.optics.is_shutter_override_on, "shutter override")):
            raise ArmFailedError(
                "the shutter override is on, so nobody sees whether the beam is blocked; nothing "
                "is armed. Switch it off in the vendor's software."
            )

    def acquire(self, job: DetectorJob) -> NDArray[np.generic]:
        """One image; blocks for exposure and readout."""
        camera = self._site.detector(job.detector)
        image = self._tem.acquisition.acquire_tem_image(
            job.detector, exp_time=job.frame_s, binning=camera.binning
        )
        return np.asarray(image.data)

    def close(self) -> None:
        """Disconnect."""
        self._tem.disconnect()

    # --- inside --------------------------------------------------------------------------------

    def _check_nothing_to_wait_for(self) -> None:
        filling = _known(lambda: as_bool(self._tem.temperature.is_dewar_filling, "dewar filling"))
        if filling or as_bool(self._tem.vacuum.is_buffer_running, "buffer pump"):
            raise ModeError(
                "the buffer pump runs or a dewar is filling, and pytemscript would wait for it "
                "before the image, with the beam open; the beam stays blanked. Wait, then expose."
            )

    def _flash_due(self) -> bool:
        return as_bool(self._tem.gun.is_flashing_advised(0), "flashing advised") or as_bool(
            self._tem.gun.is_flashing_advised(1), "flashing advised"
        )

    def _abilities(self) -> Abilities:
        operations = {
            LongOperation.OPEN_VALVE,
            LongOperation.CLOSE_VALVE,
            LongOperation.PUMP_CYCLE,
        }
        if _known(lambda: self._tem.gun.is_flashing_advised(0)) is not None:
            operations |= {LongOperation.FLASH_LOW, LongOperation.FLASH_HIGH}
        if _known(lambda: self._tem.temperature.is_dewar_filling) is not None:
            operations.add(LongOperation.REFILL)
        return Abilities(
            vendor="Thermo Fisher",
            api="pytemscript 3",
            settings=ILLUMINATION | {"mode", "defocus_nm"},
            modes=frozenset(MODES.values()),
            blank=BlankInfo(
                latency_s=self._site.blank_latency_s,
                readable=True,
                independent=False,
                kind="electrostatic",
            ),
            operations=frozenset(operations),
            quirks=QUIRKS,
            readable=frozenset({"vacuum_ready", "valve_open", "screen_up", "holder_inserted"}),
        )

    def _check_cameras(self) -> None:
        known = sorted(self._tem.acquisition.cameras)
        missing = [camera.name for camera in self._site.detectors if camera.name not in known]
        if missing:
            raise UnsupportedError(
                f"the site file names the cameras {', '.join(missing)}, the interface has "
                f"{', '.join(known) or 'none'}; nothing was opened. Correct the site file."
            )

    def _coils(self, name: str) -> Coils:
        optics = self._tem.optics
        if name == "beam_shift_nm":
            return _vector(optics.illumination, "beam_shift")
        return _vector(optics.projection, "image_shift")

    def _mode(self) -> Mode:
        if self._tem.optics.instrument_mode != "TEM":
            raise ModeError(
                "the column is in STEM mode, in which this driver drives nothing; the beam stays "
                "blanked. Change to TEM by hand."
            )
        return MODES[as_text(self._tem.optics.projection.mode, "mode", frozenset(MODES))]

    def _set_mode(self, mode: Mode) -> None:
        self._tem.optics.projection.mode = 1 if mode is Mode.IMAGE else 2

    def _set_projection(self, mode: Mode, index: int) -> None:
        if mode is Mode.IMAGE:
            self._tem.optics.projection.magnification_index = index
        else:
            self._tem.optics.projection.camera_length_index = index

    def _spot(self) -> int:
        return int(as_float(self._tem.optics.illumination.spotsize, "spot"))

    def _lens(self) -> float:
        return as_float(self._tem.optics.illumination.intensity, "intensity")

    def _set_illumination(self, spot: int, lens: float) -> None:
        self._tem.optics.illumination.spotsize = spot
        self._tem.optics.illumination.intensity = lens

    def _energy_keV(self) -> float | None:
        return as_float(self._tem.gun.voltage, "high tension") or None

    def _defocus_nm(self) -> float:
        indicated = as_float(self._tem.optics.projection.defocus, "defocus")
        return defocus_nm(indicated, metres=MICROMETRE, scale=self._site.defocus_scale)

    def _set_defocus_nm(self, defocus_nm: float) -> None:
        self._tem.optics.projection.defocus = overfocus(
            defocus_nm, metres=MICROMETRE, scale=self._site.defocus_scale
        )

    def _magnification(self) -> float | None:
        if self._mode() is not Mode.IMAGE:
            return None
        return as_float(self._tem.optics.projection.magnification, "magnification")

    def _camera_length_mm(self) -> float | None:
        if self._mode() is not Mode.DIFFRACTION:
            return None
        return 1000 * as_float(self._tem.optics.projection.camera_length, "camera length")

    def _settle_lenses(self) -> None:
        self._tem.optics.normalize_all()


def _vector(part: Any, name: str) -> Coils:  # noqa: ANN401  (untyped package)
    def read() -> Vector:
        vector = getattr(part, name)
        return as_float(vector.x, name), as_float(vector.y, name)

    def write(raw: Vector) -> None:
        setattr(part, name, raw)

    return read, write


def _known(read: Callable[[], Any]) -> Any:  # noqa: ANN401  (passes on)
    """What `read` returns; None where the microscope has no such hardware."""
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
    wanted = read_options(PytemscriptOptions, "thermo-pytemscript", options)
    site = load_site(wanted.site)
    vendor = import_vendor("pytemscript.microscope", "pip install pytemscript, if you may")

    def connect() -> Any:  # noqa: ANN401  (untyped package)
        if wanted.connection == "direct":
            return vendor.Microscope("direct")
        return vendor.Microscope("socket", host=wanted.host, port=wanted.port)

    if wanted.connection == "socket":
        check_host(wanted.host, allow_remote=wanted.allow_remote, what="pytemscript's server")
    return adapter_on(site, connect, ThreadLane("pytemscript"), clock or WallClock())


def adapter_on(site: Site, connect: Callable[[], Any], lane: Lane, clock: Clock) -> LanedAdapter:
    """An adapter on a lane; tests bring their own."""
    return open_laned(lambda: PytemscriptInstrument(site, connect()), lane, clock)
