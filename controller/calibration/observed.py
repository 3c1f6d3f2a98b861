"""A result as something observed, to be held against another stored result."""

from __future__ import annotations

import numpy as np

from controller.calibration.alarms import Observed
from controller.calibration.entries import CameraEntry, Entry, TiltAxesEntry


def observed_of(entry: Entry) -> list[Observed]:
    """What an entry says, in the quantities that alarms compare."""
    if isinstance(entry, TiltAxesEntry):
        return [
            Observed("azimuth_deg", entry.azimuth_deg, entry.azimuth_sigma_deg, "new patterns"),
            Observed("mirrored", float(entry.mirrored), 0.0, "new patterns"),
            Observed("alpha_gain", entry.alpha_gain, entry.alpha_gain_sigma, "new patterns"),
            Observed("beta_gain", entry.beta_gain, entry.beta_gain_sigma, "new patterns"),
        ]
    if isinstance(entry, CameraEntry):
        return [
            Observed("camera_constant_factor", entry.factor, entry.factor_sigma, "new patterns")
        ]
    gain = float(np.sqrt(abs(np.linalg.det(np.array(entry.true_tilt)))))
    return [Observed("beam_tilt_gain", gain, entry.true_tilt_sigma, "new patterns")]
