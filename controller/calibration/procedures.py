"""From the patterns of a calibration to its entry: the part that needs no microscope."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from controller.calibration.beam_tilt import BeamTiltReading, direct_beam, fit_beam_tilt
from controller.calibration.entries import (
    BeamTiltEntry,
    CameraEntry,
    Origin,
    TiltAxesEntry,
)
from controller.calibration.recorded import Recorded, Recording
from controller.calibration.rings import RingFit, Standard, fit_rings, made_round
from controller.calibration.tilt_axes import TiltReading, fit_tilt_axes
from controller.perception.alignment import (
    CrystalStructure,
    TiltEstimate,
    TiltPrior,
    estimate_tilt,
)

_FLOOR_MRAD = 0.4
"""What tilts of small, strongly scattering cells miss beyond their own error (radius of 68 %)."""
_ROUND_ENOUGH = 0.003
_AGREE_PX = 4.0
"""Well below the distance of two spots, above the walk of a badly descanned beam."""


class CalibrationError(ValueError):
    """The patterns do not carry the calibration; nothing was measured."""


@dataclass(frozen=True)
class Crystal:
    """The robust crystal that was used: structure and the zone axis it stands near."""

    structure: CrystalStructure
    zone_uvw: tuple[int, int, int]
    centre_px: tuple[float, float] | None = None
    """(x, y) of the direct beam where it is known, good to 2 px; else the patterns agree on it."""
    camera_constant_factor: float = 1.0
    """Calibrated over nominal camera constant, where it is known."""
    ellipticity: float = 0.0
    ellipse_azimuth_deg: float = 0.0
    """Of the camera, where they are known; the patterns are made round before they are read."""


def calibrate_tilt_axes(
    recording: Recording, crystal: Crystal, now: datetime, *, reading_sigma_deg: float = 0.01
) -> TiltAxesEntry:
    """Azimuth and handedness from patterns at several goniometer readings.

    Raises
    ------
    CalibrationError, TiltAxesError
        Fewer than five of the patterns could be read, or they contradict each other.
    """
    readings = [
        TiltReading(
            p.alpha_deg,
            p.beta_deg,
            (e.tilt_x_mrad, e.tilt_y_mrad),
            _sigma_mrad(e),
        )
        for p, e in _read(recording, crystal, least=5)
    ]
    fit = fit_tilt_axes(readings, reading_sigma_deg=reading_sigma_deg)
    name = f"{crystal.structure.name.removesuffix('.cif')} {list(crystal.zone_uvw)}"
    method = f"Laue centre of {name} at {len(readings)} goniometer readings"
    return TiltAxesEntry.of(fit, _origin(recording, method, now))


def calibrate_camera(recording: Recording, standard: Standard, now: datetime) -> CameraEntry:
    """Camera constant and ellipse from ring patterns; several are averaged.

    Raises
    ------
    RingError
        A pattern shows no rings of the standard.
    """
    nominal = recording.patterns[0].inv_A_per_px
    fits = [fit_rings(p.counts, standard, inv_A_per_px=p.inv_A_per_px) for p in recording.patterns]
    fit = _mean(fits)
    method = f"{fit.rings_used} rings of {standard.name} in {len(fits)} patterns"
    return CameraEntry.of(
        fit, standard=standard.name, nominal=nominal, origin=_origin(recording, method, now)
    )


def calibrate_beam_tilt(recording: Recording, crystal: Crystal, now: datetime) -> BeamTiltEntry:
    """True tilt and walk of the direct beam from patterns at several beam tilts.

    Raises
    ------
    CalibrationError, BeamTiltError
        Fewer than three of the patterns could be read, or they contradict each other.
    """
    readings = []
    for p, e in _read(recording, crystal, least=3):
        centre, sigma = direct_beam(p.counts, (e.centre_x_px, e.centre_y_px))
        readings.append(
            BeamTiltReading(
                p.beam_tilt_mrad,
                (e.tilt_x_mrad, e.tilt_y_mrad),
                _sigma_mrad(e),
                centre,
                sigma,
            )
        )
    fit = fit_beam_tilt(readings)
    method = f"Laue centre and direct beam at {len(readings)} beam tilts"
    return BeamTiltEntry.of(fit, _origin(recording, method, now))


def _sigma_mrad(estimate: TiltEstimate) -> float:
    return math.hypot(estimate.sigma_mrad, _FLOOR_MRAD)


def _read(
    recording: Recording, crystal: Crystal, *, least: int
) -> list[tuple[Recorded, TiltEstimate]]:
    """Patterns that could be read, each helped by the last one that was."""
    found = _estimates(recording, crystal)
    answered = [(p, e) for p, e in found if e.answered]
    if len(answered) < least:
        reasons = "; ".join(f"{p.id}: {e.reason}" for p, e in found if not e.answered)
        raise CalibrationError(
            f"{len(answered)} of {len(found)} patterns could be read, {least} are needed; nothing "
            f"was measured. {reasons or 'Give more patterns'}"
        )
    return answered


def _estimates(recording: Recording, crystal: Crystal) -> list[tuple[Recorded, TiltEstimate]]:
    """Every pattern read with the direct beam where most of them see it.

    In a small cell another spot passes for the direct beam now and then.  The camera does not
    move between the patterns of a calibration, so the place on which they agree is the beam.
    """
    centre = crystal.centre_px
    first: list[TiltEstimate] = []
    if centre is None:
        first = [_estimate(p, crystal, None) for p in recording.patterns]
        centre = _agreed_centre(first)
    found = []
    for n, p in enumerate(recording.patterns):
        if first and math.dist((first[n].centre_x_px, first[n].centre_y_px), centre) < _AGREE_PX:
            found.append((p, first[n]))
        else:
            found.append((p, _estimate(p, crystal, direct_beam(p.counts, centre)[0])))
    return found


def _agreed_centre(estimates: list[TiltEstimate]) -> tuple[float, float]:
    """Mean of the largest group of centres."""
    places = np.array([(e.centre_x_px, e.centre_y_px) for e in estimates if e.answered])
    if len(places) == 0:
        reasons = "; ".join(e.reason for e in estimates)
        raise CalibrationError(f"no pattern could be read; nothing was measured. {reasons}")
    near = np.linalg.norm(places[:, None] - places[None], axis=2) < _AGREE_PX
    group = places[near[int(np.argmax(near.sum(axis=1)))]]
    return float(group[:, 0].mean()), float(group[:, 1].mean())


def _estimate(p: Recorded, crystal: Crystal, centre_px: tuple[float, float] | None) -> TiltEstimate:
    counts = np.nan_to_num(p.counts)
    if centre_px is not None and crystal.ellipticity > _ROUND_ENOUGH:
        counts = made_round(counts, centre_px, crystal.ellipticity, crystal.ellipse_azimuth_deg)
    return estimate_tilt(
        counts,
        energy_keV=p.energy_keV,
        inv_A_per_px=p.inv_A_per_px * crystal.camera_constant_factor,
        structure=crystal.structure,
        target_zone_uvw=crystal.zone_uvw,
        prior=None if centre_px is None else TiltPrior(centre_px=centre_px),
    )


def _origin(recording: Recording, method: str, now: datetime) -> Origin:
    dates = [p.utc for p in recording.patterns if p.utc]
    return Origin(
        date=datetime.fromisoformat(max(dates)) if dates else now,
        method=method,
        instrument=recording.instrument,
        conditions=recording.patterns[0].conditions,
        patterns=len(recording.patterns),
        charged_e_per_A2=recording.charged_e_per_A2,
        source=recording.source,
    )


def _mean(fits: list[RingFit]) -> RingFit:
    """Weighted mean of several ring fits; their scatter counts where it exceeds their errors."""
    if len(fits) == 1:
        return fits[0]
    twice = 2 * np.deg2rad([f.azimuth_deg for f in fits])
    e = np.array([f.ellipticity for f in fits])
    columns = (
        ([f.inv_A_per_px for f in fits], [f.inv_A_per_px_sigma for f in fits]),
        (e * np.cos(twice), [f.ellipticity_sigma for f in fits]),
        (e * np.sin(twice), [f.ellipticity_sigma for f in fits]),
        ([f.centre_px[0] for f in fits], [f.centre_sigma_px for f in fits]),
        ([f.centre_px[1] for f in fits], [f.centre_sigma_px for f in fits]),
    )
    (scale, s_scale), (across, s_e), (along, _), (cx, s_c), (cy, _) = (
        _weighted(np.asarray(v), np.asarray(s)) for v, s in columns
    )
    ellipticity = float(np.hypot(across, along))
    return replace(
        fits[0],
        inv_A_per_px=scale,
        # the standard is the same in all of them: its error does not average out
        inv_A_per_px_sigma=max(s_scale, 2e-4 * scale),
        ellipticity=ellipticity,
        ellipticity_sigma=s_e,
        azimuth_deg=float(np.rad2deg(0.5 * np.arctan2(along, across))),
        azimuth_sigma_deg=float(min(np.rad2deg(0.5 * s_e / max(ellipticity, 1e-9)), 90.0)),
        centre_px=(cx, cy),
        centre_sigma_px=s_c,
        residual_px=float(np.mean([f.residual_px for f in fits])),
        rings_used=min(f.rings_used for f in fits),
        points_used=sum(f.points_used for f in fits),
    )


def _weighted(values: np.ndarray, sigma: np.ndarray) -> tuple[float, float]:
    weight = 1.0 / np.maximum(sigma, 1e-12) ** 2
    mean = float((weight * values).sum() / weight.sum())
    own = float(1.0 / np.sqrt(weight.sum()))
    scatter = float(
        np.sqrt((weight * (values - mean) ** 2).sum() / weight.sum() / (len(values) - 1))
    )
    return mean, max(own, scatter)
