"""Complaints about calibrations: missing, stale, of another setting, or against what is observed.

A pure function of what is stored, of now, and of what the loop has seen; `lodestem doctor` and
the start of a run ask it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from controller.calibration.entries import (
    KINDS,
    BeamTiltEntry,
    CameraEntry,
    Conditions,
    Entry,
    Kind,
    StoredCalibration,
    TiltAxesEntry,
)

MAX_AGE_DAYS: Mapping[Kind, float] = {"tilt-axes": 180.0, "camera": 30.0, "beam-tilt": 30.0}
"""How long a result is trusted: holders stay, lenses and coils wander."""
MAX_SIGMAS = 3.0
LARGEST_ELLIPTICITY = 0.02
"""Up to this the ellipse costs the aligner less than a hundredth of a degree near the zone."""
GAIN_SYSTEMATIC = 0.02
"""What the Laue centres of a small cell miss in proportion, beyond their own errors."""
_CLOCK_SLACK = timedelta(minutes=10)

Quantity = Literal[
    "azimuth_deg", "mirrored", "camera_constant_factor", "alpha_gain", "beta_gain", "beam_tilt_gain"
]
_OF: Mapping[Quantity, Kind] = {
    "azimuth_deg": "tilt-axes",
    "mirrored": "tilt-axes",
    "alpha_gain": "tilt-axes",
    "beta_gain": "tilt-axes",
    "camera_constant_factor": "camera",
    "beam_tilt_gain": "beam-tilt",
}
_UNIT: Mapping[Quantity, str] = {"azimuth_deg": " deg"}


@dataclass(frozen=True)
class Observed:
    """What the loop itself found while aligning."""

    quantity: Quantity
    value: float
    """For ``mirrored`` 1 or 0."""
    sigma: float
    """One standard deviation; for ``mirrored`` the probability of being wrong."""
    source: str = "the loop's own patterns"


@dataclass(frozen=True)
class Alarm:
    """One complaint."""

    kind: Kind
    code: Literal["missing", "stale", "future", "other-setting", "inconsistent", "out-of-range"]
    severity: Literal["minor", "major"]
    value: float | None
    limit: float | None
    message: str
    """What, with value and unit, and against which limit."""
    remedy: str

    def text(self) -> str:
        """Message and remedy in one line."""
        return f"{self.message}. {self.remedy}"


def calibration_alarms(
    stored: StoredCalibration,
    now: datetime,
    observed: Sequence[Observed] = (),
    *,
    conditions: Conditions | None = None,
    instrument: str | None = None,
    max_age_days: Mapping[Kind, float] = MAX_AGE_DAYS,
) -> list[Alarm]:
    """Everything that is wrong with the stored calibrations, worst first.

    Parameters
    ----------
    stored
        The calibration file.
    now
        With time zone.
    observed
        What the loop measured; more than three sigma from the stored value is inconsistent.
    conditions
        The setting in which patterns will be taken; results of others do not count.
    instrument
        The one in use; results of others do not count.
    max_age_days
        Limit of the age by kind.
    """
    found: list[Alarm] = []
    for kind in KINDS:
        entry = stored.latest(kind, conditions, instrument)
        if entry is None:
            found.append(_missing(stored, kind, conditions, instrument))
            continue
        found += _age(entry, now, max_age_days[kind])
        found += _range(entry)
        seen = (o for o in observed if _OF[o.quantity] == kind)
        found += [alarm for o in seen if (alarm := _contradiction(entry, o)) is not None]
    return sorted(found, key=lambda alarm: alarm.severity != "major")


def _missing(
    stored: StoredCalibration, kind: Kind, conditions: Conditions | None, instrument: str | None
) -> Alarm:
    other = stored.latest(kind, None, instrument)
    remedy = f"Run `lodestem calibrate {kind}`"
    if other is None or conditions is None:
        where = "" if instrument is None else f" on {instrument}"
        what = f"{kind} was never measured{where}"
        return Alarm(kind, "missing", "minor", None, None, what, remedy)
    what = conditions.differs(other.origin.conditions)
    return Alarm(
        kind, "other-setting", "minor", None, None,
        f"{kind} was measured at another setting only ({what}, {other.origin.date.date()})",
        f"{remedy} at this setting",
    )  # fmt: skip


def _age(entry: Entry, now: datetime, limit_days: float) -> list[Alarm]:
    age = now - entry.origin.date
    days = age.total_seconds() / 86400
    when = entry.origin.date.isoformat(timespec="minutes")
    if age < -_CLOCK_SLACK:
        return [
            Alarm(
                entry.kind, "future", "major", days, 0.0,
                f"{entry.kind} is dated {when}, {-days:.1f} d after now "
                f"({now.isoformat(timespec='minutes')})",
                "Set the clock of this computer, or measure again",
            )
        ]  # fmt: skip
    if not days <= limit_days:
        severity: Literal["minor", "major"] = "major" if days > 3 * limit_days else "minor"
        return [
            Alarm(
                entry.kind, "stale", severity, days, limit_days,
                f"{entry.kind} is {days:.0f} d old ({when}; limit {limit_days:.0f} d)",
                f"Run `lodestem calibrate {entry.kind}`",
            )
        ]  # fmt: skip
    return []


def _range(entry: Entry) -> list[Alarm]:
    if isinstance(entry, TiltAxesEntry):
        return _drives(entry)
    if not isinstance(entry, CameraEntry) or entry.ellipticity <= LARGEST_ELLIPTICITY:
        return []
    return [
        Alarm(
            "camera", "out-of-range", "minor", entry.ellipticity, LARGEST_ELLIPTICITY,
            f"the diffraction camera is elliptical by {100 * entry.ellipticity:.2f} % along "
            f"{entry.ellipse_azimuth_deg:.0f} deg (limit {100 * LARGEST_ELLIPTICITY:.0f} %)",
            "Correct the diffraction stigmators and measure again",
        )
    ]  # fmt: skip


def _drives(entry: TiltAxesEntry) -> list[Alarm]:
    """Drives whose reading is no angle."""
    found = []
    for name, gain, sigma in (
        ("alpha", entry.alpha_gain, entry.alpha_gain_sigma),
        ("beta", entry.beta_gain, entry.beta_gain_sigma),
    ):
        joint = float(np.hypot(sigma, GAIN_SYSTEMATIC))
        if abs(gain - 1.0) > MAX_SIGMAS * joint:
            found.append(
                Alarm(
                    "tilt-axes", "out-of-range", "major", gain, 1.0,
                    f"{name} turns the crystal by {gain:.3f} ± {joint:.3f} deg per degree of its "
                    f"reading (limit 1 ± {MAX_SIGMAS * joint:.2f})",
                    "Have the goniometer calibrated; run `lodestem calibrate tilt-axes` again",
                )
            )  # fmt: skip
    return found


def _contradiction(entry: Entry, seen: Observed) -> Alarm | None:
    held = _held(entry, seen.quantity)
    if held is None:
        return None
    value, sigma = held
    remedy = (
        f"Measure again with `lodestem calibrate {entry.kind}`; until then trust neither. "
        f"Was the camera length, the holder or the lens current changed?"
    )
    unit = _UNIT.get(seen.quantity, "")
    if seen.quantity == "mirrored":
        # two hands: the doubt is a probability, and only a sure contradiction counts
        if bool(seen.value) == bool(value) or not seen.sigma < 0.003:
            return None
        return Alarm(
            entry.kind, "inconsistent", "major", seen.value, value,
            f"{seen.source} show a camera that {'mirrors' if seen.value else 'does not mirror'}, "
            f"stored is the other ({entry.origin.date.date()})",
            remedy,
        )  # fmt: skip
    off = seen.value - value
    if seen.quantity == "azimuth_deg":
        off = (off + 180.0) % 360.0 - 180.0
    joint = float(np.hypot(sigma, seen.sigma))
    if not abs(off) > MAX_SIGMAS * joint:
        return None
    return Alarm(
        entry.kind, "inconsistent", "major", seen.value, value,
        f"{seen.source} say {seen.quantity} = {seen.value:.4g} ± {seen.sigma:.2g}{unit}, stored is "
        f"{value:.4g} ± {sigma:.2g}{unit} ({entry.origin.date.date()}): {abs(off) / joint:.1f} "
        f"sigma apart (limit {MAX_SIGMAS:g})",
        remedy,
    )  # fmt: skip


def _held(entry: Entry, quantity: Quantity) -> tuple[float, float] | None:
    """Stored value and sigma of a quantity."""
    match entry, quantity:
        case TiltAxesEntry(), "azimuth_deg":
            return entry.azimuth_deg, entry.azimuth_sigma_deg
        case TiltAxesEntry(), "mirrored":
            return float(entry.mirrored), 0.0
        case TiltAxesEntry(), "alpha_gain":
            return entry.alpha_gain, entry.alpha_gain_sigma
        case TiltAxesEntry(), "beta_gain":
            return entry.beta_gain, entry.beta_gain_sigma
        case CameraEntry(), "camera_constant_factor":
            return entry.factor, entry.factor_sigma
        case BeamTiltEntry(), "beam_tilt_gain":
            gain = float(np.sqrt(abs(np.linalg.det(np.array(entry.true_tilt)))))
            return gain, entry.true_tilt_sigma
        case _:
            return None
