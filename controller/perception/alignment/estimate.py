"""One pattern in, one tilt with its error out."""

from dataclasses import replace
from functools import cache
from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import ThreadpoolController

from controller.perception.alignment.calibration import (
    CONSTANTS,
    calibrated_sigma_mrad,
    formal_radius,
)
from controller.perception.alignment.dynamical import Summit
from controller.perception.alignment.explanation import (
    WELL_EXPLAINED,
    Explanation,
    StructureFit,
    explained_spots,
    is_all_explained,
    opacity,
)
from controller.perception.alignment.free_answer import free_doubt, free_sigma_mrad
from controller.perception.alignment.optics import wavenumber_inv_A
from controller.perception.alignment.pattern import Pattern, check_pattern, is_saturated
from controller.perception.alignment.result import (
    Alternative,
    Effort,
    FirstAnswer,
    Marks,
    Mode,
    TiltEstimate,
    TiltPrior,
)
from controller.perception.alignment.spots import Spots, find_spots
from controller.perception.alignment.structure import CrystalStructure
from controller.perception.alignment.structure_free import fit_structure_free
from controller.perception.alignment.structure_known import REACH_DEG, fit_structure
from controller.perception.alignment.task import Task, is_small

Array = NDArray[np.float64]

_FEWEST_ELECTRONS = 150.0
_LEAST_GAIN = 12.0
_LEAST_GAP, _LEAST_RELATIVE_GAP, _ENOUGH_GAP = 12.0, 0.09, 25.0
"""In log-likelihood; as part of the gain, since the model's error grows with it; always enough."""
_LEAST_EXPLAINED = 0.65
_LEAST_EXPLAINED_IF_SURE = 0.3
_SURE_QUALITY, _SURE_GAP = 0.6, 40.0
"""Intensities so well predicted that what lies beside the nodes belongs to another crystal."""
_CERTAIN_QUALITY, _CERTAIN_GAP, _LEAST_CERTAIN_GAP = 0.9, 0.25, 20.0
"""Quality, gap as part of the gain, least gap that only a right one of a small cell has."""
_MUCH_GAIN, _ALONE_GAP = 100.0, 0.5
"""Gain, and gap as part of it, at which nothing else comes near."""
_LEAST_QUALITY = 0.45
_LEAST_QUALITY_IF_EXPLAINED, _ALL_BUT_A_FEW = 0.3, 0.95
"""A damaged crystal lacks the outer spots that a perfect one has, but has no others."""
_RIVAL_MRAD = 5.0
_SAME_TOP_MRAD = 0.3
_SPREAD_SCALE = 4.0
"""Log-likelihood behind the best at which another top counts e times less: model error is in it."""
_SPREAD_REACH = 16.0


def estimate_tilt(
    pattern: ArrayLike,
    *,
    energy_keV: float,
    inv_A_per_px: float,
    structure: CrystalStructure | None = None,
    target_zone_uvw: tuple[int, int, int] | None = None,
    beam_stop: bool = False,
    prior: TiltPrior | None = None,
    effort: Effort = "full",
) -> TiltEstimate:
    """Measure how far a zone axis is from the beam, from one parallel-beam diffraction pattern.

    Parameters
    ----------
    pattern
        Electron counts, (row, col).
    energy_keV, inv_A_per_px
        Beam energy; nominal camera constant, good to 3 %.
    structure, target_zone_uvw
        The crystal, and the zone wanted (its whole family is searched, up to 20 deg from the
        beam).  Without them the zone is whichever one the pattern's lattice shows.
    beam_stop
        The direct beam is hidden.
    prior
        Restricts the search: faster and safer, no pull on the answer.
    effort
        "first" stops at the first answer (some 0.2 s), whose error is larger and said to be so;
        "full" goes on, and notes the first answer in ``first``.  Structure known only.

    Returns
    -------
    TiltEstimate
        ``answered`` is False, with a reason, where the pattern does not decide.

    Raises
    ------
    PatternError
        The array cannot be a pattern (NaN, wrong shape, negative).
    ValueError
        Energy or camera constant are not positive, or a zone without structure was asked.
    """
    started = perf_counter()
    wavenumber = wavenumber_inv_A(energy_keV)
    if not (np.isfinite(inv_A_per_px) and inv_A_per_px > 0):
        raise ValueError(f"the camera constant must be positive, got {inv_A_per_px} 1/A per pixel")
    if (structure is None) != (target_zone_uvw is None):
        raise ValueError("a structure needs a target zone and a target zone a structure")
    mode: Mode = "structure-free" if structure is None else "structure"
    checked = check_pattern(pattern, beam_stop=beam_stop)
    centre = prior.centre_px if prior is not None else None
    reason = _unusable(checked)
    if reason:
        return _finish(_no_answer(reason, mode, checked, inv_A_per_px), started)
    spots = find_spots(checked, beam_stop=beam_stop, centre_px=centre)
    reason = _spotless(spots, structure is not None)
    if reason:
        blank = _no_answer(reason, mode, checked, inv_A_per_px, spots)
        return _finish(replace(blank, further_electrons=3.0 * checked.electrons), started)
    if structure is not None and target_zone_uvw is not None:
        task = Task(checked, spots, structure, target_zone_uvw, energy_keV, inv_A_per_px, prior)
        # matrices of a hundred rows: several BLAS threads only wait for each other
        with _threads().limit(limits=1, user_api="blas"):
            return _finish(_structure_known(task, effort, started), started)
    return _finish(_structure_free(checked, spots, wavenumber, inv_A_per_px), started)


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


