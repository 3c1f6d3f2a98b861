"""Results of calibrations as frozen values: what, how well, when, how, on what, under what.

Angles in degrees, positive from +x (column) towards +y (row) of the detector.  Every
``*_sigma*`` is one standard deviation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AwareDatetime, Field

from controller.hardware.values import Finite, Frozen, Mode, NonNegative, OpticsState, Positive

if TYPE_CHECKING:  # the estimators need scipy, the values do not
    from controller.calibration.beam_tilt import BeamTilt
    from controller.calibration.rings import RingFit
    from controller.calibration.tilt_axes import TiltAxes

Kind = Literal["tilt-axes", "camera", "beam-tilt"]
KINDS: tuple[Kind, ...] = ("tilt-axes", "camera", "beam-tilt")
UNNAMED = "unknown (from files)"
"""Instrument of patterns that do not say where they were taken: they are believed."""
Row = tuple[Finite, Finite]
Matrix = tuple[Row, Row]


class Conditions(Frozen):
    """The setting at which a result holds; others are another calibration."""

    mode: Mode = Mode.DIFFRACTION
    energy_keV: Positive
    detector_sampling_mrad: Positive | None = None
    """Nominal."""
    camera_length_mm: Positive | None = None

    @classmethod
    def of(cls, optics: OpticsState) -> Conditions:
        """The conditions of a read-back."""
        return cls(
            mode=optics.mode,
            energy_keV=optics.energy_keV,
            detector_sampling_mrad=optics.detector_sampling_mrad,
            camera_length_mm=optics.camera_length_mm,
        )

    def differs(self, other: Conditions) -> str:
        """What is not the same, in words; empty where a result carries over."""
        if self.mode is not other.mode:
            return f"mode {self.mode.value} against {other.mode.value}"
        for name, tolerance in (
            ("energy_keV", 0.002),
            ("detector_sampling_mrad", 0.005),
            ("camera_length_mm", 0.005),
        ):
            mine, its = getattr(self, name), getattr(other, name)
            if mine is not None and its is not None and abs(mine / its - 1) > tolerance:
                return f"{name} {mine:g} against {its:g}"
        return ""


class Origin(Frozen):
    """Where a result comes from."""

    date: AwareDatetime
    method: Annotated[str, Field(min_length=1)]
    instrument: Annotated[str, Field(min_length=1)]
    conditions: Conditions
    patterns: Annotated[int, Field(ge=1)]
    charged_e_per_A2: NonNegative = 0.0
    """Booked on the standard for it."""
    source: str = ""
    """File of the patterns."""


class TiltAxesEntry(Frozen):
    """Azimuth and handedness of the tilt axes on the diffraction camera."""

    kind: Literal["tilt-axes"] = "tilt-axes"
    origin: Origin
    azimuth_deg: Finite
    azimuth_sigma_deg: Positive
    mirrored: bool
    alpha_gain: Positive
    alpha_gain_sigma: Positive
    beta_gain: Positive
    beta_gain_sigma: Positive
    non_orthogonality_deg: Finite
    non_orthogonality_sigma_deg: Positive
    jacobian_mrad_per_deg: Matrix
    chi_squared: NonNegative
    degrees_of_freedom: Annotated[int, Field(ge=0)]
    readings_left_out: Annotated[int, Field(ge=0)] = 0

    @classmethod
    def of(cls, fit: TiltAxes, origin: Origin) -> TiltAxesEntry:
        """From what was fitted."""
        return cls(
            origin=origin,
            azimuth_deg=fit.azimuth_deg,
            azimuth_sigma_deg=fit.azimuth_sigma_deg,
            mirrored=fit.mirrored,
            alpha_gain=fit.alpha_gain,
            alpha_gain_sigma=fit.alpha_gain_sigma,
            beta_gain=fit.beta_gain,
            beta_gain_sigma=fit.beta_gain_sigma,
            non_orthogonality_deg=fit.non_orthogonality_deg,
            non_orthogonality_sigma_deg=fit.non_orthogonality_sigma_deg,
            jacobian_mrad_per_deg=fit.jacobian_mrad_per_deg,
            chi_squared=fit.chi_squared,
            degrees_of_freedom=fit.degrees_of_freedom,
            readings_left_out=fit.readings_left_out,
        )


class CameraEntry(Frozen):
    """Camera constant and ellipse of the diffraction camera."""

    kind: Literal["camera"] = "camera"
    origin: Origin
    standard: str
    inv_A_per_px: Positive
    inv_A_per_px_sigma: Positive
    nominal_inv_A_per_px: Positive
    ellipticity: NonNegative
    ellipticity_sigma: Positive
    ellipse_azimuth_deg: Finite
    ellipse_azimuth_sigma_deg: Positive
    centre_px: Row
    centre_sigma_px: NonNegative
    rings: Annotated[int, Field(ge=1)]
    residual_px: NonNegative

    @property
    def factor(self) -> float:
        """True over nominal camera constant."""
        return self.inv_A_per_px / self.nominal_inv_A_per_px

    @property
    def factor_sigma(self) -> float:
        """One sigma of `factor`."""
        return self.inv_A_per_px_sigma / self.nominal_inv_A_per_px

    @classmethod
    def of(cls, fit: RingFit, *, standard: str, nominal: float, origin: Origin) -> CameraEntry:
        """From what was fitted."""
        return cls(
            origin=origin,
            standard=standard,
            inv_A_per_px=fit.inv_A_per_px,
            inv_A_per_px_sigma=fit.inv_A_per_px_sigma,
            nominal_inv_A_per_px=nominal,
            ellipticity=fit.ellipticity,
            ellipticity_sigma=fit.ellipticity_sigma,
            ellipse_azimuth_deg=fit.azimuth_deg,
            ellipse_azimuth_sigma_deg=fit.azimuth_sigma_deg,
            centre_px=fit.centre_px,
            centre_sigma_px=fit.centre_sigma_px,
            rings=fit.rings_used,
            residual_px=fit.residual_px,
        )


class BeamTiltEntry(Frozen):
    """What a beam tilt does to the incidence and to the direct beam's place on the camera."""

    kind: Literal["beam-tilt"] = "beam-tilt"
    origin: Origin
    true_tilt: Matrix
    """Detector frame, mrad per nominal mrad; rows x and y, columns nominal X and Y."""
    true_tilt_sigma: Positive
    shift_px_per_mrad: Matrix
    shift_sigma_px_per_mrad: Positive
    centre_px: Row
    chi_squared: NonNegative
    degrees_of_freedom: Annotated[int, Field(ge=0)]
    readings_left_out: Annotated[int, Field(ge=0)] = 0

    @classmethod
    def of(cls, fit: BeamTilt, origin: Origin) -> BeamTiltEntry:
        """From what was fitted."""
        return cls(
            origin=origin,
            true_tilt=fit.true_tilt,
            true_tilt_sigma=fit.true_tilt_sigma,
            shift_px_per_mrad=fit.shift_px_per_mrad,
            shift_sigma_px_per_mrad=fit.shift_sigma_px_per_mrad,
            centre_px=fit.centre_px,
            chi_squared=fit.chi_squared,
            degrees_of_freedom=fit.degrees_of_freedom,
            readings_left_out=fit.readings_left_out,
        )


Entry = Annotated[TiltAxesEntry | CameraEntry | BeamTiltEntry, Field(discriminator="kind")]


class StoredCalibration(Frozen):
    """Everything that was ever measured, oldest first."""

    format: Literal["lodestem/calibration/1"] = "lodestem/calibration/1"
    entries: tuple[Entry, ...] = ()

    def latest(
        self, kind: Kind, conditions: Conditions | None = None, instrument: str | None = None
    ) -> Entry | None:
        """The newest result of a kind (that holds under `conditions`, of `instrument`).

        Of two with the same date the one stored later counts.
        """
        found = [
            (entry.origin.date, n, entry)
            for n, entry in enumerate(self.entries)
            if entry.kind == kind
            and (conditions is None or not entry.origin.conditions.differs(conditions))
            and (instrument is None or entry.origin.instrument in (instrument, UNNAMED))
        ]
        return max(found, key=lambda item: item[:2])[2] if found else None
