"""Nion STEMs through the instrument object of a running Nion Swift, in its process.

Nion Swift is GPL-3.0 and no dependency: this module imports it only in `open_adapter`, and works
on the three objects that Nion Swift itself uses: instrument controller, camera and scan device.
C10 of Nion is Krivanek's in metres, so defocus is its negative; angles are radians.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.backends.deflection import Deflection
from controller.backends.lane import ThreadLane
from controller.backends.laned import LanedAdapter, open_laned
from controller.backends.options import DriverOptions, import_vendor, read_options
from controller.backends.readings import Abilities, capabilities, column_health
from controller.backends.registry import OptionValue
from controller.backends.site import Site, load_site
from controller.hardware.clock import Clock, WallClock
from controller.hardware.errors import ArmFailedError, ProtocolError, UnsupportedError
from controller.hardware.values import (
    Axis,
    AxisState,
    BlankInfo,
    Calibration,
    Capabilities,
    ColumnHealth,
    DetectorJob,
    LongOperation,
    Mode,
    OpticsChange,
    OpticsState,
    ScanInfo,
    StageLimits,
    StagePose,
    Vector,
)

NM_PER_M = 1e9
UM_PER_M = 1e6
PA_PER_A = 1e12
ANGSTROM_PER_NM = 10.0
QUIRKS = frozenset(
    {
        "no-holder-tilt",
        "no-height",
        "only-stem",
        "scan-arrives-whole-at-its-end",
        "camera-counts-are-floats",
        "camera-starts-a-moment-after-the-beam",
        "no-interlocks",
    }
)


class NionOptions(DriverOptions):
    """Options of the driver ``nion``."""

    camera: str = "usim_ronchigram_camera"
    """Identifier of the camera in Nion Swift."""
    scan: str = "usim_scan_device"
    stage_control: str = "stage_position_m"
    """Two-dimensional control of the stage, in metres."""
    beam_shift_control: str = "beam_shift_m"
    blank_control: str = "C_Blank"
    min_dwell_s: float = Field(default=0.01, gt=0)


@dataclass(frozen=True)
class NionParts:
    """The objects of a running Nion Swift."""

    instrument: Any
    camera: Any
    scan: Any


def c10_m(defocus_nm: float) -> float:
    """Nion's C10 for our defocus."""
    return -defocus_nm / NM_PER_M + 0.0


def defocus_nm(c10_m: float) -> float:
    """Our defocus for Nion's C10."""
    return -c10_m * NM_PER_M + 0.0