def _unusable(pattern: Pattern) -> str:
    if pattern.electrons < _FEWEST_ELECTRONS:
        return (
            f"the pattern holds {pattern.electrons:.0f} electrons; "
            f"at least {_FEWEST_ELECTRONS:.0f} are needed"
        )
    if is_saturated(pattern):
        return (
            f"{100 * pattern.saturated_fraction:.0f} % of the counts lie on a flat top: the "
            f"detector is saturated; lower the beam current or the exposure time"
        )
    return ""


def _spotless(spots: Spots, structure_known: bool) -> str:
    bragg = max(len(spots) - (spots.direct is not None), 0)
    if bragg < (2 if structure_known else 3):
        return f"{bragg} spots besides the direct beam: no crystal, or too few electrons"
    return ""


def _structure_known(task: Task, effort: Effort, started: float) -> TiltEstimate:
    """The answer, with the first answer on the way noted in it."""
    quick: list[TiltEstimate] = []

    def first(fit: StructureFit) -> bool:
        quick.append(_finish(_judged(task, fit, effort="first"), started))
        return effort == "first"

    fit = fit_structure(task, first=first)
    if effort == "first" and quick:
        return quick[0]
    known = _judged(task, fit, effort="full")
    if not quick:
        return known
    early = quick[0]
    return replace(
        known,
        first=FirstAnswer(
            early.tilt_x_mrad, early.tilt_y_mrad, early.sigma_mrad, early.answered,
            early.elapsed_ms,
        ),
    )  # fmt: skip


def _judged(task: Task, fit: StructureFit, *, effort: Effort) -> TiltEstimate:
    """What a fit says, with its error, or why it is not to be acted on."""
    blank = _no_answer("", "structure", task.pattern, task.inv_A_per_px, task.spots)
    if not fit.explanations:
        return replace(blank, reason="no orientation of the structure explains any spot")
    best = fit.explanations[0]
    summit, pose = best.summit, best.summit.pose
    spots = fit.scene.spots
    used, explained = explained_spots(spots, summit)
    rivals = [
        e
        for e in fit.explanations[1:]
        if np.hypot(e.tilt_mrad[0] - best.tilt_mrad[0], e.tilt_mrad[1] - best.tilt_mrad[1])
        > _RIVAL_MRAD
    ]
    gap = pose.log_gain - max((e.summit.pose.log_gain for e in rivals), default=0.0)
    theta = float(np.hypot(*best.tilt_mrad)) * 1e-3
    quality, formal = summit.quality, 1e3 * formal_radius(_covariance(best))
    thick, spread = opacity(fit.scene, pose), _spread_mrad(fit.explanations)
    wanted = _further_electrons(task.pattern.electrons, pose.log_gain, gap)
    reason = _doubt(pose.log_gain, gap, explained, quality, wanted) or _too_far(theta)
    if not reason and is_small(task.structure) and not _is_certain(quality, gap, pose.log_gain):
        reason = _left_over(spots, summit) or _half_predicted(quality, gap / pose.log_gain)
    found = np.stack([spots.x_px, spots.y_px], 1)
    dark = (summit.expected < 1.0) & (summit.counted < 3.0)
    return replace(
        blank,
        tilt_x_mrad=best.tilt_mrad[0],
        tilt_y_mrad=best.tilt_mrad[1],
        sigma_mrad=float(
            calibrated_sigma_mrad(
                formal,
                tilt_mrad=1e3 * theta,
                opacity=thick,
                spread_mrad=spread,
                quality=quality,
                constants=CONSTANTS[effort],
            )
        ),
        answered=not reason,
        reason=reason,
        further_electrons=wanted if reason else None,
        centre_x_px=pose.centre_px[0],
        centre_y_px=pose.centre_px[1],
        inv_A_per_px=pose.inv_A_per_px,
        in_plane_rotation_deg=float(np.rad2deg(best.in_plane_rotation_rad)),
        circle_radius_inv_A=wavenumber_inv_A(task.energy_keV) * float(np.sin(theta)),
        thickness_nm=0.1 * pose.thickness_A,
        alternatives=tuple(
            Alternative(*e.tilt_mrad, pose.log_gain - e.summit.pose.log_gain) for e in rivals
        ),
        marks=Marks(found[used], found[~used], summit.node_px[dark]),
        orientation=best.orientation,
        explained_fraction=explained,
        log_gain=pose.log_gain,
        fit_quality=quality,
        formal_sigma_mrad=formal,
        opacity=thick,
        spread_mrad=spread,
    )


