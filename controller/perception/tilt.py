"""The shipped aligner: one pattern against every wanted zone of a known structure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.hardware.values import OpticsState
from controller.perception.alignment import (
    PatternError,
    TiltEstimate,
    TiltPrior,
    estimate_tilt,
    structure_from_cif,
)
from controller.perception.protocols import AxisSeen, Rows, TiltHint, TiltReading, Zone


class StructureAligner:
    """Reads tilts with the structure known.

    Parameters
    ----------
    cif
        Structure of the crystals on the grid.
    wanted
        Zones whose places are told besides, whichever of them is read.
    """

    def __init__(self, cif: Path, wanted: Sequence[Zone] = ()) -> None:
        self._structure = structure_from_cif(cif)
        self._wanted = tuple(wanted)

    def read(
        self,
        counts: NDArray[np.float32],
        *,
        optics: OpticsState,
        zones: Sequence[Zone],
        hint: TiltHint | None = None,
    ) -> TiltReading:
        """Read one pattern: the nearest of `zones` that explains it; never raises."""
        if optics.detector_sampling_mrad is None:
            return _no_answer("the optics give no detector sampling", ())
        inv_A_per_px = optics.detector_sampling_mrad * 1e-3 / wavelength_A(optics.energy_keV)
        filled = _fill_bad_pixels(counts)
        results: list[tuple[Zone, TiltEstimate]] = []
        for zone in zones:
            try:
                estimate = estimate_tilt(
                    filled,
                    energy_keV=optics.energy_keV,
                    inv_A_per_px=inv_A_per_px,
                    structure=self._structure,
                    target_zone_uvw=zone,
                    prior=_prior(hint),
                )
            except PatternError as error:
                return _no_answer(str(error), ())
            results.append((zone, estimate))
        answered = [(zone, e) for zone, e in results if e.answered]
        if not answered:
            reasons = "; ".join(f"{_name(zone)}: {e.reason}" for zone, e in results)
            return _no_answer(reasons, _others(results, None), _electrons_wanted(results))
        zone, best = max(answered, key=lambda item: _merit(item[1]))
        return TiltReading(
            answered=True,
            reason="",
            zone_uvw=zone,
            tilt_mrad=(best.tilt_x_mrad, best.tilt_y_mrad),
            sigma_mrad=best.sigma_mrad,
            centre_px=(best.centre_x_px, best.centre_y_px),
            inv_A_per_px=best.inv_A_per_px,
            mode=best.mode,
            in_plane_rotation_deg=best.in_plane_rotation_deg,
            thickness_nm=best.thickness_nm if math.isfinite(best.thickness_nm) else None,
            spots_px=tuple((float(x), float(y)) for x, y in best.marks.used_px),
            alternatives=_others(results, zone),
            orientation=_rows(best.orientation),
            axes=() if best.orientation is None else self._axes(best.orientation, self._wanted),
        )

    def _axes(
        self, orientation: NDArray[np.float64], zones: Sequence[Zone]
    ) -> tuple[AxisSeen, ...]:
        """Every member of the wanted zones, in the sense that runs with the beam."""
        seen = []
        for zone in zones:
            members = np.unique(self._structure.point_operations @ np.asarray(zone), axis=0)
            for u, v, w in members.tolist():
                x, y, z = (orientation @ self._structure.direction((u, v, w))).tolist()
                if z > 0:
                    seen.append(AxisSeen(zone, (u, v, w), (x, y, z)))
        return tuple(seen)


def wavelength_A(energy_keV: float) -> float:
    """Relativistic electron wavelength (CODATA 2018)."""
    e_eV = energy_keV * 1e3
    return 12.2642596 / math.sqrt(e_eV * (1 + 0.978475598e-6 * e_eV))


def _merit(estimate: TiltEstimate) -> float:
    """What the pattern gains in log-likelihood by this crystal: comparable between zones."""
    gain = estimate.log_gain
    return gain if math.isfinite(gain) else -math.inf


def _prior(hint: TiltHint | None) -> TiltPrior | None:
    if hint is None:
        return None
    return TiltPrior(
        tilt_mrad=hint.tilt_mrad,
        tilt_sigma_mrad=hint.sigma_mrad,
        in_plane_rotation_deg=hint.in_plane_rotation_deg,
        in_plane_rotation_sigma_deg=3.0,
    )


def _fill_bad_pixels(counts: NDArray[np.float32]) -> NDArray[np.float64]:
    """Pixels marked NaN get the median of their neighbours."""
    image = counts.astype(np.float64)
    bad = ~np.isfinite(image)
    if bad.any():
        image = np.where(bad, 0.0, image)
        image = np.where(bad, ndimage.median_filter(image, size=3), image)
    return image


def _others(
    results: Sequence[tuple[Zone, TiltEstimate]], chosen: Zone | None
) -> tuple[dict[str, Any], ...]:
    rows: list[dict[str, Any]] = []
    for zone, estimate in results:
        if zone == chosen:
            rows += [
                {
                    "zone_uvw": list(zone),
                    "tilt_x_mrad": a.tilt_x_mrad,
                    "tilt_y_mrad": a.tilt_y_mrad,
                    "log_likelihood_gap": a.log_likelihood_gap,
                }
                for a in estimate.alternatives[:3]
            ]
        elif estimate.answered:
            rows.append(
                {
                    "zone_uvw": list(zone),
                    "tilt_x_mrad": estimate.tilt_x_mrad,
                    "tilt_y_mrad": estimate.tilt_y_mrad,
                    "sigma_mrad": estimate.sigma_mrad,
                }
            )
    return tuple(rows)


def _electrons_wanted(results: Sequence[tuple[Zone, TiltEstimate]]) -> float | None:
    """Electrons, these included, with which the zone nearest to an answer would have one."""
    wanted = [
        e.electrons_used + e.further_electrons
        for _, e in results
        if e.further_electrons is not None
    ]
    return min(wanted, default=None)


def _no_answer(
    reason: str,
    alternatives: tuple[dict[str, Any], ...],
    electrons_wanted: float | None = None,
) -> TiltReading:
    return TiltReading(
        answered=False,
        reason=reason,
        zone_uvw=None,
        tilt_mrad=(0.0, 0.0),
        sigma_mrad=0.0,
        centre_px=(0.0, 0.0),
        inv_A_per_px=1.0,
        mode="structure",
        alternatives=alternatives,
    )


def _rows(matrix: NDArray[np.float64] | None) -> Rows | None:
    if matrix is None:
        return None
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    return (a, b, c), (d, e, f), (g, h, i)


def _name(zone: Zone) -> str:
    return "[{} {} {}]".format(*zone)