class NionInstrument:
    """Implements `backends.instrument.Instrument`."""

    def __init__(self, site: Site, parts: NionParts, controls: NionOptions) -> None:
        self._site = site
        self._parts = parts
        self._controls = controls
        self._shift = Deflection(
            "beam_shift_nm",
            site.deflectors.get("beam_shift_nm"),
            lambda: (self._value(f"{controls.beam_shift_control}.x"), self._shift_y()),
            self._set_shift,
        )
        self._frame: Any = None
        self._capabilities = self._describe()

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        return self._capabilities

    @property
    def calibration(self) -> Calibration:
        """From the site file."""
        return self._site.calibration

    def holder_limits(self) -> StageLimits:
        """From the site file."""
        ranges = self._site.holder_limits().ranges
        known = self._capabilities.axes
        return StageLimits(ranges={axis: ranges[axis] for axis in ranges if axis in known})

    def read_pose(self) -> StagePose:
        """X and y are read; height and tilts do not exist here and read 0."""
        values = {
            axis.value: self._site.stage_signs[axis] * UM_PER_M * self._value(self._stage(axis))
            for axis in (Axis.X, Axis.Y)
        }
        return StagePose(x_um=0.0, y_um=0.0, z_um=0.0, alpha_deg=0.0).replace(**values)

    def move(self, axis: Axis, target: float) -> None:
        """Send one axis."""
        self._set(self._stage(axis), self._site.stage_signs[axis] * target / UM_PER_M)

    def axis_state(self, axis: Axis) -> AxisState:
        """Nion's controls have arrived when the call returns."""
        return AxisState(moving=False)

    def halt(self) -> None:
        """Nothing to stop: see `axis_state`."""

    def read_optics(self) -> OpticsState:
        """Read back.

        Raises
        ------
        ModeError
            The convergence angle is none of the calibrated ones.
        """
        angle_mrad = 1000 * self._value("ConvergenceAngle")
        row = self._site.illumination(Mode.STEM, 1, angle_mrad)
        return OpticsState(
            mode=Mode.STEM,
            energy_keV=self._value("EHT") / 1000,
            probe_current_pA=PA_PER_A * self._value("BeamCurrent"),
            beam_diameter_nm=row.beam_diameter_nm,
            convergence_semiangle_mrad=angle_mrad,
            defocus_nm=defocus_nm(self._value("C10")),
            detector_sampling_mrad=self._sampling_mrad(),
            beam_shift_nm=self._shift.get(),
        )

    def write_optics(self, change: OpticsChange) -> None:
        """Send; what can be refused is refused before the first command."""
        if change.beam_shift_nm is not None:
            self._shift.check(change.beam_shift_nm)
        if change.defocus_nm is not None:
            self._set("C10", c10_m(change.defocus_nm))
        if change.beam_shift_nm is not None:
            self._shift.set(change.beam_shift_nm)

    def read_health(self) -> ColumnHealth:
        """Nothing of the column is read but the high tension; the rest is the site's word."""
        known = {"high_tension_on": None if self._value("EHT") > 0 else False}
        health = column_health(self._site, known, holder_id=self._site.holder.id)
        return health.replace(probe_current_pA=PA_PER_A * self._value("BeamCurrent"))

    def operate(self, operation: LongOperation) -> str:
        """None is offered."""
        raise UnsupportedError(f"Nion Swift cannot {operation.value}; nothing was done")

    def set_blanked(self, blanked: bool) -> None:
        """Blanker control: 1 is blanked."""
        self._set(self._controls.blank_control, 1.0 if blanked else 0.0)

    def is_blanked(self) -> bool | None:
        """Read back."""
        return self._value(self._controls.blank_control) > 0.5

    def prepare(self, job: DetectorJob) -> None:
        """Exposure and binning; compared with what the camera made of them."""
        frame = self._parts.camera.get_frame_parameters(0)
        frame.exposure_ms = 1000 * job.frame_s
        frame.binning = self._site.detector(job.detector).binning
        frame.processing = None
        frame = self._parts.camera.validate_frame_parameters(frame)
        if not abs(frame.exposure_ms - 1000 * job.frame_s) <= 10 * job.frame_s:
            raise ArmFailedError(
                f"{job.detector} makes {frame.exposure_ms:g} ms of {1000 * job.frame_s:g} ms; "
                f"nothing is armed and the beam is blanked. Choose a time that it offers."
            )
        self._frame = frame
        self._parts.camera.set_current_frame_parameters(frame)

    def acquire(self, job: DetectorJob) -> NDArray[np.generic]:
        """One frame, or a synchronised scan as (position, row, col) of whole counts."""
        if job.scan is None:
            camera = self._parts.camera
            camera.grab_sequence_prepare(1)
            grabbed: NDArray[np.generic] = np.asarray(camera.grab_sequence(1)[0].data)
            return grabbed.reshape(grabbed.shape[-2:])
        scan = self._parts.scan.get_frame_parameters(2)
        rows, columns = job.scan.shape
        scan.pixel_size = type(scan.pixel_size)(rows, columns)
        scan.fov_nm = 1.0
        width_nm = columns * job.scan.step_A / ANGSTROM_PER_NM
        scan.fov_nm = width_nm / scan.fov_size_nm.width
        _, cubes = self._parts.scan.grab_synchronized(
            scan_frame_parameters=scan,
            camera=self._parts.camera,
            camera_frame_parameters=self._frame,
        )
        cube = np.asarray(cubes[0].data)
        if cube.shape[:2] != (rows, columns):
            raise ProtocolError(
                f"the scan is of {cube.shape[:2]} positions, {rows, columns} were asked; the beam "
                f"is left as it was. Scan again after the scan device was looked at."
            )
        frames = cube.reshape(rows * columns, *cube.shape[2:])
        counts: NDArray[np.uint32] = np.clip(np.rint(frames), 0, None).astype(np.uint32)
        return counts

    def close(self) -> None:
        """Nion Swift goes on without us."""

    # --- inside --------------------------------------------------------------------------------

    def _describe(self) -> Capabilities:
        site = self._site
        abilities = Abilities(
            vendor="Nion",
            api="Nion Swift instrument controller",
            settings=frozenset({"mode", "defocus_nm"}),
            modes=frozenset({Mode.STEM}),
            blank=BlankInfo(
                latency_s=site.blank_latency_s,
                readable=True,
                independent=True,
                kind="electrostatic",
            ),
            operations=frozenset(),
            quirks=QUIRKS,
            readable=frozenset(),
            simulated="usim" in str(getattr(self._parts.instrument, "instrument_id", "")),
        )
        ranges = {axis: (site.axes[axis].low, site.axes[axis].high) for axis in (Axis.X, Axis.Y)}
        described = capabilities(site, abilities, ranges)
        unset = {"image_shift_nm", "pixel_size_nm", "detector_sampling_mrad"}
        settings = described.settings - unset
        scanning = tuple(info.replace(can_scan=True) for info in described.detectors)
        engine = ScanInfo(max_shape=(4096, 4096), min_dwell_s=self._controls.min_dwell_s)
        return described.replace(
            settings=settings, detectors=scanning, scan=engine, current_from="gun"
        )

    def _stage(self, axis: Axis) -> str:
        return f"{self._controls.stage_control}.{'x' if axis is Axis.X else 'y'}"

    def _shift_y(self) -> float:
        return self._value(f"{self._controls.beam_shift_control}.y")

    def _set_shift(self, raw: Vector) -> None:
        for name, value in zip("xy", raw, strict=True):
            self._set(f"{self._controls.beam_shift_control}.{name}", value)

    def _sampling_mrad(self) -> float:
        frame = self._parts.camera.get_frame_parameters(0)
        frame.binning = self._site.detectors[0].binning
        scale: float = self._parts.camera.get_camera_calibrations(frame)[1].scale
        return 1000 * scale

    def _value(self, name: str) -> float:
        found, value = self._parts.instrument.TryGetVal(name)
        if not found or not np.isfinite(value):
            raise ProtocolError(
                f"the control {name!r} cannot be read ({value!r}); name the one of this instrument "
                f"in the options of the driver"
            )
        return float(value)

    def _set(self, name: str, value: float) -> None:
        if not self._parts.instrument.SetVal(name, value):
            raise ProtocolError(
                f"the control {name!r} did not take {value:g}; read the instrument back, and name "
                f"the control of this instrument in the options of the driver"
            )


