"""Columns behind instamatic's servers: nanometres and degrees, whole counts, no dose, no health."""

from __future__ import annotations

from collections.abc import Mapping
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.backends.answers import as_bool, as_float, as_text
from controller.backends.camera_column import ILLUMINATION, CameraColumn, Coils
from controller.backends.instamatic.wire import Wire
from controller.backends.lane import ThreadLane
from controller.backends.laned import LanedAdapter, open_laned
from controller.backends.loopback import check_host
from controller.backends.options import DriverOptions, read_options
from controller.backends.readings import Abilities, capabilities, column_health
from controller.backends.registry import OptionValue
from controller.backends.site import Site, load_site
from controller.hardware.clock import Clock, WallClock
from controller.hardware.errors import ModeError, ProtocolError, UnsupportedError
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

NAMES = {Axis.X: "x", Axis.Y: "y", Axis.Z: "z", Axis.ALPHA: "a", Axis.BETA: "b"}
NM_PER_UM = 1000.0
MODES = {"mag1": Mode.IMAGE, "samag": Mode.IMAGE, "diff": Mode.DIFFRACTION}
FUNCTIONS = frozenset({"mag1", "mag2", "lowmag", "samag", "diff", "mag", "LM", "LAD"})
COILS = {"beam_shift_nm": "BeamShift", "image_shift_nm": "ImageShift1"}
QUIRKS = frozenset(
    {
        "stage-in-whole-nanometres",
        "any-angle-is-accepted-by-the-server",
        "one-client-only",
        "defocus-not-read",
        "camera-starts-a-moment-after-the-beam",
        "no-valve",
        "no-interlocks-but-the-screen",
    }
)


class InstamaticOptions(DriverOptions):
    """Options of the driver ``instamatic``."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8088
    camera_port: Annotated[int, Field(ge=1, le=65535)] = 8087
    protocol: Literal["pickle", "json"] = "pickle"
    """As ``tem_communication_protocol`` in the settings of the server; json is the safer one."""
    timeout_s: Positive = 60.0
    allow_remote: bool = False


def nm_or_deg(axis: Axis, value: float, sign: int) -> float:
    """Instamatic's value of a stage axis: whole nanometres, or degrees."""
    if axis.value.endswith("_um"):
        return float(round(sign * value * NM_PER_UM))
    return sign * value


def um_or_deg(axis: Axis, value: float, sign: int) -> float:
    """Our value of a stage axis."""
    return sign * value / NM_PER_UM if axis.value.endswith("_um") else sign * value