def _covariance(best: Explanation) -> Array:
    """Of the tilt in rad^2, (2, 2): what is not known of the rotation turns the tilt sideways."""
    sideways = 1e-3 * np.array([-best.tilt_mrad[1], best.tilt_mrad[0]])
    turned = best.summit.turn_sigma_rad**2 * np.outer(sideways, sideways)
    return np.asarray(best.summit.covariance + turned)


def _spread_mrad(explanations: tuple[Explanation, ...]) -> float:
    """How far other tops lie from the best, weighted by how likely they still are."""
    best = explanations[0]
    places, weights = [np.array(best.tilt_mrad)], [1.0]
    for other in explanations[1:]:
        behind = best.summit.pose.log_gain - other.summit.pose.log_gain
        place = np.array(other.tilt_mrad)
        apart = min(float(np.hypot(*(place - p))) for p in places)
        if behind < _SPREAD_REACH and apart > _SAME_TOP_MRAD:
            places.append(place)
            weights.append(float(np.exp(-max(behind, 0.0) / _SPREAD_SCALE)))
    off = np.array([np.hypot(*(p - places[0])) for p in places])
    off = np.minimum(off, _RIVAL_MRAD)
    return float(np.sqrt((np.array(weights) * off**2).sum() / sum(weights)))


def _doubt(gain: float, gap: float, explained: float, quality: float, wanted: float | None) -> str:
    """Why the best explanation is not to be acted on; empty if it is."""
    if not gain >= _LEAST_GAIN:
        return (
            f"the best orientation gains only {gain:.0f} in log-likelihood over no crystal at all "
            f"(needed {_LEAST_GAIN:.0f}): too few electrons, no crystal, or another structure"
        )
    sure = quality >= _SURE_QUALITY and gap >= _SURE_GAP
    if not explained >= (_LEAST_EXPLAINED_IF_SURE if sure else _LEAST_EXPLAINED):
        return (
            f"the best orientation explains {100 * explained:.0f} % of the spots "
            f"(needed {100 * _LEAST_EXPLAINED:.0f} %): another structure, a second crystal, or a "
            f"tilt beyond {REACH_DEG:.0f} deg"
        )
    needed = _needed_gap(gain)
    if not gap >= needed:
        return (
            f"another orientation explains the pattern nearly as well (gap {gap:.1f} in "
            f"log-likelihood, needed {needed:.0f}); {wanted or 0:.1e} more electrons would tell"
        )
    least = _LEAST_QUALITY_IF_EXPLAINED if explained >= _ALL_BUT_A_FEW else _LEAST_QUALITY
    if not quality >= least:
        return (
            f"the best orientation reaches {100 * quality:.0f} % of what a true one would "
            f"(needed {100 * least:.0f} %): another structure, a second or bent crystal, "
            f"or a centre that was not found"
        )
    return ""


def _needed_gap(gain: float) -> float:
    """Log-likelihood by which the next orientation has to lag behind one that gains this much."""
    return min(max(_LEAST_GAP, _LEAST_RELATIVE_GAP * gain), _ENOUGH_GAP)


def _is_certain(quality: float, gap: float, gain: float) -> bool:
    """Whether a small cell's orientation can only be this one, whatever spots are left over."""
    if quality >= _CERTAIN_QUALITY and gap >= max(_LEAST_CERTAIN_GAP, _CERTAIN_GAP * gain):
        return True
    return quality >= _SURE_QUALITY and gain >= _MUCH_GAIN and gap >= _ALONE_GAP * gain


def _left_over(spots: Spots, summit: Summit) -> str:
    """Why the best orientation of a small cell is not to be acted on; empty if it is."""
    if is_all_explained(spots, summit):
        return ""
    _, explained = explained_spots(spots, summit)
    return (
        f"the best orientation explains {100 * explained:.0f} % of the spots; of so small a "
        f"cell the right one explains all: measure again after a small tilt"
    )