def open_adapter(
    options: Mapping[str, OptionValue],
    *,
    clock: Clock | None = None,
    run_dir: Path | None = None,
) -> LanedAdapter:
    """Find the instrument that runs in this process; see `registry.AdapterFactory`."""
    wanted = read_options(NionOptions, "nion", options)
    site = load_site(wanted.site)
    how = "run this inside Nion Swift, or install it in this environment"
    registry = import_vendor("nion.utils.Registry", how)
    sources = import_vendor("nion.instrumentation.HardwareSource", how)
    instrument = registry.get_component("stem_controller")
    manager = sources.HardwareSourceManager()
    camera = manager.get_hardware_source_for_hardware_source_id(wanted.camera)
    scan = manager.get_hardware_source_for_hardware_source_id(wanted.scan)
    if instrument is None or camera is None or scan is None:
        there = [source.hardware_source_id for source in manager.hardware_sources]
        raise ValueError(
            f"no running instrument with camera {wanted.camera!r} and scan {wanted.scan!r} in this "
            f"process (there are {there}); start it in Nion Swift first"
        )
    parts = NionParts(instrument, camera, scan)
    return open_laned(
        lambda: NionInstrument(site, parts, wanted),
        ThreadLane("nion"),
        clock or WallClock(),
        detector_lane=ThreadLane("nion-camera"),
    )