class InstamaticInstrument(CameraColumn):
    """Implements `backends.instrument.Instrument`."""

    def __init__(self, site: Site, microscope: Wire, camera: Wire) -> None:
        self._tem = microscope
        self._camera = camera
        super().__init__(site)
        name = str(microscope.ask("name"))
        abilities = Abilities(
            vendor="instamatic",
            api=f"instamatic {name}",
            settings=ILLUMINATION | {"mode"},
            modes=frozenset(MODES.values()),
            blank=BlankInfo(
                latency_s=site.blank_latency_s,
                readable=True,
                independent=False,
                kind="electrostatic",
            ),
            operations=frozenset(),
            quirks=QUIRKS,
            readable=frozenset({"screen_up"}),
            simulated=name in ("simulate", "emulator"),
        )
        ranges = {axis: (info.low, info.high) for axis, info in site.axes.items()}
        self._capabilities = capabilities(site, abilities, ranges)

    def read_pose(self) -> StagePose:
        """Read back."""
        position = self._tem.ask("getStagePosition")
        if not isinstance(position, tuple | list) or len(position) != len(NAMES):
            raise ProtocolError(f"the stage reads {position!r:.80}, not five values")
        values = {
            axis.value: um_or_deg(axis, as_float(raw, axis.value), self._site.stage_signs[axis])
            for axis, raw in zip(NAMES, position, strict=True)
            if axis in self._site.axes and raw is not None
        }
        return StagePose(x_um=0.0, y_um=0.0, z_um=0.0, alpha_deg=0.0).replace(**values)

    def move(self, axis: Axis, target: float) -> None:
        """One axis, without waiting where the interface knows how."""
        value = nm_or_deg(axis, target, self._site.stage_signs[axis])
        whole = int(value) if axis.value.endswith("_um") else value
        self._tem.ask("setStagePosition", **{NAMES[axis]: whole, "wait": False})

    def axis_state(self, axis: Axis) -> AxisState:
        """One status for all axes."""
        return AxisState(moving=as_bool(self._tem.ask("isStageMoving"), "isStageMoving"))

    def halt(self) -> None:
        """``stopStage``; the simulated one does nothing, which its site file has to say."""
        self._tem.ask("stopStage")

    def read_health(self) -> ColumnHealth:
        """The screen is read; the rest is the site's word."""
        screen = as_text(
            self._tem.ask("getScreenPosition"), "screen", frozenset({"up", "down", ""})
        )
        known = {"screen_up": None if not screen else screen == "up"}
        return column_health(self._site, known, holder_id=self._site.holder.id)

    def operate(self, operation: LongOperation) -> str:
        """Instamatic drives no valve, gun or dewar."""
        raise UnsupportedError(f"instamatic cannot {operation.value}; nothing was done")

    def set_blanked(self, blanked: bool) -> None:
        """Beam blanker."""
        self._tem.ask("setBeamBlank", blanked)

    def is_blanked(self) -> bool | None:
        """Read back."""
        return as_bool(self._tem.ask("isBeamBlanked"), "isBeamBlanked")

    def prepare(self, job: DetectorJob) -> None:
        """Nothing is sent before the image."""

    def acquire(self, job: DetectorJob) -> NDArray[np.generic]:
        """One image; by shared memory where the camera server keeps it there."""
        binning = self._site.detector(job.detector).binning
        answer = self._camera.ask("get_image", exposure=job.frame_s, binsize=binning)
        if isinstance(answer, np.ndarray):
            return answer
        if not isinstance(answer, dict):
            raise ProtocolError(f"{job.detector}: the answer is {answer!r:.80}, not an image")
        return _from_shared_memory(answer)

    def close(self) -> None:
        """Close both connections."""
        self._tem.close()
        self._camera.close()

    # --- inside --------------------------------------------------------------------------------

    def _coils(self, name: str) -> Coils:
        thing = COILS[name]

        def read() -> Vector:
            pair = self._tem.ask(f"get{thing}")
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ProtocolError(f"{thing} reads {pair!r:.80}, not a pair")
            return as_float(pair[0], thing), as_float(pair[1], thing)

        def write(raw: Vector) -> None:
            self._tem.ask(f"set{thing}", int(raw[0]), int(raw[1]))

        return read, write

    def _mode(self) -> Mode:
        function = as_text(self._tem.ask("getFunctionMode"), "function mode", FUNCTIONS)
        if function not in MODES:
            raise ModeError(
                f"the column is in function mode {function!r}, for which nothing is calibrated; "
                f"the beam stays blanked. Change to mag1 or diff."
            )
        return MODES[function]

    def _set_mode(self, mode: Mode) -> None:
        self._tem.ask("setFunctionMode", "mag1" if mode is Mode.IMAGE else "diff")

    def _set_projection(self, mode: Mode, index: int) -> None:
        self._tem.ask("setMagnificationIndex", index)

    def _spot(self) -> int:
        return int(as_float(self._tem.ask("getSpotSize"), "spot size"))

    def _lens(self) -> float:
        return as_float(self._tem.ask("getBrightness"), "brightness")

    def _set_illumination(self, spot: int, lens: float) -> None:
        self._tem.ask("setSpotSize", spot)
        self._tem.ask("setBrightness", round(lens))

    def _energy_keV(self) -> float | None:
        return as_float(self._tem.ask("getHTValue"), "high tension") / 1000 or None

    def _defocus_nm(self) -> float:
        return 0.0

    def _set_defocus_nm(self, defocus_nm: float) -> None:
        raise UnsupportedError("instamatic sets no calibrated defocus; nothing was changed")

    def _magnification(self) -> float | None:
        return self._indicated() if self._mode() is Mode.IMAGE else None

    def _camera_length_mm(self) -> float | None:
        return self._indicated() if self._mode() is Mode.DIFFRACTION else None

    def _indicated(self) -> float:
        return as_float(self._tem.ask("getMagnification"), "magnification")


def _from_shared_memory(told: Mapping[str, object]) -> NDArray[np.generic]:
    """Copy an image that a camera server on this machine keeps in shared memory."""
    name, shape, dtype = (told.get(key) for key in ("name", "shape", "dtype"))
    texts = isinstance(name, str) and isinstance(dtype, str)
    if not texts or not isinstance(shape, tuple | list):
        raise ProtocolError(f"the image is told as {told!r:.120}, without name, shape and dtype")
    memory = shared_memory.SharedMemory(name=str(name))
    try:
        rows, columns = (int(as_float(side, "shape")) for side in shape)
        image = np.ndarray((rows, columns), np.dtype(str(dtype)), buffer=memory.buf).copy()
    except (TypeError, ValueError) as problem:
        raise ProtocolError(f"the image is told as {told!r:.120}, which does not fit") from problem
    finally:
        memory.close()
        _leave_to_its_owner(str(name))
    return image


def _leave_to_its_owner(name: str) -> None:
    """Python would remove the memory when this process ends, although the server owns it."""
    resource_tracker.unregister(f"/{name.lstrip('/')}", "shared_memory")


def open_adapter(
    options: Mapping[str, OptionValue],
    *,
    clock: Clock | None = None,
    run_dir: Path | None = None,
) -> LanedAdapter:
    """Open the column, beam blanked; see `registry.AdapterFactory`."""
    wanted = read_options(InstamaticOptions, "instamatic", options)
    site = load_site(wanted.site)
    check_host(wanted.host, allow_remote=wanted.allow_remote, what="instamatic's server")
    tem = Wire((wanted.host, wanted.port), wanted.protocol, wanted.timeout_s, "func_name")
    camera = Wire((wanted.host, wanted.camera_port), wanted.protocol, wanted.timeout_s, "attr_name")
    return open_laned(
        lambda: InstamaticInstrument(site, tem, camera),
        ThreadLane("instamatic"),
        clock or WallClock(),
        detector_lane=ThreadLane("instamatic-camera"),
    )
