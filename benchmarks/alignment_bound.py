"""The Cramer-Rao bound of a tilt: how well any unbiased estimator can know it from one pattern.

The Fisher information of the expected counts is taken numerically over tilt, centre, camera
constant, in-plane rotation, number of electrons, thickness, and fraction and width of the halo,
all unknown; the bound is the part of its inverse that belongs to the tilt.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.alignment_corpus import Case, reflections
from benchmarks.alignment_patterns import Array, expected_share


def tilt_bound_deg(case: Case, *, dynamical: bool = True) -> float:
    """Square root of var(tilt_x) + var(tilt_y), in degrees, with every nuisance free."""
    g, intensity = reflections(case, dynamical=dynamical)
    here = case.electrons * expected_share(g, intensity, case.detector)

    def counts_of(changed: Case) -> Array:
        where = reflections(changed, dynamical=dynamical)
        return changed.electrons * expected_share(*where, changed.detector)

    def drawn_again(changed: Case) -> Array:
        """Where the crystal did not change."""
        turn = changed.in_plane_rad - case.in_plane_rad
        c, s = np.cos(turn), np.sin(turn)
        turned = g @ np.array([[c, s], [-s, c]])
        return changed.electrons * expected_share(turned, intensity, changed.detector)

    columns = [
        _slope(lambda d: counts_of(_tilted(case, d, 0.0)), 0.1),
        _slope(lambda d: counts_of(_tilted(case, 0.0, d)), 0.1),
        _slope(lambda d: counts_of(replace(case, thickness_nm=case.thickness_nm + d)), 0.3),
        _slope(lambda d: drawn_again(_centred(case, d, 0.0)), 0.05),
        _slope(lambda d: drawn_again(_centred(case, 0.0, d)), 0.05),
        _slope(lambda d: drawn_again(replace(case, in_plane_rad=case.in_plane_rad + d)), 1e-3),
        _slope(lambda d: drawn_again(_scaled(case, d)), 1e-3),
        _slope(lambda d: drawn_again(replace(case, electrons=case.electrons * (1 + d))), 1e-2),
        _slope(lambda d: drawn_again(_haloed(case, d, 0.0)), 0.01),
        _slope(lambda d: drawn_again(_haloed(case, 0.0, d)), 0.01),
    ]
    seen = here > 1e-9 * case.electrons
    slopes = np.stack([column[seen] for column in columns])
    information = (slopes / here[seen]) @ slopes.T
    # parameters have different units: invert the correlation, not the matrix
    scale = np.sqrt(np.maximum(np.diag(information), 1e-30))
    covariance = np.linalg.pinv(information / np.outer(scale, scale)) / np.outer(scale, scale)
    return float(np.rad2deg(1e-3 * np.sqrt(covariance[0, 0] + covariance[1, 1])))


def _slope(counts: Callable[[float], Array], step: float) -> Array:
    return np.asarray((counts(step) - counts(-step)) / (2 * step))


def _tilted(case: Case, dx: float, dy: float) -> Case:
    return replace(case, tilt_mrad=(case.tilt_mrad[0] + dx, case.tilt_mrad[1] + dy))


def _centred(case: Case, dx: float, dy: float) -> Case:
    x, y = case.detector.centre_px or (0.0, 0.0)
    return replace(case, detector=replace(case.detector, centre_px=(x + dx, y + dy)))


def _scaled(case: Case, d: float) -> Case:
    scale = case.detector.inv_A_per_px * (1 + d)
    return replace(case, detector=replace(case.detector, inv_A_per_px=scale))


def _haloed(case: Case, fraction: float, width: float) -> Case:
    detector = replace(
        case.detector,
        halo_fraction=case.detector.halo_fraction + fraction,
        halo_width_inv_A=case.detector.halo_width_inv_A * (1 + width),
    )
    return replace(case, detector=detector)
