"""Stored results as the `Calibration` by which the loop and the safety code live."""

from __future__ import annotations

import numpy as np

from controller.calibration.alarms import GAIN_SYSTEMATIC
from controller.calibration.entries import (
    BeamTiltEntry,
    CameraEntry,
    Conditions,
    StoredCalibration,
    TiltAxesEntry,
)
from controller.hardware.values import Calibration, OpticsState
from controller.perception.alignment import HolderFrame


def calibrated(
    base: Calibration,
    stored: StoredCalibration,
    conditions: Conditions,
    *,
    instrument: str | None = None,
) -> Calibration:
    """`base` with whatever was measured under `conditions` in the place of what it believed.

    Parameters
    ----------
    base
        What the instrument says of itself.
    stored
        The calibration file.
    conditions
        Of the patterns that will be taken: energy and sampling.
    instrument
        Results of other instruments are left aside; by default all are taken.
    """
    known = base
    used = []
    axes = stored.latest("tilt-axes", conditions, instrument)
    if isinstance(axes, TiltAxesEntry):
        used.append(axes.origin)
        prior = known.gain_sigma
        alpha, _ = _joined(known.alpha_gain, prior, axes.alpha_gain, axes.alpha_gain_sigma)
        beta, sigma = _joined(known.beta_gain, prior, axes.beta_gain, axes.beta_gain_sigma)
        skew, skew_sigma = _joined(
            known.axes_skew_deg,
            known.axes_skew_sigma_deg,
            axes.non_orthogonality_deg,
            axes.non_orthogonality_sigma_deg,
            floor=float(np.rad2deg(GAIN_SYSTEMATIC)),
        )
        known = known.replace(
            tilt_axis_azimuth_deg=axes.azimuth_deg,
            diffraction_mirrored=axes.mirrored,
            azimuth_sigma_deg=axes.azimuth_sigma_deg,
            alpha_gain=alpha,
            beta_gain=beta,
            gain_sigma=sigma,
            axes_skew_deg=skew,
            axes_skew_sigma_deg=skew_sigma,
        )
    camera = stored.latest("camera", conditions, instrument)
    if isinstance(camera, CameraEntry):
        used.append(camera.origin)
        known = known.replace(
            camera_constant_factor=camera.factor,
            camera_constant_relative_sigma=camera.factor_sigma / camera.factor,
            diffraction_ellipticity=camera.ellipticity,
            ellipse_azimuth_deg=camera.ellipse_azimuth_deg,
        )
    beam = stored.latest("beam-tilt", conditions, instrument)
    if isinstance(beam, BeamTiltEntry):
        used.append(beam.origin)
        frame = HolderFrame(known.tilt_axis_azimuth_deg, known.diffraction_mirrored)
        # out of the detector's frame into the column's
        rows = (frame.stage_from_detector()[:2, :2] @ np.array(beam.true_tilt)).tolist()
        turned = float(np.deg2rad(known.azimuth_sigma_deg))
        known = known.replace(
            beam_tilt_matrix=((rows[0][0], rows[0][1]), (rows[1][0], rows[1][1])),
            beam_tilt_sigma=float(
                np.sqrt(beam.true_tilt_sigma**2 + turned**2 + GAIN_SYSTEMATIC**2)
            ),
            diffraction_shift_px_per_mrad=beam.shift_px_per_mrad,
        )
    if not used:
        return base
    newest = max(used, key=lambda origin: origin.date)
    return known.replace(
        date=newest.date.isoformat(), method="; ".join(origin.method for origin in used)
    )


def _joined(
    believed: float, sigma: float, measured: float, error: float, floor: float = GAIN_SYSTEMATIC
) -> tuple[float, float]:
    """Precision-weighted mean of what was believed and what was measured, and its sigma.

    Drives are good to a fraction of a percent, patterns of a degree's tilt to some percent: a
    measured gain may not throw a large tilt off.
    """
    own, new = 1.0 / max(sigma, 1e-9) ** 2, 1.0 / (error**2 + floor**2)
    return (own * believed + new * measured) / (own + new), float(1.0 / np.sqrt(own + new))


def calibrated_optics(optics: OpticsState, calibration: Calibration) -> OpticsState:
    """A read-back with the calibrated angle per pixel in the place of the nominal one."""
    if optics.detector_sampling_mrad is None or calibration.camera_constant_factor == 1.0:
        return optics
    return optics.replace(
        detector_sampling_mrad=optics.detector_sampling_mrad * calibration.camera_constant_factor
    )
