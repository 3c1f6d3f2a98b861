"""What the loop finds while aligning, held against the calibration that the run started from."""

from __future__ import annotations

import math

from controller.calibration.alarms import MAX_SIGMAS, Alarm
from controller.hardware.values import Calibration

_SURE = 0.003
"""Largest probability of being wrong with which the patterns contradict the hand."""
_LEAST_AZIMUTH_SIGMA_DEG = 0.1


def doubts(
    calibration: Calibration,
    *,
    azimuth_deg: float,
    azimuth_sigma_deg: float,
    mirrored: bool,
    doubt_of_hand: float,
) -> list[Alarm]:
    """Alarms where the patterns of a crystal contradict the calibration by more than three sigma.

    Parameters
    ----------
    calibration
        As the run believed it when it started.
    azimuth_deg, azimuth_sigma_deg
        Azimuth of the alpha axis after the patterns, the calibration's own knowledge included.
    mirrored, doubt_of_hand
        The likelier hand of the camera, and the probability of the other.
    """
    remedy = (
        "Measure again with `lodestem calibrate tilt-axes`. Was the camera length, the holder or a "
        "lens changed?"
    )
    found = []
    if mirrored is not calibration.diffraction_mirrored and doubt_of_hand < _SURE:
        found.append(
            Alarm(
                "tilt-axes", "inconsistent", "major", float(mirrored), None,
                f"the patterns show a camera that {'mirrors' if mirrored else 'does not mirror'} "
                f"(probability of the other {doubt_of_hand:.2g}), the calibration says the other",
                remedy,
            )
        )  # fmt: skip
        return found
    stored_sigma = max(calibration.azimuth_sigma_deg, _LEAST_AZIMUTH_SIGMA_DEG)
    # the posterior holds the prior too: their distance has the variance that the patterns removed
    removed = stored_sigma**2 - azimuth_sigma_deg**2
    off = (azimuth_deg - calibration.tilt_axis_azimuth_deg + 180.0) % 360.0 - 180.0
    if removed > 0 and abs(off) > MAX_SIGMAS * math.sqrt(removed):
        found.append(
            Alarm(
                "tilt-axes", "inconsistent", "major", azimuth_deg,
                calibration.tilt_axis_azimuth_deg,
                f"the patterns put the alpha axis at {azimuth_deg:.2f} ± {azimuth_sigma_deg:.2f} "
                f"deg, the calibration at {calibration.tilt_axis_azimuth_deg:.2f} ± "
                f"{stored_sigma:.2f} deg: {abs(off) / math.sqrt(removed):.1f} sigma apart "
                f"(limit {MAX_SIGMAS:g})",
                remedy,
            )
        )  # fmt: skip
    return found
