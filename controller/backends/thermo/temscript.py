"""Thermo Fisher by temscript: on the microscope PC itself, or its HTTP server.

The package is imported only when an instrument is opened.  Its server answers one request at a
time, in plain JSON and without asking who is there; hence loopback only, and one lane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.backends.camera_column import ILLUMINATION, CameraColumn, Coils
from controller.backends.lane import Lane, ThreadLane
from controller.backends.laned import LanedAdapter, open_laned
from controller.backends.loopback import check_host
from controller.backends.options import DriverOptions, import_vendor, read_options
from controller.backends.readings import (
    Abilities,
    capabilities,
    column_health,
)
from controller.backends.registry import OptionValue
from controller.backends.site import Site, load_site
from controller.backends.thermo.units import (
    NAMES,
    defocus_nm,
    overfocus,
    pose_from_si,
    range_from_si,
    si_from_ours,
)
from controller.hardware.clock import Clock, WallClock
from controller.hardware.errors import ArmFailedError, ModeError, UnsupportedError
from controller.hardware.values import (
    Axis,
    AxisState,
    BlankInfo,
    Capabilities,
    ColumnHealth,
    DetectorJob,
    LongOperation,
    Mode,
    Positive,
    StagePose,
    Vector,
)

IN_STEM = (
    "the column is in STEM mode, in which this driver drives nothing; the beam stays blanked. "
    "Change to TEM by hand."
)
MODES = {"IMAGING": Mode.IMAGE, "DIFFRACTION": Mode.DIFFRACTION}
QUIRKS = frozenset(
    {
        "stage-cannot-be-stopped",
        "silent-clamp-possible",
        "blank-waits-for-the-camera",
        "magnification-may-change-with-mode",
        "binning-changes-exposure",
        "beam-tilt-not-descanned",
    }
)


class TemscriptOptions(DriverOptions):
    """Options of the driver ``thermo-temscript``."""

    host: str | None = None
    """Of temscript's server; None talks to the scripting interface of this PC."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    timeout_s: Positive = 60.0
    """Of one HTTP request; longer than any exposure and any move."""
    allow_remote: bool = False