def _half_predicted(quality: float, relative_gap: float) -> str:
    """The same where its intensities are predicted in part and others come near."""
    if quality >= WELL_EXPLAINED or relative_gap >= _CERTAIN_GAP:
        return ""
    return (
        f"the best orientation reaches {100 * quality:.0f} % of what a true one would, and another "
        f"comes within {100 * relative_gap:.0f} % of it: measure again after a small tilt"
    )


def _further_electrons(electrons: float, gain: float, gap: float) -> float | None:
    """How many more electrons would settle it; None where more would not help.

    Gains grow with the number of electrons, and so does the gap between two orientations.
    """
    short = max(_LEAST_GAIN / max(gain, 1.0), _needed_gap(gain) / max(gap, 0.5))
    if short <= 1.0:
        return None
    return electrons * float(np.clip(1.3 * short - 1.0, 0.5, 9.0))


def _too_far(theta: float) -> str:
    if theta > np.deg2rad(REACH_DEG + 1.0):
        return f"the nearest zone of the family is {np.rad2deg(theta):.1f} deg away"
    return ""


def _structure_free(
    pattern: Pattern, spots: Spots, wavenumber: float, inv_A_per_px: float
) -> TiltEstimate:
    blank = _no_answer("", "structure-free", pattern, inv_A_per_px, spots)
    fit = fit_structure_free(pattern, spots, wavenumber, inv_A_per_px)
    if fit.posterior is None or fit.lattice is None:
        return replace(blank, reason=fit.reason)
    posterior, lattice = fit.posterior, fit.lattice
    tilt_x, tilt_y = posterior.tilt_mrad
    theta = float(np.hypot(tilt_x, tilt_y)) * 1e-3
    sigma = free_sigma_mrad(fit, wavenumber, inv_A_per_px)
    reason = free_doubt(fit, electrons=pattern.electrons, hidden_beam=spots.direct is None)
    centre = fit.centre_px or lattice.origin_px
    azimuth = float(np.rad2deg(np.arctan2(lattice.basis_px[0, 1], lattice.basis_px[0, 0]))) % 180
    return replace(
        blank,
        tilt_x_mrad=tilt_x,
        tilt_y_mrad=tilt_y,
        sigma_mrad=sigma,
        answered=not reason,
        reason=reason,
        centre_x_px=centre[0],
        centre_y_px=centre[1],
        in_plane_rotation_deg=azimuth,
        circle_radius_inv_A=wavenumber * float(np.sin(theta)),
        thickness_nm=posterior.thickness_nm,
        alternatives=tuple(Alternative(t[0], t[1], gap) for t, gap in posterior.other_modes),
        marks=_lattice_marks(spots, lattice.used, fit.node_px, fit.node_counts),
        explained_fraction=_explained(spots, lattice.used),
        formal_sigma_mrad=posterior.sigma_mrad,
    )


def _lattice_marks(
    spots: Spots, used: NDArray[np.bool_], node_px: Array | None, node_counts: Array | None
) -> Marks:
    found = np.stack([spots.x_px, spots.y_px], 1)
    empty = np.empty((0, 2))
    if node_px is not None and node_counts is not None:
        empty = node_px[node_counts < 3]
    return Marks(found[used], found[~used], empty)


def _explained(spots: Spots, used: NDArray[np.bool_]) -> float:
    counts = spots.counts.copy()
    if spots.direct is not None:
        counts[spots.direct] = 0.0
    return float(counts[used].sum() / max(counts.sum(), 1e-9))


def _no_answer(
    reason: str, mode: Mode, pattern: Pattern, inv_A_per_px: float, spots: Spots | None = None
) -> TiltEstimate:
    nowhere = float("nan")
    nothing = np.empty((0, 2))
    found = nothing if spots is None else np.stack([spots.x_px, spots.y_px], 1)
    centre = (nowhere, nowhere) if spots is None else spots.centre_px
    return TiltEstimate(
        tilt_x_mrad=nowhere,
        tilt_y_mrad=nowhere,
        sigma_mrad=nowhere,
        answered=False,
        reason=reason,
        mode=mode,
        centre_x_px=centre[0],
        centre_y_px=centre[1],
        inv_A_per_px=inv_A_per_px,
        in_plane_rotation_deg=nowhere,
        circle_radius_inv_A=nowhere,
        thickness_nm=nowhere,
        alternatives=(),
        electrons_used=pattern.electrons,
        elapsed_ms=0.0,
        marks=Marks(nothing, found, nothing),
    )


def _finish(estimate: TiltEstimate, started: float) -> TiltEstimate:
    return replace(estimate, elapsed_ms=1e3 * (perf_counter() - started))
