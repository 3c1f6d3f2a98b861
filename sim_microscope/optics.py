"""Lenses and deflectors: three modes with remembered settings, and how far the truth is from them.

Settings and read-backs are *nominal*.  What the beam does follows from the hidden true calibration:
pixel size, camera constant, azimuths, deflector cross-talk, and the place where the beam of
each mode lies.  Shifts and tilts are stated in the column frame (X along the alpha axis):

- beam shift (nm): the illumination or probe lands at this column point;
- image shift (nm): this column point appears in the middle of the camera;
- beam tilt (mrad): the incident direction is (tilt_x, tilt_y, 1), with descan.

Deflectors and projector may be off, as a scenario says: the tilt coils turned, with a wrong gain
and cross-talk; the descan incomplete, so that the direct beam walks on the camera; the diffraction
camera elliptical.  The ellipse and the walk are of the parallel-beam patterns only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from controller.hardware.errors import LimitError, UnsupportedError
from controller.hardware.values import Calibration, Mode, OpticsChange, OpticsState
from sim_microscope.faults import FaultBoard
from sim_microscope.geometry import carry_onto_z, plane_rotation
from sim_microscope.randomness import stream
from sim_microscope.scenario import OpticsSpec, Scenario

Array = NDArray[np.float64]

BEAM_DIAMETER_NM = (50.0, 50_000.0)
BEAM_TILT_MRAD = 30.0
_RANGES: dict[str, tuple[float, float]] = {
    "beam_diameter_nm": BEAM_DIAMETER_NM,
    "convergence_semiangle_mrad": (1.0, 40.0),
    "defocus_nm": (-50_000.0, 50_000.0),
    "pixel_size_nm": (0.1, 200.0),
    "detector_sampling_mrad": (0.01, 3.0),
    "scan_rotation_deg": (-360.0, 360.0),
}
_SHIFT_RANGES = {
    "beam_shift_nm": 10_000.0,
    "image_shift_nm": 5_000.0,
    "beam_tilt_mrad": BEAM_TILT_MRAD,
}
_ONLY_IN = {
    "pixel_size_nm": {Mode.IMAGE},
    "detector_sampling_mrad": {Mode.DIFFRACTION, Mode.STEM},
    "convergence_semiangle_mrad": {Mode.STEM},
    "beam_diameter_nm": {Mode.IMAGE, Mode.DIFFRACTION},
}
_CLIP_NM = 100.0


@dataclass(frozen=True)
class Settings:
    """Nominal settings of one mode."""

    probe_current_pA: float
    beam_diameter_nm: float
    convergence_semiangle_mrad: float
    defocus_nm: float = 0.0
    pixel_size_nm: float | None = None
    detector_sampling_mrad: float | None = None
    beam_shift_nm: tuple[float, float] = (0.0, 0.0)
    image_shift_nm: tuple[float, float] = (0.0, 0.0)
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    scan_rotation_deg: float = 0.0


@dataclass(frozen=True, eq=False)
class TrueOptics:
    """How the instrument really is, as against its stored calibration."""

    pixel_size_factor: float
    camera_constant_factor: float
    scan_step_factor: float
    image_rotation_deg: float
    image_mirrored: bool
    tilt_axis_azimuth_deg: float
    diffraction_mirrored: bool
    scan_rotation_deg: float
    shift_matrix: Array
    """(2, 2): true column shift from the nominal one."""
    mode_offset_um: dict[Mode, Array]
    direct_beam_px: tuple[float, float]
    """(row, col) offset of the direct beam from the middle of the diffraction detector."""
    phi12_rad: float
    phi21_rad: float
    beam_tilt_matrix: Array
    """(2, 2): true beam tilt, column frame, from the nominal one."""
    descan_matrix: Array
    """(2, 2): shift of the direct beam in mrad, column frame, per mrad of nominal beam tilt."""
    ellipticity: float
    ellipse_azimuth_deg: float
    """The pattern is stretched by sqrt(1 + e) along this direction and shrunk across it."""


@dataclass
class SimulatedOptics:
    """Optics with memory.  Not thread-safe: the owner holds its lock."""

    scenario: Scenario
    seed: int
    faults: FaultBoard
    mode: Mode = Mode.IMAGE
    settings: dict[Mode, Settings] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = {
            Mode.IMAGE: Settings(5.0, 8_000.0, 0.05, pixel_size_nm=10.0),
            Mode.DIFFRACTION: Settings(0.2, 300.0, 0.15, detector_sampling_mrad=0.2),
            Mode.STEM: Settings(1.0, 1.0, 10.0, 30.0, detector_sampling_mrad=1.0),
        }
        self.true, self.calibration = _calibrate(self.scenario, self.seed)

    @property
    def now(self) -> Settings:
        """Nominal settings of the present mode."""
        return self.settings[self.mode]

    def state(self, measured_current_pA: float) -> OpticsState:
        """Read-back."""
        s = self.now
        return OpticsState(
            mode=self.mode,
            energy_keV=self.scenario.energy_keV,
            probe_current_pA=measured_current_pA,
            beam_diameter_nm=self.beam_diameter_nm(),
            convergence_semiangle_mrad=s.convergence_semiangle_mrad,
            defocus_nm=s.defocus_nm,
            pixel_size_nm=s.pixel_size_nm,
            detector_sampling_mrad=s.detector_sampling_mrad,
            beam_shift_nm=s.beam_shift_nm,
            image_shift_nm=s.image_shift_nm,
            beam_tilt_mrad=s.beam_tilt_mrad,
            scan_rotation_deg=s.scan_rotation_deg,
        )

    def beam_diameter_nm(self, defocus_nm: float | None = None) -> float:
        """Illuminated disc, or geometric width of the probe with its diffraction limit."""
        s = self.now
        if self.mode is not Mode.STEM:
            return s.beam_diameter_nm
        defocus = s.defocus_nm if defocus_nm is None else defocus_nm
        blur = (
            0.61 * _wavelength_nm(self.scenario.energy_keV) / (s.convergence_semiangle_mrad * 1e-3)
        )
        wide = 2 * abs(defocus) * s.convergence_semiangle_mrad * 1e-3
        return float(np.hypot(wide, 2 * blur) + 2 * self.scenario.optics.source_size_nm)

    def write(self, change: OpticsChange, now_s: float, emission: float) -> None:
        """Apply `change`.

        Parameters
        ----------
        emission
            Present current of the gun over the nominal one: a current that is asked for is set
            up on the meter, so it holds now and drifts from here.

        Raises
        ------
        LimitError, UnsupportedError
            Nothing was changed.
        """
        mode = change.mode or self.mode
        self._validate(change, mode)
        settings = self.settings[mode]
        if mode is not self.mode and self.faults.take("beam-resized", now_s) is not None:
            factor = 1.3 if stream(self.seed, "optics.resized").uniform() < 0.5 else 0.77
            settings = replace(settings, beam_diameter_nm=settings.beam_diameter_nm * factor)
        named = {
            name: value
            for name in OpticsChange.model_fields
            if name != "mode" and (value := getattr(change, name)) is not None
        }
        if "probe_current_pA" in named and emission > 0:
            named["probe_current_pA"] /= emission
        settings = replace(settings, **named)
        if self.faults.active("image-shift-clip", now_s):
            x, y = (float(np.clip(v, -_CLIP_NM, _CLIP_NM)) for v in settings.image_shift_nm)
            settings = replace(settings, image_shift_nm=(x, y))
        self.mode = mode
        self.settings[mode] = settings

    def _validate(self, change: OpticsChange, mode: Mode) -> None:
        for name, modes in _ONLY_IN.items():
            if getattr(change, name) is not None and mode not in modes:
                raise UnsupportedError(
                    f"{name} = {getattr(change, name):g} cannot be set in mode {mode.value}, only "
                    f"in {', '.join(sorted(m.value for m in modes))}; nothing was changed. "
                    f"Name the mode in the same change"
                )
        ranges = {**_RANGES, "probe_current_pA": (1e-4, self.scenario.beam.max_current_pA)}
        for name, (low, high) in ranges.items():
            value = getattr(change, name)
            if value is not None and not low <= value <= high:
                raise LimitError(
                    f"{name} = {value:g} is outside {low:g} .. {high:g}; nothing was changed. "
                    f"Choose a value inside"
                )
        for name, limit in _SHIFT_RANGES.items():
            value = getattr(change, name)
            if value is not None and not all(abs(v) <= limit for v in value):
                raise LimitError(
                    f"{name} = ({value[0]:g}, {value[1]:g}) is outside ±{limit:g}; nothing was "
                    f"changed. Move the stage instead"
                )

    # --- the truth ------------------------------------------------------------------------

    def beam_centre_um(self) -> Array:
        """Where the beam lands in the column, (x, y)."""
        shift = self.true.shift_matrix @ np.array(self.now.beam_shift_nm) * 1e-3
        return np.asarray(self.true.mode_offset_um[self.mode] + shift)

    def image_centre_um(self) -> Array:
        """Column point in the middle of the camera, (x, y)."""
        return np.asarray(self.true.shift_matrix @ np.array(self.now.image_shift_nm) * 1e-3)

    def image_axes_um(self) -> Array:
        """Column steps per camera column and row, (2, 2); IMAGE only."""
        pixel_um = (self.now.pixel_size_nm or 0.0) * self.true.pixel_size_factor * 1e-3
        return pixel_um * plane_rotation(
            self.true.image_rotation_deg, mirrored=self.true.image_mirrored
        )

    def sampling_mrad(self) -> float:
        """True angle per detector pixel."""
        return (self.now.detector_sampling_mrad or 0.0) * self.true.camera_constant_factor

    def column_from_detector(self) -> Array:
        """(2, 2) from detector (x = col, y = row) to column (X, Y)."""
        detector_from_column = plane_rotation(
            self.true.tilt_axis_azimuth_deg, mirrored=self.true.diffraction_mirrored
        )
        return np.asarray(np.linalg.inv(detector_from_column))

    def column_from_scan(self) -> Array:
        """(2, 2) from scan (col, row) steps to column (X, Y), the error of the step included."""
        swap = np.array([[0.0, 1.0], [1.0, 0.0]])
        turn = swap @ self.detector_from_scan() @ swap
        return np.asarray(self.true.scan_step_factor * self.column_from_detector() @ turn)

    def detector_from_scan(self) -> Array:
        """(2, 2) from scan (row, col) steps to detector (row, col) vectors."""
        turn = np.deg2rad(self.true.scan_rotation_deg + self.now.scan_rotation_deg)
        c, s = np.cos(turn), np.sin(turn)
        return np.array([[c, -s], [s, c]])

    def direct_beam_px(self) -> Array:
        """(row, col) offset of the direct beam from the middle of the diffraction camera."""
        walk = self.true.descan_matrix @ np.array(self.now.beam_tilt_mrad)
        x, y = np.linalg.inv(self.column_from_detector()) @ walk / self.sampling_mrad()
        return np.array(self.true.direct_beam_px) + np.array([y, x])

    def camera_distortion(self) -> Array:
        """(2, 2): what the diffraction camera makes of detector (x, y) vectors."""
        turn = np.deg2rad(self.true.ellipse_azimuth_deg)
        c, s = np.cos(turn), np.sin(turn)
        axes = np.array([[c, -s], [s, c]])
        stretch = np.sqrt(1 + self.true.ellipticity)
        return np.asarray(axes @ np.diag([stretch, 1 / stretch]) @ axes.T)

    def beam_upright(self) -> Array:
        """Rotation (3, 3) that takes the incident direction to Z."""
        tx, ty = self.true.beam_tilt_matrix @ np.array(self.now.beam_tilt_mrad) * 1e-3
        return carry_onto_z(np.array([tx, ty, 1.0]))


def _wavelength_nm(energy_keV: float) -> float:
    volts = energy_keV * 1e3
    return float(1.22642596 / np.sqrt(volts * (1 + 9.78475598e-7 * volts)))


def _calibrate(scenario: Scenario, seed: int) -> tuple[TrueOptics, Calibration]:
    """The truth, and the stored calibration that misses it a little."""
    spec = scenario.optics
    rng = stream(seed, "optics")

    def off(sigma: float) -> float:
        return float(np.clip(rng.normal(), -2, 2)) * sigma

    true = TrueOptics(
        pixel_size_factor=1 + off(spec.pixel_size_error),
        camera_constant_factor=1 + off(spec.camera_constant_error),
        scan_step_factor=1 + off(0.5 * spec.pixel_size_error),
        image_rotation_deg=spec.image_rotation_deg + off(spec.azimuth_error_deg),
        image_mirrored=spec.image_mirrored,
        tilt_axis_azimuth_deg=spec.tilt_axis_azimuth_deg + off(spec.azimuth_error_deg),
        diffraction_mirrored=spec.diffraction_mirrored,
        scan_rotation_deg=spec.scan_rotation_deg + off(spec.azimuth_error_deg),
        shift_matrix=np.eye(2) + spec.shift_cross_talk * rng.normal(size=(2, 2)),
        mode_offset_um={
            mode: np.array([off(spec.mode_offset_nm), off(spec.mode_offset_nm)]) * 1e-3
            for mode in Mode
        },
        direct_beam_px=(off(spec.camera_direct_beam_px), off(spec.camera_direct_beam_px)),
        phi12_rad=float(rng.uniform(0, np.pi)),
        phi21_rad=float(rng.uniform(0, 2 * np.pi)),
        **_deflections(spec, seed),
    )
    stored = Calibration(
        image_rotation_deg=spec.image_rotation_deg,
        image_mirrored=spec.image_mirrored,
        tilt_axis_azimuth_deg=spec.tilt_axis_azimuth_deg,
        diffraction_mirrored=spec.diffraction_mirrored,
        scan_to_detector_rotation_deg=spec.scan_rotation_deg,
        pixel_size_relative_sigma=spec.pixel_size_error,
        camera_constant_relative_sigma=spec.camera_constant_error,
        azimuth_sigma_deg=spec.azimuth_error_deg,
        date="2025-12-01",
        method="simulated service visit",
    )
    return true, stored


class _Deflections(TypedDict):
    beam_tilt_matrix: Array
    descan_matrix: Array
    ellipticity: float
    ellipse_azimuth_deg: float


def _deflections(spec: OpticsSpec, seed: int) -> _Deflections:
    """Tilt coils, descan and ellipse, from draws of their own."""
    rng = stream(seed, "optics.deflections")
    turn = np.deg2rad(spec.beam_tilt_rotation_deg)
    c, s = np.cos(turn), np.sin(turn)
    gain = np.diag(1 + spec.beam_tilt_gain_error * np.clip(rng.normal(size=2), -2, 2))
    cross = spec.beam_tilt_cross_talk * rng.normal(size=(2, 2)) * (1 - np.eye(2))
    return _Deflections(
        beam_tilt_matrix=np.array([[c, -s], [s, c]]) @ (gain + cross),
        descan_matrix=spec.descan_error * rng.normal(size=(2, 2)),
        ellipticity=spec.ellipticity,
        ellipse_azimuth_deg=spec.ellipse_azimuth_deg,
    )