class TemscriptInstrument(CameraColumn):
    """Implements `backends.instrument.Instrument`.

    Parameters
    ----------
    connect
        Makes a temscript microscope (any subclass of its ``BaseMicroscope``); called again after
        a connection broke.
    """

    def __init__(self, site: Site, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._connection: Any = None
        self._signs = dict(site.stage_signs)
        if self._ask("get_stage_holder") in ("SINGLE_TILT", "NONE"):
            self._signs.pop(Axis.BETA, None)
        super().__init__(site)
        self._capabilities = self._describe()

    def read_pose(self) -> StagePose:
        """Read back."""
        return pose_from_si(self._ask("get_stage_position"), self._signs)

    def move(self, axis: Axis, target: float) -> None:
        """GoTo with one axis; blocks until the stage is there."""
        value = si_from_ours(axis, target, self._signs[axis])
        self._ask("set_stage_position", {NAMES[axis]: value}, method="GO")

    def axis_state(self, axis: Axis) -> AxisState:
        """Scripting has one status for all axes."""
        return AxisState(moving=self._ask("get_stage_status") != "READY")

    def halt(self) -> None:
        """Scripting offers no stop of the stage."""

    def read_health(self) -> ColumnHealth:
        """Valve, vacuum, screen and holder are read; the rest is the site's word."""
        vacuum = self._ask("get_vacuum")
        holder = self._ask("get_stage_holder")
        known = {
            "vacuum_ready": vacuum["status"] == "READY",
            "valve_open": bool(vacuum["column_valves_open"]),
            "screen_up": self._ask("get_screen_position") == "UP",
            "holder_inserted": holder not in ("NONE", "INVALID"),
            "high_tension_on": None if float(self._ask("get_voltage")) > 0 else False,
        }
        return column_health(self._site, known, holder_id=f"{self._site.holder.id} ({holder})")

    def operate(self, operation: LongOperation) -> str:
        """Column valves; confirmed by read-back."""
        wanted = operation is LongOperation.OPEN_VALVE
        self._ask("set_column_valves_open", wanted)
        if bool(self._ask("get_column_valves_open")) is not wanted:
            raise ModeError(
                f"the column valves did not {'open' if wanted else 'close'}; the beam is blanked. "
                f"Look at the vacuum."
            )
        return ""

    def set_blanked(self, blanked: bool) -> None:
        """Beam blanker of the illumination system."""
        self._ask("set_beam_blanked", blanked)

    def is_blanked(self) -> bool | None:
        """Read back."""
        return bool(self._ask("get_beam_blanked"))

    def prepare(self, job: DetectorJob) -> None:
        """Set binning and exposure, then compare: setting the binning changes the exposure."""
        camera = self._site.detector(job.detector)
        wanted = {"binning": camera.binning, "exposure(s)": job.frame_s}
        self._ask("set_camera_param", job.detector, wanted)
        got = self._ask("get_camera_param", job.detector)
        for name, value in wanted.items():
            if not abs(float(got[name]) - value) <= 0.01 * value:
                raise ArmFailedError(
                    f"{job.detector}: {name} reads {got[name]} after {value:g} was set; nothing is "
                    f"armed and the beam is blanked. Choose values that the camera offers."
                )

    def acquire(self, job: DetectorJob) -> NDArray[np.generic]:
        """One image; blocks for exposure and readout."""
        images = self._ask("acquire", job.detector)
        return np.asarray(images[job.detector])

    def close(self) -> None:
        """Forget the connection."""
        self._connection = None

    # --- inside --------------------------------------------------------------------------------

    def _ask(self, name: str, *args: Any, **named: Any) -> Any:  # noqa: ANN401  (untyped package)
        if self._connection is None:
            self._connection = self._connect()
        try:
            return getattr(self._connection, name)(*args, **named)
        except OSError:
            self._connection = None
            raise

    def _coils(self, name: str) -> Coils:
        thing = name.removesuffix("_nm")

        def read() -> Vector:
            x, y = self._ask(f"get_{thing}")
            return float(x), float(y)

        def write(raw: Vector) -> None:
            self._ask(f"set_{thing}", raw)

        return read, write

    def _mode(self) -> Mode:
        if self._ask("get_instrument_mode") != "TEM":
            raise ModeError(IN_STEM)
        return MODES[self._ask("get_projection_mode")]

    def _set_mode(self, mode: Mode) -> None:
        self._ask("set_projection_mode", next(name for name, ours in MODES.items() if ours is mode))

    def _set_projection(self, mode: Mode, index: int) -> None:
        self._ask("set_magnification_index", index)

    def _spot(self) -> int:
        return int(self._ask("get_spot_size_index"))

    def _lens(self) -> float:
        return float(self._ask("get_intensity"))

    def _set_illumination(self, spot: int, lens: float) -> None:
        self._ask("set_spot_size_index", spot)
        self._ask("set_intensity", lens)

    def _energy_keV(self) -> float | None:
        return float(self._ask("get_voltage")) or None

    def _defocus_nm(self) -> float:
        scale = self._site.defocus_scale
        return defocus_nm(float(self._ask("get_defocus")), metres=1.0, scale=scale)

    def _set_defocus_nm(self, defocus_nm: float) -> None:
        scale = self._site.defocus_scale
        self._ask("set_defocus", overfocus(defocus_nm, metres=1.0, scale=scale))

    def _magnification(self) -> float | None:
        return float(self._ask("get_indicated_magnification")) or None

    def _camera_length_mm(self) -> float | None:
        return 1000 * float(self._ask("get_indicated_camera_length")) or None

    def _settle_lenses(self) -> None:
        self._ask("normalize", "ALL")

    def _describe(self) -> Capabilities:
        limits = self._ask("get_stage_limits")
        ranges = {
            axis: range_from_si(axis, limits[NAMES[axis]][0], limits[NAMES[axis]][1], sign)
            for axis, sign in self._signs.items()
            if NAMES[axis] in limits
        }
        missing = [
            camera.name for camera in self._site.detectors if camera.name not in self._cams()
        ]
        if missing:
            raise UnsupportedError(
                f"the site file names the cameras {', '.join(missing)}, the interface has "
                f"{', '.join(self._cams()) or 'none'}; nothing was opened. Correct the site file."
            )
        abilities = Abilities(
            vendor="Thermo Fisher",
            api=f"temscript {self._ask('get_version')}",
            settings=ILLUMINATION | {"mode", "defocus_nm"},
            modes=frozenset(MODES.values()),
            blank=BlankInfo(
                latency_s=self._site.blank_latency_s,
                readable=True,
                independent=False,
                kind="electrostatic",
            ),
            operations=frozenset({LongOperation.OPEN_VALVE, LongOperation.CLOSE_VALVE}),
            quirks=QUIRKS,
            readable=frozenset({"vacuum_ready", "valve_open", "screen_up", "holder_inserted"}),
            simulated=self._ask("get_family") == "NULL",
        )
        return capabilities(self._site, abilities, ranges)

    def _cams(self) -> list[str]:
        return sorted(self._ask("get_cameras"))


def open_adapter(
    options: Mapping[str, OptionValue],
    *,
    clock: Clock | None = None,
    run_dir: Path | None = None,
) -> LanedAdapter:
    """Open the column, beam blanked; see `registry.AdapterFactory`."""
    wanted = read_options(TemscriptOptions, "thermo-temscript", options)
    site = load_site(wanted.site)
    temscript = import_vendor("temscript", "pip install 'lodestem[thermo]'")
    if wanted.host is None:
        connect = temscript.Microscope
    else:
        check_host(wanted.host, allow_remote=wanted.allow_remote, what="temscript's server")
        address = (wanted.host, wanted.port)

        def connect() -> Any:  # noqa: ANN401  (untyped package)
            return temscript.RemoteMicroscope(address, transport="JSON", timeout=wanted.timeout_s)

    return adapter_on(site, connect, ThreadLane("temscript"), clock or WallClock())


def adapter_on(site: Site, connect: Callable[[], Any], lane: Lane, clock: Clock) -> LanedAdapter:
    """An adapter on a lane; tests bring their own."""
    return open_laned(lambda: TemscriptInstrument(site, connect), lane, clock)
