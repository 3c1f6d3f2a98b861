"""Flags that say how the holder stands and lies on the camera."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli.output import InputError

if TYPE_CHECKING:
    from controller.perception.alignment import StageGiven


@dataclass(frozen=True)
class HolderFlags:
    """What the flags of ``align`` say about goniometer and holder."""

    pose: str | None = None
    limits: str | None = None
    tilt_axis_azimuth_deg: float | None = None
    mirrored: bool = False
    calibration: Path | None = None
    """Calibration file; an azimuth that is given wins."""


def stage_given(flags: HolderFlags, wanted: Path | None) -> StageGiven | None:
    """Goniometer and holder from the flags; None where nothing is said about them.

    Raises
    ------
    InputError
        Numbers that are none, or no azimuth of the alpha axis where it is needed.
    """
    from controller.perception.alignment import HolderFrame, HolderReach, StageGiven

    azimuth, mirrored, sigma = flags.tilt_axis_azimuth_deg, flags.mirrored, 1.0
    if azimuth is None and flags.calibration is not None:
        azimuth, mirrored, sigma = _stored_axes(flags.calibration)
    if azimuth is None:
        if flags.pose is None and wanted is None:
            return None
        raise InputError(
            "the azimuth of the alpha axis on the camera is missing",
            "give --tilt-axis-azimuth-deg (and --mirrored), or --calibration",
        )
    reach = HolderReach()
    if flags.limits is not None:
        a_low, a_high, b_low, b_high = numbers("--limits", flags.limits, 4)
        try:
            reach = HolderReach((a_low, a_high), (b_low, b_high))
        except ValueError as error:
            raise InputError(f"--limits {flags.limits}: {error}", "") from error
    pose = None
    if flags.pose is not None:
        alpha, beta = numbers("--pose", flags.pose, 2)
        if not max(abs(alpha), abs(beta)) <= 90:
            raise InputError(f"--pose {flags.pose}: a goniometer reads within -90 .. 90 deg")
        pose = (alpha, beta)
    return StageGiven(HolderFrame(azimuth, mirrored), pose, reach, azimuth_sigma_deg=sigma)


def _stored_axes(path: Path) -> tuple[float, bool, float]:
    """Azimuth, handedness and sigma of the newest tilt axes in a calibration file."""
    from controller.calibration.entries import TiltAxesEntry
    from controller.calibration.store import CalibrationFileError, load_calibration

    try:
        entry = load_calibration(path).latest("tilt-axes")
    except CalibrationFileError as error:
        raise InputError(str(error)) from error
    if not isinstance(entry, TiltAxesEntry):
        raise InputError(
            f"{path} holds no tilt axes", "measure them with `lodestem calibrate tilt-axes`"
        )
    return entry.azimuth_deg, entry.mirrored, entry.azimuth_sigma_deg


def numbers(flag: str, text: str, count: int) -> list[float]:
    """So many finite numbers from a comma-separated flag; else InputError."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(math.isfinite(v) for v in values):
        example = ",".join(["-30", "30", "-20", "20"][:count]) if count == 4 else "3.2,-1.1"
        raise InputError(f"{flag} {text}: {count} numbers are wanted", f"e.g. {flag}={example}")
    return values


def drawable(path: Path | None) -> Path | None:
    """The path of a stereogram, if it can be drawn; else InputError."""
    if path is not None and path.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise InputError(
            f"--stereogram {path}: the kind '{path.suffix}' is unknown", "use .svg, .png or .pdf"
        )
    return path
